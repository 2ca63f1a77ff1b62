"""The text of each token of a target vocabulary, as bytes: where words end, and which tokens agree with a text."""

import bisect
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Agreement", "Surfaces", "is_letter", "may_precede_word"]

# A character of several bytes begins with one of these. The first byte tells the block, not the character: these blocks are
# mostly punctuation, signs and emoji, the others letters and combining marks.
_SIGNS = b"\xc2\xe2\xf0"


class Agreement(NamedTuple):
    """Which tokens a text may go on with, from each of its places on (bytes, 0 .. R - 1) to its end and beyond it."""

    low: np.ndarray  # int32 [R]: tokens of rank low .. high - 1 have what is left of the text, and perhaps more
    high: np.ndarray  # int32 [R]
    within: list[list[int]]  # R lists of the tokens that are a beginning of what is left


class Surfaces:
    """The text that each id of a target vocabulary stands for, in UTF-8. SentencePiece's sign for a space is a space, a byte
    piece is its byte, and a special id has no text.

    Attributes:
        texts: the text of each id
        sizes: int32 [V], their bytes
        ranks: int32 [V], the number of each text in the order of all; -1 where there is none, and for the `unused`
        begins_with_letter: bool [V]: after a word, does the text go on with it (`is_letter`)?
        may_precede_word: bool [V]: may a word begin directly after the text (`may_precede_word`)?
        has_spaces: is there a piece with a space? If not, nothing tells where words begin

    >>> surfaces = Surfaces([b"", b" Hund", b"e", b" ("])
    >>> surfaces.begins_with_letter.tolist(), surfaces.may_precede_word.tolist()
    ([False, False, True, False], [True, False, False, True])
    """

    def __init__(self, texts: Sequence[bytes], unused: Sequence[int] = ()):
        """`unused` are ids that no `agreement` has."""
        self.texts = list(texts)
        self.sizes = np.array([len(text) for text in texts], np.int32)
        self.begins_with_letter = np.array([_begins_with_letter(text) for text in texts])
        self.may_precede_word = np.array([not text or may_precede_word(_last(text)) for text in texts])
        self.has_spaces = any(b" " in text for text in texts)
        order = sorted((i for i, text in enumerate(texts) if text and i not in unused), key=lambda i: texts[i])
        self.ranks = np.full(len(texts), -1, np.int32)
        self.ranks[order] = np.arange(len(order))
        self._sorted = [texts[i] for i in order]
        self._longest = max(map(len, texts), default=0)
        self._ids: dict[bytes, list[int]] = defaultdict(list)  # two ids may have the same text, a byte and its letter
        for i in order:
            self._ids[texts[i]].append(i)

    def text(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The texts of these ids, one after the other."""
        return b"".join(self.texts[int(i)] for i in ids)

    def agreement(self, text: bytes) -> Agreement | None:
        """The tokens with which a translation may go on that has to go on with `text`; None where no tokens spell it. Tokens
        after which the rest could not be spelled are left out.

        >>> surfaces = Surfaces([b"", b" a", b" ab", b" abc", b"b"])
        >>> agreement = surfaces.agreement(b" ab")
        >>> (agreement.low[0].item(), agreement.high[0].item()), agreement.within[0]  # " ab" and " abc", or " a" first
        ((1, 3), [1])
        """
        size = len(text)
        low, high, within = np.zeros(size, np.int32), np.zeros(size, np.int32), [[] for _ in text]
        possible = [False] * size + [True]
        for place in reversed(range(size)):
            rest = text[place:]
            low[place] = bisect.bisect_left(self._sorted, rest)
            high[place] = bisect.bisect_left(self._sorted, rest + b"\xff")  # no text has this byte but a piece of it
            lengths = range(1, min(self._longest, len(rest) - 1) + 1)
            within[place] = [i for n in lengths if possible[place + n] for i in self._ids.get(rest[:n], ())]
            possible[place] = low[place] < high[place] or bool(within[place])
        return Agreement(low, high, within) if possible[0] else None


def is_letter(character: str) -> bool:
    """Is it part of a word: a letter, a digit or another number, or a combining mark?

    >>> [is_letter(character) for character in "ß7½.-_"]
    [True, True, True, False, False, False]
    """
    return unicodedata.category(character)[0] in "LNM"


def may_precede_word(character: str) -> bool:
    """May a word begin directly after it: is it neither part of a word nor a sign that a space follows, except in numbers?

    >>> [may_precede_word(character) for character in " („»-/>"], [may_precede_word(character) for character in "e.,5"]
    ([True, True, True, True, True, True, True], [False, False, False, False])
    """
    return not is_letter(character) and character not in ".,:;!?\u2026\ufffd"


def _begins_with_letter(text: bytes) -> bool:
    if not text:
        return False
    try:
        return is_letter(text.decode("utf-8")[0])
    except UnicodeDecodeError:  # one byte of a character
        return text[0] not in _SIGNS


def _last(text: bytes) -> str:
    """Its last character; U+FFFD for a byte of one, of which nothing is known."""
    return text.decode("utf-8", errors="replace")[-1]
