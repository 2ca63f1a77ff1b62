"""The length penalty: what a hypothesis's log-probability is divided by, so that short ones are not preferred."""

import numpy as np

from transformer_jax.config import SearchOptions

__all__ = ["length_divisors"]


def length_divisors(length: int, options: SearchOptions) -> np.ndarray:
    """penalty(n) = ((5 + n) / 6) ** length_penalty for n = 0 .. length tokens, EOS included (Wu et al. 2016, eq. 14):
    float32 [length + 1]. The score of a hypothesis is its log-probability divided by penalty(n).

    Raises ValueError for a negative `length_penalty`: `beam_search` stops early because penalty(n) does not fall with n.

    >>> length_divisors(7, SearchOptions(length_penalty=1.0))[[1, 4, 7]].tolist()
    [1.0, 1.5, 2.0]
    """
    if not options.length_penalty >= 0:
        raise ValueError(f"length_penalty must be 0 or more, not {options.length_penalty}")
    return (((5 + np.arange(length + 1)) / 6) ** options.length_penalty).astype(np.float32)
