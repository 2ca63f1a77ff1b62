"""From tokenised sentences to arrays of few static shapes: bucketed (one sentence a row) or packed (many)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import BatchConfig
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError

__all__ = [
    "Batch",
    "Shape",
    "bucket_of",
    "bucketed_batch",
    "fit_packed_shape",
    "fit_shapes",
    "pack",
    "packed_batch",
    "pad_rows",
]

_CANDIDATES = 96  # edges a side that the fit chooses from; all of them, up to that many distinct lengths


class Batch(NamedTuple):
    """What every model takes; int32, NumPy on the host. Being a NamedTuple it is a JAX pytree as it is.

    One packed row of two sentences (pad 0, EOS 1, decoder start 3):

        source           5  9  1  7  1  0        target_input     3  6  8  3  4  0
        source_segment   1  1  1  2  2  0        target_output    6  8  1  4  1  0
        source_position  0  1  2  0  1  0        target_segment   1  1  1  2  2  0
                                                 target_position  0  1  2  0  1  0
    """

    source: np.ndarray  # [B, S]  source + EOS, the pad id where padded
    source_segment: np.ndarray  # [B, S]  0: padding; 1..: which sentence of the row
    source_position: np.ndarray  # [B, S]  position inside its sentence
    target_input: np.ndarray  # [B, T]  decoder start + target, shifted inside each segment
    target_output: np.ndarray  # [B, T]  target + EOS
    target_segment: np.ndarray  # [B, T]
    target_position: np.ndarray  # [B, T]


class Shape(NamedTuple):
    """The static shape [B, S], [B, T] of a batch: `source` is [rows, source_length], `target_*` are [rows, target_length]."""

    rows: int
    source_length: int
    target_length: int


def fit_shapes(source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchConfig) -> list[Shape]:
    """At most `config.shapes` shapes for bucketed batches, fitted to these lengths, int [pairs] each, so that little is
    padding.

    The shapes are a chain: neither side of one is shorter than that of the one before, so that what is left over of one bucket
    fits the next. With C(S, T) the number of pairs that fit S by T, the chain (S_1, T_1), ..., (S_K, T_K) costs

        sum over k of  (C(S_k, T_k) - C(S_{k-1}, T_{k-1})) * (S_k + T_k)    positions,

    and dynamic programming over k finds the cheapest exactly (for more than 96 distinct lengths a side: the cheapest with
    edges among 96 of them). The last shape takes the longest pair. Rows are the largest multiple of `config.row_multiple` with
    rows * max(S, T) <= config.tokens.

    Raises UserError where `config.tokens` has no room for `config.row_multiple` rows of the longest pair.

    >>> fit_shapes(np.array([2, 2, 2, 9]), np.array([3, 3, 3, 8]), BatchConfig(tokens=36, row_multiple=2, shapes=2))
    [Shape(rows=12, source_length=2, target_length=3), Shape(rows=4, source_length=9, target_length=8)]
    """
    source_edges, target_edges = _candidates(source_lengths), _candidates(target_lengths)
    lengths = source_edges[:, None] + target_edges[None, :]
    counts = np.zeros(lengths.shape, np.int64)
    np.add.at(counts, (np.searchsorted(source_edges, source_lengths), np.searchsorted(target_edges, target_lengths)), 1)
    counts = counts.cumsum(0).cumsum(1)  # C(S, T)
    costs = [counts * lengths]  # costs[k][S, T]: of the cheapest chain of k + 1 shapes that ends at S by T
    while len(costs) < config.shapes:
        costs.append(_cost_with_one_more(costs[-1], counts, lengths))
    i, j = len(source_edges) - 1, len(target_edges) - 1
    chain = [(i, j)]
    for cost in reversed(costs[:-1]):
        before = (cost - counts * lengths[i, j])[: i + 1, : j + 1]
        i, j = (int(axis) for axis in np.unravel_index(before.argmin(), before.shape))
        if counts[i, j] < counts[chain[-1]]:
            chain.append((i, j))
    # From the longest on, so that it is what an error names.
    return [_shape(int(source_edges[i]), int(target_edges[j]), config) for i, j in chain][::-1]


def fit_packed_shape(source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchConfig) -> Shape:
    """The one shape of packed batches: max(S, T) is `config.packed_length`, and S : T is as the corpus's tokens are, so that
    both sides of a row fill up together (but neither is shorter than the longest sentence). Lengths are int [pairs].

    Raises UserError where a sentence is longer than that, or `config.tokens` has no room for `config.row_multiple` rows.

    >>> fit_packed_shape(np.array([4, 5]), np.array([5, 7]), BatchConfig(packed_length=16, tokens=64, row_multiple=2))
    Shape(rows=4, source_length=12, target_length=16)
    """
    totals = int(source_lengths.sum()), int(target_lengths.sum())
    longest = int(source_lengths.max()), int(target_lengths.max())
    if max(longest) > config.packed_length:
        raise UserError(
            f"batch.packed_length={config.packed_length} should be at least the longest sentence's {max(longest)} tokens"
        )
    sides = (max(least, -(-config.packed_length * total // max(totals))) for least, total in zip(longest, totals, strict=True))
    return _shape(*sides, config)


def bucket_of(source_lengths: np.ndarray, target_lengths: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """The index int64 [pairs] of the first shape that each pair fits in; len(shapes) where none is large enough. Lengths are
    int [pairs]; `shapes` are such a chain as `fit_shapes` gives.

    >>> bucket_of(np.array([2, 2, 9]), np.array([3, 4, 9]), [Shape(8, 2, 3), Shape(4, 8, 8)]).tolist()
    [0, 1, 2]
    """
    return np.maximum(
        np.searchsorted([shape.source_length for shape in shapes], source_lengths),
        np.searchsorted([shape.target_length for shape in shapes], target_lengths),
    )


def bucketed_batch(store: Store, pairs: np.ndarray, shape: Shape, pad_id: int, decoder_start_id: int) -> Batch:
    """The pairs with these numbers [at most shape.rows], one a row, in this order; rows that are left stay empty (segment 0).

    Raises ValueError if a pair does not fit the shape.

    >>> store = Store.of([np.array([5, 9, 1]), np.array([7, 1])], [np.array([6, 8, 1]), np.array([4, 1])])
    >>> batch = bucketed_batch(store, np.array([0, 1]), Shape(2, 3, 4), pad_id=0, decoder_start_id=3)
    >>> batch.source.tolist(), batch.target_input.tolist(), batch.target_output.tolist()
    ([[5, 9, 1], [7, 1, 0]], [[3, 6, 8, 0], [3, 4, 0, 0]], [[6, 8, 1, 0], [4, 1, 0, 0]])
    """
    rows, source_length, target_length = shape
    source = _one_a_row(store.source_ids, store.source_offsets, pairs, (rows, source_length), pad_id)
    target = _one_a_row(store.target_ids, store.target_offsets, pairs, (rows, target_length), pad_id)
    return Batch(*source, _shift_right(*target, pad_id, decoder_start_id), *target)


def pack(source_lengths: np.ndarray, target_lengths: np.ndarray, shape: Shape) -> np.ndarray:
    """The row int64 [pairs] (from 0 on, none empty) that each pair goes to, so that few rows of `shape` hold all pairs.

    Packing by histogram (after Krell et al. 2021, "Efficient sequence packing without cross-contamination"), in two dimensions:
    pairs of equal lengths are placed together, largest first, so that the work grows with the kinds of pairs and not with the
    pairs. As many rows are opened at once as the tokens need at least; each pair goes where the room that is left on the two
    sides is then most alike, since a row is full as soon as one side is. More rows are opened only for what fits nowhere.

    Raises ValueError if a pair is longer than the shape.

    >>> pack(np.array([4, 1, 3, 2]), np.array([3, 1, 2, 4]), Shape(2, 5, 6)).tolist()
    [0, 0, 1, 1]
    """
    _, width, height = shape
    _require_fit(1, source_lengths.max(initial=0), (1, width))
    _require_fit(1, target_lengths.max(initial=0), (1, height))
    kinds, kind_of, counts = np.unique(source_lengths * (height + 1) + target_lengths, return_inverse=True, return_counts=True)
    sources, targets = np.divmod(kinds, height + 1)
    members = np.split(np.argsort(kind_of, kind="stable"), np.cumsum(counts)[:-1])
    # Of each row: room for source tokens, room for target tokens, and how unlike the two are: source / width - target / height,
    # times width * height to have whole numbers.
    empty = np.array([[width], [height], [0]], np.int32)
    room = np.repeat(empty, max(-(-source_lengths.sum() // width), -(-target_lengths.sum() // height)), axis=1)
    row_of = np.empty(len(source_lengths), np.int64)
    for kind in np.argsort(-(sources / width + targets / height), kind="stable"):
        source, target, waiting = int(sources[kind]), int(targets[kind]), members[kind]
        takes = np.array([[source], [target], [source * height - target * width]], np.int32)
        while len(waiting):
            fits = np.flatnonzero((room[0] >= source) & (room[1] >= target))
            if not len(fits):
                needed = -(-len(waiting) // min(width // source, height // target))
                room = np.concatenate([room, np.repeat(empty, needed, axis=1)], axis=1)
                continue
            if len(fits) > len(waiting):  # one to a row; where there are fewer rows, the rest comes in the next round
                unlike = np.abs(room[2, fits] - takes[2])
                fits = fits[np.argpartition(unlike, len(waiting) - 1)[: len(waiting)]]
            placed, waiting = waiting[: len(fits)], waiting[len(fits) :]
            row_of[placed] = fits
            room[:, fits] -= takes
    return np.unique(row_of, return_inverse=True)[1]


def packed_batch(store: Store, pairs: np.ndarray, rows: np.ndarray, shape: Shape, pad_id: int, decoder_start_id: int) -> Batch:
    """Pair `pairs[i]` goes to row `rows[i]`, both int [pairs]; `rows` ascends. In a row, sentences stand one after the other in
    the order given.

    Raises ValueError if a row's sentences do not fit the shape.

    >>> store = Store.of([np.array([5, 9, 1]), np.array([7, 1])], [np.array([6, 8, 1]), np.array([4, 1])])
    >>> batch = packed_batch(store, np.array([0, 1]), np.array([0, 0]), Shape(1, 6, 6), pad_id=0, decoder_start_id=3)
    >>> batch.source.tolist(), batch.source_segment.tolist(), batch.target_input.tolist()
    ([[5, 9, 1, 7, 1, 0]], [[1, 1, 1, 2, 2, 0]], [[3, 6, 8, 3, 4, 0]])
    """
    segments = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
    size = shape.rows
    source = _many_a_row(store.source_ids, store.source_offsets, pairs, rows, segments, (size, shape.source_length), pad_id)
    target = _many_a_row(store.target_ids, store.target_offsets, pairs, rows, segments, (size, shape.target_length), pad_id)
    return Batch(*source, _shift_right(*target, pad_id, decoder_start_id), *target)


def pad_rows(rows: Sequence[np.ndarray], length: int, pad_id: int) -> np.ndarray:
    """Rows of ids as one int32 array [B, length], padded at the end. Raises ValueError if one is longer.

    >>> pad_rows([np.array([5, 1]), np.array([7, 8, 1])], 4, 0)
    array([[5, 1, 0, 0],
           [7, 8, 1, 0]], dtype=int32)
    """
    padded = np.full((len(rows), length), pad_id, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _candidates(lengths: np.ndarray) -> np.ndarray:
    distinct, counts = np.unique(lengths, return_counts=True)
    if len(distinct) <= _CANDIDATES:
        return distinct
    # Evenly by tokens: finest where the corpus has most of its positions. The longest is always one of them.
    share = np.cumsum(distinct * counts) / np.sum(distinct * counts)
    return distinct[np.unique(np.searchsorted(share, np.arange(1, _CANDIDATES + 1) / _CANDIDATES - 1e-9))]


def _cost_with_one_more(cost: np.ndarray, counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    # min over a <= S, b <= T of  cost(a, b) + (C(S, T) - C(a, b)) * (S + T). It depends on S and T through their sum w alone,
    # up to the area of the minimum: one running minimum for each w gives it for all S, T with that sum.
    result = np.empty_like(cost)
    for w in np.unique(lengths):
        cells = lengths == w
        cheapest = np.minimum.accumulate(np.minimum.accumulate(cost - counts * w, axis=0), axis=1)
        result[cells] = cheapest[cells] + counts[cells] * w
    return result


def _shape(source_length: int, target_length: int, config: BatchConfig) -> Shape:
    longer = max(source_length, target_length)
    rows = config.tokens // longer // config.row_multiple * config.row_multiple
    if not rows:
        multiple = config.row_multiple
        lower = [f"batch.max_length to {config.tokens // multiple}"] if config.tokens >= multiple else []
        lower += [f"batch.row_multiple to {config.tokens // longer}"] if config.tokens >= longer else []
        raise UserError(
            f"batch.tokens={config.tokens} has no room for batch.row_multiple={multiple} rows of {longer} tokens, "
            f"the longest of the corpus: raise it to {multiple * longer}{' or lower ' if lower else ''}{' or '.join(lower)}"
        )
    return Shape(rows, source_length, target_length)


def _one_a_row(
    ids: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, shape: tuple[int, int], pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts = offsets[pairs]
    lengths = offsets[pairs + 1] - starts
    _require_fit(len(pairs), lengths.max(initial=0), shape)
    columns = np.arange(shape[1], dtype=np.int32)
    real = np.zeros(shape, bool)
    np.less(columns, lengths[:, None], out=real[: len(pairs)])
    tokens = np.full(shape, pad_id, np.int32)
    # Reading past a sentence's end is harmless (it is masked) as long as it is not past the array's.
    read = ids.take(starts[:, None] + columns, mode="clip")
    np.copyto(tokens[: len(pairs)], read, where=real[: len(pairs)])
    return tokens, real.astype(np.int32), columns * real


def _many_a_row(
    ids: np.ndarray,
    offsets: np.ndarray,
    pairs: np.ndarray,
    rows: np.ndarray,
    segments: np.ndarray,
    shape: tuple[int, int],
    pad_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts = offsets[pairs]
    lengths = offsets[pairs + 1] - starts
    before = np.cumsum(lengths) - lengths  # tokens of this batch before each sentence
    columns = before - before[np.searchsorted(rows, rows)]
    _require_fit(rows.max(initial=-1) + 1, (columns + lengths).max(initial=0), shape)
    count = np.arange(lengths.sum())
    into = count + np.repeat(rows * shape[1] + columns - before, lengths)
    tokens = np.full(shape, pad_id, np.int32)
    tokens.ravel()[into] = ids[count + np.repeat(starts - before, lengths)]
    segment, position = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    segment.ravel()[into] = np.repeat(segments, lengths)
    position.ravel()[into] = count - np.repeat(before, lengths)
    return tokens, segment, position


def _require_fit(rows: int, tokens: int, shape: tuple[int, int]) -> None:
    if rows > shape[0] or tokens > shape[1]:
        raise ValueError(f"{rows} rows of up to {tokens} tokens do not fit {shape[0]} rows of {shape[1]}")


def _shift_right(target: np.ndarray, segment: np.ndarray, position: np.ndarray, pad_id: int, start_id: int) -> np.ndarray:
    """Decoder start, then the segment's tokens but its last: output 6 8 1 4 1 . -> input 3 6 8 3 4 ."""
    shifted = np.empty_like(target)
    shifted[:, 1:] = target[:, :-1]
    shifted[:, 0] = pad_id
    shifted[segment == 0] = pad_id
    shifted[(position == 0) & (segment > 0)] = start_id
    return shifted
