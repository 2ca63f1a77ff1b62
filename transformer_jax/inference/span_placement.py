"""Protected spans back in a translation: each where the model has put its placeholder, or where its words are aligned to."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from transformer_jax.inference.alignment import Links
from transformer_jax.inference.markup.projection import Mark, Place, project
from transformer_jax.tokenization.placeholders import PLACEHOLDER_TEXT, PLACEHOLDERS
from transformer_jax.tokenization.span_patterns import SpanPatterns, find_spans

__all__ = ["Chunk", "SeenSpan", "moved_links", "needs_links", "ranges_of", "with_spans"]


_OPENING = frozenset("([{\"'\u201e\u201c\u00ab\u00bb")


class SeenSpan(NamedTuple):
    """A span of a sentence, and what the model sees of it."""

    text: str  # as it is in the sentence
    written: str  # as it comes out: the same, or a number as the other language writes it
    start: int  # characters of what the model sees; start = end: it is left out there
    end: int
    placeholder: int | None = None  # the number of the one that stands for it, from 0; None: the model sees the text
    is_found: bool = True  # was it found by the patterns, not named by its place?


class Chunk(NamedTuple):
    """A part of a text that has been changed, in the order of both texts."""

    text: str  # what it is now
    start: int  # what it was: these characters of the text before
    end: int
    span: int | None = None  # the number of the span that it is


def needs_links(spans: Sequence[SeenSpan], translation: str) -> bool:
    """Whether a span has no placeholder, or not one in the translation."""
    return any(span.placeholder is None or PLACEHOLDERS[span.placeholder] not in translation for span in spans)


def with_spans(seen: str, spans: Sequence[SeenSpan], translation: str, links: Links, patterns: SpanPatterns) -> list[Chunk]:
    """The translation of `seen` with its spans, each once; the texts of the chunks, one after the other.

    A span whose placeholder is there takes its place. Another one takes the place of its own text, if the translation has it,
    or else of the words that `links` link it to; where there are none, it stands beside the translation of its neighbour
    (`inference.markup.projection`). What else the translation has of the spans' texts, found by `patterns`, and of
    placeholders, is taken out. A span that would not be found again, because it touches a letter or a mark, gets spaces.
    """
    places = _places(seen, spans, translation, links, patterns)
    chunks, at = [], 0
    for place in places:
        chunks.append(Chunk(translation[at : place.start], at, place.start))
        number = place.mark.node
        before = after = ""
        if place.start == place.end:
            written = "".join(chunk.text for chunk in chunks)
            before, after = _spaces(written, translation[place.start :], seen[: spans[number].start])
        chunks += [Chunk(before, place.start, place.start), Chunk(spans[number].written, place.start, place.end, number)]
        chunks.append(Chunk(after, place.end, place.end))
        at = place.end
    return _settled([*chunks, Chunk(translation[at:], at, len(translation))], spans, patterns)


def _places(seen: str, spans: Sequence[SeenSpan], translation: str, links: Links, patterns: SpanPatterns) -> Sequence[Place]:
    marks = [Mark(number, span.start, span.end, keeps=True) for number, span in enumerate(spans)]
    if needs_links(spans, translation):
        return _outside_of_words(_around_whole(project(seen, marks, translation, links), translation, patterns), translation)
    places = []
    for mark, span in zip(marks, spans, strict=True):
        start = translation.index(PLACEHOLDERS[span.placeholder])
        places.append(Place(mark, start, start + len(PLACEHOLDERS[span.placeholder])))
    return sorted(places, key=lambda place: place.start)


def _around_whole(places: Sequence[Place], text: str, patterns: SpanPatterns) -> list[Place]:
    """The places, with ends that are inside of something like a span moved to its nearer end: half of one would be left."""
    found = find_spans(text, patterns)

    def moved(at: int) -> int:
        return next(((s.start if at - s.start < s.end - at else s.end) for s in found if s.start < at < s.end), at)

    return [place._replace(start=moved(place.start), end=moved(place.end)) for place in places]


def _outside_of_words(places: Sequence[Place], text: str) -> list[Place]:
    """The places, of which none that is empty is inside a word: without links nothing says where words are."""
    moved = []
    for number, place in enumerate(places):
        at, end = place.start, places[number + 1].start if number + 1 < len(places) else len(text)
        if place.start == place.end and text[:at][-1:].isalnum():
            while at < end and text[at].isalnum():
                at += 1
            place = place._replace(start=at, end=at)
        moved.append(place)
    return moved


def _spaces(before: str, after: str, source: str) -> tuple[str, str]:
    """What stands around a span that is put in between what is `before` and `after` it; before it in the source is `source`."""
    last = before[-1:]
    apart = last.isalnum() or (source[-1:].isspace() and last not in _OPENING)
    return " " if last and not last.isspace() and apart else "", " " if after[:1].isalnum() else ""


def _settled(chunks: list[Chunk], spans: Sequence[SeenSpan], patterns: SpanPatterns) -> list[Chunk]:
    """Without other occurrences of the spans, and with each span to be found where it is. Each round takes away a character of
    the translation, or puts spaces where a span touches something; spaces go again only with a character."""
    texts = {text for span in spans for text in (span.text, span.written)}
    while True:
        text = "".join(chunk.text for chunk in chunks)
        found = {(span.start, span.end): span for span in find_spans(text, patterns)}
        own = ranges_of(chunks)
        lost = [number for number, place in own.items() if place not in found and spans[number].is_found]
        lost = [number for number in lost if not _stands_apart(text, *own[number])]
        others = [place for place in found if place not in own.values() and _is_another(text[slice(*place)], texts)]
        others = [place for place in others if not any(place[0] < end and start < place[1] for start, end in own.values())]
        if others:
            chunks = _without(chunks, others[0])
        elif lost:
            chunks = _with_spaces(chunks, lost[0])
        else:
            return [chunk for chunk in chunks if chunk.text or chunk.start < chunk.end]


def _stands_apart(text: str, start: int, end: int) -> bool:
    # Not `isspace`: what is white space to Python need not be to a pattern.
    return all(side in ("", " ") for side in (text[:start][-1:], text[end : end + 1]))


def _is_another(text: str, texts: set[str]) -> bool:
    return text in texts or PLACEHOLDER_TEXT.fullmatch(text) is not None


def ranges_of(chunks: Sequence[Chunk]) -> dict[int, tuple[int, int]]:
    """Where each span stands."""
    at, ranges = 0, {}
    for chunk in chunks:
        if chunk.span is not None:
            ranges[chunk.span] = at, at + len(chunk.text)
        at += len(chunk.text)
    return ranges


def _without(chunks: Sequence[Chunk], place: tuple[int, int]) -> list[Chunk]:
    """Without the characters of a place that no span has, and without the space before them."""
    text = "".join(chunk.text for chunk in chunks)
    start, end = place
    start -= start > 0 and text[start - 1] == " " and (end == len(text) or not text[end].isalnum())
    changed, at = [], 0
    for chunk in chunks:
        a, b = max(start - at, 0), min(end - at, len(chunk.text))
        at += len(chunk.text)
        if a >= b or chunk.span is not None:
            changed.append(chunk)
        elif len(chunk.text) != chunk.end - chunk.start:  # spaces that were put in
            changed.append(chunk._replace(text=chunk.text[:a] + chunk.text[b:]))
        else:
            middle = chunk.start + a, chunk.start + b
            changed += [Chunk(chunk.text[:a], chunk.start, middle[0]), Chunk("", *middle)]
            changed.append(Chunk(chunk.text[b:], middle[1], chunk.end))
    return changed


def _with_spaces(chunks: Sequence[Chunk], number: int) -> list[Chunk]:
    """With spaces around a span, where it touches something."""
    at = next(i for i, chunk in enumerate(chunks) if chunk.span == number)
    before, after = ("".join(chunk.text for chunk in some) for some in (chunks[:at], chunks[at + 1 :]))
    span = chunks[at]
    first = [Chunk(" ", span.start, span.start)] if before and before[-1] != " " else []
    last = [Chunk(" ", span.end, span.end)] if after and after[0] != " " else []
    return [*chunks[:at], *first, span, *last, *chunks[at + 1 :]]


def moved_links(links: Links, source: tuple[str, Sequence[Chunk]], target: tuple[str, Sequence[Chunk]]) -> Links:
    """Links between the words of two texts, as links between the words of what they have become; each is a text with its
    chunks. The words of a span are linked to the same span's."""
    ways, spans = [], []
    for text, chunks in (source, target):
        ways.append(_moved_words(text, chunks))
        spans.append(_words_of_spans(chunks))
    moved = {(i, j) for a, b in links for i in ways[0].get(a, ()) for j in ways[1].get(b, ())}
    own = {pair for number, words in spans[0].items() for pair in zip(words, spans[1][number], strict=False)}
    linked = [{pair[side] for pair in own} for side in (0, 1)]
    kept = set()
    for i, j in sorted(moved - own):
        if i in linked[0] and j in linked[1]:
            continue  # of two spans
        # A link of a span's word to another word is kept where that has no other.
        others = [(x, y) for x, y in moved if (x, y) != (i, j) and ((i in linked[0] and y == j) or (j in linked[1] and x == i))]
        if not (i in linked[0] or j in linked[1]) or not others:
            kept.add((i, j))
    return tuple(sorted(own | kept))


def _words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def _overlapping(words: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    return [number for number, (a, b) in enumerate(words) if a < end and start < b]


def _moved_words(text: str, chunks: Sequence[Chunk]) -> dict[int, set[int]]:
    """For each word of the text before the words that it has become."""
    now = _words("".join(chunk.text for chunk in chunks))
    moved: dict[int, set[int]] = {}
    before, at = _words(text), 0
    for chunk in chunks:
        for number in _overlapping(before, chunk.start, chunk.end):
            a, b = at, at + len(chunk.text)
            if chunk.span is None:
                a = at + max(before[number][0] - chunk.start, 0)
                b = at + min(before[number][1], chunk.end) - chunk.start
            moved.setdefault(number, set()).update(_overlapping(now, a, b) if chunk.text else ())
        at += len(chunk.text)
    return moved


def _words_of_spans(chunks: Sequence[Chunk]) -> dict[int, list[int]]:
    now, at, words = _words("".join(chunk.text for chunk in chunks)), 0, {}
    for chunk in chunks:
        if chunk.span is not None:
            words[chunk.span] = _overlapping(now, at, at + len(chunk.text))
        at += len(chunk.text)
    return words
