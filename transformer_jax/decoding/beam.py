"""Beam search: the whole search is one `lax.while_loop` on the device.

One step, for one sentence, two beams, `|` before the candidates in reserve (`.` is EOS, log-probabilities below):

    beams        the 2 * beams best continuations     finished pool       beams that go on
    "a"  "b"     "a ."   "b c"  |  "a a"   "b ."      "a ."               "b c"   "a a"
    -1   -2      -1.5    -2.1      -2.6    -3.0       -1.5/penalty(2)     -2.1    -2.6

The letters are those of `decoding.hypotheses`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.beam_slots import assign_slots, reorder_cache
from transformer_jax.decoding.continuous_batching import DecodingQueue, SearchParts, search_loop
from transformer_jax.decoding.hypotheses import Cache, Hypotheses, Memory, Step, Task, make_task
from transformer_jax.decoding.top_candidates import LogProbs, best_continuations, pick
from transformer_jax.tokenization.special_ids import SpecialIds

__all__ = ["BeamState", "Choice", "beam_search", "run_beam_search"]

_NEVER = -jnp.inf


class Choice(NamedTuple):
    """Which hypotheses end at a step and which go on. Log-probability minus infinity marks an unused place."""

    ended: Array  # float32 [B, beams]: log-probabilities of those that end with EOS now
    ended_parent: Array  # int32 [B, beams]: the slot of the hypothesis that each of them extends
    log_prob: Array  # float32 [B, beams], best first: of those that go on
    parent: Array  # int32 [B, beams]
    token: Array  # int32 [B, beams]


class BeamState(NamedTuple):
    """The beams of all sentences of the batch between two steps."""

    start: Array  # int32 [B]: the loop's index at the first step
    max_length: Array  # int32 [B]
    token: Array  # int32 [B, beams]: the input of the next step
    tokens: Array  # int32 [B, beams, T]
    token_log_probs: Array  # float32 [B, beams, T]
    log_prob: Array  # float32 [B, beams], in no order (see `assign_slots`); minus infinity marks an unused beam slot
    finished: Hypotheses
    done: Array  # bool [B]
    cut: Array  # bool [B]
    cache: Cache
    memory: Memory


def beam_search(
    step: Step,
    queue: DecodingQueue,
    ids: SpecialIds,
    options: SearchOptions,
    *,
    length: int,
    max_length: int = 0,
    coverage_score: Callable[[Cache], Array] | None = None,
    loop: Callable[[SearchParts], Any] = search_loop,
) -> Hypotheses:
    """The `nbest` best y by log P(y) / penalty(|y|) + word_reward * |y|, |y| with EOS; `length_divisors` has the penalties, of
    which the usual one is ((5 + |y|) / 6) ** length_penalty (Wu et al. 2016, eq. 14).

    At every step the 2 * beam best continuations of a sentence are its candidates. Those among the first `beam` that end
    in EOS are finished; the best `beam` of the others go on. At its limit a hypothesis must take EOS, whose log-probability
    counts. A sentence is done when no unfinished hypothesis can enter its `nbest` best any more: log-probabilities only
    fall, so none can score above log_prob / penalty(limit) + word_reward * limit. Ties go to what finished first, then to the
    lower slot of the beam, then to the lower token id. Nothing depends on a sentence's batch mates, nor on `length` unless it
    is `cut`. One beam with length_penalty 0 is greedy search; with more, one beam looks beyond its first EOS.

    Args:
        step: (token [N], index [], cache) -> (log_probs float32 [N, V], or `LogProbs`; cache), rows independent of each other;
            log_probs at most 0, minus infinity allowed (a sentence whose every EOS has it at the limit may stay empty). Where
            sentences have a memory, it is the fourth argument. `index` counts from 0 in a `single_batch`, else see
            `search_loop`.
        queue: the sentences, with each its cache, a pytree whose every leaf is [N, ...], reordered as the hypotheses move; its
            limit in tokens, EOS included (0 marks a row that only fills the batch: it is empty in the result and costs no
            steps); and its memory, which stays as it is.
        options: `beam`, `nbest`, `length_penalty`, `length_normalization`, `word_reward`.
        length: T, the static width of the result. A sentence that is not done when its hypotheses have so many tokens, but not
            yet its limit, is `cut`: it needs another search with more room, for what this one found may not be the best.
        max_length: what the limits are at most, if that is more than `length`.
        coverage_score: of the cache after the step that gave EOS, what is added to the scores, float32 [N], 0 or less.
        loop: what runs the search; what it returns is returned.

    Raises:
        ValueError: EOS never generated, `length_penalty` negative, `nbest` not in 1 .. beam.
    """
    task = make_task(ids, options, length, max_length)
    choose = functools.partial(_choose, task=task)
    return run_beam_search(step, queue, task, options, choose, coverage_score, loop)


def run_beam_search(
    step: Step,
    queue: DecodingQueue,
    task: Task,
    options: SearchOptions,
    choose: Callable[[Array, BeamState, LogProbs], Choice],
    coverage_score: Callable[[Cache], Array] | None = None,
    loop: Callable[[SearchParts], Any] = search_loop,
) -> Hypotheses:
    """`beam_search`, where `choose` decides which hypotheses end and go on: from their length [B] with this step's token, from
    the state, whose cache is the one that `step` returned, and from the log-probabilities of the next token."""
    if not 1 <= options.nbest <= options.beam:
        raise ValueError(f"nbest must be between 1 and beam = {options.beam}, not {options.nbest}")

    def begin(numbers: Array, index: Array) -> BeamState:
        cache, limit, memory = queue.begin(numbers, index)
        return _initial_state(index, cache, limit, memory, options, task)

    def advance(index: Array, state: BeamState) -> BeamState:
        log_probs, cache = step(state.token.reshape(-1), index, state.cache, *([] if state.memory is None else [state.memory]))
        state, length, log_probs = state._replace(cache=cache), index - state.start + 1, LogProbs.of_step(log_probs)
        score = None if coverage_score is None else coverage_score(cache).reshape(state.log_prob.shape)
        return _advance(length, state, choose(length, state, log_probs), log_probs, score, task)

    def result(state: BeamState) -> Hypotheses:
        return state.finished._replace(cut=state.cut)

    def done(state: BeamState, wanted: Array | None = None) -> Array:
        if wanted is None:
            return state.done
        # The bound of `_advance` again, for the `wanted` best of the pool instead of all.
        last = pick(state.finished.score, wanted[:, None] - 1)[:, 0]
        return state.done | (last >= task.score(jnp.max(state.log_prob, axis=1), state.max_length))

    def so_far(state: BeamState) -> Array:
        return pick(state.tokens, jnp.argmax(state.log_prob, axis=1)[:, None])[:, 0]

    return loop(SearchParts(queue, begin, advance, done, result, so_far))


def _initial_state(index: Array, cache: Cache, limit: Array, memory: Memory, options: SearchOptions, task: Task) -> BeamState:
    batch, pad = len(limit), task.ids.pad
    beams = batch, options.beam
    best = batch, options.nbest
    limit = jnp.minimum(limit, len(task.divisors) - 1)
    done = limit < 1
    never = jnp.full(best, _NEVER, jnp.float32)
    # All beams start equal; if more than one were alive, each hypothesis would be found `beam` times.
    alive = (jnp.arange(options.beam) == 0)[None, :] & ~done[:, None]
    return BeamState(
        start=jnp.full((batch,), index),
        max_length=limit,
        token=jnp.full(beams, task.ids.start, jnp.int32),
        tokens=jnp.full((*beams, task.length), pad, jnp.int32),
        token_log_probs=jnp.zeros((*beams, task.length), jnp.float32),
        log_prob=jnp.where(alive, jnp.float32(0), _NEVER),
        finished=Hypotheses(
            tokens=jnp.full((*best, task.length), pad, jnp.int32),
            length=jnp.zeros(best, jnp.int32),
            log_prob=never,
            score=never,
            token_log_probs=jnp.zeros((*best, task.length), jnp.float32),
        ),
        done=done,
        cut=jnp.zeros_like(done),
        cache=cache,
        memory=memory,
    )


def _choose(length: Array, state: BeamState, log_probs: LogProbs, task: Task) -> Choice:
    """The best continuations; EOS and nothing else at a sentence's limit."""
    beams, eos_id = state.log_prob.shape[1], task.ids.eos
    value, parent, token = best_continuations(log_probs, state.log_prob, task.suppressed)
    last = (length >= state.max_length)[:, None]
    eos = state.log_prob + log_probs.at(jnp.arange(state.log_prob.size), eos_id).reshape(state.log_prob.shape)
    value = jnp.where(last, jnp.pad(eos, ((0, 0), (0, beams)), constant_values=_NEVER), value)
    parent = jnp.where(last, (jnp.arange(2 * beams) % beams)[None, :], parent)
    token = jnp.where(last, eos_id, token)
    ended = jnp.where(token == eos_id, value, _NEVER)[:, :beams]
    # Each hypothesis has one continuation by EOS, so at least `beams` of the 2 * beams candidates go on.
    log_prob, chosen = lax.top_k(jnp.where(token == eos_id, _NEVER, value), beams)
    return Choice(ended, parent[:, :beams], log_prob, pick(parent, chosen), pick(token, chosen))


