"""Greedy search: the most probable token at every step. No top-k, no cache to reorder."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.decoding.beam import Cache, Hypotheses, Step, forbid, length_divisors


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
    limit = jnp.minimum(jnp.asarray(max_length, jnp.int32), length)
    forbidden = forbid(start_id, eos_id, pad_id, forbidden_ids)
    divisors = jnp.asarray(length_divisors(length, length_penalty))

    def advance(state: tuple) -> tuple:
        index, token, tokens, log_prob, done, cache = state
        log_probs, cache = step(token, index, cache)
        log_probs = log_probs.astype(jnp.float32)
        allowed = jnp.asarray(~np.isin(np.arange(log_probs.shape[1]), forbidden))
        best = jnp.argmax(jnp.where(allowed[None, :], log_probs, -jnp.inf), axis=1).astype(jnp.int32)
        best = jnp.where(index + 1 >= limit, eos_id, best)
        gain = jnp.take_along_axis(log_probs, best[:, None], axis=1)[:, 0]
        log_prob = jnp.where(done, log_prob, log_prob + gain)
        token = jnp.where(done, pad_id, best)
        tokens = lax.dynamic_update_slice(tokens, token[:, None], (jnp.int32(0), index))
        return index + 1, token, tokens, log_prob, done | (token == eos_id), cache

    state = (
        jnp.int32(0),
        jnp.full((batch,), start_id, jnp.int32),
        jnp.full((batch, length), pad_id, jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        limit < 1,
        cache,
    )
    _, _, tokens, log_prob, _, _ = lax.while_loop(lambda state: (state[0] < length) & ~jnp.all(state[4]), advance, state)
    # The first EOS ends a translation; a row that only fills the batch (limit 0) has none and is empty.
    size = jnp.where(limit < 1, 0, jnp.argmax(tokens == eos_id, axis=1) + 1).astype(jnp.int32)
    log_prob = jnp.where(limit < 1, -jnp.inf, log_prob)
    score = log_prob / divisors[size]
    return Hypotheses(tokens[:, None], size[:, None], log_prob[:, None], score[:, None])
