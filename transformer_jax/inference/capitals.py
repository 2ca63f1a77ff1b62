"""Lines in capitals: read in small letters, and their translations written with the capitals that they have
(`SearchOptions.capitals`).

A model that has learned from edited text has hardly seen a word in capitals, whose pieces are others than those of the word
that it knows. URLs, addresses and what else is the same in every text (`data.typing_errors.is_verbatim`) stay as they are on
both sides.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import regex

from transformer_jax.data.noise import capitalised
from transformer_jax.data.typing_errors import change_words, is_verbatim, split_words

__all__ = ["Capitals", "capitals_of", "in_small_letters", "with_capitals"]


class Capitals(NamedTuple):
    """Which capitals a line, or a part of it, has."""

    kind: Literal["", "upper", "title"] = ""  # as usual, ALL LETTERS, The First Letter Of Each Word
    begins: bool = True  # is its beginning that of a sentence?

    def of_parts(self, texts: Sequence[str]) -> list["Capitals"]:
        """Those of the parts of a line, one after the other.

        >>> [part.begins for part in Capitals("upper").of_parts(["THE DOG", "SLEEPS.", "AND I?"])]
        [True, False, True]
        """
        begins = [self.begins, *(bool(_SENTENCE_END.search(text)) for text in texts[:-1])]
        return [self._replace(begins=begin) for begin in begins[: len(texts)]]


# How many words of what kind: fewer may be an abbreviation, or a name.
_UPPER, _FEWEST_UPPER = regex.compile(r"\p{Lu}{2,}"), 2
_TITLE, _FEWEST_TITLE = regex.compile(r"\p{Lu}"), 4
_SENTENCE_END = regex.compile(r"[.!?\u2026]\W*$")
_SENTENCE_START = regex.compile(r"(?:^|(?<!\.\p{L})[.!?\u2026]\s)[^\p{L}\p{N}]*\p{Ll}")
_ENGLISH_I = regex.compile(r"\bi\b(?!\.\p{L})")  # not that of i.e.


def capitals_of(line: str) -> Capitals:
    """Which capitals a line has.

    >>> [capitals_of(line).kind for line in ("TWO DOGS!", "NATO", "Two DOGS", "SEE https://example.org NOW")]
    ['upper', '', '', 'upper']
    >>> [capitals_of(line).kind for line in ("The Dog Of My Aunt", "The Dog of My Aunt", "New York City")]
    ['title', '', '']
    """
    words = [word.replace("\u00df", "") for word in split_words(line)[::2] if not is_verbatim(word)]  # ß has no usual capital
    if not any(map(str.islower, "".join(words))):
        return Capitals("upper" if _count(_UPPER, words) >= _FEWEST_UPPER else "")
    titled = _count(_TITLE, words) >= _FEWEST_TITLE and all(capitalised(word) == word for word in words)
    return Capitals("title" if titled else "")


def in_small_letters(line: str, capitals: Capitals, language: str) -> str:
    """A line as it would be written without these capitals of its: with one at the beginning of each sentence, and in English
    (`language` en) for the word I. Of a title, words that have further capitals stay.

    >>> in_small_letters("I AM HERE. SO AM I!", Capitals("upper"), "en")
    'I am here. So am I!'
    >>> in_small_letters("The Dog Sees An Old DVD", Capitals("title"), "en")
    'The dog sees an old DVD'
    """
    if not capitals.kind:
        return line
    small = change_words(line, str.lower if capitals.kind == "upper" else _without_first)
    if language == "en":
        small = _ENGLISH_I.sub("I", small)

    def begun(match: regex.Match) -> str:
        starts = match.start() or capitals.begins
        return match[0][:-1] + match[0][-1].upper() if starts else match[0]

    return _SENTENCE_START.sub(begun, small)


def with_capitals(text: str, capitals: Capitals) -> str:
    """The text with the capitals of the line that it is a translation of. That of ß is SS.

    >>> with_capitals("Die Straße: https://example.org", Capitals("upper"))
    'DIE STRASSE: https://example.org'
    >>> with_capitals("Der Hund sieht eine alte DVD", Capitals("title"))
    'Der Hund Sieht Eine Alte DVD'
    """
    if not capitals.kind:
        return text
    return change_words(text, str.upper if capitals.kind == "upper" else capitalised)


def _without_first(word: str) -> str:
    """The word without its first capital, if that is its only one."""
    small = word.lower()
    return small if capitalised(small) == word else word


def _count(pattern: regex.Pattern, words: Sequence[str]) -> int:
    return sum(bool(pattern.search(word)) for word in words)
