"""LSTM encoder-decoders: one context vector (Sutskever et al. 2014), or attention (Bahdanau et al. 2015, Luong et al. 2015).

Letters as in `models/seq2seq.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.attention_weights import attention_name
from transformer_jax.models.layers import Dropout, EmbeddingTables, Projection
from transformer_jax.models.lstm_attention import GlobalAttention
from transformer_jax.models.lstm_layer import LSTMLayer, LSTMState
from transformer_jax.models.recomputation import recomputed

__all__ = ["LSTM"]

_REVERSED = {"forward": (False,), "backward": (True,), "both": (False, True)}
_FIRST_RESIDUAL = 2  # layers 0 and 1 have none (Wu et al. 2016, section 3.1)


class Cache(NamedTuple):
    """The decoder's state after the tokens so far, a row for each hypothesis."""

    states: tuple[LSTMState, ...]  # of each layer, [N, D]
    feed: Array | None  # [N, D]: the attentional output of the step before; None without input feeding


class Memory(NamedTuple):
    """The encoded source, constant while the decoder runs. Without attention keys and values are None."""

    states: tuple[LSTMState, ...]  # of each encoder layer at the end of the sentence, both directions side by side, [B, D]
    segment: Array  # int32 [B, S]
    keys: Array | None  # [B, S, D], projected
    values: Array | None  # [B, S, D]


