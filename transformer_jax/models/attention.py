"""Scaled dot-product and multi-head attention, masks, and the key/value cache.

Letters as in `models/seq2seq.py`. Attention weights are sown as `intermediates` under the name `attention_weights`; nobody pays
for them unless `apply(..., mutable=["intermediates"])` asks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.layers import Dropout, Projection, rotate
from transformer_jax.models.products import activation_dtype

__all__ = [
    "KeyValues",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "attend",
    "attention_weights",
    "causal_mask",
    "segment_mask",
]


class KeyValues(NamedTuple):
    """What is attended to, in the order in which it is multiplied: a decoding step would transpose all of it otherwise."""

    key: Array  # [B, H, K, S]
    value: Array  # [B, H, S, K], or of a width of their own


def segment_mask(query_segment: Array, key_segment: Array) -> Array:
    """True where attention is allowed: where the segments match. int32 [B, T], [B, S] -> bool [B, 1, T, S].

    Padding (segment 0) sees padding and nothing else, which keeps its softmax finite and everybody else's clean.
    """
    return (query_segment[:, :, None] == key_segment[:, None, :])[:, None]


def causal_mask(segment: Array) -> Array:
    """`segment_mask` of a row with itself, without the tokens to come. int32 [B, T] -> bool [B, 1, T, T]. A row of two
    sentences:

        segment  1  1  2    ->    1  .  .
                                  1  1  .
                                  .  .  1

    Rows are queries, columns keys.
    """
    length = segment.shape[1]
    past = jnp.tril(jnp.ones((1, 1, length, length), bool))
    return segment_mask(segment, segment) & past


def attention_weights(query: Array, key: Array, mask: Array) -> Array:
    """softmax(q k^T / sqrt(K)) over the allowed keys (Vaswani et al. 2017, eq. 1), in float32.

    query [B, T, H, K], key [B, H, K, S], mask bool [B, 1, T or 1, S] -> float32 [B, H, T, S]. A query that no key is allowed to
    has the same weight for all.
    """
    query = query.swapaxes(1, 2) * (query.shape[-1] ** -0.5)
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32)
    # Not -inf: a row without any allowed key would be NaN, and so would its gradient.
    return nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min))


def attend(weights: Array, value: Array) -> Array:
    """The weighted mean of the values. weights [B, H, T, S], value [B, H, S, K] -> [B, T, H, K] (K the values')."""
    return jnp.matmul(weights.astype(value.dtype), value).swapaxes(1, 2)


class MultiHeadSelfAttention(nn.Module):
    """Concat(head_1 .. head_H) W_o, where head_i = attention(x W_q, x W_k, x W_v) (Vaswani et al. 2017, section 3.2.2).

    One matrix product makes queries, keys and values, unless values have a width of their own. `rotary` turns queries and keys
    by their position (Su et al. 2021). `bias` adds a vector to each projection, as Marian does and the paper does not.
    """

    width: int
    heads: int
    key_width: int = 0  # of each head; 0: width / heads
    value_width: int = 0  # 0: the keys'
    rotary: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    bias: bool = False

    def setup(self):
        inward = functools.partial(Projection, dtype=self.dtype, bias=self.bias)
        key_width, value_width = _head_widths(self)
        self.together = value_width == key_width
        # Glorot's fan-out counts all three, so that the scores start smaller by half: the softmax starts soft.
        if self.together:
            self.query_key_value = inward((3, self.heads, key_width))
        else:
            self.query_key = inward((2, self.heads, key_width))
            self.value = inward((self.heads, value_width))
        self.output = Projection((self.width,), self.dtype, axes=2, bias=self.bias)
        self.drop = Dropout(self.dropout)

    def __call__(self, x: Array, mask: Array, position: Array | None = None, *, train: bool = False) -> Array:
        """x [B, T, D], mask bool [B or 1, 1, T, T], position int32 [B, T] (if left out, 0 .. T - 1) -> [B, T, D]."""
        position = jnp.arange(x.shape[1])[None] if position is None else position
        query, key, value = self._project(x, position)
        return self._attend(query, _keys_values(key, value), mask, train)

    def init_cache(self, rows: int, length: int) -> tuple[Array, Array]:
        """Room for the keys and values of `length` tokens of each of N = `rows` hypotheses: [N, H, T, K] each."""
        dtype = activation_dtype(self.dtype)
        key, value = (jnp.zeros((rows, self.heads, length, width), dtype) for width in _head_widths(self))
        return key, value

    def step(
        self, x: Array, index: Array, cache: tuple[Array, Array], age: Array | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        """One token of each hypothesis: x [N, 1, D], the token at place `age` int32 [N] of its row, sees itself and the `age`
        tokens before it -> [N, 1, D], cache. Where all rows began at step 0, age is `index` int32 [], and may be left out.

        The cache is a ring, of which step `index` writes place index mod T: so all rows write the same place, though some began
        earlier than others. With the places before the heads, XLA would transpose all of it at every step on CPU (52 ms a layer
        against 6 for N = 256, T = 80, 8 heads of 64).
        """
        age = jnp.broadcast_to(index, x.shape[:1]) if age is None else age
        query, *now = self._project(x, age[:, None])
        room = cache[0].shape[2]

        def write(past: Array, now: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(past, now.swapaxes(1, 2), index % room, axis=2)

        key, value = cache = tuple(map(write, cache, now))
        steps_ago = (index - jnp.arange(room)) % room
        mask = (steps_ago[None] <= age[:, None])[:, None, None]
        return self._attend(query, KeyValues(key.swapaxes(2, 3), value), mask, train=False), cache

    def _project(self, x: Array, position: Array) -> tuple[Array, Array, Array]:
        """[B, T, D] -> query, key and value [B, T, H, K]."""
        if self.together:
            qkv = self.query_key_value(x)  # [B, T, 3, H, K]
            query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        else:
            both, value = self.query_key(x), self.value(x)
            query, key = both[:, :, 0], both[:, :, 1]
        if self.rotary:
            query, key = rotate(query, position), rotate(key, position)
        return query, key, value

    def _attend(self, query: Array, source: KeyValues, mask: Array, train: bool) -> Array:
        weights = attention_weights(query, source.key, mask)
        self.sow("intermediates", "attention_weights", weights)
        return self.output(attend(self.drop(weights, train=train), source.value))


class MultiHeadCrossAttention(nn.Module):
    """Attention of the target to the source. The source's keys and values are projected once (`keys_values`), then used by as
    many queries as there are: teacher forcing has T of them a row, beam search one for each hypothesis."""

    width: int
    heads: int
    key_width: int = 0  # of each head; 0: width / heads
    value_width: int = 0  # 0: the keys'
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    bias: bool = False

    def setup(self):
        inward = functools.partial(Projection, dtype=self.dtype, bias=self.bias)
        key_width, value_width = _head_widths(self)
        self.together = value_width == key_width
        self.query = inward((self.heads, key_width))
        if self.together:
            self.key_value = inward((2, self.heads, key_width))
        else:
            self.key = inward((self.heads, key_width))
            self.value = inward((self.heads, value_width))
        self.output = Projection((self.width,), self.dtype, axes=2, bias=self.bias)
        self.drop = Dropout(self.dropout)

    def keys_values(self, memory: Array) -> KeyValues:
        """memory [B, S, D] -> keys [B, H, K, S] and values [B, H, S, K], or as wide as they are."""
        if self.together:
            both = self.key_value(memory)
            return _keys_values(both[:, :, 0], both[:, :, 1])
        return _keys_values(self.key(memory), self.value(memory))

    def __call__(self, x: Array, source: KeyValues, mask: Array, *, train: bool = False) -> Array:
        """x [B, T, D], `source` as from `keys_values`, mask bool [B, 1, T or 1, S] -> [B, T, D]."""
        weights = attention_weights(self.query(x), source.key, mask)
        self.sow("intermediates", "attention_weights", weights)
        return self.output(attend(self.drop(weights, train=train), source.value))


def _head_widths(module: MultiHeadSelfAttention | MultiHeadCrossAttention) -> tuple[int, int]:
    """Of the keys and values of each head."""
    key_width = module.key_width or module.width // module.heads
    return key_width, module.value_width or key_width


def _keys_values(key: Array, value: Array) -> KeyValues:
    """Of [B, S, H, K] each."""
    return KeyValues(key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))
