"""Constraints on the next token that hold in any search: minimum length, no n-gram twice, tokens that come once, a prefix."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from transformer_jax.decoding.hypotheses import Memory, SearchCache, Step
from transformer_jax.decoding.top_candidates import LogProbs

__all__ = ["Continuations", "Prefixes", "TokenConstraints", "TokenTexts", "constrained_step", "make_constraints"]


class TokenTexts(NamedTuple):
    """What a search knows of the text of each token (`tokenization.token_texts.Surfaces`)."""

    begins_with_letter: Array  # bool [V]: a letter, digit or combining mark; after a word such a token goes on with it
    may_precede_word: Array  # bool [V]: a word may begin directly after it
    ranks: Array  # int32 [V]: its number in the order of all texts; -1: it has none
    sizes: Array  # int32 [V]: bytes


class Continuations(NamedTuple):
    """A text of R bytes at most that each translation goes on with, in whatever tokens: which ones agree with it, from each of
    its places on (`tokenization.token_texts.Agreement`)."""

    size: Array  # int32 [N]: bytes of the text
    low: Array  # int32 [N, R]: tokens of rank low .. high - 1 have what is left of it, and perhaps more
    high: Array  # int32 [N, R]
    within: Array  # int32 [N, R, M]: tokens that are a beginning of what is left; V or more: none


class Prefixes(NamedTuple):
    """What each translation begins with: first the tokens, then the text of `continuation`, whose last token may reach beyond
    its end."""

    tokens: Array  # int32 [N, P]
    length: Array  # int32 [N]: how many of the tokens count
    ends_word: Array | None = None  # bool [N]: the token after the prefix does not begin with a letter
    continuation: Continuations | None = None


class TokenConstraints(NamedTuple):
    """The constraints on N hypotheses and what they depend on; None for those that are off."""

    start: Array  # int32 [N]: the index of the first step
    min_length: Array | None  # int32 [N]
    prefixes: Prefixes | None
    place: Array | None  # int32 [N]: how many bytes of the continuation are there
    history: Array | None  # int32 [N, T]: the inputs so far
    once: Array | None = None  # bool [N, P]: which of the tokens that come once at most may still come


def make_constraints(
    rows: int,
    *,
    length: int,
    start: Array | int = 0,
    min_length: Array | None = None,
    no_repeat_ngram: int = 0,
    prefixes: Prefixes | None = None,
    once: Array | None = None,
) -> TokenConstraints:
    """The constraints on `rows` hypotheses whose first step is number `start` of a search of T = `length` tokens:

    * no EOS before a translation has `min_length` int32 [N] tokens, EOS included
    * no token that would complete a run of `no_repeat_ngram` tokens which the hypothesis has already (0: no such constraint)
    * of the tokens that come once at most, those that `once` bool [N, P] has, and none of them again
    * the translation begins with its prefix

    Where two are at odds, the last of them holds. EOS must stay possible where a search forces it, at a hypothesis's limit:
    `min_length` should not be above it, and the length of the prefix (with the bytes of its continuation) below.
    """
    history = jnp.zeros((rows, length), jnp.int32) if no_repeat_ngram else None
    place = jnp.zeros((rows,), jnp.int32) if prefixes is not None and prefixes.continuation is not None else None
    return TokenConstraints(jnp.full((rows,), start, jnp.int32), min_length, prefixes, place, history, once)


def constrained_step(
    step: Step,
    *,
    eos_id: int,
    no_repeat_ngram: int = 0,
    texts: TokenTexts | None = None,
    once_ids: Sequence[int] = (),
) -> Step:
    """A step whose log-probabilities are minus infinity where `constraints` of its `SearchCache` forbid a token, and else those
    of `step`, which has the same cache.

    A search need not know of constraints: their state is in the cache, and moves with the hypothesis. `Prefixes.ends_word` and
    `continuation` need the tokens' `texts`, `TokenConstraints.once` the P ids of its tokens.
    """

    def next_step(token: Array, index: Array, cache: SearchCache, *memory: Memory) -> tuple[LogProbs, SearchCache]:
        log_probs, cache = step(token, index, cache, *memory)
        logits, log_sum = LogProbs.of_step(log_probs)
        constraints, age = cache.constraints, index - cache.constraints.start  # age [N]: how many tokens there are
        allowed = logits
        if constraints.min_length is not None:
            is_eos = jnp.arange(logits.shape[1])[None, :] == eos_id
            allowed = jnp.where((age + 1 < constraints.min_length)[:, None] & is_eos, -jnp.inf, allowed)
        if constraints.history is not None:
            allowed, constraints = _without_repeats(allowed, constraints, token, age, no_repeat_ngram)
        if constraints.once is not None:
            ids = jnp.asarray(once_ids)
            left = constraints.once & (token[:, None] != ids[None, :])
            allowed = allowed.at[:, ids].set(jnp.where(left, allowed[:, ids], -jnp.inf))
            constraints = constraints._replace(once=left)
        if constraints.prefixes is not None:
            allowed, constraints = _with_prefix(allowed, logits, constraints, token, age, texts)
        return LogProbs(allowed, log_sum), cache._replace(constraints=constraints)

    return next_step


def _without_repeats(
    allowed: Array, constraints: TokenConstraints, token: Array, age: Array, n: int
) -> tuple[Array, TokenConstraints]:
    # Column i of the history is the input of step i: the decoder's start, then the translation.
    history = constraints.history
    history = jnp.where(jnp.arange(history.shape[1])[None, :] == age[:, None], token[:, None], history)
    again, repeated = _repeated(history, age, n)
    rows = jnp.arange(len(token))[:, None]
    allowed = allowed.at[rows, jnp.where(again, repeated, allowed.shape[1])].set(-jnp.inf, mode="drop")
    return allowed, constraints._replace(history=history)


def _with_prefix(
    allowed: Array, logits: Array, constraints: TokenConstraints, token: Array, age: Array, texts: TokenTexts | None
) -> tuple[Array, TokenConstraints]:
    prefixes, vocabulary = constraints.prefixes, jnp.arange(logits.shape[1])[None, :]
    place = jnp.minimum(age, prefixes.tokens.shape[1] - 1)
    only = jnp.where(vocabulary == jnp.take_along_axis(prefixes.tokens, place[:, None], axis=1), logits, -jnp.inf)
    allowed = jnp.where((age < prefixes.length)[:, None], only, allowed)
    if prefixes.ends_word is not None:
        ends = (prefixes.ends_word & (age == prefixes.length))[:, None]
        allowed = jnp.where(ends & texts.begins_with_letter[None, :], -jnp.inf, allowed)
    if prefixes.continuation is not None:
        place = jnp.where(age > prefixes.length, constraints.place + texts.sizes[token], 0)
        goes_on = (age >= prefixes.length) & (place < prefixes.continuation.size)
        agreeing = _agreeing(prefixes.continuation, place, texts, logits, allowed)
        allowed = jnp.where(goes_on[:, None], agreeing, allowed)
        constraints = constraints._replace(place=place)
    return allowed, constraints


def _agreeing(continuation: Continuations, place: Array, texts: TokenTexts, logits: Array, allowed: Array) -> Array:
    """Minus infinity for tokens that do not agree with the text from `place` int32 [N] on. Of the others those that are
    `allowed`, or all where none is."""
    rows, place = jnp.arange(len(place)), jnp.minimum(place, continuation.low.shape[1] - 1)
    low, high = (bound[rows, place][:, None] for bound in (continuation.low, continuation.high))
    agrees = (texts.ranks[None, :] >= low) & (texts.ranks[None, :] < high)
    agrees = agrees.at[rows[:, None], continuation.within[rows, place]].set(True, mode="drop")
    both = jnp.where(agrees, allowed, -jnp.inf)
    some = (both > -jnp.inf).any(axis=1, keepdims=True)
    return jnp.where(some, both, jnp.where(agrees, logits, -jnp.inf))


def _repeated(history: Array, age: Array, n: int) -> tuple[Array, Array]:
    """For each place in the translations so far, history[:, 1 : age + 1]: does a run of n - 1 tokens begin there that are also
    the last n - 1, and which token came after it. Both [N, places]."""
    places = max(history.shape[1] - n, 0)
    again = jnp.arange(places)[None, :] + n <= age[:, None]
    for k in range(n - 1):
        last = jnp.take_along_axis(history, jnp.maximum(age - n + 2 + k, 0)[:, None], axis=1, mode="clip")
        again = again & (history[:, 1 + k : 1 + k + places] == last)
    return again, history[:, n : n + places]
