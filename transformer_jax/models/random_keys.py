"""Random keys from seeds of up to 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["key_of", "seed_words"]


def seed_words(seed: int) -> np.ndarray:
    """A seed from 0 to 2**64 - 1 as uint32 [2], the low 32 bits first.

    >>> seed_words(7), seed_words(1 << 32)
    (array([7, 0], dtype=uint32), array([0, 1], dtype=uint32))
    """
    return np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)


def key_of(words: jax.Array | np.ndarray) -> jax.Array:
    """The random key of `seed_words(seed)`: for a seed of 32 bits that of `jax.random.key(seed)`, which cuts longer seeds."""
    key = jax.random.key(words[0])
    return jnp.where(words[1] > 0, jax.random.fold_in(key, words[1]), key)
