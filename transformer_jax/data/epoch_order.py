"""Which entries of the store an epoch has, and their order: four bytes a pair while it is drawn and read."""

from collections.abc import Iterator, Sequence

import numpy as np

from transformer_jax.data.length_counts import BLOCK

__all__ = ["NUMPY_ORDER", "EpochOrder", "shuffle", "sort_by_key"]

# Up to so many items, 33,554,432, their order is that of NumPy's `permutation`, which runs of before were trained in and resume
# in. Its places are all over memory: of 100 million items it takes three times as long as what `shuffle` does beyond.
NUMPY_ORDER = 1 << 25
_DIGITS = 256  # groups that more items are dealt into, each of which the processor's cache holds


class EpochOrder:
    """Draws the order of epochs: each of the pairs `kept`, bool [pairs], as often as the weight of its source says.

    `sources` has the (number of pairs, weight) of each source, in the order of the pairs. With weight 2.3, an epoch has all of
    its pairs twice, and 30% of them, drawn anew, a third time. Of a pair that the store has in `samples` samples (entry
    `pair + sample * len(kept)`), each time is one of them, drawn as well.

    Attributes:
        pairs: how many entries an epoch has
        kept_of: how many of the pairs of each source are kept
    """

    def __init__(self, kept: np.ndarray, sources: Sequence[tuple[int, float]], samples: int = 1):
        ends = np.cumsum([count for count, _ in sources]).tolist()
        self._kept, self._samples = kept, samples
        self._bounds, self._weights = list(zip([0, *ends[:-1]], ends, strict=True)), [weight for _, weight in sources]
        self.kept_of = [int(np.count_nonzero(kept[start:stop])) for start, stop in self._bounds]
        # How many pairs of each source come once more than the others
        self._more = [round(count * (often % 1)) for count, often in zip(self.kept_of, self._weights, strict=True)]
        self.pairs = sum(count * int(often) for count, often in zip(self.kept_of, self._weights, strict=True)) + sum(self._more)
        self._kind = np.int32 if len(kept) * samples <= np.iinfo(np.int32).max else np.int64

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """The entries of an epoch in their order, int32 [pairs] (int64 where the store has more than that can number)."""
        chosen = [
            self._numbers(source)[random.choice(self.kept_of[source], self._more[source], replace=False)]
            for source, often in enumerate(self._weights)
            if often % 1
        ]
        order, filled = np.empty(self.pairs, self._kind), 0
        for source, often in enumerate(self._weights):
            for numbers in self._blocks(source):
                numbers = np.repeat(numbers, int(often)) if int(often) != 1 else numbers
                order[filled : filled + len(numbers)] = numbers
                filled += len(numbers)
        order[filled:] = np.concatenate([order[:0], *chosen])
        order = shuffle(order, random)
        if self._samples > 1:
            for start in range(0, len(order), BLOCK):
                part = order[start : start + BLOCK]
                part += len(self._kept) * random.integers(self._samples, size=len(part))
        return order

    def _blocks(self, source: int) -> Iterator[np.ndarray]:
        start, stop = self._bounds[source]
        for first in range(start, stop, BLOCK):
            yield np.flatnonzero(self._kept[first : min(first + BLOCK, stop)]) + first

    def _numbers(self, source: int) -> np.ndarray:
        numbers = [block.astype(self._kind) for block in self._blocks(source)]
        return np.concatenate([np.zeros(0, self._kind), *numbers])


def shuffle(items: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The items, [n], in an order of which all are equally likely; `items` itself may be changed.

    Up to NUMPY_ORDER items it is the order that `random.permutation(items)` gives. More are dealt at random into groups, and
    each group is shuffled by itself (Rao 1961; Sandelius 1962, "A simple randomization procedure").
    """
    if len(items) <= NUMPY_ORDER:
        random.shuffle(items)
        return items
    items, counts = sort_by_key(items, random.integers(_DIGITS, size=len(items), dtype=np.uint8), _DIGITS)
    for group in np.split(items, np.cumsum(counts)[:-1]):
        random.shuffle(group)
    return items


def sort_by_key(items: np.ndarray, keys: np.ndarray, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """The items, [n], by their keys, uint8 or uint16 [n], all below `kinds`; those of one key in their order. And how many
    items each key has, int64 [kinds].

    >>> sort_by_key(np.array([5, 6, 7, 8]), np.array([1, 0, 1, 0], np.uint8), 3)
    (array([6, 8, 5, 7]), array([2, 2, 0]))
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(items), BLOCK)]
    counts = sum((np.bincount(keys[block], minlength=kinds) for block in blocks), np.zeros(kinds, np.int64))
    places = (np.cumsum(counts) - counts).tolist()
    result = np.empty_like(items)
    for block in blocks:
        by_key = items[block][np.argsort(keys[block], kind="stable")]
        start = 0
        for key, size in enumerate(np.bincount(keys[block], minlength=kinds).tolist()):
            result[places[key] : places[key] + size] = by_key[start : start + size]
            places[key] += size
            start += size
    return result, counts
