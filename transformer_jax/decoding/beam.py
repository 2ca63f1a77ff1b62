"""Beam search: the whole search is one `lax.while_loop` on the device.

One step, for one sentence, two beams, `|` before the candidates that only stand by (`.` is EOS, log-probabilities below):

    beams        the 2 * beams best continuations     finished pool       beams that go on
    "a"  "b"     "a ."   "b c"  |  "a a"   "b ."      "a ."               "b c"   "a a"
    -1   -2      -1.5    -2.1      -2.6    -3.0       -1.5/penalty(2)     -2.1    -2.6

Letters: `B` sentences, `N = B * beams` rows of the cache (row `b * beams + k`), `T` the longest output, `V` vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.decoding.loop import Sentences, search_loop

__all__ = ["Hypotheses", "Step", "beam_search", "length_divisors"]

Cache = Any  # a pytree whose every leaf is [N, ...]
Memory = Any  # a pytree whose every leaf is [B, ...]
Step = Callable[..., tuple[Array, Cache]]  # (token [N], index [], cache), memory where there is one -> log_probs [N, V], cache

_NEVER = -jnp.inf


class Hypotheses(NamedTuple):
    """The `returned` best translations of each sentence, best first.

    Where a sentence has fewer (a limit of one token allows only EOS), the rest is empty: `length` 0, `tokens` all pad,
    `log_prob` and `score` minus infinity.
    """

    tokens: Array  # int32 [B, returned, T]   EOS included, pad afterwards
    length: Array  # int32 [B, returned]      number of tokens, EOS included
    log_prob: Array  # float32 [B, returned]  sum of the tokens' log-probabilities, EOS included
    score: Array  # float32 [B, returned]     log_prob / penalty(length)
    cut: Array | None = None  # bool [B]      the search had not come to its end when there was no more room


class Task(NamedTuple):
    """What stays the same from step to step."""

    length: int  # T
    divisors: Array  # float32 [longest + 1]
    forbidden: tuple[int, ...]
    start_id: int
    eos_id: int
    pad_id: int


class Choice(NamedTuple):
    """What becomes of the hypotheses of a step; those with log-probability minus infinity do not exist."""

    ended: Array  # float32 [B, beams]: log-probabilities of those that end with EOS now
    ended_parent: Array  # int32 [B, beams]: which hypothesis each of them was
    log_prob: Array  # float32 [B, beams], best first: of those that go on
    parent: Array  # int32 [B, beams]
    token: Array  # int32 [B, beams]


class State(NamedTuple):
    start: Array  # int32 [B]: the loop's index at the first step
    max_length: Array  # int32 [B]
    token: Array  # int32 [B, beams]: the input of the next step
    tokens: Array  # int32 [B, beams, T]
    log_prob: Array  # float32 [B, beams]; minus infinity: nobody lives here. In no order, see `_assign_slots`
    finished: Hypotheses
    done: Array  # bool [B]
    cut: Array  # bool [B]
    cache: Cache
    memory: Memory


def length_divisors(length: int, length_penalty: float) -> np.ndarray:
    """penalty(n) = ((5 + n) / 6) ** length_penalty for n = 0 .. length: float32 [length + 1] (Wu et al. 2016, eq. 14).

    Raises ValueError for a negative `length_penalty`: the bound that stops the search early would be wrong.

    >>> length_divisors(7, length_penalty=1.0)[[1, 4, 7]].tolist()
    [1.0, 1.5, 2.0]
    """
    if not length_penalty >= 0:
        raise ValueError(f"length_penalty must be 0 or more, not {length_penalty}")
    return (((5 + np.arange(length + 1)) / 6) ** length_penalty).astype(np.float32)


def forbid(start_id: int, eos_id: int, pad_id: int, forbidden_ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that are never generated: pad, decoder start and `forbidden_ids`. EOS may share an id with pad or start."""
    if eos_id in forbidden_ids:
        raise ValueError(f"EOS (id {eos_id}) cannot be forbidden: no translation could end")
    return tuple(sorted({start_id, pad_id, *forbidden_ids} - {eos_id}))


