"""A model of another system as its reader returns it, and what the readers share."""

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
    "load_sentencepiece",
    "read_file",
    "read_json",
    "read_sentencepiece",
    "require_rows",
    "require_supported",
    "rows_of",
]

_LARGEST_FILE = 1 << 40  # bytes
LARGEST_SIZE = 1 << 20  # of a model's widths, layers, heads and rows; a file that says more is damaged


class Foreign(NamedTuple):
    """The content of another system's files, from which a run folder is made."""

    model: ModelConfig
    weights: Mapping[str, np.ndarray]  # by their names, in their shapes (see `places`)
    naming: str  # of the weights: `marian_weights.HUGGING_FACE` or `MARIAN`
    where: Path  # the weights' file
    source_model: bytes  # SentencePiece's
    target_model: bytes
    pieces: list[str | None]  # one for each row of the embedding tables
    ids: dict[str, int]  # the tokenizer's special ids
    longest: int  # most tokens of a source
    decode: dict[str, Any]  # fields of DecodeConfig
    languages: tuple[str, str] | None  # of source and target, if the files name them
    notes: list[str]  # for the user: what the run folder does differently
    added: dict[int, bool]  # as `Tokenizer.added_pieces`
    rows_are_pieces: bool  # is there one SentencePiece model, whose piece i has row i?


def require_supported(wrong: Sequence[str], where: Path) -> None:
    """Raises UserError if any of a model's options is `wrong`, naming all that are."""
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
        content = json.loads(read_file(path, what))
        if not isinstance(content, dict):
            raise ValueError("not an object with keys")
        return content
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, expected JSON ({error}); download it again") from None


def read_sentencepiece(folder: Path, side: str) -> bytes:
    """The bytes of the model of a `side`, source or target. Raises UserError if the file is missing or damaged."""
    path = folder / f"{side}.spm"
    content = read_file(path, f"the {side}'s SentencePiece model")
    load_sentencepiece(content, path)
    return content


def load_sentencepiece(content: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model that a file's bytes are. Raises UserError, naming `path`, if they are damaged."""
    try:
        if not content:
            raise RuntimeError("empty")
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError:
        raise UserError(f"{path}: damaged, not a SentencePiece model; download it again") from None


def find_one(folder: Path, pattern: str, what: str) -> Path:
    """The only file in the folder whose name matches `pattern`. Raises UserError if there is none, or several."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(f"{folder}: expected one {what} ({pattern}), found {names}; decoder.yml may name it")
    return files[0]


def rows_of(vocabulary: Mapping[str, Any], size: int, where: Path) -> list[str | None]:
    """The piece of each of `size` rows, from {piece: row}; None for a row without a piece. Raises UserError, naming `where`, if
    two pieces have one row, or a row does not exist.

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
    """Raises UserError if no table of `weights` has `size` rows, before an array of that size is made."""
    if not any(len(weight) == size for weight in weights.values() if weight.ndim == 2):
        raise UserError(
            f"{where}: {name} is {size}, but no table of the weights has so many rows; download the whole model again"
        )


def languages_of(source: Any, target: Any) -> tuple[str, str] | None:
    """The names of both languages; None unless both are names.

    >>> languages_of("eng", "deu"), languages_of("eng", None)
    (('eng', 'deu'), None)
    """
    return (source, target) if isinstance(source, str) and isinstance(target, str) and source and target else None
