"""Attention of an LSTM's decoder to the source: the score functions, and the module that turns scores into a context.

Letters as in `models/seq2seq.py`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.layers import Projection, require_width
from transformer_jax.models.matmul import product_precision

__all__ = ["GlobalAttention", "additive_scores", "cosine_scores", "dot_scores", "scaled_dot_scores"]


def dot_scores(query: Array, key: Array) -> Array:
    """q . k (Luong et al. 2015, eq. 8). query [B, T, K], key [B, S, K] -> float32 [B, T, S]."""
    precision = product_precision(query.dtype)
    return jnp.einsum("btk,bsk->bts", query, key, precision=precision, preferred_element_type=jnp.float32)


def scaled_dot_scores(query: Array, key: Array) -> Array:
    """q . k / sqrt(K) (Vaswani et al. 2017, eq. 1). query [B, T, K], key [B, S, K] -> float32 [B, T, S]."""
    return dot_scores(query, key) * query.shape[-1] ** -0.5


def cosine_scores(query: Array, key: Array) -> Array:
    """q . k / (|q| |k|), between -1 and 1 (Graves et al. 2014, eq. 6). query [B, T, K], key [B, S, K] -> float32 [B, T, S]."""
    return dot_scores(_unit(query), _unit(key))


def additive_scores(query: Array, key: Array, vector: Array) -> Array:
    """v . tanh(q + k) (Bahdanau et al. 2015, appendix A.1.2, of projected queries and keys). query [B, T, K], key [B, S, K],
    vector [K] -> float32 [B, T, S]."""
    hidden = jnp.tanh(query[:, :, None] + key[:, None])  # [B, T, S, K]
    vector, precision = vector.astype(query.dtype), product_precision(query.dtype)
    return jnp.einsum("btsk,k->bts", hidden, vector, precision=precision, preferred_element_type=jnp.float32)


def _unit(x: Array) -> Array:
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + 1e-12)).astype(x.dtype)


class GlobalAttention(nn.Module):
    """weights = softmax over the source of score(query, key); context = weights values (Luong et al. 2015, section 3.1).

    `general` is q W k (eq. 8) and `additive` v tanh(W q + U k): keys are projected once a sentence. `cosine` has one learned
    factor on its scores (Graves et al. 2014, eq. 5): they lie between -1 and 1, so that without it no weight could be more than
    e^2 times another.
    """

    kind: str
    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.kind in ("general", "additive"):
            self.key = Projection((self.width,), self.dtype)
        if self.kind == "additive":
            self.query = Projection((self.width,), self.dtype)
            self.vector = self.param("vector", nn.initializers.normal(self.width**-0.5), (self.width,))
        if self.kind == "cosine":
            self.sharpness = self.param("sharpness", nn.initializers.constant(10.0), (1,))

    def keys(self, memory: Array) -> Array:
        """The keys of the scores, projected once a sentence: memory [B, S, D] -> [B, S, D]."""
        return self.key(memory) if self.kind in ("general", "additive") else memory

    def __call__(self, query: Array, keys: Array, values: Array, mask: Array) -> tuple[Array, Array]:
        """query [B, T, D], keys and values [B, S, D], mask bool [B, S] -> context [B, T, D], weights float32 [B, T, S]. Raises
        ValueError where query and keys differ in width, unless both are projected (`additive`)."""
        if self.kind != "additive":
            require_width(query, keys.shape[-1], "GlobalAttention")
        # Not -inf: a row of padding alone would become NaN, and so would its gradient.
        scores = jnp.where(mask[:, None], self._scores(query, keys), jnp.finfo(jnp.float32).min)
        weights = nn.softmax(scores)
        precision = product_precision(values.dtype)
        return jnp.einsum("bts,bsd->btd", weights.astype(values.dtype), values, precision=precision), weights

    def _scores(self, query: Array, keys: Array) -> Array:
        if self.kind == "additive":
            return additive_scores(self.query(query), keys, self.vector)
        if self.kind == "cosine":
            return cosine_scores(query, keys) * self.sharpness[None, None]
        return scaled_dot_scores(query, keys) if self.kind == "scaled_dot" else dot_scores(query, keys)
