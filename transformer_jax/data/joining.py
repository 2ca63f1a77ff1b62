"""Training examples that are several sentence pairs, one after the other: sentences longer than any in the text.

Concatenation as data augmentation: Nguyen et al. 2021, "Data Augmentation by Concatenation for Low-Resource Translation: A
Mystery and a Solution" (arXiv 2105.01691), who found that the pairs need not belong together. Which are joined is drawn anew
each epoch, when batches are made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.tokenization.word_table import gather

__all__ = ["MOST_JOINED", "Examples", "Join", "JoinedCounts", "draw_examples"]

MOST_JOINED = 100  # pairs in an example


class Join(NamedTuple):
    """How a source's pairs are joined: of the examples that an epoch has of it, the share `share` are drawn to be `least` to
    `most` pairs, each number equally likely, and the others are one pair."""

    share: float  # above 0, at most 1
    least: int  # at least 2
    most: int  # at most MOST_JOINED


class Examples(NamedTuple):
    """The examples of an epoch in their order: example i is the pairs `pairs[starts[i] : starts[i + 1]]`, joined in this order.

    The source of a joined example is the sources of its pairs, of which the last alone has its EOS; likewise its target.
    """

    pairs: np.ndarray  # int64 [pairs]  numbers of pairs in the store
    starts: np.ndarray  # int64 [examples + 1]
    source_lengths: np.ndarray  # int64 [examples]  tokens, EOS included
    target_lengths: np.ndarray  # int64 [examples]
    cut: int  # how many examples would have been longer than the limit, and became several


class JoinedCounts(NamedTuple):
    """What the examples of an epoch are."""

    examples: int  # all of them
    joined: int  # of these, the ones of several pairs
    pairs: int  # in those
    cut: int  # `Examples.cut`

    @classmethod
    def of(cls, examples: Examples) -> "JoinedCounts":
        """The counts of these examples."""
        sizes = np.diff(examples.starts)
        several = sizes[sizes > 1]
        return cls(len(sizes), len(several), int(several.sum()), examples.cut)


def draw_examples(
    order: np.ndarray,
    source_of: np.ndarray,
    joins: Sequence[Join | None],
    lengths: Sequence[np.ndarray],
    limit: tuple[int, int],
    random: np.random.Generator,
) -> Examples:
    """Joins the pairs of an epoch, `order`, int [pairs]. The pair `order[i]` is of source `source_of[i]`, which joins its pairs
    as `joins[source_of[i]]` says, and its sides have `lengths[0][i]` and `lengths[1][i]` tokens, EOS included.

    The pairs of each source, in the order of the epoch, are cut into groups of drawn sizes (the last is what is left); each
    group is an example. One that would have more than `limit` tokens on a side is cut into smaller ones, each of as many of its
    pairs as fit. A single pair may have any length. An example stands where its first pair stood among the others.

    >>> lengths = [np.full(5, 4), np.full(5, 4)]
    >>> random = np.random.default_rng(0)
    >>> found = draw_examples(np.array([7, 3, 9, 8, 1]), np.zeros(5, int), [Join(1.0, 3, 3)], lengths, (10, 10), random)
    >>> found.pairs.tolist(), found.starts.tolist(), found.source_lengths.tolist(), found.cut
    ([7, 3, 9, 8, 1], [0, 3, 5], [10, 7], 0)
    """
    by_source = np.argsort(source_of, kind="stable")
    counts = np.bincount(source_of, minlength=len(joins))
    sizes = [_draw_sizes(join, count, random) for join, count in zip(joins, counts.tolist(), strict=True)]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    before = [np.concatenate([[0], np.cumsum(side[by_source] - 1)]) for side in lengths]  # tokens before each pair, EOS aside
    starts, cut = _cut(starts, before, limit)
    rank = np.argsort(by_source[starts[:-1]], kind="stable")
    pairs, ends = gather(order[by_source], starts, rank)
    source_lengths, target_lengths = (np.diff(side[starts])[rank] + 1 for side in before)
    return Examples(pairs, np.concatenate([[0], ends]), source_lengths, target_lengths, cut)


def _draw_sizes(join: Join | None, count: int, random: np.random.Generator) -> np.ndarray:
    """The sizes of the groups of `count` pairs, int64 [groups]."""
    if not join:
        return np.ones(count, np.int64)
    sizes = np.where(random.random(count) < join.share, random.integers(join.least, join.most + 1, size=count), 1)
    ends = np.cumsum(sizes)
    groups = int(np.searchsorted(ends, count)) + 1 if count else 0
    sizes = sizes[:groups]
    sizes[groups - 1 :] -= ends[groups - 1 : groups] - count
    return sizes


def _cut(starts: np.ndarray, before: Sequence[np.ndarray], limit: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Where examples begin when those of more than `limit` tokens are cut, and how many were cut."""
    is_long = [np.diff(side[starts]) >= longest for side, longest in zip(before, limit, strict=True)]
    sizes = np.diff(starts)
    groups = np.flatnonzero((is_long[0] | is_long[1]) & (sizes > 1))
    if not len(groups):
        return starts, 0
    cut, begin, more = len(groups), starts[groups], []
    # The second pairs of all these groups at the same time, then the third ones, and so on.
    for place in range(1, int(sizes[groups].max())):
        goes_on = sizes[groups] > place
        groups, begin = groups[goes_on], begin[goes_on]
        pair = starts[groups] + place
        fits = [side[pair + 1] - side[begin] < longest for side, longest in zip(before, limit, strict=True)]
        begin = np.where(fits[0] & fits[1], begin, pair)
        more.append(begin[begin == pair])
    return np.sort(np.concatenate([starts, *more])), cut
