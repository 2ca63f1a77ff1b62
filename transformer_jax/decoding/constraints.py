"""Beam search for translations in which given phrases must occur (Post and Vilar 2018; in vectors, as Hu et al. 2019).

A translation that has more of its phrases is mostly less probable than one that has fewer: in one beam it would be lost. So the
beam is divided into banks, one for each number of tokens that are there already, and the hypotheses that go on are the best of
every bank, then the second best of every bank, and so on, the fullest bank first.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.decoding import beam
from transformer_jax.decoding.beam import Cache, Hypotheses, Memory, Step
from transformer_jax.decoding.loop import Sentences

__all__ = ["constrained_search", "with_phrases"]


_LAST = np.iinfo(np.int32).max


class _Progress(NamedTuple):
    """What a hypothesis has of its phrases. At most one is under way: it comes as a whole, without a gap."""

    phrases: Array  # int32 [N, P, W], of W tokens at most
    sizes: Array  # int32 [N, P], 0: no phrase
    met: Array  # bool [N, P]
    current: Array  # int32 [N]: the phrase under way
    place: Array  # int32 [N]: how many of its tokens are there; 0: none is under way


def with_phrases(cache: Cache, phrases: Array, sizes: Array) -> Cache:
    """The cache for a `constrained_search` of translations with all `phrases` int32 [N, P, W], each as a whole, in any order.
    They are of `sizes` int32 [N, P] tokens (0: no phrase)."""
    nothing = jnp.zeros(len(sizes), jnp.int32)
    return cache, _Progress(phrases, sizes, sizes == 0, nothing, nothing)


def constrained_search(
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
    """`beam_search`, of translations that have all phrases of their cache (`with_phrases`): the arguments mean the same.

    A candidate is one of the 2 * beams best continuations of the sentence, one of the 2 best of each hypothesis, or the next
    token of one of its phrases. EOS comes when all phrases are there, and each hypothesis that may take it is finished with it.
    There is a translation for each sentence whose limit is larger than the number of its phrases' tokens, unless `step` has
    minus infinity for one of them. Raises ValueError as `beam_search` does.
    """
    task = beam.make_task(length, longest, length_penalty, start_id, eos_id, pad_id, forbidden_ids)

    def told(token: Array, index: Array, cache: Cache, *memory: Memory) -> tuple[Array, Cache]:
        cache, progress = cache
        progress = _advanced(progress, token)
        log_probs, cache = step(token, index, cache, *memory)
        eos = (jnp.arange(log_probs.shape[1]) == eos_id)[None, :] & ~progress.met.all(axis=1)[:, None]
        return jnp.where(eos, -jnp.inf, log_probs), (cache, progress)

    choose = functools.partial(_choose, task=task)
    of_inner = None if bonus is None else lambda cache: bonus(cache[0])
    return beam.search(told, sentences, task, choose, beams=beams, returned=returned, bonus=of_inner)


def _advanced(progress: _Progress, token: Array) -> _Progress:
    """After one more token [N]. One that does not go on with the phrase under way may begin it again, or another."""
    rows = jnp.arange(len(token))
    under_way = progress.place > 0
    goes_on = under_way & (progress.phrases[rows, progress.current, progress.place] == token)
    begins = ~progress.met & (progress.phrases[:, :, 0] == token[:, None])  # [N, P]
    current = jnp.where(goes_on, progress.current, jnp.argmax(begins, axis=1))
    place = jnp.where(goes_on, progress.place + 1, begins.any(axis=1).astype(jnp.int32))
    ends = (place > 0) & (place == progress.sizes[rows, current])
    met = progress.met | (ends[:, None] & (jnp.arange(progress.met.shape[1])[None, :] == current[:, None]))
    return progress._replace(met=met, current=current, place=jnp.where(ends, 0, place))


def _tokens_there(progress: _Progress) -> Array:
    """int32 [N]"""
    return jnp.sum(jnp.where(progress.met, progress.sizes, 0), axis=1) + progress.place


def _choose(length: Array, state: beam.State, log_probs: Array, task: beam.Task) -> beam.Choice:
    """The best of every bank. Any hypothesis may end, if `step` allows it."""
    progress: _Progress = state.cache[1]
    batch, beams = state.log_prob.shape
    value, parent, token = beam.best_continuations(log_probs, state.log_prob, task.forbidden)
    own = beam.best_continuations(log_probs, state.log_prob.reshape(-1, 1), task.forbidden)
    wanted = jnp.where(
        (progress.place > 0)[:, None] & (jnp.arange(progress.sizes.shape[1])[None, :] == progress.current[:, None]),
        jnp.take_along_axis(progress.phrases, progress.place[:, None, None], axis=2)[:, :, 0],
        progress.phrases[:, :, 0],
    )  # [N, P]
    gain = jnp.take_along_axis(log_probs, wanted, axis=1)
    of_phrases = jnp.where(progress.met, -jnp.inf, gain + state.log_prob.reshape(-1, 1))

    def join(best: Array, *others: Array) -> Array:
        return jnp.concatenate([best, *(each.reshape(batch, -1) for each in others)], axis=1)

    number = jnp.broadcast_to(jnp.tile(jnp.arange(beams), batch)[:, None], of_phrases.shape)
    value = join(value, own[0], of_phrases)  # [B, K]
    parent = join(parent, number[:, :1].repeat(2, axis=1), number)
    token = join(token, own[2], wanted)
    count = value.shape[1]
    earlier = jnp.tril(jnp.ones((count, count), bool), -1)[None]
    # A candidate may come from several sides; from that of a phrase which is met already it does not come at all.
    twice = (parent[:, :, None] == parent[:, None, :]) & (token[:, :, None] == token[:, None, :]) & earlier
    again = (twice & (value > -jnp.inf)[:, None, :]).any(axis=2)
    value = jnp.where(again | (token == task.eos_id), -jnp.inf, value)

    rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
    after = _advanced(jax.tree.map(lambda leaf: leaf[rows], progress), token.reshape(-1))
    bank = _tokens_there(after).reshape(batch, count)
    better = (value[:, None, :] > value[:, :, None]) | ((value[:, None, :] == value[:, :, None]) & earlier)
    rank = jnp.sum(better & (bank[:, None, :] == bank[:, :, None]), axis=2)
    order = rank * (bank.max() + 1) - bank
    _, chosen = lax.top_k(-jnp.where(value > -jnp.inf, order, _LAST), beams)
    log_prob, parent, token = (jnp.take_along_axis(each, chosen, axis=1) for each in (value, parent, token))
    ended = state.log_prob + log_probs[:, task.eos_id].reshape(batch, beams)
    return beam.Choice(ended, jnp.broadcast_to(jnp.arange(beams), (batch, beams)), log_prob, parent, token)
