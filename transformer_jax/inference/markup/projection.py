"""Where the elements of a sentence belong in its translation, by the links between their words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Mark", "Place", "Word", "outside_of", "project", "words_of"]

_UNLINKED = -0.1  # what a word without a link adds to a range: less than one that is linked to other words takes away


@dataclass(slots=True, eq=False)
class Mark:
    """Something that stands in a sentence: an element around a part of it, or at one place."""

    node: Any
    start: int  # characters of the sentence, from 0
    end: int = 0  # start: it is empty
    keeps: bool = False  # is its text the same in the translation?
    children: "list[Mark]" = field(default_factory=list)


class Place(NamedTuple):
    """Where a mark stands in the translation."""

    mark: Mark
    start: int  # characters of the translation
    end: int
    inside: "tuple[Place, ...]" = ()  # in the order of the translation; within start and end


class Word(NamedTuple):
    """A word of a text, between white space."""

    start: int  # characters of the text
    end: int
    core: tuple[int, int]  # without the punctuation at its ends


def project(source: str, marks: Sequence[Mark], target: str, links: Sequence[tuple[int, int]]) -> tuple[Place, ...]:
    """A place in `target`, the translation of `source`, for each of `marks`, which are well nested and in their order.

    `links` are (source word, target word), as `inference.alignment` has them. Whatever they say, every mark has one place, a
    mark's children have theirs within its own, and no two overlap otherwise.

    A mark around words gets the range of target words that gathers most of what its words are linked to: the range with the
    largest sum over its words of 2 (share of the word's links that come from the mark) - 1; where no sum is above 0, the word
    with the largest share. One that is around all words of what it stands in is around all words there too. Punctuation at the
    ends of the range is part of it where it is part of the mark. A mark that keeps its text and finds it in the target has it
    there. One that is empty, or finds no word, stands beside the translation of the word that it stood by.

    >>> dog = Mark("b", 4, 7)
    >>> project("the dog sleeps.", [dog], "jetzt schläft der Hund.", [(0, 2), (1, 3), (2, 1)])[0][1:3]
    (18, 22)
    """
    return _Projection(source, target, links).places(marks, (0, len(source)), (0, len(target)))


def outside_of(protected: Sequence[tuple[int, int]], places: Sequence[Place], source: str, target: str) -> tuple[Place, ...]:
    """The places, none of which begins or ends inside a protected part of the target: what would moves to its nearer end. A
    mark that keeps its text replaces no protected part but its own text.

    >>> place = Place(Mark("b", 0, 4), 1, 5)
    >>> outside_of([(0, 6)], [place], "name", "{name}")[0][1:3]
    (0, 6)
    """

    def moved(at: int) -> int:
        return next(((a if at - a < b - at else b) for a, b in protected if a < at < b), at)

    outside = []
    for place in places:
        mark, start, end = place.mark, moved(place.start), moved(place.end)
        if mark.keeps and any(a < end and start < b for a, b in protected):
            is_own = (start, end) == place[1:3] and target[start:end] == source[mark.start : mark.end]
            end = end if is_own else start
        outside.append(Place(mark, start, end, outside_of(protected, place.inside, source, target)))
    return tuple(outside)


class _Projection:
    """The words of a sentence and of its translation, and which are linked."""

    def __init__(self, source: str, target: str, links: Sequence[tuple[int, int]]):
        self._source, self._target = source, target
        self._from, self._to = words_of(source), words_of(target)
        self._sources: list[list[int]] = [[] for _ in self._to]
        self._targets: list[list[int]] = [[] for _ in self._from]
        for i, j in links:
            if i < len(self._from) and j < len(self._to):
                self._sources[j].append(i)
                self._targets[i].append(j)

    def places(self, marks: Sequence[Mark], outer: tuple[int, int], room: tuple[int, int]) -> tuple[Place, ...]:
        """The places of marks that stand in the part `outer` of the source, within the part `room` of the target."""
        taken: list[tuple[int, int]] = []
        found: dict[int, tuple[int, int]] = {}
        order = sorted(range(len(marks)), key=lambda k: (not marks[k].keeps, marks[k].end - marks[k].start, k))
        for k in order:
            mark = marks[k]
            span = self._range(mark, outer, room, taken) if mark.end > mark.start else None
            if span:
                found[k] = span
                taken.append(span)
        for k, mark in enumerate(marks):
            if k not in found:
                position = self._position(mark, room, taken)
                found[k] = position, position
        ranked = sorted(range(len(marks)), key=lambda k: (*found[k], k))
        return tuple(Place(marks[k], *found[k], () if marks[k].keeps else self._inside(marks[k], found[k])) for k in ranked)

    def _inside(self, mark: Mark, room: tuple[int, int]) -> tuple[Place, ...]:
        return self.places(mark.children, (mark.start, mark.end), room) if mark.children else ()

    def _range(
        self, mark: Mark, outer: tuple[int, int], room: tuple[int, int], taken: Sequence[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """The part of the target for a mark that is around something; None where there is none left."""
        text = self._source[mark.start : mark.end].strip()
        if not text:
            return None
        if mark.keeps and (copy := self._copy(text, mark, room, taken)):
            return copy
        inside = self._inside_words(self._from, (mark.start, mark.end))
        if not mark.keeps and inside == self._inside_words(self._from, outer) and self._covers(mark, outer) and not taken:
            return _stripped(self._target, room)
        best, best_sum = None, -1.0
        for free in _free(room, taken):
            span, total = self._heaviest(inside, free)
            if span and total > best_sum + 1e-9:
                best, best_sum = span, total
        return self._part_of_word(mark, text, best) or self._trimmed(best, text) if best else None

    def _part_of_word(self, mark: Mark, text: str, span: tuple[int, int]) -> tuple[int, int] | None:
        """Where a mark that begins or ends inside a word, as in H<sub>2</sub>O, has its text in a part of the target."""
        before, after = self._source[: mark.start][-1:], self._source[mark.end :][:1]
        if not (before.isalnum() or after.isalnum()):
            return None
        start = (self._target.rfind if before.isalnum() else self._target.find)(text, *span)
        return (start, start + len(text)) if start >= 0 else None

    def _covers(self, mark: Mark, outer: tuple[int, int]) -> bool:
        """Is a mark around all that is around it, white space aside?"""
        return not (self._source[outer[0] : mark.start].strip() or self._source[mark.end : outer[1]].strip())

    def _heaviest(self, inside: set[int], free: tuple[int, int]) -> tuple[tuple[int, int] | None, float]:
        """The run of words in a free part of the target with the largest sum, of equals the shortest and first one."""
        words = [j for j in sorted(self._inside_words(self._to, free)) if self._fits(j, free)]
        shares = [sum(i in inside for i in self._sources[j]) / max(len(self._sources[j]), 1) for j in words]
        best, best_sum, total, first = None, 0.0, 0.0, 0
        for n, (j, share) in enumerate(zip(words, shares, strict=True)):
            if total <= 0:
                total, first = 0.0, n
            total += 2 * share - 1 if self._sources[j] else _UNLINKED
            if total > best_sum + 1e-9:
                best_sum, best = total, (first, n)
        if not best and any(shares):
            n = shares.index(max(shares))
            best, best_sum = (n, n), shares[n] / 2 - 1  # less than any sum
        if not best:
            return None, 0.0
        start, end = self._to[words[best[0]]].start, self._to[words[best[1]]].end
        return (max(start, free[0]), min(end, free[1])), best_sum

    def _fits(self, j: int, free: tuple[int, int]) -> bool:
        """Is what a word is without its punctuation in a part of the target?"""
        start, end = self._to[j].core
        return free[0] <= start and end <= free[1]

    def _trimmed(self, span: tuple[int, int], text: str) -> tuple[int, int]:
        """A range without the punctuation at its ends, where the mark's text has none there."""
        start, end = span
        if _is_letter(text[0]):
            while start < end - 1 and not _is_letter(self._target[start]):
                start += 1
        if _is_letter(text[-1]):
            while end > start + 1 and not _is_letter(self._target[end - 1]):
                end -= 1
        return start, end

    def _copy(self, text: str, mark: Mark, room: tuple[int, int], taken: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """Where the target has the text of a mark, nearest to where it would be expected."""
        expected = self._position(mark, room, [])
        starts = [match.start() for match in re.finditer(re.escape(text), self._target)]
        spans = [(start, start + len(text)) for start in starts]
        fitting = [span for span in spans if any(a <= span[0] and span[1] <= b for a, b in _free(room, taken))]
        whole = [span for span in fitting if not self._splits_word(span)]
        return min(whole or fitting, key=lambda span: abs(span[0] - expected), default=None)

    def _splits_word(self, span: tuple[int, int]) -> bool:
        start, end = span
        target = self._target
        return any(at and at < len(target) and target[at - 1].isalnum() and target[at].isalnum() for at in (start, end))

    def _position(self, mark: Mark, room: tuple[int, int], taken: Sequence[tuple[int, int]]) -> int:
        """Where a mark without words stands: a place within `room` and in none of `taken`."""
        position = min(max(self._beside(mark), room[0]), room[1])
        for start, end in taken:
            if start < position < end:
                position = start if position - start < end - position else end
        return position

    def _beside(self, mark: Mark) -> int:
        at, end = mark.start, mark.end
        source = self._source
        touches_last = at > 0 and not source[at - 1].isspace()
        touches_next = end < len(source) and not source[end].isspace()
        before = [i for i, word in enumerate(self._from) if word.start < at]
        after = [i for i, word in enumerate(self._from) if word.end > end]
        if not before:
            return 0
        if not after:
            return len(self._target)
        ways = [("after", i) for i in reversed(before)], [("before", i) for i in after]
        first, second = ways if touches_last or not touches_next else ways[::-1]
        nearest = [first[0], second[0], *first[1:], *second[1:]]
        for way, i in nearest:
            linked = self._targets[i]
            if linked and way == "after":
                word, own = self._to[max(linked)], self._from[i]
                return word.core[1] if at < own.end else word.end
            if linked:
                word, own = self._to[min(linked)], self._from[i]
                return word.core[0] if end > own.start else word.start
        return round(len(self._target) * at / max(len(source), 1))

    def _inside_words(self, words: Sequence[Word], span: tuple[int, int]) -> set[int]:
        """The words of which some part, punctuation aside where there is more, is within `span`."""
        return {k for k, word in enumerate(words) if word.core[0] < span[1] and span[0] < word.core[1]}


def words_of(text: str) -> list[Word]:
    """The words of a text, as `str.split` finds them.

    >>> [text[slice(*word.core)] for text in ['"Ja," (nein) ...'] for word in words_of(text)]
    ['Ja', 'nein', '...']
    """
    words = []
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        letters = [k for k in range(start, end) if _is_letter(text[k])]
        words.append(Word(start, end, (letters[0], letters[-1] + 1) if letters else (start, end)))
    return words


def _is_letter(character: str) -> bool:
    return character.isalnum() or character in "_%$\u20ac\u00a3#@&+"


def _free(room: tuple[int, int], taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of `room` that are in none of `taken`, which do not overlap."""
    parts, start = [], room[0]
    for a, b in sorted(taken):
        parts.append((start, a))
        start = max(start, b)
    return [(a, b) for a, b in [*parts, (start, room[1])] if a < b]


def _stripped(text: str, span: tuple[int, int]) -> tuple[int, int] | None:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None
