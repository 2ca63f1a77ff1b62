"""What a translation may be: rules for any search, as a step function around another one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax.decoding.beam import Cache, Memory, Step

__all__ = ["restricted", "with_rules"]


class _Rules(NamedTuple):
    start: Array  # int32 [N]: the index of the first step
    min_length: Array | None  # int32 [N]
    prefix: Array | None  # int32 [N, P]
    prefix_length: Array | None  # int32 [N]
    history: Array | None  # int32 [N, T]: the inputs so far


def with_rules(
    cache: Cache,
    *,
    length: int,
    start: Array | int = 0,
    min_length: Array | None = None,
    no_repeat_ngram: int = 0,
    prefix: Array | None = None,
    prefix_length: Array | None = None,
) -> Cache:
    """The cache for a `restricted` step, of N hypotheses whose first step is number `start` of the search. The rules:

    * no EOS before a translation has `min_length` int32 [N] tokens, EOS included
    * no token that would complete a run of `no_repeat_ngram` tokens which the hypothesis has already (0: no such rule)
    * the first `prefix_length` int32 [N] tokens are those of `prefix` int32 [N, P]

    Where two are at odds, the last of them holds. EOS must stay possible where a search forces it, at a hypothesis's limit:
    `min_length` should not be above it, and `prefix_length` below. `length` is the search's.
    """
    rows = len(jax.tree.leaves(cache)[0])
    history = jnp.zeros((rows, length), jnp.int32) if no_repeat_ngram else None
    return cache, _Rules(jnp.full((rows,), start, jnp.int32), min_length, prefix, prefix_length, history)


def restricted(step: Step, *, eos_id: int, no_repeat_ngram: int = 0) -> Step:
    """A step whose log-probabilities are minus infinity where the rules of its cache (`with_rules`) forbid a token, and else
    those of `step`. Searches need not know of it: what it remembers of a hypothesis is in its cache, and moves with it."""

    def next_step(token: Array, index: Array, cache: Cache, *memory: Memory) -> tuple[Array, Cache]:
        cache, rules = cache
        log_probs, cache = step(token, index, cache, *memory)
        age = index - rules.start  # [N]: how many tokens there are
        vocabulary = jnp.arange(log_probs.shape[1])[None, :]
        allowed = log_probs
        if rules.min_length is not None:
            early = (age + 1 < rules.min_length)[:, None] & (vocabulary == eos_id)
            allowed = jnp.where(early, -jnp.inf, allowed)
        if rules.history is not None:
            # Column i of the history is the input of step i: the decoder's start, then the translation.
            history = jnp.where(jnp.arange(rules.history.shape[1])[None, :] == age[:, None], token[:, None], rules.history)
            again, repeated = _repeated(history, age, no_repeat_ngram)
            rows = jnp.arange(len(token))[:, None]
            allowed = allowed.at[rows, jnp.where(again, repeated, log_probs.shape[1])].set(-jnp.inf, mode="drop")
            rules = rules._replace(history=history)
        if rules.prefix is not None:
            place = jnp.minimum(age, rules.prefix.shape[1] - 1)
            only = jnp.where(vocabulary == jnp.take_along_axis(rules.prefix, place[:, None], axis=1), log_probs, -jnp.inf)
            allowed = jnp.where((age < rules.prefix_length)[:, None], only, allowed)
        return allowed, (cache, rules)

    return next_step


def _repeated(history: Array, age: Array, n: int) -> tuple[Array, Array]:
    """For each place in the translations so far, history[:, 1 : age + 1]: does a run of n - 1 tokens begin there that are also
    the last n - 1, and which token came after it. Both [N, places]."""
    places = max(history.shape[1] - n, 0)
    again = jnp.arange(places)[None, :] + n <= age[:, None]
    for k in range(n - 1):
        last = jnp.take_along_axis(history, jnp.maximum(age - n + 2 + k, 0)[:, None], axis=1, mode="clip")
        again = again & (history[:, 1 + k : 1 + k + places] == last)
    return again, history[:, n : n + places]
