"""English-German neural machine translation in JAX and Flax."""

from transformer_jax.config import Config

__all__ = ["Config"]
