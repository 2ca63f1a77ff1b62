"""The filters of training text: which pairs are left out, and why."""

import hashlib

from transformer_jax.config import DataConfig

__all__ = ["Cleaning"]


class Cleaning:
    """The filters of training text. `counts` has the number of pairs that were kept, and of those left out for each reason.
    Pairs of more than `batch.max_length` tokens on a side are left out later, when batches are made (`data.stream`).

    Words are separated by white space. A pair is left out for the first of these reasons that holds:

    * `empty`: a side has no words
    * `too long`: a side has more than `config.max_words` words
    * `length ratio`: the longer side has more than `config.max_ratio` times the words of the shorter, plus 5
    * `duplicate`: the same pair came before, here or in another `Cleaning` with the same `seen` (if `config.deduplicate`).
      Pairs are compared by 64 bits of a hash: of ten million pairs, one is left out by mistake with probability 1 in 400,000.
      Pairs of another `kind` are others: the text of one source may be there plain and with noise

    >>> cleaning = Cleaning(DataConfig())
    >>> [cleaning.keeps(*pair) for pair in [("a b", "c"), ("", "d"), ("a b", "c")]]
    [True, False, False]
    >>> cleaning.counts
    {'empty': 1, 'too long': 0, 'length ratio': 0, 'duplicate': 1, 'kept': 1}
    """

    def __init__(self, config: DataConfig, seen: set[int] | None = None, kind: str = ""):
        self._config, self._seen, self._kind = config, set() if seen is None else seen, kind
        self.counts = dict.fromkeys(("empty", "too long", "length ratio", "duplicate", "kept"), 0)

    def keeps(self, source: str, target: str) -> bool:
        """Whether this pair is kept. Counts it."""
        reason = self._reason(source, target)
        self.counts[reason] += 1
        return reason == "kept"

    def _reason(self, source: str, target: str) -> str:
        shorter, longer = sorted((len(source.split()), len(target.split())))
        if shorter == 0:
            return "empty"
        if longer > self._config.max_words:
            return "too long"
        if longer > self._config.max_ratio * shorter + 5:
            return "length ratio"
        if self._config.deduplicate:
            pair_hash = _pair_hash(source, f"{target}\n{self._kind}" if self._kind else target)
            if pair_hash in self._seen:
                return "duplicate"
            self._seen.add(pair_hash)
        return "kept"


def _pair_hash(source: str, target: str) -> int:
    # A set of the pairs themselves would take more memory. No line has a line break.
    return int.from_bytes(hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=8).digest(), "little")
