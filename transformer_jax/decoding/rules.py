"""What a translation may be: rules for any search, as a step function around another one."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from transformer_jax.decoding.beam import Cache, Step

__all__ = ["restricted"]


def restricted(
    step: Step,
    cache: Cache,
    *,
    length: int,
    eos_id: int,
    min_length: Array | None = None,
    no_repeat_ngram: int = 0,
    prefix: Array | None = None,
    prefix_length: Array | None = None,
) -> tuple[Step, Cache]:
    """A step and a cache whose log-probabilities are minus infinity where the rules forbid a token, and else those of `step`.

    Searches need not know of it: what it remembers of a hypothesis is in its cache, and moves with it. In this order, the last
    beating the others:

    * no EOS before a translation has `min_length` int32 [N] tokens, EOS included
    * no token that would complete a run of `no_repeat_ngram` tokens which the hypothesis has already (0: no such rule)
    * the first `prefix_length` int32 [N] tokens are those of `prefix` int32 [N, P]

    EOS must stay possible where a search forces it, at a hypothesis's limit: `min_length` should not be above it, and
    `prefix_length` below. `length` is the search's.
    """

    def next_step(token: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
        cache, history = cache
        log_probs, cache = step(token, index, cache)
        vocabulary = jnp.arange(log_probs.shape[1])[None, :]
        allowed = log_probs
        if min_length is not None:
            early = (index + 1 < min_length)[:, None] & (vocabulary == eos_id)
            allowed = jnp.where(early, -jnp.inf, allowed)
        if no_repeat_ngram:
            # Column i of the history is the input of step i: the decoder's start, then the translation.
            history = lax.dynamic_update_slice(history, token[:, None], (jnp.int32(0), index))
            again, repeated = _repeated(history, index, no_repeat_ngram)
            rows = jnp.arange(len(token))[:, None]
            allowed = allowed.at[rows, jnp.where(again, repeated, log_probs.shape[1])].set(-jnp.inf, mode="drop")
        if prefix is not None:
            forced = jnp.take(prefix, jnp.minimum(index, prefix.shape[1] - 1), axis=1)
            only = jnp.where(vocabulary == forced[:, None], log_probs, -jnp.inf)
            allowed = jnp.where((index < prefix_length)[:, None], only, allowed)
        return allowed, (cache, history)

    if not no_repeat_ngram:
        return next_step, (cache, None)
    rows = len(jax.tree.leaves(cache)[0])
    return next_step, (cache, jnp.zeros((rows, length), jnp.int32))


def _repeated(history: Array, index: Array, n: int) -> tuple[Array, Array]:
    """For each place in the translation so far, history[:, 1 : index + 1]: does a run of n - 1 tokens begin there that are also
    the last n - 1, and which token came after it. Both [N, places]."""
    places = max(history.shape[1] - n, 0)
    again = (jnp.arange(places) + n <= index)[None, :]
    for k in range(n - 1):
        last = jnp.take(history, jnp.maximum(index - n + 2 + k, 0), axis=1)
        again = again & (history[:, 1 + k : 1 + k + places] == last[:, None])
    return again, history[:, n : n + places]
