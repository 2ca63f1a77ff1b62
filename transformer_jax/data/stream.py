"""The shuffled, resumable stream of batches over a store."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import BatchConfig
from transformer_jax.data import batching
from transformer_jax.data.batch_shapes import Shape, bucket_of, fit_packed_shape, fit_shapes
from transformer_jax.data.batching import Batch
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


class _Plan(NamedTuple):
    """What goes into one batch; `rows` is None for bucketed batches (pair i in row i)."""

    shape: Shape
    pairs: np.ndarray
    rows: np.ndarray | None = None


class BatchStream:
    """The endless sequence of global batches of a training corpus: a function of (store, config, seed) and nothing else, not
    of hosts, devices or where it was resumed.

    An epoch is a permutation of all pairs drawn from (seed, epoch). With `sources`, the (number of pairs, weight) of each
    source in the order of the store, an epoch has each pair as often as the weight of its source says: with weight 2.3, all
    pairs twice, and 30% of them, drawn from (seed, epoch), a third time. Where the store has each pair `samples` times over
    (`open_store` with `sampling`), the epoch draws one of these for each.

    Bucketed: the pairs of each shape are cut into batches in that order, what is left over moves up to the next larger shape,
    so that at most one batch of the epoch has empty rows, and the batches are shuffled. Packed: the permutation is cut into
    chunks, each packed by itself, and its rows are shuffled; the last batch of a chunk may have empty rows.

    Attributes:
        shapes: the static shapes that batches come in (list of `Shape`)
        dropped: pairs left out because a side has, in any of its samples, more than `config.max_length` tokens
        pairs: pairs in an epoch, repetitions included
        corpus: the store's fingerprint
        usual_length: tokens, EOS included, that 95% of an epoch's sources have at most (repetitions count by their weight, and
            all samples)
        batches_per_epoch: about how many batches an epoch has (float), on average over samples; packed: if no position were
            padding

    Raises UserError if no pairs are left, or the longest has no room in a batch.
    """

    def __init__(
        self,
        store: Store,
        config: BatchConfig,
        tokenizer: Tokenizer,
        seed: int,
        sources: Sequence[tuple[int, float]] = (),
        samples: int = 1,
    ):
        self._count, self._samples = len(store) // samples, samples
        source_lengths, target_lengths = store.source_lengths, store.target_lengths
        longer = np.maximum(source_lengths, target_lengths).reshape(samples, self._count).max(axis=0)
        kept = np.flatnonzero(longer <= config.max_length)
        counts, weights = zip(*sources or [(self._count, 1.0)], strict=True)
        weight = np.repeat(weights, counts)[kept]
        if weight.sum() > max(_MOST_PAIRS, 4 * len(kept)):
            raise UserError(
                f"data.train: with weights of {', '.join(map('{:g}'.format, weights))} an epoch has {weight.sum():.3g} "
                f"pairs, more than {_MOST_PAIRS:,}; lower them: their proportion is what counts"
            )
        self._always = np.repeat(kept, weight.astype(np.int64))
        # [pairs that may come once more], how many of them an epoch has
        self._sometimes = [
            (chosen, round(len(chosen) * (often % 1)))
            for often, chosen in zip(weights, np.split(kept, np.searchsorted(kept, np.cumsum(counts)[:-1])), strict=True)
            if often % 1
        ]
        self.pairs = len(self._always) + sum(count for _, count in self._sometimes)
        self.corpus = store.fingerprint
        self.dropped = self._count - len(kept)
        if len(kept) and not self.pairs:
            raise UserError(f"data.train: with weights of {weights} an epoch has no pair; raise them")
        if not self.pairs:
            raise UserError(
                f"data.train: none of {self._count} pairs has at most batch.max_length={config.max_length} tokens; add text"
            )
        self._store, self._seed, self._ids = store, seed, (tokenizer.pad_id, tokenizer.decoder_start_id)
        possible = np.repeat(kept, np.ceil(weight).astype(np.int64))
        possible = np.concatenate([possible + sample * self._count for sample in range(samples)])
        lengths = source_lengths[possible], target_lengths[possible]
        tokens = np.bincount(source_lengths.reshape(samples, self._count)[:, kept].ravel(), np.tile(weight, samples))
        self.usual_length = int(np.searchsorted(np.cumsum(tokens), 0.95 * tokens.sum()))
        self._mean_length = (lengths[0].mean() + lengths[1].mean()) / 2
        self._packed = config.kind == "packed"
        self.shapes = [fit_packed_shape(*lengths, config)] if self._packed else fit_shapes(*lengths, config)
        self._buckets = bucket_of(source_lengths, target_lengths, self.shapes).astype(np.uint16)
        if self._packed:
            rows = max(lengths[0].mean() / self.shapes[0].source_length, lengths[1].mean() / self.shapes[0].target_length)
            self.batches_per_epoch = float(self.pairs * rows / self.shapes[0].rows)
        else:
            rows = np.array([shape.rows for shape in self.shapes])
            buckets = self._buckets.reshape(samples, self._count)[:, kept]
            self.batches_per_epoch = float((weight / rows[buckets]).sum() / samples)

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
                offset += len(plan.pairs)
                after = StreamPosition(epoch, offset) if offset < self.pairs else StreamPosition(epoch + 1, 0)
                yield _build(self._store, _shard_of(plan, shard, shards), *self._ids), after
            epoch, offset = epoch + 1, 0

    def _plans(self, epoch: int, offset: int) -> Iterator[_Plan]:
        random = self._random(epoch)
        repeated = [random.choice(chosen, count, replace=False) for chosen, count in self._sometimes]
        order = random.permutation(np.concatenate([self._always, *repeated]))
        if self._samples > 1:
            order += self._count * random.integers(self._samples, size=len(order))
        if not self._packed:
            plans = _bucketed_plans(order, self._buckets, self.shapes)
            yield from _after(offset, [plans[i] for i in random.permutation(len(plans))])
            return
        bounds = self._chunk_bounds()
        first = int(np.searchsorted(bounds, offset, side="right")) - 1
        for chunk in range(first, len(bounds) - 1):
            pairs = order[bounds[chunk] : bounds[chunk + 1]]
            plans = _packed_plans(self._store, pairs, self.shapes[0], self._random(epoch, chunk + 1))
            yield from _after(offset - int(bounds[chunk]), plans) if chunk == first else plans

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
    everything = np.arange(len(store))
    buckets = bucket_of(store.source_lengths, store.target_lengths, shapes)
    fitting, rest = everything[buckets < len(shapes)], everything[buckets == len(shapes)]
    if config.kind == "packed":
        plans = _packed_plans(store, fitting, shapes[0]) if len(fitting) else []
    else:
        plans = _bucketed_plans(fitting, buckets, shapes)
    if len(rest):
        shape = Shape(config.row_multiple, int(store.source_lengths[rest].max()), int(store.target_lengths[rest].max()))
        plans += [_Plan(shape, rest[i : i + shape.rows]) for i in range(0, len(rest), shape.rows)]
    for plan in plans:
        yield _build(store, plan, tokenizer.pad_id, tokenizer.decoder_start_id)


def _bucketed_plans(order: np.ndarray, buckets: np.ndarray, shapes: Sequence[Shape]) -> list[_Plan]:
    plans, left_over, bucket_of_order = [], order[:0], buckets[order]
    for k, shape in enumerate(shapes):
        members = np.concatenate([left_over, order[bucket_of_order == k]])
        full = len(members) // shape.rows * shape.rows
        plans += [_Plan(shape, members[i : i + shape.rows]) for i in range(0, full, shape.rows)]
        left_over = members[full:]
    if len(left_over):
        plans.append(_Plan(shapes[buckets[left_over].max()], left_over))
    return plans


def _packed_plans(store: Store, pairs: np.ndarray, shape: Shape, random: np.random.Generator | None = None) -> list[_Plan]:
    row_of = batching.pack(
        store.source_offsets[pairs + 1] - store.source_offsets[pairs],
        store.target_offsets[pairs + 1] - store.target_offsets[pairs],
        shape,
    )
    count = int(row_of.max()) + 1
    if random:
        row_of = random.permutation(count)[row_of]
    by_row = np.argsort(row_of, kind="stable")
    pairs, row_of = pairs[by_row], row_of[by_row]
    starts = range(0, count, shape.rows)
    cuts = [*np.searchsorted(row_of, starts).tolist(), len(pairs)]
    return [_Plan(shape, pairs[a:b], row_of[a:b] - start) for start, a, b in zip(starts, cuts, cuts[1:], strict=False)]


def _after(offset: int, plans: list[_Plan]) -> list[_Plan]:
    offsets = np.cumsum([0, *(len(plan.pairs) for plan in plans)])
    first = int(np.searchsorted(offsets, offset))
    if offsets[min(first, len(plans))] != offset or first == len(plans):
        raise ValueError(f"no batch of this stream begins at an offset of {offset} pairs")
    return plans[first:]


def _shard_of(plan: _Plan, shard: int, shards: int) -> _Plan:
    rows = plan.shape.rows // shards
    shape, start = plan.shape._replace(rows=rows), shard * rows
    if plan.rows is None:
        return _Plan(shape, plan.pairs[start : start + rows])
    is_in_shard = (plan.rows >= start) & (plan.rows < start + rows)
    return _Plan(shape, plan.pairs[is_in_shard], plan.rows[is_in_shard] - start)


def _build(store: Store, plan: _Plan, pad_id: int, decoder_start_id: int) -> Batch:
    if plan.rows is None:
        return batching.bucketed_batch(store, plan.pairs, plan.shape, pad_id, decoder_start_id)
    return batching.packed_batch(store, plan.pairs, plan.rows, plan.shape, pad_id, decoder_start_id)
