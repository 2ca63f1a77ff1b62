"""Marian's vocabularies, the row of each piece: in YAML or JSON, in plain text, or as a SentencePiece model."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from sentencepiece import sentencepiece_model_pb2 as proto

from transformer_jax.errors import UserError
from transformer_jax.interop.foreign_model import find_one, load_sentencepiece, read_file, rows_of
from transformer_jax.tokenization.word_table import read_model

__all__ = ["MarianVocabulary", "model_with_rows", "parse_vocabulary", "read_vocabularies", "with_rows"]

_STARTS = ("<pad>", "<start>")  # names of the piece that the decoder starts with, which Marian lacks: the first that is free


class MarianVocabulary(NamedTuple):
    """The vocabulary of a side, or of both."""

    where: Path
    rows: dict[str, int]  # of each piece
    eos_id: int
    unknown_id: int
    bos_id: int  # EOS if there is no BOS
    model: bytes | None  # the SentencePiece model, if the vocabulary is one


def read_vocabularies(folder: Path, named: Any) -> tuple[MarianVocabulary, MarianVocabulary]:
    """The vocabularies of source and target that `decoder.yml` names (`named`), or else the only one in the folder, by the ends
    of their names; the same one twice, where they do not differ:

    * `.yml`, `.yaml`, `.json`: pieces and their numbers
    * `.spm`: a SentencePiece model, whose pieces have the model's numbers, special ones included; it cuts both sides' text
    * anything else: plain text, a piece a line, whose number is that of its line, from 0 (a tab and a score after it, as in
      SentencePiece's `.vocab`, are left out)

    Raises UserError for missing or damaged files, and for more than two.
    """
    if not isinstance(named, list) or not named:
        named = [find_one(folder, "*vocab*", "vocabulary").name]
    files = [folder / name for name in dict.fromkeys(Path(str(name)).name for name in named)]
    vocabularies = [_read(file) for file in files]
    if len(files) > 2 or len({vocabulary.model is None for vocabulary in vocabularies}) > 1:
        names = " and ".join(file.name for file in files)
        raise UserError(f"{folder}: expected one vocabulary, or two of one kind, for source and target; found {names}")
    differ = vocabularies[0][1:] != vocabularies[-1][1:]
    return vocabularies[0], vocabularies[-1 if differ else 0]


def with_rows(vocabulary: MarianVocabulary, rows: int) -> list[str | None]:
    """The piece of each of `rows` rows, and of the row after them, with which the decoder starts. Raises UserError if a piece
    has no row."""
    pieces = rows_of(vocabulary.rows, rows, vocabulary.where)
    start = next((name for name in _STARTS if name not in vocabulary.rows), None)
    if start is None:
        names = " and ".join(_STARTS)
        raise UserError(f"{vocabulary.where}: has {names}; expected at most one, the other is for the decoder's start")
    return [*pieces, start]


def model_with_rows(model: bytes, pieces: list[str | None]) -> bytes:
    """Adds to a SentencePiece model the `pieces` of rows that it lacks, as control symbols, which no text is encoded as."""
    spec = read_model(model)
    for row in range(len(spec.pieces), len(pieces)):
        spec.pieces.add(piece=pieces[row] or f"<row {row}>", score=0.0, type=proto.ModelProto.SentencePiece.CONTROL)
    return spec.SerializeToString()


def parse_vocabulary(content: bytes, path: Path) -> dict[str, int]:
    """{piece: number} of a vocabulary in YAML or JSON. Raises UserError naming a line that is neither, or that repeats a
    piece.

    The lines are parsed one by one: to a YAML parser the pieces `no` and `1` are no strings, and U+0085 ends a line.

    >>> parse_vocabulary(b'</s>: 0\\nno: 1\\n"a\\\\x85": 2\\n\\'it\\'\\'s\\': 3\\n? long\\n: 4\\n', Path("x.yml"))
    {'</s>': 0, 'no': 1, 'a\\x85': 2, "it's": 3, 'long': 4}
    """
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_without_doubles)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: damaged, expected JSON ({error}); download it again") from None
    rows, key = {}, None
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line in ("---", "..."):
            continue
        if key is None and line.startswith("? "):
            key = line[2:]
            continue
        key, _, value = (key, ":", line.lstrip(": ")) if key is not None else line.rpartition(":")
        try:
            piece, row = _scalar(key), int(value)
        except (ValueError, yaml.YAMLError):
            raise UserError(f"{path}: line {number}: {line!r} should be a piece, a colon, and its number") from None
        if rows.setdefault(piece, row) != row:
            raise UserError(f"{path}: line {number}: {piece!r} has another number above; expected each piece once")
        key = None
    return rows


def _read(path: Path) -> MarianVocabulary:
    content = read_file(path, "Marian's vocabulary")
    if path.suffix == ".spm":
        return _of_model(content, path)
    parse = parse_vocabulary if path.suffix in (".yml", ".yaml", ".json") else _parse_lines
    rows = parse(content, path)
    missing = [piece for piece in ("</s>", "<unk>") if piece not in rows]
    if missing:
        raise UserError(f"{path}: has no {' and no '.join(missing)}; expected a vocabulary as marian-vocab writes it")
    return MarianVocabulary(path, rows, rows["</s>"], rows["<unk>"], rows["</s>"], None)


def _of_model(content: bytes, path: Path) -> MarianVocabulary:
    model = load_sentencepiece(content, path)
    rows = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    if model.eos_id() < 0:
        raise UserError(f"{path}: has no </s>; expected a SentencePiece model as marian trains it")
    bos = model.bos_id() if model.bos_id() >= 0 else model.eos_id()
    return MarianVocabulary(path, rows, model.eos_id(), model.unk_id(), bos, content)


def _parse_lines(content: bytes, path: Path) -> dict[str, int]:
    """{piece: number} of a vocabulary in plain text.

    >>> _parse_lines(b"</s>\\r\\n<unk>\\r\\nno\\r\\n", Path("x.txt"))
    {'</s>': 0, '<unk>': 1, 'no': 2}
    >>> _parse_lines(b"</s>\\t0\\n<unk>\\t-1.5e-3\\n", Path("x.vocab"))
    {'</s>': 0, '<unk>': 1}
    """
    try:
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {number} is not UTF-8; expected a piece a line") from None
    lines = [line.removesuffix("\r") for line in lines]
    scored = [re.fullmatch(r"(.+)\t-?[\d.]+(?:e[+-]?\d+)?", line) for line in lines]
    if all(scored):
        lines = [match[1] for match in scored]
    rows: dict[str, int] = {}
    for number, piece in enumerate(lines, 1):
        if not piece:
            raise UserError(f"{path}: line {number} is empty; expected a piece a line")
        if rows.setdefault(piece, number - 1) != number - 1:
            raise UserError(f"{path}: line {number}: {piece!r} is line {rows[piece] + 1}, too; expected each piece once")
    return rows


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for piece, row in pairs:
        if piece in rows:
            raise ValueError(f"{piece!r} comes twice")
        rows[piece] = row
    return rows


def _scalar(text: str) -> str:
    text = text.strip(" ")
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1] if "\\" not in text else yaml.load(text, yaml.BaseLoader)
    return text
