"""The shuffled, resumable stream of batches over a store."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import BatchConfig
from transformer_jax.data.batch_plans import (
    Plan,
    bucketed_plans,
    build,
    first_plan,
    packed_plans,
    plans_from,
    plans_of_pairs,
    shard_of,
)
from transformer_jax.data.batch_shapes import Shape, bucket_of, fit_packed_shape, fit_shapes
from transformer_jax.data.batching import Batch
from transformer_jax.data.epoch_order import EpochOrder
from transformer_jax.data.joining import Examples, Join, JoinedCounts, draw_examples
from transformer_jax.data.length_counts import Kinds, kept_pairs, kinds_in_store, length_blocks, merge_kinds
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["BatchStream", "Position", "StreamPosition", "one_pass"]

# Packed rows are made a chunk of the epoch at a time, so that a resumed run packs one chunk and not all before it. A chunk ends
# with a batch that is partly empty, so it should have many batches; more than so many pairs make the first one late.
_CHUNK_PAIRS = 1 << 16
_CHUNK_BATCHES = 128
_MOST_PAIRS = 300_000_000  # of an epoch that is made so long by weights: its order is an array in memory


class StreamPosition(NamedTuple):
    """A place in a stream: `offset` pairs of epoch `epoch` come before it. Two plain ints, so it is JSON as it is."""

    epoch: int = 0
    offset: int = 0


Position = StreamPosition  # its former name
_START = StreamPosition()


class BatchStream:
    """The endless sequence of global batches of a training corpus: a function of (store, config, seed) and nothing else, not
    of hosts, devices or where it was resumed.

    An epoch is a permutation of all pairs drawn from (seed, epoch). With `sources`, the (number of pairs, weight) of each
    source in the order of the store, an epoch has each pair as often as the weight of its source says: with weight 2.3, all
    pairs twice, and 30% of them, drawn from (seed, epoch), a third time. Where the store has each pair `samples` times over
    (`open_store` with `sampling`), the epoch draws one of these for each. With `joins`, a `Join` or None for each source, pairs
    of a source become one example (`draw_examples`), at most `config.max_length` and what the shapes hold; no pair is dropped
    for it, and positions go on counting pairs. An epoch's "pairs" in what follows are then its examples.

    Bucketed: the pairs of each shape are cut into batches in that order, what is left over moves up to the next larger shape,
    so that at most one batch of the epoch has empty rows, and the batches are shuffled. Packed: the permutation is cut into
    chunks, each packed by itself, and its rows are shuffled; the last batch of a chunk may have empty rows.

    Attributes:
        shapes: the static shapes that batches come in (list of `Shape`). With `joins`, those of bucketed batches are fitted to
            the examples of one epoch that is drawn from a fixed seed; that of packed ones is what it is without
        dropped: pairs left out because a side has, in any of its samples, more than `config.max_length` tokens
        pairs: pairs in an epoch, repetitions included
        joined: with `joins`, what the examples of an epoch are: the `JoinedCounts` of that from the fixed seed; else None
        longest: with `joins`, the tokens (source, target) that a joined example has at most; else those of the last shape
        corpus: the store's fingerprint
        usual_length: tokens, EOS included, that 95% of an epoch's sources have at most (repetitions count by their weight, and
            all samples)
        batches_per_epoch: about how many batches an epoch has (float), on average over samples; packed: if no position were
            padding

    Raises UserError if no pairs are left, or the longest has no room in a batch; ValueError where `joins` has not one for each
    source.
    """

    def __init__(
        self,
        store: Store,
        config: BatchConfig,
        tokenizer: Tokenizer,
        seed: int,
        sources: Sequence[tuple[int, float]] = (),
        samples: int = 1,
        joins: Sequence[Join | None] = (),
    ):
        self._count, self._samples = len(store) // samples, samples
        counts, weights = zip(*sources or [(self._count, 1.0)], strict=True)
        kept = kept_pairs(store, samples, config.max_length)
        self._order = EpochOrder(kept, list(zip(counts, weights, strict=True)), samples)
        self.pairs, self.corpus, left = self._order.pairs, store.fingerprint, sum(self._order.kept_of)
        self.dropped = self._count - left
        if joins and len(joins) != len(counts):
            raise ValueError(f"{len(joins)} joins for {len(counts)} sources")
        self._joins, self._source_ends = joins if any(joins) else (), np.cumsum(counts)
        if self.pairs > max(_MOST_PAIRS, 4 * left):
            raise UserError(
                f"data.train: with weights of {', '.join(map('{:g}'.format, weights))} an epoch has {self.pairs:.3g} "
                f"pairs, more than {_MOST_PAIRS:,}; lower them: their proportion is what counts"
            )
        if left and not self.pairs:
            raise UserError(f"data.train: with weights of {weights} an epoch has no pair; raise them")
        if not self.pairs:
            raise UserError(
                f"data.train: none of {self._count} pairs has at most batch.max_length={config.max_length} tokens; add text"
            )
        self._store, self._seed, self._ids = store, seed, (tokenizer.pad_id, tokenizer.decoder_start_id)
        self._packed = config.kind == "packed"
        parts = [
            (kinds_in_store(store, kept, config.max_length, int(end) - count, int(end), sample), often)
            for sample in range(samples)
            for count, end, often in zip(counts, self._source_ends, weights, strict=True)
        ]
        self._fit(parts, config)
        self._buckets = _buckets(store, self.shapes) if not self._packed and not self._joins else None
        self.joined = self._fit_to_examples(parts, config) if self._joins else None

    def _fit(self, parts: Sequence[tuple[Kinds, float]], config: BatchConfig) -> None:
        """Chooses the shapes for pairs of these kinds, and counts what an epoch has. The parts are the samples, the sources
        of each of them, in their order, with the weights of these."""
        sources, targets, pairs = merge_kinds([kinds for kinds, _ in parts], [math.ceil(often) for _, often in parts])
        self.usual_length = _usual_length(parts)
        means = [int((side * pairs).sum()) / int(pairs.sum()) for side in (sources, targets)]
        self._mean_length = (means[0] + means[1]) / 2
        fit = (sources, targets, config, pairs)
        self.shapes = [fit_packed_shape(*fit)] if self._packed else fit_shapes(*fit)
        self.longest = self.shapes[-1][1:]
        if self._packed:
            rows = max(mean / length for mean, length in zip(means, self.shapes[0][1:], strict=True))
            self.batches_per_epoch = float(self.pairs * rows / self.shapes[0].rows)
            return
        rows = np.array([shape.rows for shape in self.shapes])
        of_parts = [
            often * (count / rows[bucket_of(*lengths, self.shapes)]).sum() for (*lengths, count), often in parts if often
        ]
        self.batches_per_epoch = float(sum(of_parts) / self._samples)

    def _fit_to_examples(self, parts: Sequence[tuple[Kinds, float]], config: BatchConfig) -> JoinedCounts:
        """As `_fit`, with pairs joined: to an epoch drawn from a fixed seed. Later epochs join what fits the shapes."""
        if self._packed:
            self.longest = tuple(min(config.max_length, length) for length in self.shapes[0][1:])
        else:  # no longer than what a batch has room for; a single pair fits already
            self.longest = (min(config.max_length, config.tokens // config.row_multiple),) * 2
        random = np.random.default_rng(0)
        examples = self._join(self._order.draw(random), random)
        lengths = examples.source_lengths, examples.target_lengths
        totals = [int(side.sum()) for side in lengths]
        self.usual_length = int(np.searchsorted(np.cumsum(np.bincount(lengths[0])), 0.95 * len(lengths[0])))
        self._mean_length = sum(totals) / 2 / self.pairs
        if self._packed:
            rows = max(total / length for total, length in zip(totals, self.shapes[0][1:], strict=True))
            self.batches_per_epoch = float(rows / self.shapes[0].rows)
            return JoinedCounts.of(examples)
        # That epoch may lack the longest pair, or its longest sample.
        longest = [int(side.max()) for side in merge_kinds([kinds for kinds, _ in parts])[:2]]
        self.shapes = fit_shapes(*(np.append(side, length) for side, length in zip(lengths, longest, strict=True)), config)
        self.longest = self.shapes[-1][1:]
        rows = np.array([shape.rows for shape in self.shapes])
        self.batches_per_epoch = float((1 / rows[bucket_of(*lengths, self.shapes)]).sum())
        return JoinedCounts.of(examples)

    def batches(
        self, position: StreamPosition = _START, shard: int = 0, shards: int = 1
    ) -> Iterator[tuple[Batch, StreamPosition]]:
        """Batches from `position` on, endless over epochs, each with the position after it.

        Of each batch only the rows of one shard are made: shard i of n has the B/n rows from i B/n on. Raises ValueError if no
        batch of this stream begins at `position`.
        """
        epoch, offset = position
        if epoch < 0 or not 0 <= offset < self.pairs:
            raise ValueError(f"no such position in a stream of {self.pairs} pairs an epoch: {position}")
        while True:
            for plan in self._plans(epoch, offset):
                self._store.require_whole()
                offset += len(plan.pairs)
                after = StreamPosition(epoch, offset) if offset < self.pairs else StreamPosition(epoch + 1, 0)
                yield build(self._store, shard_of(plan, shard, shards), *self._ids), after
            self.require_whole()
            epoch, offset = epoch + 1, 0

    def require_whole(self) -> None:
        """Waits until the store has been compared with its checksums (`Store.require_whole`): what was learned so far is from
        pairs as they were written. Raises UserError where it is damaged."""
        self._store.require_whole(wait=True)

    def _plans(self, epoch: int, offset: int) -> Iterator[Plan]:
        random = self._random(epoch)
        order = self._order.draw(random)
        examples = self._join(order, random) if self._joins else None
        if not self._packed:
            buckets = bucket_of(*examples[2:4], self.shapes) if examples else self._buckets
            plans = bucketed_plans(np.arange(len(buckets)) if examples else order, buckets, self.shapes)
            del order, buckets  # an epoch takes hours
            turns = random.permutation(len(plans))
            if examples:
                yield from plans_from(offset, plans_of_pairs([plans[i] for i in turns], examples))
            else:
                yield from (plans[i] for i in turns[first_plan(offset, plans.sizes[turns]) :])
            return
        bounds = cuts = self._chunk_bounds()
        if examples:
            cuts = np.unique(np.searchsorted(examples.starts, bounds))
            bounds = examples.starts[cuts]
        first = int(np.searchsorted(bounds, offset, side="right")) - 1
        for chunk in range(first, len(bounds) - 1):
            start, stop = cuts[chunk : chunk + 2].tolist()
            part = np.arange(start, stop) if examples else order[start:stop].astype(np.int64)
            lengths = [side[part] for side in examples[2:4]] if examples else _lengths(self._store, part)
            plans = packed_plans(part, *lengths, self.shapes[0], self._random(epoch, chunk + 1))
            plans = plans_of_pairs(plans, examples) if examples else plans
            yield from plans_from(offset - int(bounds[chunk]), plans) if chunk == first else plans

    def _join(self, order: np.ndarray, random: np.random.Generator) -> Examples:
        order = order.astype(np.int64)
        source_of = np.searchsorted(self._source_ends, order % self._count, side="right")
        return draw_examples(order, source_of, self._joins, _lengths(self._store, order), self.longest, random)

    def _random(self, epoch: int, chunk: int = 0) -> np.random.Generator:
        """For the order of an epoch (chunk 0), or for one of its chunks, from 1. The two halves of the seed are apart: NumPy
        would join the words of a longer seed to the number that follows, and trailing zeros change nothing."""
        return np.random.default_rng([self._seed & 0xFFFFFFFF, epoch, chunk, self._seed >> 32])

    def _chunk_bounds(self) -> np.ndarray:
        shape = self.shapes[0]
        batch = shape.rows * max(shape.source_length, shape.target_length) / self._mean_length
        chunks = max(1, int(self.pairs / max(_CHUNK_PAIRS, _CHUNK_BATCHES * batch)))
        return np.linspace(0, self.pairs, chunks + 1).astype(np.int64)


def one_pass(store: Store, shapes: Sequence[Shape], config: BatchConfig, tokenizer: Tokenizer) -> Iterator[Batch]:
    """Every pair of `store` once, always in the same order, in the training stream's `shapes`: for the loss on a dev set.

    Nothing is dropped: pairs that no shape takes come last, one a row, in batches of `config.row_multiple` rows as long as the
    longest of them.
    """
    store.require_whole(wait=True)
    everything = np.arange(len(store))
    buckets = bucket_of(store.source_lengths, store.target_lengths, shapes)
    fitting, rest = everything[buckets < len(shapes)], everything[buckets == len(shapes)]
    if config.kind == "packed":
        plans = packed_plans(fitting, *_lengths(store, fitting), shapes[0]) if len(fitting) else []
    else:
        plans = [*bucketed_plans(fitting, buckets, shapes)]
    if len(rest):
        shape = Shape(config.row_multiple, int(store.source_lengths[rest].max()), int(store.target_lengths[rest].max()))
        plans += [Plan(shape, rest[i : i + shape.rows]) for i in range(0, len(rest), shape.rows)]
    for plan in plans:
        yield build(store, plan, tokenizer.pad_id, tokenizer.decoder_start_id)


def _buckets(store: Store, shapes: Sequence[Shape]) -> np.ndarray:
    """`bucket_of` each entry that fits one of the shapes, of a byte each where these are at most 255."""
    kind, zeros = np.min_scalar_type(len(shapes)), np.zeros(max(max(shape[1:]) for shape in shapes) + 1, np.int64)
    # Of each length on one side alone, the other being short
    every = np.arange(len(zeros))
    tables = [bucket_of(*lengths, shapes).astype(kind) for lengths in ((every, zeros), (zeros, every))]
    buckets = np.empty(len(store), kind)
    for first, *lengths in length_blocks(store, 0, len(store)):
        of_sides = [table.take(side, mode="clip") for table, side in zip(tables, lengths, strict=True)]
        np.maximum(*of_sides, out=buckets[first : first + len(lengths[0])])
    return buckets


def _usual_length(parts: Sequence[tuple[Kinds, float]]) -> int:
    """The tokens that 95% of the sources have at most, each counted by its weight."""
    tokens = np.zeros(1 + max(int(kinds.source_lengths.max(initial=0)) for kinds, _ in parts))
    for (sources, _, pairs), often in parts:
        for length, count in enumerate(np.bincount(sources, pairs).astype(np.int64)):
            if often % 1 == tokens[length] % 1 == 0:
                tokens[length] += often * count
            else:  # one after the other, as it was always summed: the last bit may decide
                tokens[length] = np.add.accumulate(np.append(tokens[length], np.full(count, often)))[-1]
    return int(np.searchsorted(np.cumsum(tokens), 0.95 * tokens.sum()))


def _lengths(store: Store, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    source, target = store.source_offsets, store.target_offsets
    return source[pairs + 1] - source[pairs], target[pairs + 1] - target[pairs]