def _advance(
    length: Array, state: BeamState, choice: Choice, log_probs: LogProbs, coverage_score: Array | None, task: Task
) -> BeamState:
    """The state after one more token, with which every hypothesis is of `length` [B]."""
    finished = _merge(length, state, choice, log_probs, coverage_score, task)
    # Divisors and rewards grow with length and log-probabilities fall, in floating point too: no descendant passes this bound.
    bound = task.score(jnp.max(choice.log_prob, axis=1), state.max_length)
    done = state.done | (length >= state.max_length) | (finished.score[:, -1] >= bound)
    cut = state.cut | (~done & (length >= task.length))
    done = done | cut
    log_prob = jnp.where(done[:, None], _NEVER, choice.log_prob)

    slot, parent = assign_slots(choice.parent, alive=log_prob > _NEVER)
    token = pick(choice.token, slot)
    return state._replace(
        token=token,
        tokens=_appended(state.tokens, parent, length, token),
        token_log_probs=_appended(state.token_log_probs, parent, length, _log_probs_of(log_probs, parent, token)),
        log_prob=pick(log_prob, slot),
        finished=finished,
        done=done,
        cut=cut,
        cache=reorder_cache(state.cache, parent),
    )


def _merge(
    length: Array, state: BeamState, choice: Choice, log_probs: LogProbs, coverage_score: Array | None, task: Task
) -> Hypotheses:
    """The best of the finished pool and of those that end."""
    parent, score = choice.ended_parent, task.score(choice.ended, length[:, None])
    eos = jnp.full(score.shape, task.ids.eos)
    new = Hypotheses(
        tokens=_appended(state.tokens, parent, length, eos),
        length=jnp.broadcast_to(length[:, None], score.shape),
        log_prob=choice.ended,
        score=score if coverage_score is None else score + pick(coverage_score, parent),
        token_log_probs=_appended(state.token_log_probs, parent, length, _log_probs_of(log_probs, parent, eos)),
    )
    # The pool comes first: on a tie top_k keeps what finished earlier, and empty places stay empty.
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), state.finished, new)
    _, best = lax.top_k(both.score, state.finished.score.shape[1])
    return jax.tree.map(lambda x: pick(x, best), both)


def _appended(rows: Array, parent: Array, length: Array, last: Array) -> Array:
    """rows [B, n, T] of each `parent` [B, m], with `last` [B, m] as the last of `length` [B]: [B, m, T]."""
    is_last = (jnp.arange(rows.shape[2])[None, :] == length[:, None] - 1)[:, None]
    return jnp.where(is_last, last[:, :, None], pick(rows, parent))


def _log_probs_of(log_probs: LogProbs, parent: Array, token: Array) -> Array:
    """The log-probability of each `token` [B, m] after the hypothesis in slot `parent` [B, m]: [B, m]."""
    beams = len(log_probs.logits) // len(parent)
    return log_probs.at(jnp.arange(len(parent))[:, None] * beams + parent, token)
