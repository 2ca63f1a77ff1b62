"""Beam search for translations in which given phrases must occur (Post and Vilar 2018; in vectors, as Hu et al. 2019).

A translation that has more of its phrases is mostly less probable than one that has fewer: in one beam it would be lost. So the
beam is divided into banks, one for each number of tokens that are there already, and the hypotheses that go on are the best of
every bank, then the second best of every bank, and so on, the fullest bank first.

All phrases are matched at the same time, each by the automaton of Baeza-Yates and Gonnet 1992 (Shift-And): for each of its
tokens a bit, whether the hypothesis ends with the phrase up to that token.

    phrases     a b c   b c   a d         one place may satisfy several, and phrases with the same beginning do not hide
    after "a"   1 . .   . .   1 .         each other
    after "ab"  . 1 .   1 .   . .
    after "abc" . . 1   . 1   . .         two are there
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.beam import BeamState, Choice, run_beam_search
from transformer_jax.decoding.continuous_batching import DecodingQueue
from transformer_jax.decoding.hypotheses import Hypotheses, Memory, SearchCache, Step, Task, make_task
from transformer_jax.decoding.token_constraints import TokenTexts
from transformer_jax.decoding.top_candidates import LogProbs, best_continuations
from transformer_jax.tokenization.special_ids import SpecialIds

__all__ = ["PhraseProgress", "Phrases", "begin_phrases", "constrained_search"]

_LAST = np.iinfo(np.int32).max


class Phrases(NamedTuple):
    """P phrases of each of N hypotheses, each in A spellings (one of them satisfies it) of W tokens at most. The first spelling
    should begin a new word: it is the one that can stand after any other phrase."""

    tokens: Array  # int32 [N, P, A, W]
    sizes: Array  # int32 [N, P, A], 0: no such spelling; no phrase where there is none
    begins_word: Array  # bool [N, P, A]: it occurs only at the beginning, or directly after what `may_precede_word`
    ends_word: Array  # bool [N, P]: it does not occur directly before what `begins_with_letter`


class PhraseProgress(NamedTuple):
    """How much each of N hypotheses has of its phrases."""

    phrases: Phrases
    met: Array  # bool [N, P]: it has the phrase, whatever comes
    matched: Array  # bool [N, P, A, W]: the hypothesis ends with the spelling's tokens up to this one
    at_word: Array  # bool [N]: a word may begin here


def begin_phrases(phrases: Phrases) -> PhraseProgress:
    """The `phrases` of the `SearchCache` with which a `constrained_search` begins: all of them must occur, in any order."""
    unmatched, rows = jnp.zeros(phrases.tokens.shape, bool), len(phrases.sizes)
    return PhraseProgress(phrases, (phrases.sizes == 0).all(axis=2), unmatched, jnp.ones(rows, bool))


def constrained_search(
    step: Step,
    queue: DecodingQueue,
    ids: SpecialIds,
    options: SearchOptions,
    *,
    length: int,
    max_length: int = 0,
    texts: TokenTexts | None = None,
    coverage_score: Callable[[SearchCache], Array] | None = None,
) -> Hypotheses:
    """`beam_search`, of translations that have all phrases of their `SearchCache`: the arguments mean the same.

    One place of a translation may satisfy several phrases. One that `ends_word` is there when EOS follows it, or a token that
    does not begin with a letter, as `texts` says of each (None: every token is a word).

    A candidate is one of the 2 * beam best continuations of the sentence, one of the 2 best of each hypothesis, or the next
    or first token of one of its phrases. EOS comes when all phrases are there, and each hypothesis that may take it is finished
    with it. There is a translation for each sentence whose limit is larger than the number of its phrases' tokens, unless
    `step` has minus infinity for one of them. With more beams than these tokens every bank keeps a hypothesis. Raises
    ValueError as `beam_search` does.
    """
    task = make_task(ids, options, length, max_length)

    def phrases_before_eos(token: Array, index: Array, cache: SearchCache, *memory: Memory) -> tuple[LogProbs, SearchCache]:
        progress = _advanced(cache.phrases, token, texts)
        log_probs, cache = step(token, index, cache, *memory)
        logits, log_sum = LogProbs.of_step(log_probs)
        complete = (progress.met | _completed(progress)).all(axis=1)
        too_early = (jnp.arange(logits.shape[1]) == ids.eos)[None, :] & ~complete[:, None]
        return LogProbs(jnp.where(too_early, -jnp.inf, logits), log_sum), cache._replace(phrases=progress)

    choose = functools.partial(_choose, task=task, texts=texts)
    return run_beam_search(phrases_before_eos, queue, task, options, choose, coverage_score)


def _advanced(progress: PhraseProgress, token: Array, texts: TokenTexts | None) -> PhraseProgress:
    """After one more token [N]."""
    phrases, always = progress.phrases, jnp.ones(len(token), bool)
    ends_word = always if texts is None else ~texts.begins_with_letter[token]
    at_word = always if texts is None else texts.may_precede_word[token]
    met = progress.met | (_completed(progress) & (ends_word[:, None] | ~phrases.ends_word))
    may_begin = progress.at_word[:, None, None] | ~phrases.begins_word
    before = jnp.concatenate([may_begin[..., None], progress.matched[..., :-1]], axis=3)
    matched = before & _inside(phrases) & (phrases.tokens == token[:, None, None, None])
    return progress._replace(met=met, matched=matched, at_word=at_word)


def _inside(phrases: Phrases) -> Array:
    """bool [N, P, A, W]: is there a token, not padding?"""
    return _numbers(phrases) <= phrases.sizes[..., None]


def _numbers(phrases: Phrases) -> Array:
    """1 .. W, of the tokens of a spelling, int32 [1, 1, 1, W]."""
    return jnp.arange(1, phrases.tokens.shape[3] + 1)[None, None, None, :]


def _completed(progress: PhraseProgress) -> Array:
    """bool [N, P]: the hypothesis ends with the phrase."""
    last = _numbers(progress.phrases) == progress.phrases.sizes[..., None]
    return (progress.matched & last).any(axis=(2, 3))


def _places(progress: PhraseProgress) -> Array:
    """int32 [N, P, A]: how many tokens of each spelling the hypothesis ends with, less than all."""
    numbers = _numbers(progress.phrases)
    unfinished = progress.matched & (numbers < progress.phrases.sizes[..., None])
    return jnp.max(jnp.where(unfinished, numbers, 0), axis=3)


def _tokens_there(progress: PhraseProgress, texts: TokenTexts | None) -> Array:
    """int32 [N]: the tokens of all phrases that are there, and those of the phrase that is the furthest of the others.

    All tokens less this number are a way to the end that is always open: on with that phrase, then one phrase after the other.
    Where its next token would take the word's end from phrases that are complete (`Elefant` in the midst of `Elefanten`), these
    do not count on that way.
    """
    phrases, completed = progress.phrases, _completed(progress)
    sizes = phrases.sizes.max(axis=2)
    there = progress.met | completed
    places = _places(progress)
    further = places
    if texts is not None:
        waiting = jnp.sum(jnp.where(completed & ~progress.met & phrases.ends_word, sizes, 0), axis=1)
        goes_on = texts.begins_with_letter[_at(phrases.tokens, places)]
        further = places - jnp.where(goes_on, waiting[:, None, None], 0)
    further = jnp.max(jnp.where(there[:, :, None] | (places == 0), 0, further), axis=(1, 2))
    return jnp.sum(jnp.where(there, sizes, 0), axis=1) + jnp.maximum(further, 0)


def _at(tokens: Array, places: Array) -> Array:
    """tokens[n, p, a, places[n, p, a]]"""
    return jnp.take_along_axis(tokens, jnp.minimum(places, tokens.shape[3] - 1)[..., None], axis=3)[..., 0]


def _choose(length: Array, state: BeamState, log_probs: LogProbs, task: Task, texts: TokenTexts | None) -> Choice:
    """The best of every bank. Any hypothesis may end, if `step` allows it."""
    progress: PhraseProgress = state.cache.phrases
    (batch, beams), (rows, vocabulary) = state.log_prob.shape, log_probs.logits.shape
    value, parent, token = best_continuations(log_probs, state.log_prob, task.suppressed)
    own = best_continuations(log_probs, state.log_prob.reshape(-1, 1), task.suppressed)
    tokens = progress.phrases.tokens
    wanted = jnp.concatenate([_at(tokens, _places(progress)).reshape(len(tokens), -1), tokens[:, :, 0, 0]], axis=1)
    wanted_value = log_probs.at(jnp.arange(rows)[:, None], wanted) + state.log_prob.reshape(-1, 1)

    def join(best: Array, *others: Array) -> Array:
        return jnp.concatenate([best, *(other.reshape(batch, -1) for other in others)], axis=1)

    number = jnp.broadcast_to(jnp.tile(jnp.arange(beams), batch)[:, None], wanted_value.shape)
    value = join(value, own[0], wanted_value)  # [B, K]
    parent = join(parent, number[:, :1].repeat(2, axis=1), number)
    token = join(token, own[2], wanted)
    never = jnp.isin(token, jnp.array([task.ids.eos, *task.suppressed]))  # EOS ends; padding is in `wanted`, too
    value = jnp.where(never, -jnp.inf, value)

    parents = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
    after = _advanced(jax.tree.map(lambda leaf: leaf[parents], progress), token.reshape(-1), texts)
    bank = _tokens_there(after, texts).reshape(value.shape)
    log_prob, key = _best_of_banks(value, bank, parent * vocabulary + token, beams)
    ended = state.log_prob + log_probs.at(jnp.arange(rows), task.ids.eos).reshape(batch, beams)
    itself = jnp.broadcast_to(jnp.arange(beams), (batch, beams))
    return Choice(ended, itself, log_prob, key // vocabulary, key % vocabulary)


def _best_of_banks(value: Array, bank: Array, key: Array, beams: int) -> tuple[Array, Array]:
    """Value and key, [B, beams] each, of the candidates that go on: the best of every bank, fullest first, then the second best
    of every bank, and so on; value minus infinity where there are no more. Arguments are [B, K]. A candidate that comes from
    several sides has the same `key` each time, and goes on once; where values are equal the smaller key comes first."""
    emptiness, cost, key = lax.sort((-bank, -value, key), dimension=1, num_keys=3)
    same_bank, same_key = (jnp.pad(column[:, 1:] == column[:, :-1], ((0, 0), (1, 0))) for column in (emptiness, key))
    again = same_bank & same_key
    cost = jnp.where(again, jnp.inf, cost)
    count = jnp.cumsum(~again, axis=1)
    rank = count - lax.cummax(jnp.where(same_bank, 0, count), axis=1)
    _, best = lax.top_k(-jnp.where(cost < jnp.inf, rank, _LAST), beams)
    return -jnp.take_along_axis(cost, best, axis=1), jnp.take_along_axis(key, best, axis=1)
