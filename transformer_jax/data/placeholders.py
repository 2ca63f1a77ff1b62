"""Training pairs with placeholders: the same numbered pieces on both sides, so that a model learns to carry them over."""

import collections
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import regex

from transformer_jax.tokenization.placeholders import MOST_PLACEHOLDERS, PLACEHOLDER_TEXT, PLACEHOLDERS
from transformer_jax.tokenization.span_patterns import SPAN_PATTERNS, SpanPatterns, find_spans, read_patterns

__all__ = ["placeholders"]

_WORD = regex.compile(r"\w(?:[\w'\u2019-]*\w)?")
_GAP = regex.compile(r"\s+")
_FEWEST_LETTERS = 3  # of a word that both sides have
_OUT_OF_ORDER = 0.25  # the share of pairs whose placeholders have any numbers, so that all are learned
_COUNTS = (0.5, 0.25, 0.12, 0.05, 0.03, 0.02, 0.02, 0.01)  # the shares of pairs into which 1, 2, ... are put
_FORMS = (("", ""), ("(", ")"), ('"', '"'))
_SHARES = (0.8, 0.15, 0.05)  # of these forms


class _Part(NamedTuple):
    """Where one side of a pair changes."""

    start: int
    end: int  # start: something is put in there
    number: int  # of its placeholder in the pair
    text: str = "{}"  # with a place for the placeholder


