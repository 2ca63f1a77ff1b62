"""One LSTM layer over the rows of a batch, and its gradient.

Letters as in `models/seq2seq.py`; U is the width of the layer.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.layers import Projection
from transformer_jax.models.matmul import activation_dtype, matmul, product, weight_gradient

__all__ = ["LSTMLayer", "LSTMState", "lstm_cell"]


class LSTMState(NamedTuple):
    """The state of one layer after a token."""

    cell: Array  # float32 [B, U]
    hidden: Array  # [B, U]


def lstm_cell(gates: Array, cell: Array) -> LSTMState:
    """One step (Hochreiter and Schmidhuber 1997, with forget gates: Gers et al. 2000).

        c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    gates [B, 4U] are i, f, g, o before their functions (input gate, forget gate, candidate, output gate), cell [B, U] is c ->
    c' and h', float32 [B, U]. The 1 keeps the forget gate open at the start of training (Jozefowicz et al. 2015). Computed in
    float32.
    """
    input_gate, forget_gate, candidate, output_gate = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    cell = nn.sigmoid(forget_gate + 1) * cell + nn.sigmoid(input_gate) * jnp.tanh(candidate)
    return LSTMState(cell, nn.sigmoid(output_gate) * jnp.tanh(cell))


class LSTMLayer(nn.Module):
    """One LSTM over the rows of a batch, from left to right or from right to left."""

    width: int
    right_to_left: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.input = Projection((4 * self.width,), self.dtype, bias=True)
        self.recurrent = self.param("recurrent", nn.initializers.xavier_uniform(), (self.width, 4 * self.width))

    def __call__(self, x: Array, mask: Array, start: LSTMState | None = None) -> tuple[Array, LSTMState]:
        """x [B, S, D], mask bool [B, S] -> hidden [B, S, U] and the state after the last token of each row that the mask has,
        leaves [B, U]. `start` is the state before the first token; zeros where it is left out.

        Padding leaves the state unchanged. From right to left, padding comes before the sentence, which therefore begins with
        `start` all the same: a row's result does not depend on its padding in either direction.
        """
        if start is None:
            zeros = jnp.zeros((x.shape[0], self.width), jnp.float32)
            start = LSTMState(zeros, zeros.astype(activation_dtype(self.dtype)))
        gates = self.input(x)  # one product for all steps: only what depends on the step before is computed in the loop
        final, hidden = _scan(
            gates.swapaxes(0, 1), mask.swapaxes(0, 1), self.recurrent, start, jnp.dtype(self.dtype), self.right_to_left
        )
        return hidden.swapaxes(0, 1), final

    def step(self, gates: Array, state: LSTMState) -> LSTMState:
        """One step of every row: gates [N, 4U], the projection `input` of the layer's input, and state [N, U] -> state
        [N, U]."""
        return _advance(gates + product(state.hidden, self.recurrent, self.dtype), state)


def _advance(gates: Array, state: LSTMState) -> LSTMState:
    cell, hidden = lstm_cell(gates, state.cell)
    return LSTMState(cell, hidden.astype(state.hidden.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _scan(
    gates: Array, mask: Array, weight: Array, start: LSTMState, dtype: jnp.dtype, reverse: bool
) -> tuple[LSTMState, Array]:
    """All steps of a layer: gates [S, B, 4U], mask bool [S, B], weight float32 [U, 4U] -> the last state, hidden [S, B, U].

    Operands of products are rounded to `dtype`. The gradient is written by hand, so that there is no forward-mode derivative.
    """
    # JAX's gradient of a loop computes the gradient of `weight` step by step and adds up as many matrices; here it is one
    # product over all steps. With JAX's own, a training step of configs/demo_lstm_attention.py takes 139 ms, with this one 110
    # ms (float32, 2 CPU cores, the fastest of 12 alternating measurements each), and the last bits differ.
    return _scan_forward(gates, mask, weight, start, dtype, reverse)[0]


def _scan_forward(
    gates: Array, mask: Array, weight: Array, start: LSTMState, dtype: jnp.dtype, reverse: bool
) -> tuple[Any, Any]:
    weight = weight.astype(dtype)

    def step(state: LSTMState, inputs: tuple[Array, Array]) -> tuple[LSTMState, tuple[Array, LSTMState]]:
        gates, mask = inputs
        gates = gates + matmul(state.hidden.astype(dtype), weight, gates.dtype)
        new = jax.tree.map(lambda new, old: jnp.where(mask[:, None], new, old), _advance(gates, state), state)
        return new, (new.hidden, gates, state)

    final, (hidden, gates, before) = jax.lax.scan(step, start, (gates, mask), reverse=reverse)
    return (final, hidden), (gates, mask, weight, before)


def _scan_backward(
    dtype: jnp.dtype, reverse: bool, residuals: Any, gradient: tuple[LSTMState, Array]
) -> tuple[Array, None, Array, LSTMState]:
    """From the gradient of the last state and of hidden to those of gates, weight and start. Names that begin with d are
    gradients."""
    gates, mask, weight, before = residuals

    def step(d_state: LSTMState, inputs: tuple[Array, ...]) -> tuple[LSTMState, Array]:
        d_hidden, gates, mask, cell = inputs
        d_state = d_state._replace(hidden=d_state.hidden + d_hidden)
        # The gradient of a masked step passes through to the state before it.
        through_step, past_step = (jax.tree.map(lambda x, on=on: jnp.where(on[:, None], x, 0), d_state) for on in (mask, ~mask))
        _, cell_gradient = jax.vjp(lstm_cell, gates, cell)
        d_gates, d_cell = cell_gradient(LSTMState(through_step.cell, through_step.hidden.astype(jnp.float32)))
        d_before = matmul(d_gates.astype(dtype), weight, past_step.hidden.dtype, transposed=True)
        return LSTMState(past_step.cell + d_cell, past_step.hidden + d_before), d_gates

    d_final, d_hidden = gradient
    d_start, d_gates = jax.lax.scan(step, d_final, (d_hidden, gates, mask, before.cell), reverse=not reverse)
    return d_gates, None, weight_gradient(before.hidden.astype(dtype), d_gates.astype(dtype)), d_start


_scan.defvjp(_scan_forward, _scan_backward)
