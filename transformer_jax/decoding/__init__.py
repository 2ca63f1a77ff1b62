"""Search over a `step(token, index, cache)` function: it never sees a model, so a table of numbers tests it."""

from transformer_jax.decoding.beam import Hypotheses, Step, beam_search, length_divisors
from transformer_jax.decoding.constraints import Phrases, constrained_search, with_phrases
from transformer_jax.decoding.greedy import greedy_search, sample_search
from transformer_jax.decoding.loop import Sentences, at_once
from transformer_jax.decoding.rules import Continuations, TokenTexts, restricted, with_rules

__all__ = [
    "Continuations",
    "Hypotheses",
    "Phrases",
    "Sentences",
    "Step",
    "TokenTexts",
    "at_once",
    "beam_search",
    "constrained_search",
    "greedy_search",
    "length_divisors",
    "restricted",
    "sample_search",
    "with_phrases",
    "with_rules",
]
