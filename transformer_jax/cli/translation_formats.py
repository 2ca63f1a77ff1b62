"""The formats of translate.py's output: what is written of each line."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from transformer_jax.storage.files import finite_or_null

if TYPE_CHECKING:  # it imports JAX, which `translate.py --help` does not wait for
    from transformer_jax.inference.translation import Translation

__all__ = ["COLUMNS", "WRITERS", "TranslatedLine", "as_json", "as_log_prob", "as_text", "as_tsv"]

COLUMNS = ("line", "rank", "score", "log_prob", "text")  # of tsv; lines and ranks count from 1


class TranslatedLine(NamedTuple):
    """A line of input and its translation."""

    number: int  # from 1
    source: str
    translation: "Translation"
    pieces: Callable[[Sequence[int]], list[str]]  # of tokens: `Tokenizer.pieces`
    below_min_confidence: bool = False  # then the text is empty, or the source


def as_text(line: TranslatedLine) -> str:
    """The translation, on a line."""
    return f"{line.translation.text}\n"


def as_log_prob(line: TranslatedLine) -> str:
    """The log-probability of the translation, on a line."""
    return f"{line.translation.log_prob:.6f}\n"


def as_tsv(line: TranslatedLine) -> str:
    """A line of tab-separated `COLUMNS` for each of the n best translations."""
    return "".join(
        f"{line.number}\t{rank}\t{one.score:.6f}\t{one.log_prob:.6f}\t{one.text.replace(chr(9), ' ')}\n"
        for rank, one in enumerate((line.translation, *line.translation.others), 1)
    )


def as_json(line: TranslatedLine) -> str:
    """An object on a line: the source and the n best translations, with their pieces and log-probabilities (null for one that
    is not finite). The confidence is there where the run was calibrated, `read` where the model did not read the source as it
    is written (`Translation.read`)."""
    translations = [
        {
            "text": one.text,
            "score": one.score,
            "log_prob": one.log_prob,
            "pieces": line.pieces(one.tokens),
            "token_log_probs": one.token_log_probs,
            **({} if one.confidence is None else {"confidence": one.confidence}),
        }
        for one in (line.translation, *line.translation.others)
    ]
    below = {"below_min_confidence": True} if line.below_min_confidence else {}
    read = {"read": line.translation.read} if line.translation.read else {}
    record = finite_or_null({"line": line.number, "source": line.source, **read, "translations": translations} | below)
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


WRITERS = {"text": as_text, "tsv": as_tsv, "json": as_json}  # by the values of --format
