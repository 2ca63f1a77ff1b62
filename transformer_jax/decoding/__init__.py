"""Search over a `step(token, index, cache)` function: it never sees a model, so a table of numbers tests it."""

from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.continuous_batching import DecodingQueue, single_batch
from transformer_jax.decoding.greedy import greedy_search, sample_search
from transformer_jax.decoding.hypotheses import Hypotheses, SearchCache, Step
from transformer_jax.decoding.length_penalty import length_divisors, length_rewards
from transformer_jax.decoding.phrase_constraints import Phrases, begin_phrases, constrained_search
from transformer_jax.decoding.token_constraints import (
    Continuations,
    Prefixes,
    TokenTexts,
    constrained_step,
    make_constraints,
)

__all__ = [
    "Continuations",
    "DecodingQueue",
    "Hypotheses",
    "Phrases",
    "Prefixes",
    "SearchCache",
    "Step",
    "TokenTexts",
    "beam_search",
    "begin_phrases",
    "constrained_search",
    "constrained_step",
    "greedy_search",
    "length_divisors",
    "length_rewards",
    "make_constraints",
    "sample_search",
    "single_batch",
]
