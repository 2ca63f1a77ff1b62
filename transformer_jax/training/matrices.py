"""The parameters of layers as the matrices that they are, for optimizers that work on matrices.

Letters as in `models/seq2seq.py`.
"""

import math
from typing import Any

import jax
import optax
from jax import Array

__all__ = ["matrix_shape", "on_matrices"]


def matrix_shape(path: tuple, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape [..., inputs, outputs] of a parameter as a matrix, or as several, one for each projection of a fused kernel.

        kernel or recurrent     [inputs, outputs]
        output of an attention  [H, K, D]     ->  [H K, D]
        another kernel of it    [D, H, K]     ->  [D, H K]
        a fused kernel          [D, n, H, K]  ->  [n, D, H K]

    None for what is no matrix of a layer: tables of embeddings and positions, biases, norms. A kernel that holds an LSTM's four
    gates, or both halves of a SwiGLU, is one matrix. `path` is the parameter's in its tree, as `jax.tree.map_with_path` gives
    it.
    """
    names = [str(getattr(entry, "key", "")) for entry in path]
    if not names or names[-1] not in ("kernel", "recurrent") or len(shape) < 2:
        return None
    if len(shape) == 3 and names[-2:-1] == ["output"]:
        return math.prod(shape[:2]), shape[2]
    return (*shape[1:-2], shape[0], math.prod(shape[-2:])) if len(shape) > 2 else shape


def on_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, which sees the parameters of layers and their gradients in their `matrix_shape`, and the other arrays as they
    are."""

    def init(params: Any) -> Any:
        return inner.init(_as_matrices(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        matrices, state = inner.update(_as_matrices(updates), state, None if params is None else _as_matrices(params))
        return jax.tree.map(_as_before, matrices, updates), state

    return optax.GradientTransformation(init, update)


def _as_matrices(tree: Any) -> Any:
    return jax.tree.map_with_path(_as_matrix, tree)


def _as_matrix(path: tuple, leaf: Array) -> Array:
    shape = matrix_shape(path, leaf.shape)
    if shape is None or leaf.ndim == 2:
        return leaf
    return (leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf).reshape(shape)


def _as_before(matrix: Array, before: Array) -> Array:
    """The inverse of `_as_matrix`; `before` has its argument's shape."""
    if before.ndim != 4:
        return matrix.reshape(before.shape)
    fused, inputs, *head = (before.shape[axis] for axis in (1, 0, 2, 3))
    return matrix.reshape(fused, inputs, *head).swapaxes(0, 1)
