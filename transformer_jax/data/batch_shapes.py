"""The static shapes of batches, fitted to the lengths of a corpus so that little is padding."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import BatchConfig
from transformer_jax.data.length_counts import count_kinds
from transformer_jax.errors import UserError

__all__ = ["Shape", "bucket_of", "fit_packed_shape", "fit_shapes", "smallest_tokens", "with_rows"]

_CANDIDATES = 96  # edges a side that the fit chooses from; all of them, up to that many distinct lengths


class Shape(NamedTuple):
    """The static shape [B, S], [B, T] of a batch: `source` is [rows, source_length], `target_*` are [rows, target_length]."""

    rows: int
    source_length: int
    target_length: int


def fit_shapes(
    source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchConfig, pairs: np.ndarray | None = None
) -> list[Shape]:
    """At most `config.shapes` shapes for bucketed batches, fitted to these lengths, int [pairs] each, so that little is
    padding. With `pairs`, int [kinds], the lengths are those of kinds of pairs, and there are so many pairs of each.

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
    if pairs is None:
        source_lengths, target_lengths, pairs = count_kinds(source_lengths, target_lengths)
    source_edges, target_edges = _candidates(source_lengths, pairs), _candidates(target_lengths, pairs)
    lengths = source_edges[:, None] + target_edges[None, :]
    counts = np.zeros(lengths.shape, np.int64)
    np.add.at(counts, (np.searchsorted(source_edges, source_lengths), np.searchsorted(target_edges, target_lengths)), pairs)
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


def fit_packed_shape(
    source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchConfig, pairs: np.ndarray | int = 1
) -> Shape:
    """The one shape of packed batches: max(S, T) is `config.packed_length`, and S : T is as the corpus's tokens are, so that
    both sides of a row fill up together (but neither is shorter than the longest sentence). Lengths are int [pairs]; with
    `pairs`, int [kinds], those of kinds of pairs, of which there are so many each.

    Raises UserError where a sentence is longer than that, or `config.tokens` has no room for `config.row_multiple` rows.

    >>> fit_packed_shape(np.array([4, 5]), np.array([5, 7]), BatchConfig(packed_length=16, tokens=64, row_multiple=2))
    Shape(rows=4, source_length=12, target_length=16)
    """
    totals = int((source_lengths * pairs).sum()), int((target_lengths * pairs).sum())
    longest = int(source_lengths.max()), int(target_lengths.max())
    if max(longest) > config.packed_length:
        raise UserError(
            f"batch.packed_length={config.packed_length} should be at least the longest sentence's {max(longest)} tokens"
        )
    sides = (max(least, -(-config.packed_length * total // max(totals))) for least, total in zip(longest, totals, strict=True))
    return _shape(*sides, config)


def smallest_tokens(config: BatchConfig) -> int:
    """The fewest `config.tokens` with which a batch has room for any pair that `config` lets in: `row_multiple` rows of the
    greatest length."""
    return config.row_multiple * (config.packed_length if config.kind == "packed" else config.max_length)


def with_rows(shapes: Sequence[Shape], config: BatchConfig) -> list[Shape]:
    """Shapes of the same lengths, with as many rows as `config.tokens` has room for: the lengths do not depend on it. Raises
    UserError as `fit_shapes` does.

    >>> with_rows([Shape(12, 2, 3), Shape(4, 9, 8)], BatchConfig(tokens=72, row_multiple=2))
    [Shape(rows=24, source_length=2, target_length=3), Shape(rows=8, source_length=9, target_length=8)]
    """
    # From the longest on, so that it is what an error names.
    return [_shape(*shape[1:], config) for shape in shapes[::-1]][::-1]


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


def _candidates(lengths: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    distinct, number = np.unique(lengths, return_inverse=True)
    counts = np.bincount(number, pairs).astype(np.int64)  # floats up to 2^53 are exact
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
    if not config.tokens:
        raise UserError("batch.tokens=0 is found where a training begins, and nowhere else; set it to a number")
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
