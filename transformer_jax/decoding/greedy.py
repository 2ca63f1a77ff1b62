"""Greedy search and sampling: one token after the other, for good. No candidates, no cache to reorder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.decoding.beam import Cache, Hypotheses, Step, forbid, length_divisors

__all__ = ["greedy_search", "sample_search"]


def greedy_search(
    step: Step,
    cache: Cache,
    *,
    batch: int,
    max_length: Array,
    length: int,
    start_id: int,
    eos_id: int,
    pad_id: int,
    forbidden_ids: tuple[int, ...] = (),
    length_penalty: float = 0.6,
) -> Hypotheses:
    """y_i = argmax_v log P(v | y_1 .. y_{i-1}), up to the first EOS; at a sentence's limit EOS is forced. N = B.

    The arguments are those of `beam_search` and mean the same; `length_penalty` changes `score` only, never the tokens.
    A tie goes to the lower token id.

    Returns: Hypotheses with one translation a sentence ([B, 1, T] tokens).
    Raises ValueError if EOS is forbidden or `length_penalty` negative.
    """

    def most_probable(log_probs: Array, index: Array) -> Array:
        return jnp.argmax(log_probs, axis=1)

    ids = dict(start_id=start_id, eos_id=eos_id, pad_id=pad_id, forbidden_ids=forbidden_ids)
    found = _one_by_one(most_probable, step, cache, max_length, length, length_penalty, **ids)
    return jax.tree.map(lambda x: x.reshape(batch, 1, *x.shape[1:]), found)


def sample_search(
    step: Step,
    cache: Cache,
    *,
    batch: int,
    samples: int,
    key: Array,
    numbers: Array,
    max_length: Array,
    length: int,
    start_id: int,
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    forbidden_ids: tuple[int, ...] = (),
    length_penalty: float = 0.6,
) -> Hypotheses:
    """`samples` translations of each sentence, each token drawn with probability P(v | y_1 .. y_{i-1})^(1 / temperature) / Z
    from the `top_k` most probable (0: from all; Fan et al. 2018), and of these from the fewest that have at least the share
    `top_p` of the probability together (Holtzman et al. 2020). N = B * samples; at a sentence's limit EOS is forced.

    `log_prob` and `score` are the model's, as if the translation had been found by search. What is drawn for a sentence is a
    function of `key` and of its number in `numbers` int32 [B], not of its batch mates. The other arguments are those of
    `beam_search`.

    Returns: Hypotheses in the order in which they were drawn ([B, samples, T] tokens).
    Raises ValueError if EOS is forbidden, `length_penalty` negative, `temperature` not above 0 or `top_p` not in (0, 1].
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be more than 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be more than 0 and at most 1, not {top_p}")

    def key_of(number: Array, which: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, number), which)

    keys = jax.vmap(key_of)(jnp.repeat(numbers, samples), jnp.tile(jnp.arange(samples), batch))

    def draw(log_probs: Array, index: Array) -> Array:
        logits, ids = log_probs / temperature, None
        if 0 < top_k < log_probs.shape[1] or top_p < 1:
            logits, ids = lax.top_k(logits, min(top_k, log_probs.shape[1]) or log_probs.shape[1])
        probability = jax.nn.softmax(logits)
        below = jnp.cumsum(probability, axis=1)
        if top_p < 1:
            probability = jnp.where(below - probability < top_p, probability, 0.0)
            below = jnp.cumsum(probability, axis=1)
        chance = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, index)))(keys)
        # One random number a row, not one a token of the vocabulary. Below 1, so that a token without probability never comes.
        place = jnp.argmax(below > chance[:, None] * below[:, -1:], axis=1)
        return place if ids is None else jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]

    ids = dict(start_id=start_id, eos_id=eos_id, pad_id=pad_id, forbidden_ids=forbidden_ids)
    found = _one_by_one(draw, step, cache, jnp.repeat(jnp.asarray(max_length), samples), length, length_penalty, **ids)
    return jax.tree.map(lambda x: x.reshape(batch, samples, *x.shape[1:]), found)


def _one_by_one(
    choose: Callable[[Array, Array], Array],
    step: Step,
    cache: Cache,
    max_length: Array,
    length: int,
    length_penalty: float,
    *,
    start_id: int,
    eos_id: int,
    pad_id: int,
    forbidden_ids: tuple[int, ...],
) -> Hypotheses:
    """Each next token [N] is what `choose` says of the index and of log-probabilities [N, V], minus infinity where forbidden.
    Returns Hypotheses without an axis for several of a sentence."""
    limit = jnp.minimum(jnp.asarray(max_length, jnp.int32), length)
    rows = len(limit)
    forbidden = forbid(start_id, eos_id, pad_id, forbidden_ids)
    divisors = jnp.asarray(length_divisors(length, length_penalty))

    def advance(state: tuple) -> tuple:
        index, token, tokens, log_prob, done, cache = state
        log_probs, cache = step(token, index, cache)
        log_probs = log_probs.astype(jnp.float32)
        allowed = jnp.asarray(~np.isin(np.arange(log_probs.shape[1]), forbidden))
        chosen = choose(jnp.where(allowed[None, :], log_probs, -jnp.inf), index).astype(jnp.int32)
        chosen = jnp.where(index + 1 >= limit, eos_id, chosen)
        gain = jnp.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0]
        log_prob = jnp.where(done, log_prob, log_prob + gain)
        token = jnp.where(done, pad_id, chosen)
        tokens = lax.dynamic_update_slice(tokens, token[:, None], (jnp.int32(0), index))
        return index + 1, token, tokens, log_prob, done | (token == eos_id), cache

    state = (
        jnp.int32(0),
        jnp.full((rows,), start_id, jnp.int32),
        jnp.full((rows, length), pad_id, jnp.int32),
        jnp.zeros((rows,), jnp.float32),
        limit < 1,
        cache,
    )
    _, _, tokens, log_prob, _, _ = lax.while_loop(lambda state: (state[0] < length) & ~jnp.all(state[4]), advance, state)
    # The first EOS ends a translation; a row that only fills the batch (limit 0) has none and is empty.
    size = jnp.where(limit < 1, 0, jnp.argmax(tokens == eos_id, axis=1) + 1).astype(jnp.int32)
    log_prob = jnp.where(limit < 1, -jnp.inf, log_prob)
    return Hypotheses(tokens, size, log_prob, log_prob / divisors[size])
