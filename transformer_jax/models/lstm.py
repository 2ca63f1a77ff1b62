"""LSTM encoder-decoders: one context vector (Sutskever et al. 2014), or attention (Bahdanau et al. 2015, Luong et al. 2015).

Letters as in `models/seq2seq.py`; U is the width of one LSTM. The weights of attention are sown as `intermediates` under the
name `cross_attention`, [B, 1, T, S].
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.layers import Dropout, EmbeddingTables, Projection
from transformer_jax.models.products import activation_dtype, matrix_gradient, product, rows_by_matrix

__all__ = [
    "LSTM",
    "LSTMLayer",
    "LSTMState",
    "additive_scores",
    "cosine_scores",
    "dot_scores",
    "lstm_cell",
    "scaled_dot_scores",
]

_REVERSED = {"forward": (False,), "backward": (True,), "both": (False, True)}
_FIRST_RESIDUAL = 2  # layers 0 and 1 have none (Wu et al. 2016, section 3.1)


class LSTMState(NamedTuple):
    """What one LSTM remembers of each row."""

    cell: Array  # float32 [B, U]
    hidden: Array  # [B, U]


class Cache(NamedTuple):
    """What one hypothesis remembers of its tokens so far."""

    states: tuple[LSTMState, ...]  # of each layer, [N, D]
    feed: Array | None  # [N, D]: what attention made of the step before; None without input feeding


class Memory(NamedTuple):
    """What the decoder knows of the source. Without attention there is the last state and nothing else."""

    states: tuple[LSTMState, ...]  # of each layer at the end of the sentence, both directions side by side, [B, D]
    segment: Array  # int32 [B, S]
    keys: Array | None  # [B, S, D], made ready for the scores
    values: Array | None  # [B, S, D]


def lstm_cell(gates: Array, cell: Array) -> LSTMState:
    """One step (Hochreiter and Schmidhuber 1997, with forget gates: Gers et al. 2000).

        c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    gates [B, 4U] are i, f, g, o before their functions, cell [B, U] is c -> c' and h', float32 [B, U]. The 1 lets a fresh LSTM
    remember (Jozefowicz et al. 2015). Computed in float32.
    """
    enter, keep, new, leave = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    cell = nn.sigmoid(keep + 1) * cell + nn.sigmoid(enter) * jnp.tanh(new)
    return LSTMState(cell, nn.sigmoid(leave) * jnp.tanh(cell))


def dot_scores(query: Array, key: Array) -> Array:
    """q . k (Luong et al. 2015, eq. 8). query [B, T, K], key [B, S, K] -> float32 [B, T, S]."""
    return jnp.einsum("btk,bsk->bts", query, key, preferred_element_type=jnp.float32)


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
    return jnp.einsum("btsk,k->bts", hidden, vector.astype(query.dtype), preferred_element_type=jnp.float32)


def _unit(x: Array) -> Array:
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + 1e-12)).astype(x.dtype)


class LSTMLayer(nn.Module):
    """One LSTM over the rows of a batch, from left to right or from right to left."""

    width: int
    right_to_left: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.input = Projection((4 * self.width,), self.dtype, bias=True)
        self.recurrent = self.param("recurrent", nn.initializers.xavier_uniform(), (self.width, 4 * self.width))

    def __call__(self, x: Array, mask: Array, start: LSTMState | None = None) -> tuple[Array, LSTMState]:
        """x [B, S, D], mask bool [B, S] -> hidden [B, S, U] and the state after the last true token of each row,
        leaves [B, U]. `start` is the state before the first token; zeros where it is left out.

        Padding leaves the state as it is. From right to left it comes first, and the state is still the start's where the
        sentence begins; so a row's result does not depend on its padding in either direction.
        """
        rows = x.shape[0]
        if start is None:
            nothing = jnp.zeros((rows, self.width), jnp.float32)
            start = LSTMState(nothing, nothing.astype(activation_dtype(self.dtype)))
        gates = self.input(x)  # of all steps in one product; the loop below has what depends on the step before
        final, hidden = _read(
            gates.swapaxes(0, 1), mask.swapaxes(0, 1), self.recurrent, start, jnp.dtype(self.dtype), self.right_to_left
        )
        return hidden.swapaxes(0, 1), final

    def step(self, gates: Array, state: LSTMState) -> LSTMState:
        """One step of every row; gates [N, 4U] is `input` of what is read, state [N, U] -> state [N, U]."""
        return _advance(gates + product(state.hidden, self.recurrent, self.dtype), state)


def _advance(gates: Array, state: LSTMState) -> LSTMState:
    cell, hidden = lstm_cell(gates, state.cell)
    return LSTMState(cell, hidden.astype(state.hidden.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _read(
    gates: Array, real: Array, weight: Array, start: LSTMState, dtype: jnp.dtype, reverse: bool
) -> tuple[LSTMState, Array]:
    """All steps of a layer: gates [S, B, 4U], real bool [S, B], weight float32 [U, 4U] -> the last state, hidden [S, B, U].

    Its gradient is written out, because that of `weight` is one product over all steps: of a loop JAX would make it step by
    step, and add up as many matrices. Operands of products are rounded to `dtype`.
    """
    return _read_forward(gates, real, weight, start, dtype, reverse)[0]


def _read_forward(
    gates: Array, real: Array, weight: Array, start: LSTMState, dtype: jnp.dtype, reverse: bool
) -> tuple[Any, Any]:
    weight = weight.astype(dtype)

    def step(state: LSTMState, at: tuple[Array, Array]) -> tuple[LSTMState, tuple[Array, LSTMState]]:
        gates, real = at
        gates = gates + rows_by_matrix(state.hidden.astype(dtype), weight, gates.dtype)
        new = jax.tree.map(lambda new, old: jnp.where(real[:, None], new, old), _advance(gates, state), state)
        return new, (new.hidden, gates, state)

    final, (hidden, gates, before) = jax.lax.scan(step, start, (gates, real), reverse=reverse)
    return (final, hidden), (gates, real, weight, before)


def _read_backward(
    dtype: jnp.dtype, reverse: bool, kept: Any, gradient: tuple[LSTMState, Array]
) -> tuple[Array, None, Array, LSTMState]:
    gates, real, weight, before = kept

    def step(after: LSTMState, at: tuple[Array, ...]) -> tuple[LSTMState, Array]:
        of_hidden, gates, real, cell = at
        after = after._replace(hidden=after.hidden + of_hidden)
        new, old = (jax.tree.map(lambda x, on=on: jnp.where(on[:, None], x, 0), after) for on in (real, ~real))
        _, of_step = jax.vjp(lstm_cell, gates, cell)
        of_gates, of_cell = of_step(LSTMState(new.cell, new.hidden.astype(jnp.float32)))
        of_before = rows_by_matrix(of_gates.astype(dtype), weight, old.hidden.dtype, transposed=True)
        return LSTMState(old.cell + of_cell, old.hidden + of_before), of_gates

    final, of_hidden = gradient
    start, of_gates = jax.lax.scan(step, final, (of_hidden, gates, real, before.cell), reverse=not reverse)
    return of_gates, None, matrix_gradient(before.hidden.astype(dtype), of_gates.astype(dtype)), start


_read.defvjp(_read_forward, _read_backward)


class GlobalAttention(nn.Module):
    """weights = softmax over the source of score(query, key); context = weights values (Luong et al. 2015, section 3.1).

    `general` is q W k (eq. 8) and `additive` v tanh(W q + U k): keys are projected once a sentence. `cosine` has one learned
    sharpness, without which no weight could exceed another by more than e^2 (Graves et al. 2014, eq. 5).
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
        """[B, S, D] -> [B, S, D]"""
        return self.key(memory) if self.kind in ("general", "additive") else memory

    def __call__(self, query: Array, keys: Array, values: Array, mask: Array) -> tuple[Array, Array]:
        """query [B, T, D], keys and values [B, S, D], mask bool [B, S] -> context [B, T, D], weights float32 [B, T, S]."""
        # Not -inf: an empty row would be NaN, and so would its gradient.
        scores = jnp.where(mask[:, None], self._scores(query, keys), jnp.finfo(jnp.float32).min)
        weights = nn.softmax(scores)
        return jnp.einsum("bts,bsd->btd", weights.astype(values.dtype), values), weights

    def _scores(self, query: Array, keys: Array) -> Array:
        if self.kind == "additive":
            return additive_scores(self.query(query), keys, self.vector)
        if self.kind == "cosine":
            return cosine_scores(query, keys) * self.sharpness[None, None]
        return scaled_dot_scores(query, keys) if self.kind == "scaled_dot" else dot_scores(query, keys)


