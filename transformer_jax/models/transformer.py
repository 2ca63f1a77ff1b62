"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017), and variants of it that are in use."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.config import ModelConfig
from transformer_jax.models.attention import (
    KeyValues,
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    causal_mask,
    segment_mask,
)
from transformer_jax.models.attention_kernel import Segments
from transformer_jax.models.attention_weights import attention_name
from transformer_jax.models.layers import (
    Dropout,
    EmbeddingTables,
    FeedForward,
    LayerNorm,
    Rotation,
    require_width,
    sinusoids,
)
from transformer_jax.models.recomputation import recomputed
from transformer_jax.models.ssru import SSRU

__all__ = ["DecoderLayer", "EncoderLayer", "Transformer"]

LayerCache = tuple[Array, Array] | Array  # of a decoder layer: keys and values, or the state of an SSRU


class Memory(NamedTuple):
    """The encoded source, constant while the decoder runs."""

    cross: tuple[KeyValues, ...]  # of each decoder layer
    segment: Array  # int32 [B, S]


class Residual(nn.Module):
    """Normalisation, dropout and residual connection around a sublayer f. post: norm(x + drop(f(x))), as in the paper; pre:
    x + drop(f(norm(x))) (Xiong et al. 2020)."""

    order: str
    dropout: float
    dtype: jnp.dtype
    epsilon: float

    def setup(self):
        self.norm = LayerNorm(self.dtype, self.epsilon)
        self.drop = Dropout(self.dropout)

    def before(self, x: Array) -> Array:
        return self.norm(x) if self.order == "pre" else x

    def after(self, x: Array, out: Array, *, train: bool = False) -> Array:
        x = x + self.drop(out, train=train)
        return self.norm(x) if self.order == "post" else x


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with its residual connection. [B, S, D] -> [B, S, D]

    With `causal_mask` it is the layer of a decoder-only model, which generates with `step`.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    number: int = 0  # among the encoder's layers, for the name of its attention weights

    def setup(self):
        self.attention = _self_attention(self.config, self.dtype, attention_name("encoder", self.number))
        self.attention_residual = _residual(self.config, self.dtype)
        self.feed_forward = _feed_forward(self.config, self.dtype)
        self.feed_forward_residual = _residual(self.config, self.dtype)

    def __call__(
        self, x: Array, mask: Array | Segments | None = None, position: Array | None = None, *, train: bool = False
    ) -> Array:
        """x [B, S, D], mask bool [B or 1, 1, S, S] (if left out, every token attends to all; `Segments`: by a kernel), position
        int32 [B, S] (if left out, 0 .. S - 1) -> [B, S, D]. Raises ValueError for another width than the config's."""
        require_width(x, self.config.width, "EncoderLayer")
        out = self.attention(self.attention_residual.before(x), mask, position, train=train)
        x = self.attention_residual.after(x, out, train=train)
        return self._feed(x, train)

    def init_cache(self, rows: int, length: int) -> tuple[Array, Array]:
        """As `MultiHeadSelfAttention.init_cache`."""
        return self.attention.init_cache(rows, length)

    def step(self, x: Array, index: Array, cache: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """As `MultiHeadSelfAttention.step`: x [N, 1, D] -> [N, 1, D], cache."""
        require_width(x, self.config.width, "EncoderLayer")
        out, cache = self.attention.step(self.attention_residual.before(x), index, cache)
        return self._feed(self.attention_residual.after(x, out), train=False), cache

    def _feed(self, x: Array, train: bool) -> Array:
        out = self.feed_forward(self.feed_forward_residual.before(x), train=train)
        return self.feed_forward_residual.after(x, out, train=train)


class DecoderLayer(nn.Module):
    """Causal self-attention or an `SSRU`, attention to the source, feed-forward. [B, T, D] -> [B, T, D]"""

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    number: int = 0  # among the decoder's layers, for the names of its attention weights

    def setup(self):
        config = self.config
        if config.autoregression == "ssru":
            self.recurrence = SSRU(config.width, self.dtype)
            self.recurrence_residual = _residual(config, self.dtype)
        else:
            self.attention = _self_attention(config, self.dtype, attention_name("decoder", self.number))
            self.attention_residual = _residual(config, self.dtype)
        self.cross_attention = MultiHeadCrossAttention(
            config.width,
            config.heads,
            config.key_width,
            config.value_width,
            config.attention_dropout,
            self.dtype,
            config.attention_bias,
            attention_name("cross", self.number),
        )
        self.cross_attention_residual = _residual(config, self.dtype)
        self.feed_forward = _feed_forward(config, self.dtype)
        self.feed_forward_residual = _residual(config, self.dtype)

    def keys_values(self, memory: Array) -> KeyValues:
        """The source's keys and values for this layer: memory [B, S, D] -> keys [B, H, K, S], values [B, H, S, K]."""
        return self.cross_attention.keys_values(memory)

    def init_cache(self, rows: int, length: int) -> LayerCache:
        """As `MultiHeadSelfAttention.init_cache` or `SSRU.init_cache`."""
        if self.config.autoregression == "ssru":
            return self.recurrence.init_cache(rows)
        return self.attention.init_cache(rows, length)

    def __call__(
        self,
        x: Array,
        source: KeyValues,
        mask: Array | Segments | None = None,
        cross_mask: Array | Segments | None = None,
        position: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Teacher forcing: x [B, T, D], `source` as from `keys_values`, masks bool [B or 1, 1, T, T] (if left out, that of
        `causal_mask`, as in `step`) and [B, 1, T or 1, S] (if left out, every token attends to the whole source), or
        `Segments`, position int32 [B, T] (if left out, 0 .. T - 1) -> [B, T, D]. Raises ValueError for another width than the
        config's."""
        require_width(x, self.config.width, "DecoderLayer")
        if self.config.autoregression == "ssru":
            out = self.recurrence(self.recurrence_residual.before(x), position)
            x = self.recurrence_residual.after(x, out, train=train)
        else:
            mask = causal_mask(x.shape[1]) if mask is None else mask
            out = self.attention(self.attention_residual.before(x), mask, position, train=train)
            x = self.attention_residual.after(x, out, train=train)
        return self._rest(x, source, cross_mask, train=train)

    def step(
        self,
        x: Array,
        index: Array,
        age: Array | None,
        source: KeyValues,
        cross_mask: Array | None,
        cache: LayerCache,
        rotation: Rotation | None = None,
    ) -> tuple[Array, LayerCache]:
        """One token of each hypothesis: x [N, 1, D], cross_mask bool [B, 1, 1, S] (None: the whole source) -> [N, 1, D], cache;
        index, age (None: `index`), cache and rotation as in `MultiHeadSelfAttention.step`, the first cache from `init_cache`.
        The source has B rows: the hypotheses of a sentence are its queries."""
        require_width(x, self.config.width, "DecoderLayer")
        if self.config.autoregression == "ssru":
            out, cache = self.recurrence.step(self.recurrence_residual.before(x), cache)
            x = self.recurrence_residual.after(x, out)
        else:
            out, cache = self.attention.step(self.attention_residual.before(x), index, cache, age, rotation)
            x = self.attention_residual.after(x, out)
        rows = source.key.shape[0]
        x = self._rest(x.reshape(rows, -1, x.shape[-1]), source, cross_mask, train=False)  # [B, beams, D]
        return x.reshape(-1, 1, x.shape[-1]), cache

    def _rest(self, x: Array, source: KeyValues, cross_mask: Array | Segments | None, train: bool) -> Array:
        out = self.cross_attention(self.cross_attention_residual.before(x), source, cross_mask, train=train)
        x = self.cross_attention_residual.after(x, out, train=train)
        out = self.feed_forward(self.feed_forward_residual.before(x), train=train)
        return self.feed_forward_residual.after(x, out, train=train)


class Transformer(EmbeddingTables):
    """Encoder and decoder under the contract of `models/seq2seq.py`, with the variants that `ModelConfig` names.

    The first layer's input: rows of the embedding times sqrt(D), plus positions unless they are rotary, then dropout.
    """

    def setup(self):
        super().setup()
        config, dtype = self.config, self.dtype
        if config.positions == "learned":
            start = nn.initializers.normal(config.width**-0.5)
            self.source_positions = self.param("source_positions", start, (config.max_positions, config.width))
            self.target_positions = self.param("target_positions", start, (config.max_positions, config.width))
        self.drop = Dropout(config.dropout)
        self.encoder = [EncoderLayer(config, dtype, number) for number in range(config.num_layers)]
        self.decoder = [DecoderLayer(config, dtype, number) for number in range(config.decoder_depth)]
        if config.norm == "pre":
            self.encoder_norm = LayerNorm(dtype, config.norm_epsilon)
            self.decoder_norm = LayerNorm(dtype, config.norm_epsilon)

    def __call__(self, batch: Any, *, train: bool) -> Array:
        """Teacher forcing: the logits of every target token in one pass, float32 [B, T, V]."""
        states = self._encode(batch.source, batch.source_segment, batch.source_position, train)
        remat = self.remat if train else "none"
        if remat == "none":
            sources = [layer.keys_values(states) for layer in self.decoder]
        else:  # each layer keeps the encoder's output, which is one for all, and not its own keys and values
            sources = [states] * len(self.decoder)
        x = self._read_target(batch.target_input, batch.target_position, train)
        mask = self._allowed(batch.target_segment, batch.target_segment, train, causal=True)
        cross_mask = self._allowed(batch.target_segment, batch.source_segment, train)

        def decode(layer: DecoderLayer, x: Array, source: Any, mask: Any, cross_mask: Any, position: Array) -> Array:
            source = source if remat == "none" else layer.keys_values(source)
            return layer(x, source, mask, cross_mask, position, train=train)

        for layer, source in zip(self.decoder, sources, strict=True):
            x = recomputed(decode, remat)(layer, x, source, mask, cross_mask, batch.target_position)
        return self._logits(x)

    def encode(self, source: Array, segment: Array, position: Array, *, train: bool = False) -> Memory:
        """Source ids, segment and position int32 [B, S] -> the memory that all decoding steps share."""
        states = self._encode(source, segment, position, train)
        return Memory(tuple(layer.keys_values(states) for layer in self.decoder), segment)

    def init_cache(self, memory: Memory, beams: int, length: int) -> tuple[LayerCache, ...]:
        """Zeros for the keys and values of `length` tokens of each hypothesis: two arrays [N, H, length, K] for each layer, K
        the head dimension of keys or of values. With `autoregression=ssru` one array [N, D] for each, whatever the length."""
        return tuple(layer.init_cache(memory.segment.shape[0] * beams, length) for layer in self.decoder)

    def decode_step(
        self, token: Array, index: Array, memory: Memory, cache: tuple[Any, ...], start: Array | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        """The logits of the token after `token` int32 [N], which is at position index - start -> float32 [N, V], cache. index
        is int32 [], start int32 [N], the step at which each hypothesis began (0 where it is left out)."""
        age, rotation = jnp.broadcast_to(index if start is None else index - start, token.shape), None
        if self.config.autoregression == "attention":
            keys, _ = cache[0]
            length, width = keys.shape[2:]
            # A row that has ended and waits for its next sentence may be beyond the last position.
            age = jnp.minimum(age, length - 1)
            rotation = Rotation.looked_up(age[:, None], width, length) if self.config.positions == "rotary" else None
        elif self.config.positions == "learned":
            age = jnp.minimum(age, self.config.max_positions - 1)
        x = self._read_target(token[:, None], age[:, None], train=False)
        cross_mask = (memory.segment > 0)[:, None, None]  # [B, 1, 1, S]
        new_cache = []
        for layer, source, past in zip(self.decoder, memory.cross, cache, strict=True):
            x, past = layer.step(x, index, age, source, cross_mask, past, rotation)
            new_cache.append(past)
        return self._logits(x)[:, 0], tuple(new_cache)

    def _encode(self, source: Array, segment: Array, position: Array, train: bool) -> Array:
        """The encoder's output, [B, S, D]."""
        x = self._position(self.embed_source(source), position, "source_positions")
        x = self.drop(x, train=train)
        mask = self._allowed(segment, segment, train)

        def encode(layer: EncoderLayer, x: Array, mask: Any, position: Array) -> Array:
            return layer(x, mask, position, train=train)

        for layer in self.encoder:
            x = recomputed(encode, self.remat if train else "none")(layer, x, mask, position)
        return self.encoder_norm(x) if self.config.norm == "pre" else x

    def _allowed(self, query: Array, key: Array, train: bool, causal: bool = False) -> Array | Segments:
        """Where attention is allowed between tokens of these segments: a mask, or for a kernel `Segments`, in training where
        nobody asks for attention weights."""
        if train and self.config.attention_kernel == "splash" and not self.is_mutable_collection("intermediates"):
            return Segments(query, key, causal)
        return causal_mask(query) if causal else segment_mask(query, key)

    def _read_target(self, ids: Array, position: Array, train: bool) -> Array:
        x = self.embed_target(ids)
        if self.config.zero_start:  # the start is what stands at position 0
            x = jnp.where(position[..., None] == 0, 0, x)
        x = self._position(x, position, "target_positions")
        return self.drop(x, train=train)

    def _position(self, x: Array, position: Array, table: str) -> Array:
        if self.config.positions == "rotary":
            return x
        if self.config.positions == "learned":
            return x + jnp.take(getattr(self, table), position, axis=0).astype(x.dtype)
        position = position + self.config.first_position
        return x + sinusoids(position, x.shape[-1], self.config.positions).astype(x.dtype)

    def _logits(self, x: Array) -> Array:
        return self.logits(self.decoder_norm(x) if self.config.norm == "pre" else x)


def _self_attention(config: ModelConfig, dtype: jnp.dtype, sow_as: str) -> MultiHeadSelfAttention:
    widths, rotary = (config.width, config.heads, config.key_width, config.value_width), config.positions == "rotary"
    return MultiHeadSelfAttention(*widths, rotary, config.attention_dropout, dtype, config.attention_bias, sow_as)


def _feed_forward(config: ModelConfig, dtype: jnp.dtype) -> FeedForward:
    return FeedForward(config.width, config.feed_forward_width, config.activation, config.activation_dropout, dtype)


def _residual(config: ModelConfig, dtype: jnp.dtype) -> Residual:
    return Residual(config.norm, config.dropout, dtype, config.norm_epsilon)
