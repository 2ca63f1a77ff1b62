"""Products of rows and a matrix of parameters: the operands rounded to the model's `dtype`, the sums and the gradient of the
parameters in float32; and the precision of every product of a model.

Letters: K and N, the width of a row of the operand and of the result.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax import platform

__all__ = ["activation_dtype", "product", "product_precision"]


def activation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The type of the values between the products of a model that computes in `dtype`: the same, but float32 on CPU.

    >>> activation_dtype(jnp.float32)
    dtype('float32')
    """
    return jnp.dtype(jnp.float32 if platform.activations_in_float32() else dtype)


def product_precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """The `precision` argument of a product whose operands are of `dtype`.

    HIGHEST for float32 on GPU and TPU, where the default rounds the operands: their products are those of float32, in the
    gradient too. None, JAX's default, on CPU, whose products are of float32 anyway, for bfloat16, and wherever
    `jax_default_matmul_precision` (JAX_DEFAULT_MATMUL_PRECISION) is set, which then says how many bits count.

    >>> product_precision(jnp.bfloat16) is None
    True
    """
    decided = jax.config.jax_default_matmul_precision is not None or not platform.rounds_float32_products()
    return None if decided or dtype != jnp.float32 else jax.lax.Precision.HIGHEST


def product(x: Array, weight: Array, dtype: jnp.dtype, *, transposed: bool = False, result: jnp.dtype | None = None) -> Array:
    """x W, or x W^T where `weight` is `transposed`: x [..., K], weight float32 [K, N] or [N, K] -> [..., N], of the type
    `result` (`activation_dtype` where it is left out).

    Both operands are rounded to `dtype`, and their products are summed in float32 (Micikevicius et al. 2018, section 3.3). The
    same holds for the gradients: dL/dx = g W^T is rounded to x's type, dL/dW = x^T g is float32. Where `dtype` is not float32,
    there is no forward-mode derivative.

    >>> product(jnp.ones((2, 3, 4)), jnp.ones((4, 5)), jnp.bfloat16).shape
    (2, 3, 5)
    """
    result = jnp.dtype(result or activation_dtype(dtype))
    if dtype == jnp.float32:
        return matmul(x.astype(dtype), weight, result, transposed=transposed)
    return _rounded_product(x.astype(activation_dtype(dtype)), weight, jnp.dtype(dtype), transposed, result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _rounded_product(x: Array, weight: Array, dtype: jnp.dtype, transposed: bool, result: jnp.dtype) -> Array:
    return _forward(x, weight, dtype, transposed, result)[0]


def _forward(
    x: Array, weight: Array, dtype: jnp.dtype, transposed: bool, result: jnp.dtype
) -> tuple[Array, tuple[Array, Array]]:
    rounded = x.astype(dtype), weight.astype(dtype)
    return matmul(*rounded, result, transposed=transposed), rounded


def _backward(
    dtype: jnp.dtype, transposed: bool, result: jnp.dtype, rounded: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, weight = rounded
    gradient = gradient.astype(dtype)
    x_gradient = matmul(gradient, weight, activation_dtype(dtype), transposed=not transposed)
    return x_gradient, weight_gradient(gradient, x) if transposed else weight_gradient(x, gradient)


_rounded_product.defvjp(_forward, _backward)


def matmul(x: Array, weight: Array, result: jnp.dtype, *, transposed: bool = False) -> Array:
    """x W or x W^T of rounded operands: [..., K], [K, N] or [N, K] -> [..., N] of the type `result`."""
    contracted = ((1,), (1 if transposed else 0,))
    # The rows are one axis: with more, XLA on CPU computes the gradient of W transposed and copies it.
    flat = x.reshape(-1, x.shape[-1])
    precision = product_precision(flat.dtype)
    out = jax.lax.dot_general(flat, weight, (contracted, ((), ())), precision, preferred_element_type=result)
    return out.reshape(*x.shape[:-1], -1)


def weight_gradient(x: Array, gradient: Array) -> Array:
    """x^T g over all rows: [..., K] and [..., N] of one type -> float32 [K, N]."""
    if x.dtype == jnp.float32:
        x, gradient = (array.reshape(-1, array.shape[-1]) for array in (x, gradient))
    # bfloat16 keeps the axes of the rows: XLA on CPU then transposes x first and has a fast product for the result. For rows of
    # one axis it has none and converts both to float32.
    rows = tuple(range(x.ndim - 1))
    precision = product_precision(x.dtype)
    return jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())), precision, preferred_element_type=jnp.float32)
