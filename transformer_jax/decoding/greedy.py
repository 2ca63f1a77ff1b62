"""Greedy search and sampling: one token after the other, for good. No candidates, no cache to reorder."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.decoding.beam import Cache, Hypotheses, Memory, Step, best_continuations, forbid, length_divisors
from transformer_jax.decoding.loop import Sentences, search_loop

__all__ = ["greedy_search", "sample_search"]


def greedy_search(
    step: Step,
    sentences: Sentences,
    *,
    length: int,
    start_id: int,
    eos_id: int,
    pad_id: int,
    forbidden_ids: tuple[int, ...] = (),
    length_penalty: float = 0.6,
    longest: int = 0,
) -> Hypotheses:
    """y_i = argmax_v log P(v | y_1 .. y_{i-1}), up to the first EOS; at a sentence's limit EOS is forced. N = B.

    The arguments are those of `beam_search` and mean the same; `length_penalty` changes `score` only, never the tokens.
    A tie goes to the lower token id.

    Returns `Hypotheses` with one translation a sentence (tokens int32 [B, 1, T]). Raises ValueError if EOS is forbidden or
    `length_penalty` negative.
    """

    def most_probable(log_probs: Array, age: Array, nothing: None) -> Array:
        # argmax, but that takes three times as long on CPU.
        return best_continuations(log_probs, jnp.zeros((len(log_probs), 1)), ())[2][:, 0]

    ids = dict(start_id=start_id, eos_id=eos_id, pad_id=pad_id, forbidden_ids=forbidden_ids)
    return _one_by_one(most_probable, lambda numbers: None, step, sentences, 1, length, longest, length_penalty, **ids)


def sample_search(
    step: Step,
    sentences: Sentences,
    *,
    key: Array,
    length: int,
    start_id: int,
    eos_id: int,
    pad_id: int,
    samples: int = 1,
    numbers: Array | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    forbidden_ids: tuple[int, ...] = (),
    length_penalty: float = 0.6,
    longest: int = 0,
) -> Hypotheses:
    """`samples` translations of each sentence, each token drawn with probability P(v | y_1 .. y_{i-1})^(1 / temperature) / Z
    from the `top_k` most probable (0: from all; Fan et al. 2018), and of these from the fewest that have at least the share
    `top_p` of the probability together (Holtzman et al. 2020). N = B * samples; at a sentence's limit EOS is forced.

    `log_prob` and `score` are the model's, as if the translation had been found by search. What is drawn for a sentence is a
    function of `key` and of its number in `numbers` int32 [B] (0 .. B - 1 if left out), not of its batch mates. The other
    arguments are those of `beam_search`.

    Returns `Hypotheses` in the order in which they were drawn (tokens int32 [B, samples, T]). Raises ValueError if EOS is
    forbidden, `length_penalty` negative, `temperature` not above 0 or `top_p` not in (0, 1].
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be more than 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be more than 0 and at most 1, not {top_p}")
    numbers = jnp.arange(sentences.count) if numbers is None else numbers

    def key_of(number: Array, which: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, number), which)

    def keys_of(which: Array) -> Array:
        return jax.vmap(key_of)(jnp.repeat(numbers[which], samples), jnp.tile(jnp.arange(samples), len(which)))

    def draw(log_probs: Array, age: Array, keys: Array) -> Array:
        logits, ids = log_probs / temperature, None
        if 0 < top_k < log_probs.shape[1] or top_p < 1:
            logits, ids = lax.top_k(logits, min(top_k, log_probs.shape[1]) or log_probs.shape[1])
        probability = jax.nn.softmax(logits)
        below = jnp.cumsum(probability, axis=1)
        if top_p < 1:
            probability = jnp.where(below - probability < top_p, probability, 0.0)
            below = jnp.cumsum(probability, axis=1)
        chance = jax.vmap(lambda key, age: jax.random.uniform(jax.random.fold_in(key, age)))(keys, age)
        # One random number a row, not one a token of the vocabulary. Below 1, so that a token without probability never comes.
        place = jnp.argmax(below > chance[:, None] * below[:, -1:], axis=1)
        return place if ids is None else jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]

    ids = dict(start_id=start_id, eos_id=eos_id, pad_id=pad_id, forbidden_ids=forbidden_ids)
    return _one_by_one(draw, keys_of, step, sentences, samples, length, longest, length_penalty, **ids)


