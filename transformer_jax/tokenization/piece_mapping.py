"""From the pieces of one tokenizer to those of another: the rows that a table of the first gives to a table of the second."""

from typing import Literal, NamedTuple

import numpy as np
import sentencepiece

from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.tokenization.word_table import SPACE, read_model

__all__ = ["PieceMapping", "map_pieces", "mapped_rows"]


class PieceMapping(NamedTuple):
    """What the pieces of a new tokenizer are in an old one."""

    parts: list[list[int]]  # of each new row, the old rows that it is the mean of: one where both have the piece
    others: np.ndarray  # int64 [pieces]: the old rows that a new row without parts is the mean of: all that are text
    taken: int  # how many new rows are old ones, special ids included
    made: int  # how many are the mean of their parts
    fresh: int  # how many have no part that the old tokenizer knows


def map_pieces(new: Tokenizer, old: Tokenizer, side: Literal["source", "target"] = "target") -> PieceMapping:
    """The mapping from `old` to `new`, which was trained here, by the text of the pieces.

    A special id is that of the same task: what the decoder starts with has the row of what the old one started with. A piece
    that both have is taken. Another has the parts into which the old tokenizer cuts its text, as in Fast Vocabulary Transfer
    (Gee et al. 2022, arXiv 2402.09977, section 3); those it does not know are left out. Where no part is left, the new row
    starts from the mean of all (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"). `side` chooses
    the old SentencePiece model and vocabulary, where those of source and target differ.
    """
    special = {getattr(old, name) for name in _SPECIAL}
    if side == "source" and old.has_source_vocabulary:
        listed = {piece: row for row, piece in enumerate(old.source_pieces(range(old.source_vocab_size)))}
    else:
        listed = old.vocabulary()
    rows = {piece: row for piece, row in listed.items() if row not in special}
    # The decoder's start last: it is BOS here, and the row that matters is that of the old start, be it padding.
    of_special = {getattr(new, name): getattr(old, name) for name in _SPECIAL}
    pieces = new.pieces(range(new.vocab_size))
    unknown = [row for row, piece in enumerate(pieces) if row not in of_special and piece not in rows]
    parts = [[of_special[row]] if row in of_special else [rows.get(piece, -1)] for row, piece in enumerate(pieces)]
    cut = _without_prefix(old.models()[side == "target"])
    for row, segmented in zip(unknown, cut.encode([_text_of(pieces[row]) for row in unknown], out_type=str), strict=True):
        parts[row] = [rows[part] for part in segmented if part in rows]
    fresh = sum(not of_row for of_row in parts)
    return PieceMapping(parts, np.array(sorted(rows.values())), len(pieces) - len(unknown), len(unknown) - fresh, fresh)


def mapped_rows(table: np.ndarray, mapping: PieceMapping) -> np.ndarray:
    """The table [V, ...] of the new pieces, of that of the old ones [old V, ...].

    >>> mapping = PieceMapping(parts=[[2], [0, 2], []], others=np.array([0, 1]), taken=1, made=1, fresh=1)
    >>> mapped_rows(np.array([1.0, 3.0, 8.0]), mapping)
    array([8. , 4.5, 2. ])
    """
    # Sums in float64, rounded once; a row that is taken is the same bit for bit.
    rows = [
        table[of_row[0]] if len(of_row) == 1 else np.mean(table[of_row or mapping.others], axis=0, dtype=np.float64)
        for of_row in mapping.parts
    ]
    return np.asarray(rows, dtype=table.dtype)


_SPECIAL = ("pad_id", "unknown_id", "bos_id", "eos_id", "decoder_start_id")


def _text_of(piece: str) -> str:
    if piece.startswith("<0x") and piece.endswith(">") and len(piece) == 6:
        byte = int(piece[3:5], 16)
        return chr(byte) if byte < 128 else ""  # a byte alone that is no character is no text
    return piece.replace(SPACE, " ")


def _without_prefix(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """The model as it cuts the middle of a line: without a space before it that is not there."""
    spec = read_model(model)
    spec.normalizer_spec.add_dummy_prefix = spec.normalizer_spec.remove_extra_whitespaces = False
    return sentencepiece.SentencePieceProcessor(model_proto=spec.SerializeToString())
