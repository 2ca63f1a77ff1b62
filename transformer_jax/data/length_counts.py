"""How many pairs there are of each two lengths, counted a block of the store at a time: its memory does not grow with it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.data.store import Store

__all__ = ["BLOCK", "Kinds", "count_kinds", "kept_pairs", "kinds_in_store", "length_blocks", "merge_kinds"]

BLOCK = 1 << 16  # pairs that are looked at together: arrays of them fit the processor's cache, and Python's share is small
_TABLE = 1 << 22  # kinds up to which all that are possible are counted in a table; above, those that there are
_WAITING = 64  # blocks whose counts are then merged together


class Kinds(NamedTuple):
    """Pairs of the same two lengths are of one kind; int64 [kinds] each."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray
    counts: np.ndarray  # how many pairs are of each kind, at least 1


def count_kinds(source_lengths: np.ndarray, target_lengths: np.ndarray) -> Kinds:
    """The kinds of pairs of these lengths, int [pairs] each, in ascending order.

    >>> count_kinds(np.array([3, 2, 3]), np.array([4, 5, 4]))
    Kinds(source_lengths=array([2, 3]), target_lengths=array([5, 4]), counts=array([1, 2]))
    """
    width = int(target_lengths.max(initial=0)) + 1
    keys = source_lengths.astype(np.int64) * width + target_lengths
    if (int(source_lengths.max(initial=0)) + 1) * width <= 4 * len(keys):
        counts = np.bincount(keys)
        kinds = np.flatnonzero(counts)
        counts = counts[kinds]
    else:  # so many different lengths are possible that sorting takes less time and memory than a table of them
        kinds, counts = np.unique(keys, return_counts=True)
    return Kinds(*np.divmod(kinds, width), counts)


def merge_kinds(parts: Sequence[Kinds], factors: Sequence[int] = ()) -> Kinds:
    """The kinds of all parts together, each of which is counted `factors` times (by default once).

    >>> part = count_kinds(np.array([3, 2]), np.array([4, 5]))
    >>> merge_kinds([part, part], [1, 2]).counts.tolist()
    [3, 3]
    """
    factors = factors or [1] * len(parts)
    parts = [part._replace(counts=part.counts * factor) for part, factor in zip(parts, factors, strict=True) if factor]
    sources, targets, counts = (np.concatenate([np.zeros(0, np.int64), *side]) for side in zip(*parts, strict=True))
    kinds, number = np.unique(sources << 32 | targets, return_inverse=True)
    totals = np.bincount(number, counts, len(kinds)).astype(np.int64)  # floats up to 2^53 are exact
    return Kinds(kinds >> 32, kinds & 0xFFFFFFFF, totals)


def length_blocks(store: Store, start: int, stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The lengths of the entries from `start` to `stop` of a store, int64 [at most BLOCK] of each side, with the number of the
    first of them. Raises UserError where the store is damaged (`Store.require_whole`), ValueError where offsets descend."""
    for first in range(start, stop, BLOCK):
        last = min(first + BLOCK, stop)
        sides = [np.diff(offsets[first : last + 1]) for offsets in (store.source_offsets, store.target_offsets)]
        if min(side.min() for side in sides) < 0:
            store.require_whole(wait=True)
            raise ValueError(f"the offsets of the entries {first} to {last} of a store descend")
        yield first, *sides


def kept_pairs(store: Store, samples: int, max_length: int) -> np.ndarray:
    """Which pairs have at most `max_length` tokens on both sides in all of its samples, bool [pairs]."""
    count = len(store) // samples
    kept = np.ones(count, bool)
    for sample in range(samples):
        for first, source, target in length_blocks(store, sample * count, (sample + 1) * count):
            pairs = slice(first - sample * count, first - sample * count + len(source))
            kept[pairs] &= (source <= max_length) & (target <= max_length)
    return kept


def kinds_in_store(store: Store, kept: np.ndarray, max_length: int, start: int, stop: int, sample: int = 0) -> Kinds:
    """The kinds of those pairs from `start` to `stop` that are `kept`, bool [pairs], as they are in one of their samples. None
    of these has more than `max_length` tokens on a side."""
    width, before = max_length + 1, sample * len(kept)
    blocks = (
        (source, target, kept[first - before : first - before + len(source)])
        for first, source, target in length_blocks(store, before + start, before + stop)
    )
    if width**2 <= _TABLE:
        table = np.zeros(width**2, np.int64)
        for source, target, chosen in blocks:
            np.add.at(table, (source * width + target)[chosen], 1)
        kinds = np.flatnonzero(table)
        return Kinds(*np.divmod(kinds, width), table[kinds])
    found = [count_kinds(*[np.zeros(0, np.int64)] * 2)]
    for source, target, chosen in blocks:
        found.append(count_kinds(source[chosen], target[chosen]))
        if len(found) > _WAITING:
            found = [merge_kinds(found)]
    return merge_kinds(found)
