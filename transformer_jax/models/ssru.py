"""The simpler simple recurrent unit, by which a decoder layer sees the tokens before without attending to them.

Letters as in `models/seq2seq.py`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.models.layers import Projection, require_width
from transformer_jax.models.matmul import activation_dtype

__all__ = ["SSRU"]


class SSRU(nn.Module):
    """What stands in the place of a decoder's self-attention (Kim et al. 2019, "From Research to Production and Back", section
    3.1; Marian's `--dec-cell ssru`):

        f_t = sigmoid(W_f x_t + b_f)
        c_t = f_t c_{t-1} + (1 - f_t) W x_t
        o_t = relu(c_t)

    No matrix depends on the step before, so that one product serves all steps of a training; and a search keeps D numbers of
    each hypothesis, however long it is. The state c is float32.
    """

    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.input = Projection((2, self.width), self.dtype)  # W and W_f
        self.forget_bias = self.param("forget_bias", nn.initializers.zeros, (self.width,))

    def __call__(self, x: Array, position: Array | None = None) -> Array:
        """x [B, T, D], position int32 [B, T] (if left out, 0 .. T - 1) -> [B, T, D]. A sentence begins where the position is 0,
        and sees nothing of the one before it in its row. Raises ValueError for another width."""
        candidate, forget = self._project(x)
        added = (1 - forget) * candidate
        if position is not None:
            forget = jnp.where((position == 0)[..., None], 0, forget)

        def advance(cell: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            added, forget = inputs
            cell = forget * cell + added
            return cell, cell

        # On CPU twice to four times as fast, gradient included, as the same sum by `jax.lax.associative_scan`.
        steps = added.swapaxes(0, 1), forget.swapaxes(0, 1)
        _, cells = jax.lax.scan(advance, jnp.zeros_like(added[:, 0]), steps)
        return self._output(cells.swapaxes(0, 1))

    def init_cache(self, rows: int) -> Array:
        """The state before the first token of each of N = `rows` hypotheses: zeros, float32 [N, D]."""
        return jnp.zeros((rows, self.width), jnp.float32)

    def step(self, x: Array, cell: Array) -> tuple[Array, Array]:
        """One token of each hypothesis: x [N, 1, D] and the state float32 [N, D] -> [N, 1, D], state."""
        candidate, forget = self._project(x[:, 0])
        cell = forget * cell + (1 - forget) * candidate
        return self._output(cell)[:, None], cell

    def _project(self, x: Array) -> tuple[Array, Array]:
        """x [..., D] -> W x and f, float32 [..., D]."""
        require_width(x, self.width, "SSRU")
        projected = self.input(x).astype(jnp.float32)  # [..., 2, D]
        bias = self.forget_bias.reshape((1,) * (x.ndim - 1) + (-1,))
        return projected[..., 0, :], nn.sigmoid(projected[..., 1, :] + bias)

    def _output(self, cell: Array) -> Array:
        return nn.relu(cell).astype(activation_dtype(self.dtype))
