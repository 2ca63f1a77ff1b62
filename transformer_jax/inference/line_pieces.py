"""Pieces of lines: what is translated by itself, encoded once, with what its translation must have."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import Config, SearchOptions
from transformer_jax.errors import UserError
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


class PieceMaker(NamedTuple):
    """Lines to pieces, as a model needs them."""

    tokenizer: Tokenizer
    config: Config
    usual_length: int  # tokens that sentences seldom exceed in the training text; 0: unknown
    max_positions: int  # places of a row for which the model has a position

    def pieces(self, lines: Sequence[str], options: SearchOptions) -> list[list[Piece]]:
        """The pieces of each line, none of a blank one, as `options.split_sentences` says. Raises UserError for a line that is
        not to be split and has more tokens than the model has positions."""
        rows = self.tokenizer.encode_source(lines)  # one call for all; only what is split is encoded again
        spans, known = [], []
        for line, seen, ids in zip(lines, self.tokenizer.visible(lines), rows, strict=True):
            spans.append(self._spans(line, seen, len(ids), options.split_sentences))
            known.append(ids if len(spans[-1]) == 1 and spans[-1][0].text == line else None)
        texts = [span.text for of_line, ids in zip(spans, known, strict=True) if ids is None for span in of_line]
        rest = iter(self.tokenizer.encode_source(texts))
        return [
            [Piece(next(rest) if ids is None else ids, span) for span in of_line]
            for of_line, ids in zip(spans, known, strict=True)
        ]

    def _spans(self, line: str, seen: str, size: int, split: str) -> list[Span]:
        """The spans of a line of `size` tokens, of which the model sees `seen`."""
        longest, language = self.config.batch.max_length, self.config.data.source_language
        if split == "never" and size > self.max_positions:
            raise UserError(
                f"{line[:40]!r}...: has {size} tokens, the model has positions for {self.max_positions}; leave "
                "decode.split_sentences (--split_sentences) at long"
            )
        # Every part of a line that is short enough is short enough itself: there is nothing to count.
        count: Callable[[str], int] = self._count if size > longest else (lambda _: 0)
        spans = split_line(seen, count, longest, split=split, usual=self.usual_length, language=language)
        return [Span(line.strip())] if len(spans) == 1 else spans

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode_source([text])[0])


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
    return [piece._replace(prefix=x, phrases=y) for piece, x, y in zip(pieces, *read, strict=True)]
