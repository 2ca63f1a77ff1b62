"""What goes into each batch of an epoch: which pairs, in which rows of which shape."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.data import batching
from transformer_jax.data.batch_shapes import Shape
from transformer_jax.data.batching import Batch
from transformer_jax.data.epoch_order import sort_by_key
from transformer_jax.data.joining import Examples
from transformer_jax.data.length_counts import BLOCK
from transformer_jax.data.store import Store
from transformer_jax.tokenization.word_table import gather

__all__ = [
    "BucketedPlans",
    "Plan",
    "bucketed_plans",
    "build",
    "first_plan",
    "packed_plans",
    "plans_from",
    "plans_of_pairs",
    "shard_of",
]


class Plan(NamedTuple):
    """What goes into one batch; `rows` is None for bucketed batches (pair i, or with `examples` example i, in row i)."""

    shape: Shape
    pairs: np.ndarray
    rows: np.ndarray | None = None  # int [pairs], ascending
    examples: np.ndarray | None = None  # int [pairs], ascending: which pairs are joined (`packed_batch`)


class BucketedPlans:
    """A sequence of plans, each of which is made when it is asked for: an epoch has so many that they would take more memory
    than its pairs.

    Plan i has the items from `starts[i]` to `starts[i + 1]`, and the shape `shapes[shape_of[i]]`.
    """

    def __init__(self, items: np.ndarray, starts: np.ndarray, shape_of: np.ndarray, shapes: Sequence[Shape]):
        self._items, self._starts, self._shape_of, self._shapes = items, starts, shape_of, shapes

    def __len__(self) -> int:
        return len(self._shape_of)

    def __getitem__(self, number: int) -> Plan:
        # A copy, which does not keep the items of the whole epoch in memory.
        items = self._items[self._starts[number] : self._starts[number + 1]].astype(np.int64)
        return Plan(self._shapes[self._shape_of[number]], items)

    @property
    def sizes(self) -> np.ndarray:
        """How many items each plan has, int64 [plans]."""
        return np.diff(self._starts)


def bucketed_plans(order: np.ndarray, buckets: np.ndarray, shapes: Sequence[Shape]) -> BucketedPlans:
    """Batches of the items `order`, int [n], whose shapes are `shapes[buckets[item]]`: those of a shape in their order, what is
    left over moves up to the next larger shape. Items are pairs of a store, or examples (`plans_of_pairs`).

    >>> shapes = [Shape(2, 4, 4), Shape(1, 8, 8)]
    >>> [plan.pairs.tolist() for plan in bucketed_plans(np.array([2, 0, 1]), np.array([0, 1, 0]), shapes)]
    [[2, 0], [1]]
    """
    keys = np.empty(len(order), np.min_scalar_type(len(shapes)))
    for start in range(0, len(order), BLOCK):  # indexing makes 8 bytes of each number
        keys[start : start + BLOCK] = buckets[order[start : start + BLOCK]]
    items, counts = sort_by_key(order, keys, len(shapes))
    starts, shape_of, start = [], [], 0
    # What is left over of a shape stands right before the items of the next.
    for number, (shape, end) in enumerate(zip(shapes, np.cumsum(counts).tolist(), strict=True)):
        full = (end - start) // shape.rows
        starts.append(start + shape.rows * np.arange(full))
        shape_of.append(np.full(full, number, keys.dtype))
        start += full * shape.rows
    if start < len(items):
        starts.append(np.array([start]))
        shape_of.append(buckets[items[-1:]].astype(keys.dtype))  # the last is of the largest shape
    return BucketedPlans(items, np.concatenate([*starts, [len(items)]]), np.concatenate(shape_of), shapes)


def packed_plans(
    pairs: np.ndarray,
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    shape: Shape,
    random: np.random.Generator | None = None,
) -> list[Plan]:
    """Batches of the items `pairs`, int [n], of these lengths, int [n] each, packed (`batching.pack`) into rows of `shape`, and
    the rows shuffled where there is a `random`. Items are pairs of a store, or examples (`plans_of_pairs`)."""
    row_of = batching.pack(source_lengths, target_lengths, shape)
    count = int(row_of.max()) + 1
    if random:
        row_of = random.permutation(count)[row_of]
    by_row = np.argsort(row_of, kind="stable")
    pairs, row_of = pairs[by_row], row_of[by_row]
    starts = range(0, count, shape.rows)
    cuts = [*np.searchsorted(row_of, starts).tolist(), len(pairs)]
    return [Plan(shape, pairs[a:b], row_of[a:b] - start) for start, a, b in zip(starts, cuts, cuts[1:], strict=False)]


def plans_of_pairs(plans: list[Plan], examples: Examples) -> list[Plan]:
    """Plans whose `pairs` are numbers of examples, as plans of the pairs that are joined in them."""
    order = np.concatenate([plan.pairs for plan in plans])
    pairs, ends = gather(examples.pairs, examples.starts, order)
    of_pair = np.repeat(np.arange(len(order)), np.diff(ends, prepend=0))
    firsts = np.cumsum([0, *(len(plan.pairs) for plan in plans)])
    cuts = np.concatenate([[0], ends])[firsts].tolist()
    of_plans = []
    for plan, first, start, stop in zip(plans, firsts.tolist(), cuts, cuts[1:], strict=False):
        if stop - start == len(plan.pairs):  # none is joined
            of_plans.append(plan._replace(pairs=pairs[start:stop]))
            continue
        numbers = of_pair[start:stop] - first
        rows = None if plan.rows is None else plan.rows[numbers]
        of_plans.append(Plan(plan.shape, pairs[start:stop], rows, numbers))
    return of_plans


def plans_from(offset: int, plans: list[Plan]) -> list[Plan]:
    """The plans after the first `offset` pairs. Raises ValueError where no plan begins there."""
    return plans[first_plan(offset, np.array([len(plan.pairs) for plan in plans])) :]


def first_plan(offset: int, sizes: np.ndarray) -> int:
    """The number of the plan before which come `offset` pairs, of plans of so many pairs, int [plans]. Raises ValueError where
    there is none."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    first = int(np.searchsorted(offsets, offset))
    if first >= len(sizes) or offsets[first] != offset:
        raise ValueError(f"no batch of this stream begins at an offset of {offset} pairs")
    return first


def shard_of(plan: Plan, shard: int, shards: int) -> Plan:
    """The part of a plan that is shard `shard` of `shards`: of its B rows the B / shards from shard * B / shards on."""
    rows = plan.shape.rows // shards
    shape, start = plan.shape._replace(rows=rows), shard * rows
    row_of = plan.examples if plan.rows is None else plan.rows
    if row_of is None:
        return Plan(shape, plan.pairs[start : start + rows])
    part = slice(*np.searchsorted(row_of, [start, start + rows]).tolist())
    return Plan(
        shape,
        plan.pairs[part],
        None if plan.rows is None else plan.rows[part] - start,
        None if plan.examples is None else plan.examples[part],
    )


def build(store: Store, plan: Plan, pad_id: int, decoder_start_id: int) -> Batch:
    """The arrays of a plan."""
    if plan.rows is None:
        return batching.bucketed_batch(store, plan.pairs, plan.shape, pad_id, decoder_start_id, plan.examples)
    return batching.packed_batch(store, plan.pairs, plan.rows, plan.shape, pad_id, decoder_start_id, plan.examples)
