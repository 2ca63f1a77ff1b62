"""The parameters of layers as the matrices that they are.

Letters as in `models/seq2seq.py`.
"""

import math

from jax import Array

__all__ = ["as_before", "as_matrix", "matrix_shape"]


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


def as_matrix(path: tuple, leaf: Array) -> Array:
    """A parameter in its `matrix_shape`; as it is where it is no matrix."""
    shape = matrix_shape(path, leaf.shape)
    if shape is None or leaf.ndim == 2:
        return leaf
    return (leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf).reshape(shape)


def as_before(matrix: Array, before: Array) -> Array:
    """The inverse of `as_matrix`; `before` has its argument's shape."""
    if before.ndim != 4:
        return matrix.reshape(before.shape)
    fused, inputs, *head = (before.shape[axis] for axis in (1, 0, 2, 3))
    return matrix.reshape(fused, inputs, *head).swapaxes(0, 1)
