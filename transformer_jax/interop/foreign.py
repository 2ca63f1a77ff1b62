"""A model of somebody else's, read and understood, before it becomes a run folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.storage.files import read_plain

__all__ = [
    "LARGEST_SIZE",
    "Foreign",
    "find_one",
    "languages_of",
    "length_penalty_note",
    "load_sentencepiece",
    "read_file",
    "read_json",
    "read_sentencepiece",
    "require_rows",
    "require_supported",
    "rows_of",
]


_LARGEST_FILE = 1 << 40  # bytes
LARGEST_SIZE = 1 << 20  # of a model's widths, layers, heads and rows: what is larger is damaged


class Foreign(NamedTuple):
    """What a run folder is made of, as its owner's files have it."""

    model: ModelConfig
    weights: Mapping[str, np.ndarray]  # by their names, in their shapes (see `places`)
    naming: str  # of the weights: `marian_weights.HUGGING_FACE` or `MARIAN`
    where: Path  # the weights' file
    source_model: bytes  # SentencePiece's
    target_model: bytes
    pieces: list[str | None]  # of each row of the embedding tables
    ids: dict[str, int]  # the tokenizer's special ids
    longest: int  # tokens that the model may read at once
    decode: dict[str, Any]  # fields of DecodeConfig
    languages: tuple[str, str] | None  # of source and target, where the folder tells them
    notes: list[str]  # what is not as it was
    added: dict[int, bool]  # as `Tokenizer.added_pieces`
    rows_are_pieces: bool  # there is one SentencePiece model, and row i is its piece i


def require_supported(wrong: Sequence[str], where: Path) -> None:
    """Raises UserError with all that is `wrong` with a model's options."""
    if wrong:
        raise UserError(f"{where}: no model of ours is like this one: {'; '.join(wrong)}")


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file. Raises UserError, saying `what` it should hold, if it cannot be read."""
    try:
        return read_plain(path, _LARGEST_FILE)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what} there") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a file. Raises UserError, saying `what` it should hold, if it cannot be read or is not JSON."""
    try:
        found = json.loads(read_file(path, what))
        if not isinstance(found, dict):
            raise ValueError("not an object with keys")
        return found
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, expected JSON ({error}); download it again") from None


def read_sentencepiece(folder: Path, side: str) -> bytes:
    """The model of a `side`, source or target, as it is in its file. Raises UserError if it is missing or damaged."""
    path = folder / f"{side}.spm"
    content = read_file(path, f"the {side}'s SentencePiece model")
    load_sentencepiece(content, path)
    return content


def load_sentencepiece(content: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model of its file's bytes. Raises UserError, naming `path`, where they are none."""
    try:
        if not content:
            raise RuntimeError("empty")
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError:
        raise UserError(f"{path}: damaged, not a SentencePiece model; download it again") from None


def find_one(folder: Path, pattern: str, what: str) -> Path:
    """The only file in the folder whose name is like `pattern`. Raises UserError where there is none, or several."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{folder}: expected one {what} ({pattern}), found {names}; decoder.yml may name it")
    return found[0]


def rows_of(vocabulary: Mapping[str, Any], size: int, where: Path) -> list[str | None]:
    """From {piece: row} to the piece of each of `size` rows; a row may have none, and has one at most. Raises
    UserError naming `where`.

    >>> rows_of({"</s>": 0, "Hund": 2}, 3, Path("vocab.json"))
    ['</s>', None, 'Hund']
    """
    pieces: list[str | None] = [None] * size
    for piece, row in vocabulary.items():
        if type(row) is not int or not 0 <= row < size:
            raise UserError(
                f"{where}: {piece!r} has the number {row!r}; expected one from 0 to {size - 1}, the embedding's rows"
            )
        if pieces[row] is not None:
            raise UserError(f"{where}: {piece!r} and {pieces[row]!r} have the same number, {row}; expected one for each")
        pieces[row] = piece
    return pieces


def require_rows(size: int, weights: Mapping[str, np.ndarray], where: Path, name: str) -> None:
    """Raises UserError where no table of `weights` has `size` rows, before anything of that size is made."""
    if not any(len(weight) == size for weight in weights.values() if weight.ndim == 2):
        raise UserError(
            f"{where}: {name} is {size}, but no table of the weights has so many rows; download the whole model again"
        )


def languages_of(source: Any, target: Any) -> tuple[str, str] | None:
    """Both, if both are there and are names.

    >>> languages_of("eng", "deu"), languages_of("eng", None)
    (('eng', 'deu'), None)
    """
    return (source, target) if isinstance(source, str) and isinstance(target, str) and source and target else None


def length_penalty_note(value: float) -> str:
    """What a user is told of a length penalty that is not ours."""
    return f"length penalty {value:g}: theirs divides by |y|^{value:g}, decode.length_penalty by ((5 + |y|) / 6)^{value:g}"
