"""The words of a text as sacreBLEU's 13a cuts them, and the words of a training text as hashes."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from transformer_jax.data.lines_on_disk import CHUNK, joined
from transformer_jax.storage.text_hashes import text_hashes
from transformer_jax.tokenization.normalization import normalize

__all__ = ["WordHashes", "vocabulary_of", "words_of", "words_of_part", "words_outside"]

_MOST_PARTS = 1_000_000  # different parts of a text that are in memory together
_TOGETHER = 10_000  # parts that are cut together


def words_of(line: str) -> list[str]:
    """Words as sacreBLEU's 13a cuts them: at white space and punctuation, with their case.

    >>> words_of("Ja, der Hund.")
    ['Ja', ',', 'der', 'Hund', '.']
    """
    return [word for part in line.split() for word in words_of_part(part)]


def words_of_part(part: str) -> tuple[str, ...]:
    """As `words_of`, of text without white space. 13a cuts at punctuation and between parts, so that a line's words are those
    of its parts."""
    return (part,) if part.isalnum() else _cut(part)


def vocabulary_of(lines: Sequence[str]) -> np.ndarray:
    """The hashes of the different words of all lines, as `WordHashes` has them."""
    words = WordHashes()
    for start in range(0, len(lines), CHUNK):
        words.add(joined(lines, start, min(start + CHUNK, len(lines))).decode("utf-8"))
    return words.hashes()


class WordHashes:
    """The different words of a text that comes block by block, as the 64-bit hash of each.

    They are hashes because a run folder may be shared where its training text may not: a hash tells of a given word whether the
    text has it. Of a million words that it does not have, none is likely to have the hash of one that it has.
    """

    def __init__(self):
        self._hashes, self._parts = np.zeros(0, np.uint64), set()

    def add(self, text: str) -> None:
        """Adds the words of whole lines."""
        self._parts.update(text.split())
        if len(self._parts) > _MOST_PARTS:
            self._hash_parts()

    def hashes(self) -> np.ndarray:
        """The hashes of all words so far, uint64 [words], ascending."""
        self._hash_parts()
        return self._hashes

    def _hash_parts(self) -> None:
        self._hashes, self._parts = np.union1d(self._hashes, _hashes_of_parts(self._parts)), set()


def words_outside(vocabulary: np.ndarray, lines: Iterable[str], normalized: bool = False) -> set[str]:
    """The words of `lines` that are not in `vocabulary`. With `normalized` the vocabulary is of normalised text: each word of
    `lines` is normalised and cut first, and is outside if any part of it is. It is returned as it stands in `lines`.

    >>> sorted(words_outside(vocabulary_of(["der Hund, ein Tier."]), ["Ja, der Hund.", "Ein Hund!"]))
    ['!', 'Ein', 'Ja']
    >>> words_outside(vocabulary_of(["der Hund"]), ["der Hu\\u00adnd"], normalized=True)
    set()
    """
    words = sorted({word for line in lines for word in words_of(line)})
    spelled = [words_of(normalize(word)) if normalized else [word] for word in words]
    parts = sorted(set(itertools.chain.from_iterable(spelled)))
    outside = set(itertools.compress(parts, ~np.isin(text_hashes(parts), vocabulary)))
    return {word for word, spelling in zip(words, spelled, strict=True) if not outside.isdisjoint(spelling)}


def _hashes_of_parts(parts: Iterable[str]) -> np.ndarray:
    words = {part for part in parts if part.isalnum()}
    others = [part for part in parts if not part.isalnum()]
    for start in range(0, len(others), _TOGETHER):  # four times as fast as one by one
        words.update(_tokenizer_13a()("  ".join(others[start : start + _TOGETHER])).split())
    return text_hashes(words)


@functools.cache
def _tokenizer_13a() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a  # most who import this module never cut a word

    return Tokenizer13a()


@functools.lru_cache(maxsize=1 << 16)
def _cut(part: str) -> tuple[str, ...]:
    return tuple(_tokenizer_13a()(part).split())
