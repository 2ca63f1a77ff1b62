"""Which 64-bit hashes were there before: a table of some hundred million takes 11 to 17 bytes for each, where Python's set of
numbers takes 70."""

import numpy as np

__all__ = ["SeenHashes"]

_FEWEST = 1 << 16  # places of the first table
_FULLEST = 0.7  # of its places, before a table grows: beyond, a hash is looked for in ever more places
_GROWTH = 1.5
_AT_ONCE = 1 << 20  # hashes that move into a larger table together


class SeenHashes:
    """A set of 64-bit hashes, uint64, that only grows. 0 counts as 1.

    A hash is at the first place from its own on (`_places`) that had no other: linear probing (Knuth, The Art of Computer
    Programming 3, section 6.4, algorithm L), for many hashes at a time.
    """

    def __init__(self):
        self._table, self._count = np.zeros(_FEWEST, np.uint64), 0  # 0: nothing is there

    def __len__(self) -> int:
        return self._count

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Adds hashes, uint64 [n]. For each, bool [n]: is it new, neither there before nor earlier among these?

        >>> seen = SeenHashes()
        >>> seen.add(np.array([5, 7, 5], np.uint64)), seen.add(np.array([7, 8], np.uint64)), len(seen)
        (array([ True,  True, False]), array([False,  True]), 3)
        """
        different, first = np.unique(np.maximum(hashes, np.uint64(1)), return_index=True)
        while self._count + len(different) > _FULLEST * len(self._table):
            self._grow()
        is_new = np.zeros(len(hashes), bool)
        is_new[first[_put(self._table, different)]] = True
        self._count += np.count_nonzero(is_new)
        return is_new

    def _grow(self) -> None:
        larger = np.zeros(int(_GROWTH * len(self._table)), np.uint64)
        for start in range(0, len(self._table), _AT_ONCE):
            some = self._table[start : start + _AT_ONCE]
            _put(larger, some[some > 0])
        self._table = larger


def _places(hashes: np.ndarray, size: int) -> np.ndarray:
    """The own place of each hash in a table: the upper half of its bits, as a share of the table."""
    return ((hashes >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)).astype(np.int64)


def _put(table: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Puts different hashes into a table that has room for them. For each, bool [n]: was it not there before?"""
    places, is_new = _places(hashes, len(table)), np.zeros(len(hashes), bool)
    left = np.arange(len(hashes))
    while len(left):
        there = table[places[left]]
        free = left[there == 0]
        table[places[free]] = hashes[free]  # of several with the same place the last one gets it
        has_place = table[places[free]] == hashes[free]
        is_new[free[has_place]] = True
        left = np.concatenate([left[(there != 0) & (there != hashes[left])], free[~has_place]])
        places[left] = (places[left] + 1) % len(table)
    return is_new
