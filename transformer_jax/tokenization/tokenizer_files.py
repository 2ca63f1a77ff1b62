"""The files of a tokenizer's folder: written, copied, and read with a check of each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sentencepiece
from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.storage.files import read_plain, write_whole
from transformer_jax.tokenization import normalization
from transformer_jax.tokenization.vocabulary import Vocabulary

__all__ = [
    "ADDED",
    "NORMALIZATION",
    "SOURCE_BOS",
    "SOURCE_EOS",
    "SOURCE_VOCABULARY",
    "SPECIAL_IDS",
    "check_special_ids",
    "copy_files",
    "fingerprint_of",
    "read_description",
    "read_model",
    "read_source_vocabulary",
    "read_vocabulary",
    "write_one_model",
    "write_two_models",
]

SPECIAL_IDS = ("pad_id", "eos_id", "unknown_id", "bos_id", "decoder_start_id")  # keys of the description
ADDED = ("added_ids", "unwritten_ids")  # keys of the description of imported tokenizers that were extended
# Keys of the description of imported tokenizers.
SOURCE_VOCABULARY = "source_vocabulary"  # the list of the source's pieces, where it is not the target's
SOURCE_BOS = "source_bos"  # whether the ids of a source begin with BOS; not there: no
SOURCE_EOS = "source_eos"  # whether they end with EOS; not there: yes
NORMALIZATION = "normalization"  # the key of its version in the description; not there, or 0: none
_DESCRIPTION = "tokenizer.json"
_MODEL = "sentencepiece.model"
_SOURCE_MODEL, _TARGET_MODEL, _VOCABULARY = "source.spm", "target.spm", "vocabulary.json"
_SOURCE_VOCABULARY = "source_vocabulary.json"


def write_one_model(folder: epath.PathLike, model: bytes, ids: Mapping[str, int], normalizes: bool = False) -> None:
    """Writes a tokenizer whose source and target have the same SentencePiece model, and whose row i is its piece i."""
    description = {"source_model": _MODEL, "target_model": _MODEL, "vocabulary": None, **ids}
    if normalizes:
        description[NORMALIZATION] = normalization.VERSION
    _write_files(folder, {_MODEL: model}, description)


def write_two_models(
    folder: epath.PathLike,
    source: bytes,
    target: bytes,
    pieces: Sequence[str | None],
    ids: Mapping[str, int],
    added: Mapping[int, bool] | None = None,
    source_pieces: Sequence[str | None] | None = None,
    source_marks: tuple[bool, bool] = (False, True),
) -> None:
    """Writes a tokenizer of two SentencePiece models and of the pieces of the embedding rows, as `Tokenizer.of_models` has
    them."""
    description = {"source_model": _SOURCE_MODEL, "target_model": _TARGET_MODEL, "vocabulary": _VOCABULARY, **ids}
    if added:
        description |= {"added_ids": [*added], "unwritten_ids": [row for row in added if added[row]]}
    files = {_SOURCE_MODEL: source, _TARGET_MODEL: target, _VOCABULARY: Vocabulary.to_json(pieces).encode()}
    if source_pieces is not None:
        description[SOURCE_VOCABULARY] = _SOURCE_VOCABULARY
        files[_SOURCE_VOCABULARY] = Vocabulary.to_json(source_pieces).encode()
    if source_marks != (False, True):
        description |= dict(zip((SOURCE_BOS, SOURCE_EOS), source_marks, strict=True))
    _write_files(folder, files, description)


def copy_files(folder: epath.Path, to: epath.PathLike) -> None:
    """Copies a tokenizer's files to another folder. Raises UserError if they are gone."""
    description = read_description(folder)
    names = {description["source_model"], description["target_model"], description["vocabulary"]} - {None}
    names |= {description[SOURCE_VOCABULARY]} if SOURCE_VOCABULARY in description else set()
    _write_files(to, {name: _read(folder / name) for name in names}, description)


def check_special_ids(folder: epath.Path, description: dict[str, Any], vocab_size: int) -> None:
    """Raises UserError for a special id that is no row of the embedding table."""
    wrong = [key for key in SPECIAL_IDS if not 0 <= description[key] < vocab_size]
    if wrong:
        pieces = description["vocabulary"] or description["target_model"]
        raise UserError(f"{folder / _DESCRIPTION}: {wrong[0]} should be below {vocab_size}, the pieces of {pieces}")


