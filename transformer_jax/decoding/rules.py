"""What a translation may be: rules for any search, as a step function around another one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax.decoding.beam import Cache, Memory, Step

__all__ = ["Continuations", "TokenTexts", "restricted", "with_rules"]


class TokenTexts(NamedTuple):
    """What a search knows of the text of each token (`data.surfaces.Surfaces`)."""

    begins_with_letter: Array  # bool [V]: a letter, digit or combining mark; after a word such a token goes on with it
    may_precede_word: Array  # bool [V]: a word may begin directly after it
    ranks: Array  # int32 [V]: its number in the order of all texts; -1: it has none
    sizes: Array  # int32 [V]: bytes


class Continuations(NamedTuple):
    """A text of R bytes at most that each translation goes on with, in whatever tokens: which ones agree with it, from each of
    its places on (`data.surfaces.Agreement`)."""

    size: Array  # int32 [N]: bytes of the text
    low: Array  # int32 [N, R]: tokens of rank low .. high - 1 have what is left of it, and perhaps more
    high: Array  # int32 [N, R]
    within: Array  # int32 [N, R, M]: tokens that are a beginning of what is left; V or more: none


class _Rules(NamedTuple):
    start: Array  # int32 [N]: the index of the first step
    min_length: Array | None  # int32 [N]
    prefix: Array | None  # int32 [N, P]
    prefix_length: Array | None  # int32 [N]
    whole: Array | None  # bool [N]
    continuation: Continuations | None
    place: Array | None  # int32 [N]: how many bytes of it are there
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
    whole: Array | None = None,
    continuation: Continuations | None = None,
) -> Cache:
    """The cache for a `restricted` step, of N hypotheses whose first step is number `start` of the search. The rules:

    * no EOS before a translation has `min_length` int32 [N] tokens, EOS included
    * no token that would complete a run of `no_repeat_ngram` tokens which the hypothesis has already (0: no such rule)
    * the first `prefix_length` int32 [N] tokens are those of `prefix` int32 [N, P]; where `whole` bool [N], the next token
      does not begin with a letter
    * after the prefix, the text goes on with that of `continuation`, whose last token may reach beyond its end

    Where two are at odds, the last of them holds. EOS must stay possible where a search forces it, at a hypothesis's limit:
    `min_length` should not be above it, and `prefix_length` (with the bytes of `continuation`) below. `length` is the search's.
    """
    rows = len(jax.tree.leaves(cache)[0])
    history = jnp.zeros((rows, length), jnp.int32) if no_repeat_ngram else None
    place = None if continuation is None else jnp.zeros((rows,), jnp.int32)
    start = jnp.full((rows,), start, jnp.int32)
    return cache, _Rules(start, min_length, prefix, prefix_length, whole, continuation, place, history)


def restricted(step: Step, *, eos_id: int, no_repeat_ngram: int = 0, texts: TokenTexts | None = None) -> Step:
    """A step whose log-probabilities are minus infinity where the rules of its cache (`with_rules`) forbid a token, and else
    those of `step`. Searches need not know of it: what it remembers of a hypothesis is in its cache, and moves with it.
    `whole` and `continuation` need the tokens' `texts`."""

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
        if rules.whole is not None:
            ends = (rules.whole & (age == rules.prefix_length))[:, None]
            allowed = jnp.where(ends & texts.begins_with_letter[None, :], -jnp.inf, allowed)
        if rules.continuation is not None:
            place = jnp.where(age > rules.prefix_length, rules.place + texts.sizes[token], 0)
            goes_on = (age >= rules.prefix_length) & (place < rules.continuation.size)
            allowed = jnp.where(goes_on[:, None], _agreeing(rules.continuation, place, texts, log_probs, allowed), allowed)
            rules = rules._replace(place=place)
        return allowed, (cache, rules)

    return next_step


def _agreeing(continuation: Continuations, place: Array, texts: TokenTexts, log_probs: Array, allowed: Array) -> Array:
    """Minus infinity for tokens that do not agree with the text from `place` int32 [N] on. Of the others those that are
    `allowed`, or all where none is."""
    rows, place = jnp.arange(len(place)), jnp.minimum(place, continuation.low.shape[1] - 1)
    low, high = (bound[rows, place][:, None] for bound in (continuation.low, continuation.high))
    agrees = (texts.ranks[None, :] >= low) & (texts.ranks[None, :] < high)
    agrees = agrees.at[rows[:, None], continuation.within[rows, place]].set(True, mode="drop")
    both = jnp.where(agrees, allowed, -jnp.inf)
    some = (both > -jnp.inf).any(axis=1, keepdims=True)
    return jnp.where(some, both, jnp.where(agrees, log_probs, -jnp.inf))


def _repeated(history: Array, age: Array, n: int) -> tuple[Array, Array]:
    """For each place in the translations so far, history[:, 1 : age + 1]: does a run of n - 1 tokens begin there that are also
    the last n - 1, and which token came after it. Both [N, places]."""
    places = max(history.shape[1] - n, 0)
    again = jnp.arange(places)[None, :] + n <= age[:, None]
    for k in range(n - 1):
        last = jnp.take_along_axis(history, jnp.maximum(age - n + 2 + k, 0)[:, None], axis=1, mode="clip")
        again = again & (history[:, 1 + k : 1 + k + places] == last)
    return again, history[:, n : n + places]
