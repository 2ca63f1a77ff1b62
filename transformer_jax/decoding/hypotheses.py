"""What every search shares: the step function it calls, the hypotheses it returns, suppressed ids.

Letters: `B` sentences, `N = B * beams` rows of the cache (row `b * beams + k`), `T` the longest output, `V` vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.length_penalty import length_divisors, length_rewards
from transformer_jax.tokenization.special_ids import SpecialIds

__all__ = ["Cache", "Hypotheses", "Memory", "SearchCache", "Step", "Task", "make_task"]

Cache = Any  # a pytree whose every leaf is [N, ...]
Memory = Any  # a pytree whose every leaf is [B, ...]
# (token [N], index [], cache), and memory where there is one -> log_probs [N, V] or `top_candidates.LogProbs`, cache
Step = Callable[..., tuple[Any, Cache]]


class Hypotheses(NamedTuple):
    """The `nbest` best translations of each sentence, best first.

    Where a sentence has fewer (a limit of one token allows only EOS), the rest is empty: `length` 0, `tokens` all pad,
    `log_prob` and `score` minus infinity.
    """

    tokens: Array  # int32 [B, nbest, T]              EOS included, pad afterwards
    length: Array  # int32 [B, nbest]                 number of tokens, EOS included
    log_prob: Array  # float32 [B, nbest]             sum of the tokens' log-probabilities, EOS included
    score: Array  # float32 [B, nbest]                log_prob / penalty(length), and the coverage score where there is one
    token_log_probs: Array  # float32 [B, nbest, T]   of each of the tokens, 0 afterwards
    cut: Array | None = None  # bool [B]              the search ran out of room before it came to its end


class SearchCache(NamedTuple):
    """What a search with options keeps of each hypothesis: the model's cache, and None for every option that is off."""

    model: Cache
    coverage: Array | None = None  # float32 [N, S]: the attention that each source token got so far, 1 where it is padding
    constraints: Any = None  # `token_constraints.TokenConstraints`
    phrases: Any = None  # `phrase_constraints.PhraseProgress`


class Task(NamedTuple):
    """What stays the same from step to step."""

    length: int  # T
    divisors: Array  # float32 [max_length + 1], of the score: `length_divisors`
    rewards: Array | None  # float32 [max_length + 1], of the score: `length_rewards`
    ids: SpecialIds
    suppressed: tuple[int, ...]  # the ids that are never generated

    def score(self, log_prob: Array, length: Array) -> Array:
        """The score of hypotheses of `length` tokens, coverage not counted. Of a longer descendant, whose log-probability is at
        most as large, it is at most that of `log_prob` at the longest length."""
        score = log_prob / self.divisors[length]
        return score if self.rewards is None else score + self.rewards[length]


def make_task(ids: SpecialIds, options: SearchOptions, length: int, max_length: int = 0) -> Task:
    """The task of a search of T = `length` tokens for sentences whose limits are at most `max_length`, if that is more.

    Pad, decoder start and `ids.never_generated` are suppressed; EOS may share an id with pad or start. Raises ValueError if EOS
    is in `never_generated`, or `length_penalty` or `word_reward` negative.
    """
    if ids.eos in ids.never_generated:
        raise ValueError(f"EOS (id {ids.eos}) cannot be suppressed: no translation could end")
    suppressed = tuple(sorted({ids.start, ids.pad, *ids.never_generated} - {ids.eos}))
    longest = max(length, max_length)
    rewards = length_rewards(longest, options)
    divisors = jnp.asarray(length_divisors(longest, options))
    return Task(length, divisors, None if rewards is None else jnp.asarray(rewards), ids, suppressed)