def fingerprint_of(description: dict[str, Any], *contents: bytes) -> str:
    """SHA-256, in hex, of the description and of the contents of the other files."""
    digest = hashlib.sha256(_as_written(description))
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _write_files(folder: epath.PathLike, files: Mapping[str, bytes], description: dict[str, Any]) -> None:
    """The description is written last, and as a whole: it says that all are there."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_whole(folder / _DESCRIPTION, _as_written(description).decode())


def _as_written(description: dict[str, Any]) -> bytes:
    """The content of `tokenizer.json`. Fingerprints are made of it, not of the file, whose line ends git may change."""
    return (json.dumps(description, indent=2) + "\n").encode()


def read_description(folder: epath.Path) -> dict[str, Any]:
    """What `tokenizer.json` says. Raises UserError where it is missing or damaged."""
    path = folder / _DESCRIPTION
    try:
        description = json.loads(_read(path))
        if not isinstance(description, dict):
            raise ValueError("not an object with keys")
        missing = [key for key in ("source_model", "target_model", "vocabulary", *SPECIAL_IDS) if key not in description]
    except (ValueError, RecursionError):
        raise UserError(f"{path}: damaged, expected JSON; take the tokenizer's folder from its run again") from None
    if missing or any(type(description[key]) is not int for key in SPECIAL_IDS):
        what = missing[0] if missing else "a special id that is a whole number"
        raise UserError(f"{path}: damaged, {what} is missing; take the tokenizer's folder from its run again")
    version = description.get(NORMALIZATION, 0)
    if version not in range(normalization.VERSION + 1):
        known = f"expected {normalization.VERSION} at most, or none; use the version of this program that trained the run"
        raise UserError(f"{path}: {NORMALIZATION} is {version!r}, {known}")
    added, unwritten = (description.get(key, []) for key in ADDED)
    if not all(type(rows) is list and all(type(row) is int for row in rows) for rows in (added, unwritten)):
        raise UserError(f"{path}: damaged, {' and '.join(ADDED)} should be lists of rows; take the folder from its run again")
    if not {*unwritten} <= {*added}:
        raise UserError(f"{path}: damaged, unwritten_ids should be among added_ids; take the folder from its run again")
    for key in (SOURCE_BOS, SOURCE_EOS):
        if type(description.get(key, True)) is not bool:
            raise UserError(f"{path}: damaged, {key} should be true or false; take the tokenizer's folder from its run again")
    # A run folder may be a stranger's: it must not lead to files elsewhere.
    names = [description["source_model"], description["target_model"]]
    names += [] if description["vocabulary"] is None else [description["vocabulary"]]
    names += [description[SOURCE_VOCABULARY]] if SOURCE_VOCABULARY in description else []
    if not all(map(_is_name, names)):
        raise UserError(f"{path}: source_model, target_model and vocabulary should be names of files in the same folder")
    if SOURCE_VOCABULARY in description and description["vocabulary"] is None:
        raise UserError(f"{path}: damaged, {SOURCE_VOCABULARY} without a vocabulary of the target; take the folder again")
    return description


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and name not in ("", "..") and epath.Path(name).name == name


def read_vocabulary(path: epath.Path, special: list[int], unknown_id: int, added: list[int]) -> tuple[Vocabulary, bytes]:
    """The vocabulary of a file, and its content with line ends as they were written. Raises UserError where it is damaged."""
    content = _read(path)
    try:
        vocabulary = Vocabulary.parse(content, special, unknown_id, added)
        return vocabulary, Vocabulary.to_json(json.loads(content)).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); take the tokenizer's folder from its run again") from None


def read_source_vocabulary(
    folder: epath.Path, description: Mapping[str, Any], pieces: Sequence[str]
) -> tuple[Vocabulary, bytes]:
    """As `read_vocabulary`, the source's own, where the target has `pieces`. Raises UserError also for a special id of sources
    that is no row of the source's embedding table."""
    path, unknown = folder / description[SOURCE_VOCABULARY], description["unknown_id"]
    listed = read_vocabulary(path, [], unknown, [])[0].pieces
    size = len(listed)
    keys = ["pad_id", "eos_id", "unknown_id", *(["bos_id"] if description.get(SOURCE_BOS, False) else [])]
    wrong = [key for key in keys if not 0 <= description[key] < size]
    if wrong:
        raise UserError(f"{folder / _DESCRIPTION}: {wrong[0]} should be below {size}, the pieces of {path.name}")
    names = {pieces[description[key]] for key in SPECIAL_IDS}
    special = {description[key] for key in keys} | {row for row, piece in enumerate(listed) if piece in names}
    return read_vocabulary(path, sorted(special), unknown, [])


def read_model(path: epath.Path) -> tuple[sentencepiece.SentencePieceProcessor, bytes]:
    """The SentencePiece model of a file, and its content. Raises UserError where it is missing or damaged."""
    data = _read(path)
    try:
        if not data:
            raise RuntimeError("empty")
        return sentencepiece.SentencePieceProcessor(model_proto=data), data
    except RuntimeError:
        raise UserError(f"{path}: damaged, not a SentencePiece model; take the tokenizer's folder from its run again") from None


def _read(path: epath.Path) -> bytes:
    try:
        return read_plain(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a tokenizer's folder holds {_DESCRIPTION} and {_MODEL}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
