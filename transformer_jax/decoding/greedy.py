"""Greedy search and sampling: one token after the other, for good. No candidates, no cache to reorder."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.continuous_batching import DecodingQueue, SearchParts, search_loop
from transformer_jax.decoding.hypotheses import Cache, Hypotheses, Memory, Step, Task, make_task
from transformer_jax.decoding.top_candidates import LogProbs, best_continuations
from transformer_jax.tokenization.special_ids import SpecialIds

__all__ = ["greedy_search", "sample_search"]


def greedy_search(
    step: Step,
    queue: DecodingQueue,
    ids: SpecialIds,
    options: SearchOptions,
    *,
    length: int,
    max_length: int = 0,
    loop: Callable[[SearchParts], Any] = search_loop,
) -> Hypotheses:
    """y_i = argmax_v log P(v | y_1 .. y_{i-1}), up to the first EOS; at a sentence's limit EOS is forced. N = B.

    The arguments are those of `beam_search` and mean the same; of the options `length_penalty` changes `score` only, never the
    tokens, and the others nothing. A tie goes to the lower token id.

    Returns `Hypotheses` with one translation a sentence (tokens int32 [B, 1, T]). Raises ValueError if EOS is never generated
    or `length_penalty` negative.
    """

    task = make_task(ids, options, length, max_length)

    def most_probable(log_probs: LogProbs, age: Array, nothing: None) -> Array:
        # argmax, but that takes three times as long on CPU.
        return best_continuations(log_probs, jnp.zeros((len(age), 1)), task.suppressed)[2][:, 0]

    return _search(step, queue, task, 1, most_probable, lambda numbers: None, loop)


def sample_search(
    step: Step,
    queue: DecodingQueue,
    ids: SpecialIds,
    options: SearchOptions,
    *,
    key: Array,
    numbers: Array | None = None,
    length: int,
    max_length: int = 0,
) -> Hypotheses:
    """`nbest` translations of each sentence, each token drawn with probability P(v | y_1 .. y_{i-1})^(1 / temperature) / Z
    from the `top_k` most probable (0: from all; Fan et al. 2018), and of these from the fewest that have at least the share
    `top_p` of the probability together (Holtzman et al. 2020), without those for which P(v | ..)^(1 / temperature) / Z, with Z
    the sum over the whole vocabulary, is below `epsilon` (Hewitt et al. 2022, section 3.2; the most probable always stays).
    N = B * nbest; at a sentence's limit EOS is forced.

    `log_prob` and `score` are the model's, as if the translation had been found by search. What is drawn for a sentence is a
    function of `key` and of its number in `numbers` int32 [B] (0 .. B - 1 if left out), not of its batch mates. The other
    arguments are those of `beam_search`.

    Returns `Hypotheses` in the order in which they were drawn (tokens int32 [B, nbest, T]). Raises ValueError if EOS is
    never generated, `length_penalty` negative, `temperature` not above 0, `top_p` not in (0, 1] or `epsilon` not in [0, 1).
    """
    if not options.temperature > 0:
        raise ValueError(f"temperature must be more than 0, not {options.temperature}")
    if not 0 < options.top_p <= 1:
        raise ValueError(f"top_p must be more than 0 and at most 1, not {options.top_p}")
    if not 0 <= options.epsilon < 1:
        raise ValueError(f"epsilon must be at least 0 and below 1, not {options.epsilon}")
    samples, numbers = options.nbest, jnp.arange(queue.count) if numbers is None else numbers

    def sample_key(number: Array, sample: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, number), sample)

    def sample_keys(sentences: Array) -> Array:
        return jax.vmap(sample_key)(jnp.repeat(numbers[sentences], samples), jnp.tile(jnp.arange(samples), len(sentences)))

    task = make_task(ids, options, length, max_length)
    draw = functools.partial(_draw, suppressed=task.suppressed, options=options)
    return _search(step, queue, task, samples, draw, sample_keys)


def _draw(log_probs: LogProbs, age: Array, keys: Array, suppressed: tuple[int, ...], options: SearchOptions) -> Array:
    """A token of each row, int32 [N], drawn as the options say."""
    vocabulary = log_probs.logits.shape[1]
    allowed = jnp.asarray(~np.isin(np.arange(vocabulary), suppressed))
    logits, ids = jnp.where(allowed[None, :], log_probs.all(), -jnp.inf) / options.temperature, None
    log_total = jax.nn.logsumexp(logits, axis=1, keepdims=True) if options.epsilon else None
    if 0 < options.top_k < vocabulary or options.top_p < 1:
        logits, ids = lax.top_k(logits, min(options.top_k, vocabulary) or vocabulary)
    probability = jax.nn.softmax(logits)
    below = jnp.cumsum(probability, axis=1)
    if options.top_p < 1:
        probability = jnp.where(below - probability < options.top_p, probability, 0.0)
        below = jnp.cumsum(probability, axis=1)
    if options.epsilon:
        # Of all tokens, not of those that top_k and top_p left.
        of_all = jnp.exp(logits - log_total)
        least = jnp.minimum(options.epsilon, of_all.max(axis=1, keepdims=True))
        below = jnp.cumsum(jnp.where(of_all >= least, probability, 0.0), axis=1)
    chance = jax.vmap(lambda key, age: jax.random.uniform(jax.random.fold_in(key, age)))(keys, age)
    # One random number a row, not one a token of the vocabulary. Below 1, so that a token without probability never comes.
    place = jnp.argmax(below > chance[:, None] * below[:, -1:], axis=1)
    return place if ids is None else jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]


class _State(NamedTuple):
    start: Array  # int32 [N]: the loop's index at the first step
    limit: Array  # int32 [N]
    token: Array  # int32 [N]: the input of the next step
    tokens: Array  # int32 [N, T]
    token_log_probs: Array  # float32 [N, T]
    log_prob: Array  # float32 [N]
    done: Array  # bool [N]
    cut: Array  # bool [N]
    randomness: Any  # leaves [N, ...]
    cache: Cache
    memory: Memory


def _search(
    step: Step,
    queue: DecodingQueue,
    task: Task,
    samples: int,
    choose: Callable[[LogProbs, Array, Any], Array],
    randomness_of: Callable[[Array], Any],
    loop: Callable[[SearchParts], Any] = search_loop,
) -> Hypotheses:
    """`samples` translations of each sentence. The next tokens [N] are what `choose` makes of their log-probabilities, of how
    many tokens there are [N], and of what `randomness_of` gave for the sentences' numbers.
    """
    split = lambda x: x.reshape(-1, samples, *x.shape[1:])  # noqa: E731  # [N, ...] -> [B, samples, ...]

    def begin(numbers: Array, index: Array) -> _State:
        cache, limit, memory = queue.begin(numbers, index)
        limit = jnp.repeat(jnp.minimum(limit, len(task.divisors) - 1), samples)
        return _initial_state(index, limit, randomness_of(numbers), cache, memory, task)

    def advance(index: Array, state: _State) -> _State:
        log_probs, cache = step(state.token, index, state.cache, *([] if state.memory is None else [state.memory]))
        log_probs, age = LogProbs.of_step(log_probs), index - state.start
        chosen = choose(log_probs, age, state.randomness).astype(jnp.int32)
        chosen = jnp.where(age + 1 >= state.limit, task.ids.eos, chosen)
        gain = log_probs.at(jnp.arange(len(chosen)), chosen)
        return _advance(age, state._replace(cache=cache), chosen, gain, task)

    def result(state: _State) -> Hypotheses:
        # The first EOS ends a translation; a row that only fills the batch (limit 0) has none and is empty.
        size = jnp.where(state.limit < 1, 0, jnp.argmax(state.tokens == task.ids.eos, axis=1) + 1).astype(jnp.int32)
        log_prob = jnp.where(state.limit < 1, -jnp.inf, state.log_prob)
        rows = Hypotheses(state.tokens, size, log_prob, task.score(log_prob, size), state.token_log_probs)
        return jax.tree.map(split, rows)._replace(cut=split(state.cut).any(axis=1))

    def done(state: _State, wanted: Array | None = None) -> Array:
        return split(state.done).all(axis=1)

    def so_far(state: _State) -> Array:
        return split(state.tokens)[:, 0]

    return loop(SearchParts(queue, begin, advance, done, result, so_far))


def _initial_state(index: Array, limit: Array, randomness: Any, cache: Cache, memory: Memory, task: Task) -> _State:
    rows = len(limit)
    return _State(
        start=jnp.full((rows,), index),
        limit=limit,
        token=jnp.full((rows,), task.ids.start, jnp.int32),
        tokens=jnp.full((rows, task.length), task.ids.pad, jnp.int32),
        token_log_probs=jnp.zeros((rows, task.length), jnp.float32),
        log_prob=jnp.zeros((rows,), jnp.float32),
        done=limit < 1,
        cut=jnp.zeros(rows, bool),
        randomness=randomness,
        cache=cache,
        memory=memory,
    )


def _advance(age: Array, state: _State, chosen: Array, gain: Array, task: Task) -> _State:
    """The state with one more token of each row that is not done, `gain` its log-probability; both [N]."""
    token = jnp.where(state.done, task.ids.pad, chosen)
    done = state.done | (token == task.ids.eos)
    cut = state.cut | (~done & (age + 1 >= task.length))
    here = jnp.arange(task.length)[None, :] == age[:, None]
    return state._replace(
        token=token,
        tokens=jnp.where(here, token[:, None], state.tokens),
        token_log_probs=jnp.where(here & ~state.done[:, None], gain[:, None], state.token_log_probs),
        log_prob=jnp.where(state.done, state.log_prob, state.log_prob + gain),
        done=done | cut,
        cut=cut,
    )
