"""Which target pieces a source piece becomes, counted in a training text: IBM's model 1 (Brown et al. 1993)."""

import numpy as np

from transformer_jax.data.store import Store
from transformer_jax.tokenization.shortlist import Shortlist

__all__ = ["lexical_table"]

_LINKS = 20_000_000  # pairs of a source and a target piece in one sentence pair that are counted at most: 1 GB of memory
_ROUNDS = 4


def lexical_table(
    store: Store, source_pieces: int, target_pieces: int, *, depth: int = 128, frequent: int = 64, same_pieces: bool = True
) -> Shortlist:
    """The `depth` target pieces that each source piece is most often aligned with, and the `frequent` most frequent ones.

        P(t | s) = c(s, t) / sum_t' c(s, t')        c(s, t) = sum over pairs of P(t | s) / sum_s' P(t | s')

    where the sums over s' are over the pieces of the pair's source (Brown et al. 1993, eqs. 17 and 18), EOS included: it stands
    for what no piece is the origin of. The first P are equal; after four rounds pieces are ranked by c. Of a large text so many
    pairs are counted, evenly spread, as have 20 million links. With `same_pieces`, where both sides share one vocabulary, the
    first of each list is the piece itself, as it is in names that the text does not have.
    """
    source, target, of_target = _links(store)
    keys, which = np.unique(source * target_pieces + target, return_inverse=True)
    of_source = keys // target_pieces
    probability = np.ones(len(keys))
    for _ in range(_ROUNDS):
        share = probability[which]
        share /= np.bincount(of_target, share)[of_target]
        count = np.bincount(which, share, len(keys))
        probability = count / np.bincount(of_source, count, source_pieces)[of_source]
    order = np.lexsort((-count, of_source))
    of_source, ranked = of_source[order], (keys % target_pieces)[order]
    rank = np.arange(len(order)) - np.searchsorted(of_source, of_source)
    likely = np.full((source_pieces, depth), -1, np.int32)
    kept = rank < depth
    likely[of_source[kept], rank[kept]] = ranked[kept]
    if same_pieces:
        likely = np.concatenate([np.arange(source_pieces, dtype=np.int32)[:, None], likely], axis=1)
    ends = store.target_ids[store.target_offsets[1:] - 1]
    counts = np.bincount(store.target_ids, minlength=target_pieces) - np.bincount(ends, minlength=target_pieces)
    most = np.argsort(-counts, kind="stable")[:frequent]
    return Shortlist(most[counts[most] > 0].astype(np.int32), likely)


def _links(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each link, int64: its source piece, its target piece, and the number of the latter's place among all places. EOS of
    the target is left out: every translation has it."""
    sources, targets = store.source_lengths.astype(np.int64), store.target_lengths.astype(np.int64) - 1
    links = np.cumsum(sources * targets)
    step = max(-(-int(links[-1]) // _LINKS), 1) if len(links) else 1
    pairs = np.arange(0, len(store), step)
    sources, targets = sources[pairs], targets[pairs]
    ends = np.cumsum(sources * targets)
    pair = np.repeat(np.arange(len(pairs)), sources * targets)
    place = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sources * targets, sources * targets)
    begins = np.cumsum(targets) - targets
    source = store.source_ids[store.source_offsets[pairs][pair] + place % sources[pair]]
    target = store.target_ids[store.target_offsets[pairs][pair] + place // sources[pair]]
    return source.astype(np.int64), target.astype(np.int64), begins[pair] + place // sources[pair]