def beam_search(
    step: Step,
    sentences: Sentences,
    *,
    beams: int,
    length: int,
    start_id: int,
    eos_id: int,
    pad_id: int,
    forbidden_ids: tuple[int, ...] = (),
    length_penalty: float = 0.6,
    returned: int = 1,
    longest: int = 0,
    bonus: Callable[[Cache], Array] | None = None,
) -> Hypotheses:
    """The `returned` best y by log P(y) / ((5 + |y|) / 6) ** length_penalty, |y| with EOS (Wu et al. 2016, eq. 14).

    At every step the 2 * beams best continuations of a sentence are its candidates. Those among the first `beams` that end
    in EOS are finished; the best `beams` of the others go on. At its limit a hypothesis must take EOS, whose log-probability
    counts. A sentence is done when no unfinished hypothesis can enter its `returned` best any more: log-probabilities only
    fall, so none can score above log_prob / penalty(max_length). Ties go to what finished first, then to the lower slot of
    the beam, then to the lower token id. Nothing depends on a sentence's batch mates, nor on `length`
    as long as there is room.
    One beam with length_penalty 0 is greedy search; with more, one beam looks beyond its first EOS.

    Args:
        step: (token [N], index [], cache) -> (log_probs float32 [N, V], cache), rows independent of each other; log_probs at
            most 0, minus infinity allowed (a sentence whose every EOS has it at the limit may stay empty). Where sentences
            have a memory, it is the fourth argument. `index` counts from 0 where all begin `at_once`, else see `search_loop`.
        sentences: with each its cache, a pytree whose every leaf is [N, ...], reordered as the hypotheses move; its limit in
            tokens, EOS included, at most `longest` (0 marks a row that only fills the batch: it is empty in the result and
            costs no steps); and its memory, which stays as it is.
        length: T, the static width of the result. A sentence that is not done when its hypotheses have so many tokens, but not
            yet its limit, is `cut`: it needs another search with more room, for what this one found may not be the best.
        returned: how many to return; fewer stop earlier.
        longest: what the limits are at most, if that is more than `length`.
        bonus: of the cache after the step that gave EOS, what is added to the scores, float32 [N], 0 or less.

    Raises:
        ValueError: EOS forbidden, `length_penalty` negative, `returned` not in 1 .. beams.
    """
    task = make_task(length, longest, length_penalty, start_id, eos_id, pad_id, forbidden_ids)
    return search(step, sentences, task, functools.partial(_choose, task=task), beams=beams, returned=returned, bonus=bonus)


def make_task(
    length: int, longest: int, length_penalty: float, start_id: int, eos_id: int, pad_id: int, forbidden_ids: tuple[int, ...]
) -> Task:
    """Raises ValueError if EOS is forbidden or `length_penalty` negative."""
    divisors = jnp.asarray(length_divisors(max(length, longest), length_penalty))
    return Task(length, divisors, forbid(start_id, eos_id, pad_id, forbidden_ids), start_id, eos_id, pad_id)


def search(
    step: Step,
    sentences: Sentences,
    task: Task,
    choose: Callable[[Array, State, Array], Choice],
    *,
    beams: int,
    returned: int,
    bonus: Callable[[Cache], Array] | None = None,
) -> Hypotheses:
    """`beam_search`, where `choose` says which hypotheses end and go on: of their length [B] with this step's token, of the
    state, in which the cache is the one that `step` returned, and of log-probabilities [N, V]."""
    if not 1 <= returned <= beams:
        raise ValueError(f"returned must be between 1 and beams = {beams}, not {returned}")

    def begin(numbers: Array, index: Array) -> State:
        cache, limit, memory = sentences.begin(numbers, index)
        return _initial_state(index, cache, limit, memory, beams, returned, task)

    def advance(index: Array, state: State) -> State:
        log_probs, cache = step(state.token.reshape(-1), index, state.cache, *([] if state.memory is None else [state.memory]))
        state, length = state._replace(cache=cache), index - state.start + 1
        more = None if bonus is None else bonus(cache).reshape(state.log_prob.shape)
        return _advance(length, state, choose(length, state, log_probs.astype(jnp.float32)), more, task)

    def result(state: State) -> Hypotheses:
        return state.finished._replace(cut=state.cut)

    return search_loop(begin, advance, sentences, done=lambda state: state.done, result=result)


def _initial_state(index: Array, cache: Cache, limit: Array, memory: Memory, beams: int, returned: int, task: Task) -> State:
    length, batch, pad_id = task.length, len(limit), task.pad_id
    limit = jnp.minimum(limit, len(task.divisors) - 1)
    done = limit < 1
    nothing = jnp.full((batch, returned), _NEVER, jnp.float32)
    # All beams start equal; if more than one were alive, each hypothesis would be found `beams` times.
    alive = (jnp.arange(beams) == 0)[None, :] & ~done[:, None]
    return State(
        start=jnp.full((batch,), index),
        max_length=limit,
        token=jnp.full((batch, beams), task.start_id, jnp.int32),
        tokens=jnp.full((batch, beams, length), pad_id, jnp.int32),
        log_prob=jnp.where(alive, jnp.float32(0), _NEVER),
        finished=Hypotheses(
            jnp.full((batch, returned, length), pad_id, jnp.int32), jnp.zeros((batch, returned), jnp.int32), nothing, nothing
        ),
        done=done,
        cut=jnp.zeros_like(done),
        cache=cache,
        memory=memory,
    )


