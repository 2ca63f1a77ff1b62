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

__all__ = ["MarianVocabulary", "model_with_rows", "parse_vocabulary", "read_vocabulary", "with_rows"]

_START = "<pad>"  # the name of the piece that the decoder starts with, which Marian lacks


class MarianVocabulary(NamedTuple):
    """The vocabulary of source and target."""

    where: Path
    rows: dict[str, int]  # of each piece
    eos_id: int
    unknown_id: int
    bos_id: int  # EOS if there is no BOS
    model: bytes | None  # the SentencePiece model, if the vocabulary is one


def read_vocabulary(folder: Path, named: Any) -> MarianVocabulary:
    """The vocabulary that `decoder.yml` names (`named`), or else the only one in the folder, by the end of its name:

    * `.yml`, `.yaml`, `.json`: pieces and their numbers
    * `.spm`: a SentencePiece model, whose pieces have the model's numbers, special ones included; it cuts both sides' text
    * anything else: plain text, a piece a line, whose number is that of its line, from 0 (a tab and a score after it, as in
      SentencePiece's `.vocab`, are left out)

    Raises UserError for missing or damaged files, and if the vocabularies of source and target differ.
    """
    if not isinstance(named, list) or not named:
        named = [find_one(folder, "*vocab*", "vocabulary").name]
    files = [folder / name for name in dict.fromkeys(Path(str(name)).name for name in named)]
    vocabularies = [_read(file) for file in files]
    if any(vocabulary[1:] != vocabularies[0][1:] for vocabulary in vocabularies):
        names = " and ".join(file.name for file in files)
        raise UserError(f"{folder}: {names} differ; a model of ours has one vocabulary for source and target")
    return vocabularies[0]


def with_rows(vocabulary: MarianVocabulary, rows: int) -> list[str | None]:
    """The piece of each of `rows` rows, and of the row after them, with which the decoder starts. Raises UserError if a piece
    has no row."""
    pieces = rows_of(vocabulary.rows, rows, vocabulary.where)
    return [*pieces, _START]


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
    if missing or _START in rows:
        what = f"has no {' and no '.join(missing)}" if missing else f"has a {_START}, which should be no piece of Marian's"
        raise UserError(f"{path}: {what}; expected a vocabulary as marian-vocab writes it")
    return MarianVocabulary(path, rows, rows["</s>"], rows["<unk>"], rows["</s>"], None)


def _of_model(content: bytes, path: Path) -> MarianVocabulary:
    model = load_sentencepiece(content, path)
    rows = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    if model.eos_id() < 0 or _START in rows:
        what = f"has a {_START}, which should be no piece of Marian's" if _START in rows else "has no </s>"
        raise UserError(f"{path}: {what}; expected a SentencePiece model as marian trains it")
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
