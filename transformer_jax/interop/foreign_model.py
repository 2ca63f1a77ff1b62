"""A model of another system as its reader returns it, and what the readers share."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import sentencepiece
from etils import epath

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.models.layers import sinusoids
from transformer_jax.storage.files import read_plain
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = [
    "LARGEST_SIZE",
    "Foreign",
    "aligned",
    "find_one",
    "kind_of_sinusoids",
    "languages_of",
    "load_sentencepiece",
    "parse_json",
    "read_file",
    "read_json",
    "read_sentencepiece",
    "require_rows",
    "require_supported",
    "rows_of",
]

_LARGEST_FILE = 1 << 40  # bytes
_LARGEST_FIRST_POSITION = 1000  # that `model.first_position` can be
LARGEST_SIZE = 1 << 20  # of a model's widths, layers, heads and rows; a file that says more is damaged


class Foreign(NamedTuple):
    """The content of another system's files, from which a run folder is made."""

    model: ModelConfig
    parameters: Callable[[], Any]  # makes them, a tree of float32 arrays, when `model` was found valid
    tokenizer: Callable[[epath.PathLike], Tokenizer]  # writes it to a folder, and loads it
    vocab_size: int  # of the target
    longest: int  # most tokens of a source
    decode: dict[str, Any]  # fields of DecodeConfig
    languages: tuple[str, str] | None  # of source and target, if the files name them
    notes: list[str]  # for the user: what the run folder does differently
    normalize: bool = False  # whether the tokenizer normalises text


def require_supported(wrong: Sequence[str], where: Path | str) -> None:
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
    return parse_json(read_file(path, what), path)


def parse_json(content: bytes, where: Path | str) -> dict[str, Any]:
    """The object that the bytes of the file `where` are. Raises UserError if they are no JSON, or no object."""
    try:
        parsed = json.loads(content)
        if not isinstance(parsed, dict):
            raise ValueError("not an object with keys")
        return parsed
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: damaged, expected JSON ({error}); download it again") from None


def read_sentencepiece(folder: Path, side: str) -> bytes:
    """The bytes of the model of a `side`, source or target. Raises UserError if the file is missing or damaged."""
    path = folder / f"{side}.spm"
    content = read_file(path, f"the {side}'s SentencePiece model")
    load_sentencepiece(content, path)
    return content


def load_sentencepiece(content: bytes, path: Path | str) -> sentencepiece.SentencePieceProcessor:
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


def kind_of_sinusoids(table: np.ndarray, width: int) -> tuple[str, int] | None:
    """The values of `ModelConfig.positions` and `first_position` whose sinusoids are in a table; None for any other table.

    >>> kind_of_sinusoids(np.asarray(sinusoids(jnp.arange(2, 9), 8, "sinusoidal_marian")), 8)
    ('sinusoidal_marian', 2)
    """
    if table.ndim != 2 or table.shape[1] != width:
        return None
    table = table.astype(np.float32)
    for kind in ("sinusoidal_concatenated", "sinusoidal", "sinusoidal_marian"):
        expected = np.asarray(sinusoids(jnp.arange(len(table) + _LARGEST_FIRST_POSITION), width, kind))
        # Numbers of 16 bits are up to 2e-3 off.
        for first in np.flatnonzero(np.isclose(expected[: _LARGEST_FIRST_POSITION + 1], table[:1], atol=2e-3).all(axis=1)):
            if np.allclose(table, expected[first : first + len(table)], atol=2e-3):
                return kind, int(first)
    return None


def aligned(source: Sequence[str | None], special: Mapping[int, str | None], where: str) -> tuple[list[str | None], list[int]]:
    """The source's pieces with each `special` one in its row, and the former row of each; -1 for one that was not there.

    >>> aligned(["a", "</s>", "b"], {0: "</s>", 2: "<unk>"}, "here")
    (['</s>', 'a', '<unk>', 'b'], [1, 0, -1, 2])
    """
    pieces, order = [*source], [*range(len(source))]
    for row, piece in special.items():
        if piece not in pieces:
            pieces.append(piece)
            order.append(-1)
        now = pieces.index(piece)
        if row >= len(pieces):
            raise UserError(f"{where}: {piece!r} has row {row} of the target, and the source {len(pieces)} rows; expected more")
        for each in (pieces, order):
            each[row], each[now] = each[now], each[row]
    return pieces, order