class LSTM(EmbeddingTables):
    """Encoder and decoder under the contract of `models/seq2seq.py`.

    Decoder layer l starts from the last state of encoder layer l; from the third on a layer adds its input to its output. With
    attention, the top layer's output h and its context c make tanh(W [c; h]) (Luong et al. 2015, eq. 5), from which the next
    token is predicted; without, h itself predicts. Dropout is on what goes up from layer to layer (Zaremba et al. 2014).
    """

    def setup(self):
        super().setup()
        config, dtype = self.config, self.dtype
        reading = _REVERSED[config.direction]
        self.encoder = [
            [LSTMLayer(config.width // len(reading), right_to_left, dtype) for right_to_left in reading]
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
            real = batch.target_segment > 0
            for number, (layer, start) in enumerate(zip(self.decoder, memory.states, strict=True)):
                out, _ = layer(self.drop(x, train=train) if number else x, real, start)
                x = _above(number, x, out)
            x, weights = self._attend(x, memory)
        if weights is not None:
            self.sow("intermediates", "cross_attention", weights[:, None])
        return self.logits(self.drop(x, train=train))

    def encode(self, source: Array, segment: Array, position: Array, *, train: bool = False) -> Memory:
        """Source ids, segment and position int32 [B, S] -> what all decoding steps share. The order of the tokens is their
        place in the row, whatever `position` says."""
        x = self.drop(self.embed_source(source), train=train)
        states = []
        for number, readers in enumerate(self.encoder):
            read = [reader(self.drop(x, train=train) if number else x, segment > 0) for reader in readers]
            x = _above(number, x, jnp.concatenate([hidden for hidden, _ in read], axis=-1))
            states.append(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *[final for _, final in read]))
        if self.config.attention == "none":
            return Memory(tuple(states), segment, None, None)
        return Memory(tuple(states), segment, self.attention.keys(x), x)

    def init_cache(self, memory: Memory, beams: int, length: int) -> Cache:
        """The encoder's last states, once for each hypothesis, leaves [N, D]; an LSTM needs no more room for a longer
        translation, so `length` is not looked at."""
        states = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), memory.states)
        return Cache(states, jnp.zeros_like(states[-1].hidden) if self.config.input_feeding else None)

    def decode_step(
        self, token: Array, index: Array, memory: Memory, cache: Cache, start: Array | None = None
    ) -> tuple[Array, Cache]:
        """The logits of what follows `token` int32 [N] -> float32 [N, V], cache. Places in the row (`index`, `start`)
        mean nothing here."""
        gates = self.decoder[0].input(self.embed_target(token[:, None])[:, 0])
        x, weights, cache = self._step(gates, memory, cache, train=False)
        if weights is not None:
            self.sow("intermediates", "cross_attention", weights[:, None])
        return self.logits(x[:, None])[:, 0], cache

    def _decode_feeding(self, x: Array, memory: Memory, train: bool) -> tuple[Array, Array]:
        """With input feeding every step needs the whole of the one before: the steps of decoding, in a loop."""

        def body(model: "LSTM", cache: Cache, gates: Array, memory: Memory) -> tuple[Cache, tuple[Array, Array]]:
            x, weights, cache = model._step(gates, memory, cache, train)
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
        """One token of each hypothesis, gates [N, 4D] -> what predicts the next [N, D], weights [B, beams, S], cache."""
        if self.config.input_feeding:
            gates = gates + self.feed(cache.feed)
        states, x = [], None
        for number, (layer, state) in enumerate(zip(self.decoder, cache.states, strict=True)):
            state = layer.step(layer.input(self.drop(x, train=train)) if number else gates, state)
            states.append(state)
            x = _above(number, x, state.hidden)
        # The source's rows are B: the hypotheses of a sentence stand in line as its queries.
        out, weights = self._attend(x.reshape(memory.segment.shape[0], -1, x.shape[-1]), memory)
        out = out.reshape(x.shape)
        return out, weights, Cache(tuple(states), out if self.config.input_feeding else None)

    def _attend(self, x: Array, memory: Memory) -> tuple[Array, Array | None]:
        """[B, T, D] -> [B, T, D], weights [B, T, S]"""
        if self.config.attention == "none":
            return x, None
        context, weights = self.attention(x, memory.keys, memory.values, memory.segment > 0)
        return jnp.tanh(self.combine(jnp.concatenate([context, x], axis=-1))), weights


def _above(number: int, x: Array | None, out: Array) -> Array:
    """What layer `number` hands up, which read x and gave out."""
    return out + x if number >= _FIRST_RESIDUAL else out
