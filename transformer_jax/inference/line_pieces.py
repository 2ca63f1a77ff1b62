"""Pieces of lines: what is translated by itself, encoded once, with what its translation must have."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import Config, SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.inference.capitals import Capitals, capitals_of, in_small_letters, with_capitals
from transformer_jax.inference.phrases import NO_PREFIX, Phrase, Prefix, read_phrases, read_prefixes
from transformer_jax.inference.sentences import Span, split_line
from transformer_jax.inference.spelling import Speller
from transformer_jax.inference.terminology import Terminology
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Piece", "PieceMaker", "with_prefixes_and_phrases"]


_NO_IDS = np.zeros(0, np.int32)


class Piece(NamedTuple):
    """A sentence, or what else is translated by itself."""

    ids: np.ndarray  # int32 [tokens], EOS included
    span: Span = Span("")  # its text, and what stands between it and the next piece of the line
    prefix: Prefix = NO_PREFIX  # what the translation begins with
    phrases: Sequence[Phrase] = ()  # what must occur in the translation
    capitals: Capitals = Capitals()  # those of its line, without which it is read
    kept: tuple[int, ...] = ()  # the numbers of the words whose spelling is that of its text
    read: str = ""  # as the model reads it, where that is not as its text is written

    def written(self, text: str) -> str:
        """What the model wrote for the piece, as it comes out."""
        return with_capitals(text, self.capitals)


class PieceMaker(NamedTuple):
    """Lines to pieces, as a model needs them."""

    tokenizer: Tokenizer
    config: Config
    usual_length: int  # tokens that sentences seldom exceed in the training text; 0: unknown
    max_positions: int  # places of a row for which the model has a position
    speller: Speller | None = None  # corrects what is read

    def pieces(self, lines: Sequence[str], options: SearchOptions) -> list[list[Piece]]:
        """The pieces of each line, none of a blank one, as `options.split_sentences` says. Raises UserError for a line that is
        not to be split and has more tokens than the model has positions."""
        capitals = [capitals_of(line) if options.capitals == "restore" else Capitals() for line in lines]
        whole = [Piece(_NO_IDS, Span(line), capitals=own) for line, own in zip(lines, capitals, strict=True)]
        whole = self.encode(whole)  # one call for all; only what is split is encoded again
        parts, known = [], []
        for piece, seen in zip(whole, self.tokenizer.visible(lines), strict=True):
            spans = self._spans(piece, seen, options.split_sentences)
            of_parts = piece.capitals.of_parts([span.text for span in spans])
            known.append(piece if len(spans) == 1 and spans[0].text == piece.span.text else None)
            parts.append([Piece(_NO_IDS, span, capitals=own) for span, own in zip(spans, of_parts, strict=True)])
        rest = iter(self.encode([part for of_line, piece in zip(parts, known, strict=True) if not piece for part in of_line]))
        return [[piece] if piece else [next(rest) for _ in of_line] for of_line, piece in zip(parts, known, strict=True)]

    def encode(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces with the ids of their text, EOS included, as it is read: without their capitals, and corrected."""
        read = list(map(self._read, pieces))
        return [
            piece._replace(ids=ids, read=text if text != piece.span.text else "")
            for piece, text, ids in zip(pieces, read, self.tokenizer.encode_source(read), strict=True)
        ]

    def _read(self, piece: Piece) -> str:
        text = in_small_letters(piece.span.text, piece.capitals, self.config.data.source_language)
        return self.speller.corrected(text, piece.capitals.begins, piece.kept) if self.speller else text

    def _spans(self, piece: Piece, seen: str, split: str) -> list[Span]:
        """The spans of a line, a piece as a whole, of which the model sees `seen`."""
        line, size, longest = piece.span.text, len(piece.ids), self.config.batch.max_length
        if split == "never" and size > self.max_positions:
            raise UserError(
                f"{line[:40]!r}...: has {size} tokens, the model has positions for {self.max_positions}; leave "
                "decode.split_sentences (--split_sentences) at long"
            )
        # Every part of a line that is short enough is short enough itself: there is nothing to count.
        count: Callable[[str], int] = (lambda text: self._count(piece, text)) if size > longest else (lambda _: 0)
        language = self.config.data.source_language
        spans = split_line(seen, count, longest, split=split, usual=self.usual_length, language=language)
        return [Span(line.strip())] if len(spans) == 1 else spans

    def _count(self, line: Piece, text: str) -> int:
        return len(self.encode([line._replace(span=Span(text))])[0].ids)


def with_prefixes_and_phrases(
    maker: PieceMaker,
    of_lines: Sequence[Sequence[Piece]],
    prefixes: Sequence[str],
    complete_words: bool,
    phrases: Sequence[Sequence[str]],
    ends: str,
    terms: Terminology | None,
) -> list[Piece]:
    """The pieces of all lines, with what their translations must begin with and hold: the first piece of a line has its prefix
    and its phrases, every piece what `terms` has for its own words. Raises UserError as `read_prefixes` and `read_phrases`
    do."""
    pieces = [piece for of_line in of_lines for piece in of_line]
    firsts = [(line, not i) for line, of_line in enumerate(of_lines) for i in range(len(of_line))]
    starts = [prefixes[line] if is_first else "" for line, is_first in firsts]
    wanted = [[*(phrases[line] if is_first else ())] for line, is_first in firsts]
    for piece, texts in zip(pieces, wanted, strict=True) if terms else ():
        texts += terms.translations(piece.span.text if piece.capitals.kind else piece.read or piece.span.text)
    read = read_prefixes(maker.tokenizer, starts, complete_words), read_phrases(maker.tokenizer, wanted, ends)
    return [
        (_with_capitals(piece, maker) if x.size or y else piece)._replace(prefix=x, phrases=y)
        for piece, x, y in zip(pieces, *read, strict=True)
    ]


def _with_capitals(piece: Piece, maker: PieceMaker) -> Piece:
    """The piece, read with its capitals: what must occur in a translation has its own."""
    return maker.encode([piece._replace(capitals=Capitals(begins=piece.capitals.begins))])[0] if piece.capitals.kind else piece
