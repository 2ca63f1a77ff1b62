"""The vocabularies of a CTranslate2 model: the piece of each row, the special ids, one numbering of these for both sides."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.ctranslate2_model import TransformerOfFile
from transformer_jax.interop.foreign_model import aligned, require_supported
from transformer_jax.interop.model_files import ModelFiles

__all__ = ["Pieces", "read_pieces"]

_PADDING = ("<blank>", "<pad>")  # OpenNMT's, and what others call it
_TARGET, _SOURCE = "target_embedding/table", "source_embedding/table"


class Pieces(NamedTuple):
    """The vocabularies.

    The source's special pieces (EOS, unknown, padding, and BOS where sources begin with it) stand in the rows in which the
    target has them: its rows were exchanged for that, and a row of zeros was added for one that it lacks.
    """

    listed_target: list[str]  # as in the file
    listed_source: list[str]
    target: list[str | None]  # of each row; None for a row that has none
    source: list[str | None] | None  # None: the target's
    order: list[int]  # of each row of the source, its row in the file; one that the file has not: -1
    ids: dict[str, int]  # the tokenizer's special ids
    notes: list[str]

    def fitted(self, found: TransformerOfFile) -> tuple[ModelConfig, dict[str, np.ndarray]]:
        """The model, and its parameters with the source's rows in this order."""
        if self.source is None or self.order == [*range(len(found.parameters.get(_SOURCE, ())))]:
            return found.model, found.parameters
        table = found.parameters.get(_SOURCE, found.parameters[_TARGET])
        rows = np.concatenate([table, np.zeros_like(table[:1])])[self.order]
        size = len(rows) if len(rows) != len(found.parameters[_TARGET]) else 0
        model = dataclasses.replace(found.model, source_vocab_size=size)
        if model.tied_embeddings == "all":
            model.tied_embeddings = "target"
        return model, found.parameters | {_SOURCE: rows}


def read_pieces(files: ModelFiles, options: Mapping[str, Any], found: TransformerOfFile) -> Pieces:
    """The vocabularies beside a model. Raises UserError where they are missing, damaged, or longer than the tables."""
    rows = {"target": len(found.parameters[_TARGET])}
    rows["source"] = len(found.parameters.get(_SOURCE, found.parameters[_TARGET]))
    is_shared = any(files.has(f"shared_vocabulary.{end}") for end in ("json", "txt"))
    if not is_shared and any(files.has(f"source_1_vocabulary.{end}") for end in ("json", "txt")):
        require_supported(["source_1_vocabulary: several features of the source (expected one)"], files.where("model.bin"))
    listed, pieces, notes = {}, {}, []
    for side, size in rows.items():
        name, listed[side] = _read(files, "shared" if is_shared else side)
        pieces[side] = _rows(listed[side], size, options["unk_token"], files.where(name), notes)
    target, ids = pieces["target"], _ids(pieces["target"], options, found.model, files)
    if pieces["source"] == target:
        return Pieces(listed["target"], listed["source"], target, None, [], ids, notes)
    ids["pad_id"] = ids["pad_id"] if ids["pad_id"] < rows["source"] else ids["unknown_id"]
    keys = ["eos_id", "unknown_id", "pad_id", *(["bos_id"] if options["add_source_bos"] else [])]
    source, order = aligned(pieces["source"], {ids[key]: target[ids[key]] for key in keys}, files.where("model.bin"))
    return Pieces(listed["target"], listed["source"], target, source, order, ids, notes)


def _read(files: ModelFiles, side: str) -> tuple[str, list[str]]:
    """The name of the file of a vocabulary, and its pieces."""
    name, what = f"{side}_vocabulary.json", f"the pieces of the rows ({side}_vocabulary, .json or .txt)"
    if files.has(name):
        return name, files.read_list(name, what)
    if not files.has(f"{side}_vocabulary.txt"):
        raise UserError(
            f"{files.where('model.bin')}: expected a shared_vocabulary, or a source_vocabulary and a target_vocabulary (.json "
            f"or .txt) beside it; found no {side}_vocabulary"
        )
    name = f"{side}_vocabulary.txt"
    try:
        lines = files.read(name, what).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{files.where(name)}: damaged, not UTF-8; download it again") from None
    # Only where every line ends with a carriage return it is no part of the piece.
    return name, [line[:-1] for line in lines] if all(line.endswith("\r") for line in lines) else lines


def _rows(listed: Sequence[str], size: int, unknown: str, where: str, notes: list[str]) -> list[str | None]:
    """The piece of each of `size` rows. Of two rows of one piece the second has none, as it is never read."""
    listed = [*listed] if unknown in listed else [*listed, unknown]
    if len(listed) > size:
        raise UserError(f"{where}: has {len(listed)} pieces, and the embedding {size} rows; expected as many at most")
    first: dict[str, int] = {}
    rows = [piece if first.setdefault(piece, row) == row else None for row, piece in enumerate(listed)]
    if None in rows:
        notes.append(f"{where}: pieces that are there twice have their first row ({rows.count(None)} rows are not read)")
    return rows + [None] * (size - len(rows))


def _ids(target: Sequence[str | None], options: Mapping[str, Any], model: ModelConfig, files: ModelFiles) -> dict[str, int]:
    rows = {piece: row for row, piece in enumerate(target) if piece is not None}
    eos, start = options["eos_token"], options["decoder_start_token"]
    wrong = []
    if eos not in rows:
        wrong.append(f"eos_token: {eos!r:.60} (expected a piece of the target)")
    if start is None and not model.zero_start:
        wrong.append("decoder_start_token: null, it is given with each text (expected a piece)")
    elif start not in rows and not model.zero_start:
        wrong.append(f"decoder_start_token: {start!r:.60} (expected a piece of the target)")
    if options["add_source_bos"] and options["bos_token"] not in rows:
        wrong.append(f"bos_token: {options['bos_token']!r:.60} (expected a piece of the target)")
    require_supported(wrong, files.where("config.json" if files.has("config.json") else "model.bin"))
    ids = {"eos_id": rows[eos], "unknown_id": rows[options["unk_token"]]}
    ids["bos_id"] = rows.get(options["bos_token"], ids["eos_id"])
    ids["decoder_start_id"] = rows.get(start, ids["eos_id"])  # with `zero_start` any
    own = [rows[piece] for piece in _PADDING if piece in rows]
    usual = ids["unknown_id"] if ids["decoder_start_id"] == ids["eos_id"] else ids["decoder_start_id"]
    return {"pad_id": own[0] if own else usual} | ids
