"""How the score of a hypothesis follows from its log-probability and its length, so that short ones are not preferred."""

import numpy as np

from transformer_jax.config import SearchOptions

__all__ = ["length_divisors", "length_rewards", "score_of"]


def length_divisors(length: int, options: SearchOptions) -> np.ndarray:
    """penalty(n) for n = 0 .. length tokens, EOS included: float32 [length + 1]. The score of a hypothesis is its
    log-probability divided by penalty(n), plus `length_rewards`. By `length_normalization`, with a = `length_penalty`, it is

    * gnmt: ((5 + n) / 6) ** a (Wu et al. 2016, eq. 14);
    * power: n ** a (1 for n = 0, where it divides nothing);
    * none: 1.

    Raises ValueError for a negative `length_penalty`: `beam_search` stops early because penalty(n) does not fall with n.

    >>> length_divisors(7, SearchOptions(length_penalty=1.0))[[1, 4, 7]].tolist()
    [1.0, 1.5, 2.0]
    >>> length_divisors(7, SearchOptions(length_penalty=2.0, length_normalization="power"))[[1, 4, 7]].tolist()
    [1.0, 16.0, 49.0]
    """
    if not options.length_penalty >= 0:
        raise ValueError(f"length_penalty must be 0 or more, not {options.length_penalty}")
    lengths = np.arange(length + 1)
    bases = {"gnmt": (5 + lengths) / 6, "power": np.maximum(lengths, 1), "none": np.ones(length + 1)}
    return (bases[options.length_normalization] ** options.length_penalty).astype(np.float32)


def length_rewards(length: int, options: SearchOptions) -> np.ndarray | None:
    """n * `word_reward` for n = 0 .. length tokens, EOS included: float32 [length + 1]; None without a reward.

    Raises ValueError for a negative `word_reward`: `beam_search` stops early because the reward does not fall with n.

    >>> length_rewards(3, SearchOptions(word_reward=0.5)).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    if not options.word_reward >= 0:
        raise ValueError(f"word_reward must be 0 or more, not {options.word_reward}")
    return (options.word_reward * np.arange(length + 1)).astype(np.float32) if options.word_reward else None


def score_of(log_prob: float, length: int, options: SearchOptions) -> float:
    """The score of one hypothesis of `length` tokens, EOS included, coverage not counted.

    >>> score_of(-6.0, 7, SearchOptions(length_penalty=1.0))
    -3.0
    """
    return log_prob / length_divisors(length, options)[-1].item() + options.word_reward * length