def placeholders(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """Both sides with the same placeholders, each once, up to eight: numbered from 1 in the order of the source, or, in one
    pair of four, by any numbers.

    Spans of the built-in patterns (`tokenization.span_patterns`) become placeholders that the sides have equally often. Of the
    words that both have once (in capitals or small letters, and with a capital in the target: names, and in German nouns),
    each does with chance 1/2. Text with few of both, such as captions, would teach little: so further placeholders are put in
    beside that, mostly one or two, at the beginning, at the end, and inside: next to a word that both sides have, or else in
    the same proportion of their words.

    >>> placeholders("Call 555 in London now.", "Ruf jetzt 555 in London an.", np.random.default_rng(2))
    ('Call ⟦1⟧ in ⟦2⟧ now.', 'Ruf jetzt ⟦1⟧ in ⟦2⟧ an.')
    """
    both = f"{source}\n{target}"
    if not source.strip() or not target.strip() or PLACEHOLDER_TEXT.search(both):
        return source, target
    sides: tuple[list[_Part], list[_Part]] = [], []
    _add_equal_spans(source, target, sides)
    anchors = _equal_words(source, target, sides)
    _add_words(anchors, sides, random)
    _put_in(source, target, anchors, sides, random)
    drawn = _drawn_numbers(sides[0], random)
    return _written(source, sides[0], drawn), _written(target, sides[1], drawn)


def _drawn_numbers(parts: list[_Part], random: np.random.Generator) -> list[str]:
    """The placeholder of each number of the pair: mostly as a translation numbers them, in the order of the source."""
    if random.random() < _OUT_OF_ORDER:
        return [PLACEHOLDERS[number] for number in random.permutation(MOST_PLACEHOLDERS)]
    drawn = [""] * len(parts)
    for place, part in enumerate(_in_order(parts)):
        drawn[part.number] = PLACEHOLDERS[place]
    return drawn


def _in_order(parts: list[_Part]) -> list[_Part]:
    """Of several that are put in at one place the first of the pair comes first."""
    return sorted(parts, key=lambda part: (part.start, part.end, part.number))


@functools.cache
def _built_in() -> SpanPatterns:
    return read_patterns(",".join(SPAN_PATTERNS))


def _add_equal_spans(source: str, target: str, sides: tuple[list[_Part], list[_Part]]) -> None:
    found = [collections.defaultdict(list) for _ in sides]
    for line, places in zip((source, target), found, strict=True):
        for span in find_spans(line, _built_in()):
            places[span.of(line)].append((span.start, span.end))
    for text, places in found[0].items():
        if len(places) == len(found[1].get(text, [])) <= MOST_PLACEHOLDERS - len(sides[0]):
            for pair in zip(places, found[1][text], strict=True):
                _add(sides, *pair)


def _add(sides: tuple[list[_Part], list[_Part]], source: tuple[int, int], target: tuple[int, int], text: str = "{}") -> None:
    number = len(sides[0])
    for parts, (start, end) in zip(sides, (source, target), strict=True):
        parts.append(_Part(start, end, number, text))


def _equal_words(source: str, target: str, sides: tuple[list[_Part], list[_Part]]) -> list[tuple[tuple[int, int], ...]]:
    """The places, on both sides, of the words that each side has once, outside of what changes already."""
    first, second = (_words(line, parts) for line, parts in zip((source, target), sides, strict=True))
    return [
        (places[0], second[word][0])
        for word, places in first.items()
        if len(word) >= _FEWEST_LETTERS
        and len(places) == 1 == len(second.get(word, ()))
        and target[second[word][0][0]].isupper()
    ]


def _words(line: str, parts: list[_Part]) -> Mapping[str, list[tuple[int, int]]]:
    words = collections.defaultdict(list)
    for match in _WORD.finditer(line):
        if not any(part.start < match.end() and match.start() < part.end for part in parts):
            words[match[0].casefold()].append(match.span())
    return words


def _add_words(
    anchors: list[tuple[tuple[int, int], ...]], sides: tuple[list[_Part], list[_Part]], random: np.random.Generator
) -> None:
    for pair in list(anchors):
        if random.random() < 0.5 and len(sides[0]) < MOST_PLACEHOLDERS:
            _add(sides, *pair)
            anchors.remove(pair)


def _put_in(
    source: str,
    target: str,
    anchors: list[tuple[tuple[int, int], ...]],
    sides: tuple[list[_Part], list[_Part]],
    random: np.random.Generator,
) -> None:
    """Further placeholders: where the pair has some, none are put in with chance 1/2."""
    if sides[0] and random.random() < 0.5:
        return
    count = 1 + int(random.choice(len(_COUNTS), p=_COUNTS))
    for _ in range(min(count, MOST_PLACEHOLDERS - len(sides[0]))):
        where, form = random.random(), _FORMS[random.choice(len(_FORMS), p=_SHARES)]
        text = f"{form[0]}{{}}{form[1]}"
        if where < 0.2:
            text += str(random.choice(["", ":", ","], p=[0.6, 0.3, 0.1])) + " "
            _add(sides, (0, 0), (0, 0), text)
        elif where < 0.45:
            before_mark = random.random() < 0.7
            _add(sides, *(2 * (_end(line, before_mark),) for line in (source, target)), f" {text}")
        else:
            _add(sides, *_inside(source, target, anchors, random), f" {text}")


def _end(line: str, before_mark: bool) -> int:
    end = len(line.rstrip())
    return len(line[:end].rstrip(".!?\u2026")) or end if before_mark else end


def _inside(
    source: str, target: str, anchors: list[tuple[tuple[int, int], ...]], random: np.random.Generator
) -> tuple[tuple[int, int], ...]:
    """A place after a word, on each side."""
    if anchors and random.random() < 0.9:
        return tuple((end, end) for _, end in anchors[random.integers(len(anchors))])
    share = random.random()
    places = []
    for line in (source, target):
        gaps = [match.start() for match in _GAP.finditer(line.rstrip()) if match.start()] or [_end(line, True)]
        places.append(gaps[int(share * len(gaps))])
    return tuple((place, place) for place in places)


def _written(line: str, parts: list[_Part], drawn: list[str]) -> str:
    """The line with its placeholders."""
    written, at = [], 0
    for part in _in_order(parts):
        if part.start < at:  # inside of a span: after it
            part = part._replace(start=at, end=at)
        written += [line[at : part.start], part.text.format(drawn[part.number])]
        at = part.end
    return "".join([*written, line[at:]])