def _choose(length: Array, state: State, log_probs: Array, task: Task) -> Choice:
    """The best continuations; EOS and nothing else at a sentence's limit."""
    beams = state.log_prob.shape[1]
    value, parent, token = best_continuations(log_probs, state.log_prob, task.forbidden)
    last = (length >= state.max_length)[:, None]
    eos = state.log_prob + log_probs[:, task.eos_id].reshape(state.log_prob.shape)
    value = jnp.where(last, jnp.pad(eos, ((0, 0), (0, beams)), constant_values=_NEVER), value)
    parent = jnp.where(last, (jnp.arange(2 * beams) % beams)[None, :], parent)
    token = jnp.where(last, task.eos_id, token)
    ended = jnp.where(token == task.eos_id, value, _NEVER)[:, :beams]
    # Each hypothesis has one continuation by EOS, so at least `beams` of the 2 * beams candidates go on.
    log_prob, chosen = lax.top_k(jnp.where(token == task.eos_id, _NEVER, value), beams)
    return Choice(ended, parent[:, :beams], log_prob, _pick(parent, chosen), _pick(token, chosen))


def _advance(length: Array, state: State, choice: Choice, bonus: Array | None, task: Task) -> State:
    """Every hypothesis has one more token, and is of `length` [B] now."""
    finished = _merge(length, state, choice, bonus, task)
    # Divisors grow with length and log-probabilities fall, in floating point too: no descendant can pass this bound.
    bound = jnp.max(choice.log_prob, axis=1) / task.divisors[state.max_length]
    done = state.done | (length >= state.max_length) | (finished.score[:, -1] >= bound)
    cut = state.cut | (~done & (length >= task.length))
    done = done | cut
    log_prob = jnp.where(done[:, None], _NEVER, choice.log_prob)

    slot, parent = _assign_slots(choice.parent, alive=log_prob > _NEVER)
    token = _pick(choice.token, slot)
    return state._replace(
        token=token,
        tokens=_with_token(_pick(state.tokens, parent), length, token),
        log_prob=_pick(log_prob, slot),
        finished=finished,
        done=done,
        cut=cut,
        cache=_reorder(state.cache, parent),
    )


def _merge(length: Array, state: State, choice: Choice, bonus: Array | None, task: Task) -> Hypotheses:
    """The best of the finished pool and of those that end."""
    score = choice.ended / task.divisors[length][:, None]
    new = Hypotheses(
        tokens=_with_token(_pick(state.tokens, choice.ended_parent), length, jnp.full(score.shape, task.eos_id)),
        length=jnp.broadcast_to(length[:, None], score.shape),
        log_prob=choice.ended,
        score=score if bonus is None else score + _pick(bonus, choice.ended_parent),
    )
    # The pool comes first: on a tie top_k keeps what finished earlier, and empty places stay empty.
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), state.finished, new)
    _, best = lax.top_k(both.score, state.finished.score.shape[1])
    return jax.tree.map(lambda x: _pick(x, best), both)


def _with_token(tokens: Array, length: Array, token: Array) -> Array:
    """tokens int32 [B, n, T] with token [B, n] as the last of `length` [B]."""
    last = (jnp.arange(tokens.shape[2])[None, :] == length[:, None] - 1)[:, None]
    return jnp.where(last, token[:, :, None], tokens)


