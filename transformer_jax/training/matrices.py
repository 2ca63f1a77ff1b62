"""Optimizers that work on matrices see the parameters of layers as the matrices that they are (`models/matrices.py`)."""

from typing import Any

import jax
import optax

from transformer_jax.models.matrices import as_before, as_matrix, matrix_shape

__all__ = ["matrix_shape", "on_matrices"]


def on_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, which sees the parameters of layers and their gradients in their `matrix_shape`, and the other arrays as they
    are."""

    def init(params: Any) -> Any:
        return inner.init(_as_matrices(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        matrices, state = inner.update(_as_matrices(updates), state, None if params is None else _as_matrices(params))
        return jax.tree.map(as_before, matrices, updates), state

    return optax.GradientTransformation(init, update)


def _as_matrices(tree: Any) -> Any:
    return jax.tree.map_with_path(as_matrix, tree)
