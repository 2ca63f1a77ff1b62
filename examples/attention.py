"""Multi-head attention and its cache in plain JAX: functions of arrays, without a model or a training loop.

    python examples/attention.py

One pass over a row and a loop over its tokens with the cache are the same function and have the same gradient.
"""

import jax
import jax.numpy as jnp

from transformer_jax import MultiHeadSelfAttention, causal_mask

LENGTH, WIDTH = 12, 32
ATTENTION = MultiHeadSelfAttention(width=WIDTH, heads=4, rotary=True)


def init(key):
    return ATTENTION.init(key, jnp.zeros((1, LENGTH, WIDTH)), causal_mask(LENGTH))


def in_one_pass(params, row):
    """[T, D] -> [T, D]: each token attends to itself and to the tokens before it."""
    return ATTENTION.apply(params, row[None], causal_mask(len(row)))[0]


def token_by_token(params, row):
    """The same, as a recurrence over the cache of keys and values."""

    def one(cache, place):
        out, cache = ATTENTION.apply(params, row[place][None, None], place, cache, method="step")
        return cache, out[0, 0]

    cache = ATTENTION.apply(params, 1, len(row), method="init_cache")
    return jax.lax.scan(one, cache, jnp.arange(len(row)))[1]


def furthest(one, other) -> float:
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def main() -> dict[str, float]:
    rows = jax.random.normal(jax.random.key(0), (5, LENGTH, WIDTH))
    params = jax.jit(init)(jax.random.key(1))

    def of_batch(function):
        """The outputs for all rows, and the gradient of their squares: a batch is a vmap of the function of one row."""
        outputs = jax.jit(jax.vmap(function, in_axes=(None, 0)))
        return outputs(params, rows), jax.jit(jax.grad(lambda params: (outputs(params, rows) ** 2).mean()))(params)

    (outputs, gradient), (by_token, gradient_by_token) = of_batch(in_one_pass), of_batch(token_by_token)
    # So is an ensemble, over parameters: three of them, the last of which is `params`.
    keys = jnp.stack([*jax.random.split(jax.random.key(2)), jax.random.key(1)])
    of_three = jax.jit(lambda keys: jax.vmap(in_one_pass, in_axes=(0, None))(jax.vmap(init)(keys), rows[0]))(keys)
    return {
        "outputs differ by": furthest(outputs, by_token),
        "gradients differ by": furthest(gradient, gradient_by_token),
        "the last of three differs from itself alone by": furthest(of_three[2], outputs[0]),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.2g}")
