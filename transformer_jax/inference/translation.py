"""What is returned for a line, and how the translations of a line's pieces become it."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from transformer_jax.config import SearchOptions
from transformer_jax.inference.alignment import Links, join_links, renumbered_links
from transformer_jax.inference.batched_search import Candidate
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.notebook_html import alignment_html
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["LineWords", "Translation", "best_of", "empty_translation", "join_pieces", "on_one_line"]

# White space at which somebody might end a line: a translation is one.
_OF_ONE_LINE = dict.fromkeys(map(ord, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ") | {0: "\ufffd"}
_SENTENCE_END = re.compile(r"[.!?\u2026]\W*$")


class Translation(NamedTuple):
    """One line's translation. A line that was translated in parts has their texts joined and their scores added up. In a
    notebook it shows the line and its translation, and what `alignment` links, if it was asked for."""

    text: str
    log_prob: float  # natural logarithm of the model's probability, EOS included
    score: float  # what the search ranked by: log_prob over the length penalty, or with `mbr` the expected utility in percent
    tokens: tuple[int, ...]  # the tokenizer's ids, EOS included where the model gave one
    parts: int = 1  # how many parts the line was translated in; 0: it was blank
    alignment: Links | None = None  # which words of the line became which of the text, if it was asked for
    token_log_probs: tuple[float, ...] = ()  # natural logarithm of the probability of each of `tokens`
    others: tuple["Translation", ...] = ()  # the next best, best first, or what else was drawn (`nbest`)
    too_long: bool = False  # was the line, or with split_sentences=always a sentence of it, cut because it was too long?
    source: str = ""  # the line, as it was given; "" for a blank one
    protected: tuple[tuple[int, int], ...] = ()  # the characters of `text` that are spans which were to come out as they are
    confidence: float | None = None  # from 0 to 1, of a search whose run was calibrated (`runs.calibration`); None: not known
    read: str = ""  # the line as the model read it, where that is not as it is written (capitals, spelling)

    def _repr_html_(self) -> str:
        return alignment_html(self.source, self.text, self.alignment)


class LineWords(NamedTuple):
    """What the words of a line in pieces are, for the links between them."""

    seen: str  # the line as its pieces have it
    numbers: Sequence[int] | None  # of each word of `seen` the number of its word in the line; None: the same


def empty_translation(align: bool) -> Translation:
    """The translation of a blank line."""
    return Translation("", 0.0, 0.0, (), 0, () if align else None)


def best_of(texts: Sequence[str], candidates: Sequence[Candidate], read: str) -> Translation:
    """The translation that the first of a search's candidates is, with the rest as its `others`; `texts` are theirs.
    `read` is the source as the model read it, where that is not as it is written."""
    best, *others = (
        Translation(text, one.log_prob, one.score, tuple(one.ids), token_log_probs=tuple(one.token_log_probs), read=read)
        for text, one in zip(texts, candidates, strict=True)
    )
    return best._replace(others=tuple(others))


def on_one_line(text: str) -> str:
    """The text with a space for each character at which a line might end, and U+FFFD for NUL, which no text file has: a
    tokenizer that falls back to bytes can spell them.

    >>> on_one_line("one\\u2028two\\0")
    'one two\ufffd'
    """
    return text.translate(_OF_ONE_LINE)


def join_pieces(
    line: str,
    pieces: Sequence[Piece],
    parts: Sequence[Translation],
    options: SearchOptions,
    tokenizer: Tokenizer,
    words: LineWords | None = None,
) -> Translation:
    """The translation of a line from those of its pieces. `words` are those of the line, where they are not what `tokenizer`
    makes of it. Its n best are the best of all combinations; of samples, the first
    of each piece belong together, the second, and so on, unless they are ranked by `options.mbr`."""
    if len(parts) == 1:
        return _of_line(line, parts[0])
    choices = [(part, *part.others) for part in parts]
    if options.temperature and not options.mbr:
        combinations = list(zip(*choices, strict=True))
    else:
        combinations = [()]
        for of_part in choices:
            longer = [(*before, one) for before in combinations for one in of_part]
            combinations = sorted(longer, key=lambda chosen: -sum(one.score for one in chosen))[: options.nbest]
    too_long = options.split_sentences == "long" or any(piece.span.cut for piece in pieces)
    best, *others = (_joined(line, pieces, chosen, tokenizer, words)._replace(too_long=too_long) for chosen in combinations)
    return _of_line(line, best._replace(others=tuple(others)))


def _of_line(line: str, translation: Translation) -> Translation:
    others = tuple(other._replace(source=line) for other in translation.others)
    return translation._replace(source=line, others=others)


def _joined(
    line: str, pieces: Sequence[Piece], parts: Sequence[Translation], tokenizer: Tokenizer, words: LineWords | None
) -> Translation:
    alignments = [part.alignment for part in parts]
    texts = _with_gaps([part.text for part in parts], [piece.span.gap for piece in pieces])
    links = None
    if None not in alignments:
        seen = words.seen if words else tokenizer.visible([line])[0]
        links = join_links(seen, [piece.span.text for piece in pieces], texts, alignments)
        if not words:
            links = renumbered_links(links, line, (), tokenizer)
        elif words.numbers is not None:
            links = tuple((words.numbers[i], j) for i, j in links)
    starts = [0, *itertools.accumulate(map(len, texts))]
    read = ((part.read or piece.span.text) + piece.span.gap for part, piece in zip(parts, pieces, strict=True))
    return Translation(
        "".join(texts),
        sum(part.log_prob for part in parts),
        sum(part.score for part in parts),
        tuple(token for part in parts for token in part.tokens),
        len(parts),
        links,
        tuple(itertools.chain.from_iterable(part.token_log_probs for part in parts)),
        protected=tuple((start + a, start + b) for start, part in zip(starts, parts, strict=False) for a, b in part.protected),
        read="".join(read) if any(part.read for part in parts) else "",
    )


def _with_gaps(texts: Sequence[str], gaps: Sequence[str]) -> list[str]:
    """The translations of a line's pieces, each with what is between it and the next that is not empty. Where the line has no
    white space there is none, unless a sentence ends there in a language that has one."""
    spaced, following = [], False
    for text, gap in reversed(list(zip(texts, gaps, strict=True))):
        between = on_one_line(gap) or (" " if _SENTENCE_END.search(text) else "")
        spaced.append(text + between if text and following else text)
        following |= bool(text)
    return spaced[::-1]