class _State(NamedTuple):
    start: Array  # int32 [N]: the loop's index at the first step
    limit: Array  # int32 [N]
    token: Array  # int32 [N]: the input of the next step
    tokens: Array  # int32 [N, T]
    log_prob: Array  # float32 [N]
    done: Array  # bool [N]
    cut: Array  # bool [N]
    chance: Array | None  # [N]: what `choose` draws by
    cache: Cache
    memory: Memory


def _one_by_one(
    choose: Callable[[Array, Array, Array | None], Array],
    chance_of: Callable[[Array], Array | None],
    step: Step,
    sentences: Sentences,
    each: int,
    length: int,
    longest: int,
    length_penalty: float,
    *,
    start_id: int,
    eos_id: int,
    pad_id: int,
    forbidden_ids: tuple[int, ...],
) -> Hypotheses:
    """`each` translations of a sentence. Their next tokens [N] are what `choose` says of log-probabilities [N, V] (minus
    infinity where forbidden), of how many tokens there are [N], and of what `chance_of` gave for the sentences' numbers."""
    forbidden = forbid(start_id, eos_id, pad_id, forbidden_ids)
    divisors = jnp.asarray(length_divisors(max(length, longest), length_penalty))

    def begin(numbers: Array, index: Array) -> _State:
        cache, limit, memory = sentences.begin(numbers, index)
        limit = jnp.repeat(jnp.minimum(limit, max(length, longest)), each)
        rows = len(limit)
        return _State(
            start=jnp.full((rows,), index),
            limit=limit,
            token=jnp.full((rows,), start_id, jnp.int32),
            tokens=jnp.full((rows, length), pad_id, jnp.int32),
            log_prob=jnp.zeros((rows,), jnp.float32),
            done=limit < 1,
            cut=jnp.zeros(rows, bool),
            chance=chance_of(numbers),
            cache=cache,
            memory=memory,
        )

    def advance(index: Array, state: _State) -> _State:
        log_probs, cache = step(state.token, index, state.cache, *([] if state.memory is None else [state.memory]))
        log_probs, age = log_probs.astype(jnp.float32), index - state.start
        allowed = jnp.asarray(~np.isin(np.arange(log_probs.shape[1]), forbidden))
        chosen = choose(jnp.where(allowed[None, :], log_probs, -jnp.inf), age, state.chance).astype(jnp.int32)
        chosen = jnp.where(age + 1 >= state.limit, eos_id, chosen)
        gain = jnp.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0]
        token = jnp.where(state.done, pad_id, chosen)
        done = state.done | (token == eos_id)
        cut = state.cut | (~done & (age + 1 >= length))
        return state._replace(
            token=token,
            tokens=jnp.where(jnp.arange(length)[None, :] == age[:, None], token[:, None], state.tokens),
            log_prob=jnp.where(state.done, state.log_prob, state.log_prob + gain),
            done=done | cut,
            cut=cut,
            cache=cache,
        )

    def result(state: _State) -> Hypotheses:
        # The first EOS ends a translation; a row that only fills the batch (limit 0) has none and is empty.
        size = jnp.where(state.limit < 1, 0, jnp.argmax(state.tokens == eos_id, axis=1) + 1).astype(jnp.int32)
        log_prob = jnp.where(state.limit < 1, -jnp.inf, state.log_prob)
        found = Hypotheses(state.tokens, size, log_prob, log_prob / divisors[size], state.cut)
        found = jax.tree.map(lambda x: x.reshape(-1, each, *x.shape[1:]), found)
        return found._replace(cut=found.cut.any(axis=1))

    of = dict(done=lambda state: state.done.reshape(-1, each).all(axis=1), result=result)
    return search_loop(begin, advance, sentences, **of)
