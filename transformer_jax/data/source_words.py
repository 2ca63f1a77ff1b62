"""How often each word of a training text's sources comes, for the spelling of those that it does not have."""

import collections
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import regex

from transformer_jax.data.lines_on_disk import CHUNK, joined
from transformer_jax.storage.text_hashes import text_hashes

__all__ = ["SourceWordCounts", "SourceWords", "source_words_of", "word_of"]

_MOST_PARTS = 1_000_000  # different parts of a text that are in memory together
_MOST_LETTERS = 64
_RAREST_LETTER = 1e-5  # of all letters
_LONGEST_PART = 100  # characters
_MOST_WORDS = 1 << 23  # of a text: beyond, the rarest are left out
_LARGEST = 1 << 28  # bytes of a file, which has 16 for each word
_SAME = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2019": "'", "\u02bc": "'"})
# A word between what is no letter or number, with marks, apostrophes and hyphens inside.
_WORD = regex.compile(r"([^\p{L}\p{N}]*)(\p{L}(?:[\p{L}\p{M}'-]*[\p{L}\p{M}])?)([^\p{L}\p{N}]*)")


def word_of(part: str) -> tuple[str, str, str] | None:
    """A part of a text without white space as what is before its word, the word and what is after it, with typographic
    apostrophes and hyphens as `'` and `-`; None where it has no word, digits beside letters, or several words, and for more
    than 100 characters.

    >>> word_of("(T-shirts,"), word_of("1.2"), word_of("e.g.")
    (('(', 'T-shirts', ','), None, None)
    """
    match = _WORD.fullmatch(part.translate(_SAME)) if len(part) <= _LONGEST_PART else None
    return match and match.groups()


class SourceWords(NamedTuple):
    """The words of a text, as they are written. They are hashes, since a run folder may be shared where its training text may
    not: of a given word a hash tells whether the text has it."""

    hashes: np.ndarray  # uint64 [words], ascending
    counts: np.ndarray  # uint64 [words]: how often each comes
    letters: str  # small ones that the words are made of, most frequent first; no rare ones

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "SourceWords":
        """Those of words that come so often."""
        letters: collections.Counter[str] = collections.Counter()
        for word, count in counts.items():
            for letter in word.lower():
                letters[letter] += count * letter.isalpha()
        fewest = _RAREST_LETTER * letters.total()
        usual = [letter for letter, count in letters.most_common(_MOST_LETTERS) if count > fewest]
        numbers = np.fromiter(counts.values(), np.uint64, len(counts))
        return cls(*_summed(text_hashes(counts), numbers), "".join(usual))

    def together_with(self, other: "SourceWords") -> "SourceWords":
        """Those of both texts."""
        hashes, counts = _summed(*(np.concatenate(pair) for pair in zip(self[:2], other[:2], strict=True)))
        if len(hashes) > _MOST_WORDS:
            is_kept = counts > np.partition(counts, -_MOST_WORDS - 1)[-_MOST_WORDS - 1]
            hashes, counts = hashes[is_kept], counts[is_kept]
        return SourceWords(hashes, counts, "".join(dict.fromkeys(self.letters + other.letters))[:_MOST_LETTERS])

    def count(self, words: Iterable[str]) -> np.ndarray:
        """How often each of these comes, uint64 [n].

        >>> SourceWords.of({"dog": 2, "cat": 1}).count(["cat", "cow", "dog"]).tolist()
        [1, 0, 2]
        """
        hashes = text_hashes(words)
        if not len(self.hashes):
            return np.zeros(len(hashes), np.uint64)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[places] == hashes, self.counts[places], np.uint64(0))

    def to_bytes(self) -> bytes:
        """As a file of NumPy's, .npz."""
        content = io.BytesIO()
        np.savez(content, hashes=self.hashes, counts=self.counts, letters=np.array(self.letters))
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "SourceWords":
        """What `to_bytes` gave. Raises ValueError where it is damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                if sum(member.file_size for member in file.zip.infolist()) > _LARGEST:
                    raise ValueError("more than there is to say")
                hashes, counts, letters = (file[name] for name in cls._fields)
        except Exception as error:  # zipfile and NumPy raise a dozen kinds
            raise ValueError(f"no words of a text: {error}") from None
        of_words = hashes.dtype == counts.dtype == np.uint64 and hashes.ndim == 1 and hashes.shape == counts.shape
        of_letters = letters.ndim == 0 and letters.dtype.kind == "U" and len(str(letters)) <= _MOST_LETTERS
        if not (of_words and of_letters and (hashes[1:] > hashes[:-1]).all()):
            raise ValueError("no words of a text")
        return cls(hashes, counts, str(letters))


class SourceWordCounts:
    """Counts the words of a text that comes block by block.

    >>> counts = SourceWordCounts()
    >>> counts.add("A dog, a cat.")
    >>> counts.words().count(["a", "A", "dog", "dogs"]).tolist()
    [1, 1, 1, 0]
    """

    def __init__(self):
        self._words, self._parts = SourceWords.of({}), collections.Counter()

    def add(self, text: str) -> None:
        """Adds the words of whole lines."""
        self._parts.update(text.split())
        if len(self._parts) > _MOST_PARTS:
            self._gather()

    def words(self) -> SourceWords:
        """All words so far."""
        self._gather()
        return self._words

    def _gather(self) -> None:
        counts: collections.Counter[str] = collections.Counter()
        for part, count in self._parts.items():
            if found := word_of(part):
                counts[found[1]] += count
        self._words, self._parts = self._words.together_with(SourceWords.of(counts)), collections.Counter()


def source_words_of(lines: Sequence[str]) -> SourceWords:
    """The words of all lines."""
    counts = SourceWordCounts()
    for start in range(0, len(lines), CHUNK):
        counts.add(joined(lines, start, min(start + CHUNK, len(lines))).decode("utf-8"))
    return counts.words()


def _summed(hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different hashes, ascending, and the sum of the counts of each."""
    different, places = np.unique(hashes, return_inverse=True)
    sums = np.zeros(len(different), np.uint64)
    np.add.at(sums, places, counts)
    return different, sums
