"""One numbering of pieces for two SentencePiece models, as Marian has it."""

import itertools
import json
import os
import re
from collections.abc import Sequence

import numpy as np
import sentencepiece

from transformer_jax.tokenization.word_table import SPACE

__all__ = ["Vocabulary", "split_tag"]


class Vocabulary:
    """The row of each piece in the embedding tables, where that is not its number in its SentencePiece model.

    The models of source and target cut text into pieces; this list, one for both, gives each piece its row. A piece that is
    not in it, of the model or of letters that the model does not know, is unknown. A line may begin with a tag that is a piece
    as a whole, such as `>>deu<<`, which names the target language to models of several. The pieces of the rows `added` are in
    no SentencePiece model: each is one piece wherever a text has it.

    Attributes:
        pieces: the piece of each row; one that has none is called `<row 17>`
        without_piece: the rows that have none
    """

    def __init__(self, pieces: Sequence[str | None], special: Sequence[int], unknown_id: int, added: Sequence[int] = ()):
        self.pieces = [f"<row {row}>" if piece is None else piece for row, piece in enumerate(pieces)]
        self.without_piece = [row for row, piece in enumerate(pieces) if piece is None]
        # Text never becomes a special id, not even where SentencePiece knows no letter of `</s>`.
        never = {*special, *self.without_piece}
        self._rows = {piece: row for row, piece in enumerate(self.pieces) if row not in never}
        self._unknown = unknown_id
        longest_first = sorted((self.pieces[row] for row in added), key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    @classmethod
    def parse(cls, text: bytes, special: Sequence[int], unknown_id: int, added: Sequence[int] = ()) -> "Vocabulary":
        """The inverse of `to_json`. Raises ValueError for anything else than a list of strings (or null), all different, and
        where an `added` row has no piece."""
        pieces = json.loads(text)
        if not isinstance(pieces, list) or not all(piece is None or isinstance(piece, str) for piece in pieces):
            raise ValueError("not a list of pieces")
        named = [piece for piece in pieces if piece is not None]
        if len(set(named)) != len(named):
            raise ValueError("a piece comes twice")
        if not all(0 <= row < len(pieces) and pieces[row] for row in added):
            raise ValueError("an added token is none of its pieces")
        return cls(pieces, special, unknown_id, added)

    @staticmethod
    def to_json(pieces: Sequence[str | None]) -> str:
        """The list of the pieces of all rows; null for a row that has none."""
        return json.dumps(list(pieces), ensure_ascii=False, indent=0) + "\n"

    def encode(self, model: sentencepiece.SentencePieceProcessor, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids int32 [tokens] of all lines, one line after the other, and the number of each line's [lines]."""
        # The text of a line between two added tokens is read as a line is.
        parts = [self._added.split(line) if self._added else [line] for line in lines]
        tags, texts = zip(*(split_tag(text) for line_parts in parts for text in line_parts[::2]), strict=True)
        encoded = iter(zip(tags, model.encode(list(texts), out_type=str, num_threads=os.cpu_count() or 1), strict=True))
        split = []
        for line_parts in parts:
            pieces = []
            for added in [*line_parts[1::2], ""]:
                tag, text_pieces = next(encoded)
                pieces += [tag] * bool(tag) + text_pieces + [added] * bool(added)
            split.append(pieces)
        lengths = np.fromiter(map(len, split), np.int64, len(split))
        rows = map(self._rows.get, itertools.chain.from_iterable(split), itertools.repeat(self._unknown))
        return np.fromiter(rows, np.int32, int(lengths.sum())), lengths

    def decode(self, model: sentencepiece.SentencePieceProcessor, ids: Sequence[int]) -> str:
        """The text of ids that are not special."""
        text = model.decode_pieces([self.pieces[i] for i in ids]) if len(ids) else ""
        return text.replace(SPACE, " ").strip()  # SentencePiece leaves its sign in pieces of the other side's model


def split_tag(line: str) -> tuple[str, str]:
    """A tag at the start of a line, and the rest.

    >>> split_tag(">>deu<< Hello!"), split_tag("Hello >>deu<<"), split_tag(">> a quote")
    (('>>deu<<', ' Hello!'), ('', 'Hello >>deu<<'), ('', '>> a quote'))
    """
    end = line.find("<<") if line.startswith(">>") else -1
    return (line[: end + 2], line[end + 2 :]) if end >= 0 else ("", line)