def best_continuations(log_probs: Array, log_prob: Array, forbidden: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """The 2 * beams best of all `log_prob` [B, beams] + `log_probs` [N, V]: (value, parent, token), each [B, 2 * beams].

    The same as `lax.top_k` over [B, beams * V], ties included, but that took 5.8 ms for B = 64, beams = 4, V = 10,000 on two
    cores and this 1.0 ms (37 and 3.3 ms for V = 37,000; top_k a row 5.4 and 18.8, repeated argmax 50 and 266, approx_max_k with
    recall 1: 7.8 and 64). Two stages: the best k numbers lie in the k blocks with the largest maxima, and a maximum runs at
    the speed of memory.
    """
    (batch, beams), vocabulary = log_prob.shape, log_probs.shape[1]
    best, block = 2 * beams, _block_size(vocabulary)
    maxima = _block_maxima(log_probs, block, forbidden)  # [N, blocks]
    blocks = maxima.shape[1]
    maxima = maxima.reshape(batch, beams, blocks) + log_prob[:, :, None]
    _, top = lax.top_k(maxima.reshape(batch, beams * blocks), min(best, beams * blocks))
    top = jnp.sort(top, axis=1)  # so that top_k meets the numbers in their original order and breaks ties by it
    parent, start = top // blocks, top % blocks * block

    ids = start[:, :, None] + jnp.arange(block)[None, None, :]  # [B, k, block]
    inside = jnp.minimum(ids, vocabulary - 1)
    row = (jnp.arange(batch)[:, None] * beams + parent)[:, :, None]
    value = log_probs.at[row, inside].get(mode="promise_in_bounds") + _pick(log_prob, parent)[:, :, None]
    value = jnp.where((ids < vocabulary) & _allowed(vocabulary, forbidden)[inside], value, _NEVER)
    value, place = lax.top_k(value.reshape(batch, -1), best)
    return value, _pick(parent, place // block), _pick(inside.reshape(batch, -1), place)


def _block_size(vocabulary: int) -> int:
    """A divisor of the vocabulary near 64, where one exists: an odd end makes XLA copy the whole [N, V] (20 ms against 3)."""
    return min((size for size in range(32, 201) if vocabulary % size == 0), key=lambda size: abs(size - 64), default=64)


def _block_maxima(log_probs: Array, block: int, forbidden: tuple[int, ...]) -> Array:
    """The largest allowed number of each block of a row, [N, V] -> [N, ceil(V / block)]."""
    rows, vocabulary = log_probs.shape
    full = vocabulary // block
    maxima = log_probs[:, : full * block].reshape(rows, full, block).max(axis=2)
    if full * block < vocabulary:
        maxima = jnp.concatenate([maxima, log_probs[:, full * block :].max(axis=1, keepdims=True)], axis=1)
    # Masking only the blocks that hold a forbidden id spares a copy of [N, V] (20 ms against 3 for V = 37,000).
    allowed = _allowed(vocabulary, forbidden)
    for number in sorted({token // block for token in forbidden if token < vocabulary}):
        part = slice(number * block, min((number + 1) * block, vocabulary))
        best = jnp.where(allowed[None, part], log_probs[:, part], _NEVER).max(axis=1)
        maxima = maxima.at[:, number].set(best)
    return maxima


def _allowed(vocabulary: int, forbidden: tuple[int, ...]) -> Array:
    return jnp.asarray(~np.isin(np.arange(vocabulary), forbidden))


def _assign_slots(parent: Array, alive: Array) -> tuple[Array, Array]:
    """Gives each hypothesis that goes on a row of the cache, moving as few rows as can be.

    A parent's first child stays in its parent's slot, further children take the slots of parents without any:

        parent  [2, 0, 2, 2] -> slots hold hypotheses [1, 2, 0, 3], whose parents are [0, 2, 2, 2]: rows 1 and 3 are copies of 2

    Takes parent int32 [B, beams] and alive bool [B, beams], best first; gives the hypothesis in each slot and that slot's
    parent, both int32 [B, beams]. Dead hypotheses move nothing.
    """
    beams = parent.shape[1]
    number = jnp.arange(beams)
    claims = (parent[:, None, :] == number[None, :, None]) & alive[:, None, :]  # [B, slot, hypothesis]
    taken, heir = claims.any(axis=2), claims.argmax(axis=2)
    stays = ((heir[:, :, None] == number[None, None, :]) & taken[:, :, None]).any(axis=1)  # [B, hypothesis]
    others = jnp.argsort(stays, axis=1, stable=True)
    hypothesis = jnp.where(taken, heir, _pick(others, jnp.maximum(jnp.cumsum(~taken, axis=1) - 1, 0)))
    return hypothesis, jnp.where(_pick(alive, hypothesis), _pick(parent, hypothesis), number[None, :])


def _reorder(cache: Cache, parent: Array) -> Cache:
    """Row b * beams + k of every leaf becomes what row b * beams + parent[b, k] was.

    On CPU only the rows that change are copied, in place, one after the other: a gather writes the whole cache anew at every
    step (23-37 ms for 134 MB where half of the sentences move a row; this 7). `_assign_slots` never overwrites a row that
    is still to be copied. Elsewhere one gather is faster than a loop.
    """
    batch, beams = parent.shape
    if beams == 1:
        return cache
    rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)

    def gather(cache: Cache, rows: Array) -> Cache:
        return jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), cache)

    def copy_moved(cache: Cache, rows: Array) -> Cache:
        moved = rows != jnp.arange(batch * beams)
        targets = jnp.argsort(~moved, stable=True)

        def copy(i: Array, cache: Cache) -> Cache:
            to, source = targets[i], rows[targets[i]]
            row = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, source, 1), cache)
            return jax.tree.map(lambda leaf, row: lax.dynamic_update_slice_in_dim(leaf, row, to, axis=0), cache, row)

        return lax.fori_loop(0, moved.sum(), copy, cache)

    return lax.platform_dependent(cache, rows, cpu=copy_moved, default=gather)


def _pick(x: Array, which: Array) -> Array:
    """x[b, which[b, i]] for x [B, n, ...] and which [B, m]: [B, m, ...]."""
    return jnp.take_along_axis(x, which.reshape(which.shape + (1,) * (x.ndim - 2)), axis=1, mode="promise_in_bounds")
