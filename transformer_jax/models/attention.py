"""Scaled dot-product and multi-head attention, masks, and the key/value cache.

Letters as in `models/seq2seq.py`. Attention weights are sown as `intermediates`, under the name that a module is given.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.attention_kernel import Segments, splash_attention
from transformer_jax.models.layers import Dropout, Projection, Rotation, require_width, rotate
from transformer_jax.models.matmul import activation_dtype, product_precision

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
    """Keys and values of a source, laid out as the products take them: otherwise each decoding step would transpose them."""

    key: Array  # [B, H, K, S]
    value: Array  # [B, H, S, K], with the head dimension of the values


def segment_mask(query_segment: Array, key_segment: Array) -> Array:
    """True where attention is allowed: where the segments match. int32 [B, T], [B, S] -> bool [B, 1, T, S].

    Padding (segment 0) attends to padding only: its softmax stays finite, and no sentence attends to it.
    """
    return (query_segment[:, :, None] == key_segment[:, None, :])[:, None]


def causal_mask(segment: Array | int) -> Array:
    """`segment_mask` of a row with itself, without later tokens. int32 [B, T] -> bool [B, 1, T, T]; of a length T: of one row
    without padding, bool [1, 1, T, T]. A row of two sentences:

        segment  1  1  2    ->    1  .  .
                                  1  1  .
                                  .  .  1

    Rows are queries, columns keys.
    """
    segment = jnp.ones((1, segment), jnp.int32) if isinstance(segment, int) else segment
    length = segment.shape[1]
    past = jnp.tril(jnp.ones((1, 1, length, length), bool))
    return segment_mask(segment, segment) & past


def attention_weights(query: Array, key: Array, mask: Array | None) -> Array:
    """softmax(q k^T / sqrt(K)) over the allowed keys (Vaswani et al. 2017, eq. 1), in float32.

    query [B, T, H, K], key [B, H, K, S], mask bool [B, 1, T or 1, S] (None: all keys are allowed) -> float32 [B, H, T, S]. A
    query without any allowed key gives all keys the same weight.
    """
    query = query.swapaxes(1, 2) * (query.shape[-1] ** -0.5)
    scores = jnp.matmul(query, key, precision=product_precision(query.dtype), preferred_element_type=jnp.float32)
    if mask is None:
        return nn.softmax(scores)
    # Not -inf: a row without any allowed key would be NaN, and so would its gradient.
    return nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min))


def attend(weights: Array, value: Array) -> Array:
    """The weighted mean of the values. weights [B, H, T, S], value [B, H, S, K] -> [B, T, H, K], K that of the values."""
    return jnp.matmul(weights.astype(value.dtype), value, precision=product_precision(value.dtype)).swapaxes(1, 2)


class MultiHeadSelfAttention(nn.Module):
    """Concat(head_1 .. head_H) W_o, where head_i = attention(x W_q, x W_k, x W_v) (Vaswani et al. 2017, section 3.2.2).

    One matrix product computes queries, keys and values, unless values have a head dimension of their own. `rotary` rotates
    queries and keys by their position (Su et al. 2021). `bias` adds a vector to each projection, as Marian does and the paper
    does not. Raises ValueError where `heads` do not divide `width`, and for inputs of another width.
    """

    width: int
    heads: int
    key_width: int = 0  # head dimension of queries and keys; 0: width / heads
    value_width: int = 0  # head dimension of values; 0: that of the keys
    rotary: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    bias: bool = False
    sow_as: str = "attention_weights"  # the name of the weights among the intermediates

    def setup(self):
        project = functools.partial(Projection, dtype=self.dtype, bias=self.bias)
        key_dim, value_dim = _head_dimensions(self)
        self.fused = value_dim == key_dim
        # Glorot's fan-out counts all three, so that initial scores are half as large and the softmax is flatter.
        if self.fused:
            self.query_key_value = project((3, self.heads, key_dim))
        else:
            self.query_key = project((2, self.heads, key_dim))
            self.value = project((self.heads, value_dim))
        self.output = Projection((self.width,), self.dtype, axes=2, bias=self.bias)
        self.drop = Dropout(self.dropout)

    def __call__(
        self, x: Array, mask: Array | Segments | None = None, position: Array | None = None, *, train: bool = False
    ) -> Array:
        """x [B, T, D], mask bool [B or 1, 1, T, T] (if left out, every token attends to all; `Segments`: by `splash_attention`,
        which sows no weights and has no dropout), position int32 [B, T] (if left out, 0 .. T - 1) -> [B, T, D]."""
        require_width(x, self.width, "MultiHeadSelfAttention")
        position = jnp.arange(x.shape[1])[None] if position is None else position
        query, key, value = self._project(x, position)
        return self._attend(query, _keys_values(key, value), mask, train)

    def init_cache(self, rows: int, length: int) -> tuple[Array, Array]:
        """Zeros for the keys and values of `length` tokens of each of N = `rows` hypotheses: [N, H, T, K] each."""
        dtype = activation_dtype(self.dtype)
        key, value = (jnp.zeros((rows, self.heads, length, dimension), dtype) for dimension in _head_dimensions(self))
        return key, value

    def step(
        self,
        x: Array,
        index: Array,
        cache: tuple[Array, Array],
        age: Array | None = None,
        rotation: Rotation | None = None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """One token of each hypothesis: x [N, 1, D], the token at position `age` int32 [N] of its sentence, attends to itself
        and the `age` tokens before it -> [N, 1, D], cache. Where all rows began at step 0, age is `index` int32 [], and may be
        left out. `rotation` is that of the ages, if there is one for several layers.

        The cache is a ring buffer of T slots. Step `index` writes slot index mod T of every row, although some rows began
        earlier than others. With the slots before the heads, XLA would transpose the whole cache at every step on CPU (52 ms a
        layer against 6 for N = 256, T = 80, 8 heads of 64).
        """
        require_width(x, self.width, "MultiHeadSelfAttention")
        age = jnp.broadcast_to(index, x.shape[:1]) if age is None else age
        query, *new = self._project(x, age[:, None] if rotation is None else rotation)
        slots = cache[0].shape[2]

        def write(past: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(past, new.swapaxes(1, 2), index % slots, axis=2)

        key, value = cache = tuple(map(write, cache, new))
        steps_ago = (index - jnp.arange(slots)) % slots
        mask = (steps_ago[None] <= age[:, None])[:, None, None]
        return self._attend(query, KeyValues(key.swapaxes(2, 3), value), mask, train=False), cache

    def _project(self, x: Array, position: Array | Rotation) -> tuple[Array, Array, Array]:
        """[B, T, D] -> query, key and value [B, T, H, K]."""
        if self.fused:
            fused = self.query_key_value(x)  # [B, T, 3, H, K]
            query, key, value = fused[:, :, 0], fused[:, :, 1], fused[:, :, 2]
        else:
            fused, value = self.query_key(x), self.value(x)
            query, key = fused[:, :, 0], fused[:, :, 1]
        if self.rotary:
            query, key = rotate(query, position), rotate(key, position)
        return query, key, value

    def _attend(self, query: Array, source: KeyValues, mask: Array | Segments | None, train: bool) -> Array:
        if isinstance(mask, Segments):
            return self.output(splash_attention(query, *source, mask))
        weights = attention_weights(query, source.key, mask)
        self.sow("intermediates", self.sow_as, weights)
        return self.output(attend(self.drop(weights, train=train), source.value))


class MultiHeadCrossAttention(nn.Module):
    """Attention of the target to the source. The source's keys and values are projected once (`keys_values`) and serve any
    number of queries: teacher forcing has T queries a row, beam search one for each hypothesis. The memory may have a width of
    its own. Raises ValueError where `heads` do not divide `width`, and for inputs of another width."""

    width: int
    heads: int
    key_width: int = 0  # head dimension of queries and keys; 0: width / heads
    value_width: int = 0  # head dimension of values; 0: that of the keys
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    bias: bool = False
    sow_as: str = "attention_weights"  # the name of the weights among the intermediates

    def setup(self):
        project = functools.partial(Projection, dtype=self.dtype, bias=self.bias)
        key_dim, value_dim = _head_dimensions(self)
        self.fused = value_dim == key_dim
        self.query = project((self.heads, key_dim))
        if self.fused:
            self.key_value = project((2, self.heads, key_dim))
        else:
            self.key = project((self.heads, key_dim))
            self.value = project((self.heads, value_dim))
        self.output = Projection((self.width,), self.dtype, axes=2, bias=self.bias)
        self.drop = Dropout(self.dropout)

    def keys_values(self, memory: Array) -> KeyValues:
        """memory [B, S, D] -> keys [B, H, K, S] and values [B, H, S, K], each with its head dimension as K."""
        if self.fused:
            fused = self.key_value(memory)
            return _keys_values(fused[:, :, 0], fused[:, :, 1])
        return _keys_values(self.key(memory), self.value(memory))

    def __call__(self, x: Array, source: KeyValues, mask: Array | Segments | None = None, *, train: bool = False) -> Array:
        """x [B, T, D], `source` as from `keys_values`, mask bool [B, 1, T or 1, S] (if left out, all keys are allowed;
        `Segments`: as in `MultiHeadSelfAttention`) -> [B, T, D]."""
        require_width(x, self.width, "MultiHeadCrossAttention")
        if isinstance(mask, Segments):
            return self.output(splash_attention(self.query(x), *source, mask))
        weights = attention_weights(self.query(x), source.key, mask)
        self.sow("intermediates", self.sow_as, weights)
        return self.output(attend(self.drop(weights, train=train), source.value))


def _head_dimensions(module: MultiHeadSelfAttention | MultiHeadCrossAttention) -> tuple[int, int]:
    """The head dimensions of keys and values. Raises ValueError where the heads do not divide the width, and for an odd one
    that should be rotated."""
    if not module.key_width and module.width % module.heads:
        name = type(module).__name__
        raise ValueError(f"{name}: heads={module.heads} should divide width={module.width}; or set key_width, of each head")
    key_dim = module.key_width or module.width // module.heads
    if getattr(module, "rotary", False) and key_dim % 2:
        raise ValueError(f"rotary positions need an even width of each head, not {key_dim}, of width={module.width}")
    return key_dim, module.value_width or key_dim


def _keys_values(key: Array, value: Array) -> KeyValues:
    """key and value [B, S, H, K] in the layout of `KeyValues`."""
    return KeyValues(key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))