class LSTM(EmbeddingTables):
    """Encoder and decoder under the contract of `models/seq2seq.py`.

    Decoder layer l starts from the last state of encoder layer l; from the third on a layer adds its input to its output. With
    attention, the top layer's output h and its context c make tanh(W [c; h]) (Luong et al. 2015, eq. 5), from which the next
    token is predicted; without, from h itself. Dropout is applied between layers, not between steps (Zaremba et al. 2014).
    """

    def setup(self):
        super().setup()
        config, dtype = self.config, self.dtype
        directions = _REVERSED[config.direction]
        self.encoder = [
            [LSTMLayer(config.width // len(directions), right_to_left, dtype) for right_to_left in directions]
            for _ in range(config.num_layers)
        ]
        self.decoder = [LSTMLayer(config.width, dtype=dtype) for _ in range(config.num_layers)]
        if config.attention != "none":
            self.attention = GlobalAttention(config.attention, config.width, dtype)
            self.combine = Projection((config.width,), dtype)
        if config.input_feeding:
            self.feed = Projection((4 * config.width,), dtype)
        self.drop = Dropout(config.dropout)

    def __call__(self, batch: Any, *, train: bool) -> Array:
        """Teacher forcing: the logits of every target token, float32 [B, T, V]."""
        memory = self.encode(batch.source, batch.source_segment, batch.source_position, train=train)
        x = self.drop(self.embed_target(batch.target_input), train=train)
        if self.config.input_feeding:
            x, weights = self._decode_feeding(x, memory, train)
        else:
            mask = batch.target_segment > 0
            for number, (layer, start) in enumerate(zip(self.decoder, memory.states, strict=True)):
                out, _ = self._run(layer, self.drop(x, train=train) if number else x, mask, start, train)
                x = _with_residual(number, x, out)
            x, weights = recomputed(LSTM._attend, self._remat(train))(self, x, memory)
        self._sow_attention(weights)
        return self.logits(self.drop(x, train=train))

    def encode(self, source: Array, segment: Array, position: Array, *, train: bool = False) -> Memory:
        """Source ids, segment and position int32 [B, S] -> the memory that all decoding steps share. Tokens are read in the
        order of the row; `position` is not used."""
        x = self.drop(self.embed_source(source), train=train)
        states = []
        for number, directions in enumerate(self.encoder):
            outputs = [
                self._run(layer, self.drop(x, train=train) if number else x, segment > 0, None, train) for layer in directions
            ]
            x = _with_residual(number, x, jnp.concatenate([hidden for hidden, _ in outputs], axis=-1))
            finals = [final for _, final in outputs]
            states.append(jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *finals))
        if self.config.attention == "none":
            return Memory(tuple(states), segment, None, None)
        return Memory(tuple(states), segment, self.attention.keys(x), x)

    def init_cache(self, memory: Memory, beams: int, length: int) -> Cache:
        """The encoder's last states, once for each hypothesis, leaves [N, D]. An LSTM's state has one size for every `length`,
        which is not used."""
        states = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), memory.states)
        return Cache(states, jnp.zeros_like(states[-1].hidden) if self.config.input_feeding else None)

    def decode_step(
        self, token: Array, index: Array, memory: Memory, cache: Cache, start: Array | None = None
    ) -> tuple[Array, Cache]:
        """The logits of the token after `token` int32 [N] -> float32 [N, V], cache. An LSTM does not use positions (`index`,
        `start`)."""
        gates = self.decoder[0].input(self.embed_target(token[:, None])[:, 0])
        x, weights, cache = self._step(gates, memory, cache, train=False)
        self._sow_attention(weights)
        return self.logits(x[:, None])[:, 0], cache

    def _remat(self, train: bool) -> str:
        return self.remat if train else "none"

    def _run(self, layer: LSTMLayer, x: Array, mask: Array, start: LSTMState | None, train: bool) -> tuple[Array, LSTMState]:
        """The layer over all steps."""
        return recomputed(LSTMLayer.__call__, self._remat(train))(layer, x, mask, start)

    def _decode_feeding(self, x: Array, memory: Memory, train: bool) -> tuple[Array, Array]:
        """Teacher forcing as a loop over decoding steps: with input feeding a step needs the attentional output of the step
        before."""

        def step(model: "LSTM", gates: Array, memory: Memory, cache: Cache) -> tuple[Array, Array | None, Cache]:
            return model._step(gates, memory, cache, train)

        def body(model: "LSTM", cache: Cache, gates: Array, memory: Memory) -> tuple[Cache, tuple[Array, Array]]:
            x, weights, cache = recomputed(step, self._remat(train), in_loop=True)(model, gates, memory, cache)
            return cache, (x, weights[:, 0])

        loop = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=(1, nn.broadcast),
            out_axes=1,
        )
        return loop(self, self.init_cache(memory, 1, 0), self.decoder[0].input(x), memory)[1]

    def _step(self, gates: Array, memory: Memory, cache: Cache, train: bool) -> tuple[Array, Array | None, Cache]:
        """One token of each hypothesis: gates [N, 4D] -> the decoder's output [N, D], weights [B, beams, S], cache."""
        if self.config.input_feeding:
            gates = gates + self.feed(cache.feed)
        states, x = [], None
        for number, (layer, state) in enumerate(zip(self.decoder, cache.states, strict=True)):
            state = layer.step(layer.input(self.drop(x, train=train)) if number else gates, state)
            states.append(state)
            x = _with_residual(number, x, state.hidden)
        # The source has B rows: the hypotheses of a sentence are its queries, [B, beams, D].
        out, weights = self._attend(x.reshape(memory.segment.shape[0], -1, x.shape[-1]), memory)
        out = out.reshape(x.shape)
        return out, weights, Cache(tuple(states), out if self.config.input_feeding else None)

    def _attend(self, x: Array, memory: Memory) -> tuple[Array, Array | None]:
        """The attentional output of x [B, T, D], and weights [B, T, S]; x itself and None without attention."""
        if self.config.attention == "none":
            return x, None
        context, weights = self.attention(x, memory.keys, memory.values, memory.segment > 0)
        return jnp.tanh(self.combine(jnp.concatenate([context, x], axis=-1))), weights

    def _sow_attention(self, weights: Array | None) -> None:
        """weights [B, T, S], of the only layer and head that attend to the source."""
        if weights is not None:
            self.sow("intermediates", attention_name("cross", 0), weights[:, None])


def _with_residual(number: int, x: Array | None, out: Array) -> Array:
    """The output of layer `number`, with a residual connection from its input x where the layer has one."""
    return out + x if number >= _FIRST_RESIDUAL else out
