"""Pieces of lines: what is translated by itself, encoded once, with what its translation must have."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import Config, SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.inference.capitals import Capitals, capitals_of, in_small_letters, with_capitals
from transformer_jax.inference.phrases import NO_PREFIX, Phrase, Prefix, read_phrases, read_prefixes
from transformer_jax.inference.sentences import Span, split_line
from transformer_jax.inference.terminology import Terminology
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Piece", "PieceMaker", "with_prefixes_and_phrases"]


class Piece(NamedTuple):
    """A sentence, or what else is translated by itself."""

    ids: np.ndarray  # int32 [tokens], EOS included
    span: Span = Span("")  # its text, and what stands between it and the next piece of the line
    prefix: Prefix = NO_PREFIX  # what the translation begins with
    phrases: Sequence[Phrase] = ()  # what must occur in the translation
    capitals: Capitals = Capitals()  # those of its line, without which it is read

    def written(self, text: str) -> str:
        """What the model wrote for the piece, as it comes out."""
        return with_capitals(text, self.capitals)


class PieceMaker(NamedTuple):
    """Lines to pieces, as a model needs them."""

    tokenizer: Tokenizer
    config: Config
    usual_length: int  # tokens that sentences seldom exceed in the training text; 0: unknown
    max_positions: int  # places of a row for which the model has a position

    def pieces(self, lines: Sequence[str], options: SearchOptions) -> list[list[Piece]]:
        """The pieces of each line, none of a blank one, as `options.split_sentences` says. Raises UserError for a line that is
        not to be split and has more tokens than the model has positions."""
        capitals = [capitals_of(line) if options.capitals == "restore" else Capitals() for line in lines]
        rows = self.encode(list(zip(lines, capitals, strict=True)))  # one call for all; only what is split is encoded again
        parts, known = [], []
        for line, seen, ids, of_line in zip(lines, self.tokenizer.visible(lines), rows, capitals, strict=True):
            spans = self._spans(line, seen, len(ids), options.split_sentences, of_line)
            parts.append(list(zip(spans, of_line.of_parts([span.text for span in spans]), strict=True)))
            known.append(ids if len(spans) == 1 and spans[0].text == line else None)
        unknown = [(span.text, own) for of_line, ids in zip(parts, known, strict=True) if ids is None for span, own in of_line]
        rest = iter(self.encode(unknown))
        return [
            [Piece(next(rest) if ids is None else ids, span, capitals=own) for span, own in of_line]
            for of_line, ids in zip(parts, known, strict=True)
        ]

    def encode(self, texts: Sequence[tuple[str, Capitals]]) -> list[np.ndarray]:
        """The ids of each text without the capitals that are named beside it, EOS included."""
        language = self.config.data.source_language
        return self.tokenizer.encode_source([in_small_letters(*text, language) for text in texts])

    def _spans(self, line: str, seen: str, size: int, split: str, capitals: Capitals) -> list[Span]:
        """The spans of a line of `size` tokens, of which the model sees `seen`."""
        longest, language = self.config.batch.max_length, self.config.data.source_language
        if split == "never" and size > self.max_positions:
            raise UserError(
                f"{line[:40]!r}...: has {size} tokens, the model has positions for {self.max_positions}; leave "
                "decode.split_sentences (--split_sentences) at long"
            )
        # Every part of a line that is short enough is short enough itself: there is nothing to count.
        count: Callable[[str], int] = (lambda text: self._count(text, capitals)) if size > longest else (lambda _: 0)
        spans = split_line(seen, count, longest, split=split, usual=self.usual_length, language=language)
        return [Span(line.strip())] if len(spans) == 1 else spans

    def _count(self, text: str, capitals: Capitals) -> int:
        return len(self.encode([(text, capitals)])[0])


def with_prefixes_and_phrases(
    tokenizer: Tokenizer,
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
        texts += terms.translations(piece.span.text)
    read = read_prefixes(tokenizer, starts, complete_words), read_phrases(tokenizer, wanted, ends)
    return [
        (_as_it_is(piece, tokenizer) if x.size or y else piece)._replace(prefix=x, phrases=y)
        for piece, x, y in zip(pieces, *read, strict=True)
    ]


def _as_it_is(piece: Piece, tokenizer: Tokenizer) -> Piece:
    """The piece, read with its capitals: what must occur in a translation has its own."""
    if not piece.capitals.kind:
        return piece
    return piece._replace(ids=tokenizer.encode_source([piece.span.text])[0], capitals=Capitals())
