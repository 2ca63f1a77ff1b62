"""Tables of numbers in the place of a model, for tests of the search, and brute force over them."""

import itertools

import jax.numpy as jnp
import numpy as np
from jax import lax

from transformer_jax.tokenization.special_ids import SpecialIds

PAD, EOS, START = 0, 1, 2
IDS = SpecialIds(START, EOS, PAD)
STATES = 97  # a prefix is hashed into one of these; the table depends on it and thereby on the whole prefix


def make_table(seed, sentences, vocabulary, sharpness=2.0):
    """Log-probabilities [sentence, state, V]."""
    numbers = sharpness * np.random.default_rng(seed).standard_normal((sentences, STATES, vocabulary))
    return (numbers - np.log(np.exp(numbers).sum(axis=2, keepdims=True))).astype(np.float32)


def hashed(state, token, index):
    return (state * 31 + token * 7 + index * 3 + 1) % STATES


def make_step(table):
    """A step whose cache holds the hash of the prefix, a copy of the prefix and the number of the sentence."""

    def step(token, index, cache):
        state = hashed(cache["state"], token, index)
        prefix = lax.dynamic_update_slice(cache["prefix"], token[:, None, None], (0, index, 0))
        # The second hash, made afresh from the copied prefix, is NaN unless both were reordered alike.
        again = lax.fori_loop(0, index + 1, lambda i, h: hashed(h, prefix[:, i, 0], i), jnp.zeros_like(state))
        sound = (again == state)[:, None]
        log_probs = jnp.where(sound, table[cache["sentence"], state], jnp.nan)
        return log_probs, {"state": state, "prefix": prefix, "sentence": cache["sentence"]}

    return step


def in_search_cache(step):
    """The step, with its cache as `SearchCache.model`."""

    def next_step(token, index, cache, *memory):
        log_probs, model_cache = step(token, index, cache.model, *memory)
        return log_probs, cache._replace(model=model_cache)

    return next_step


def make_cache(sentences, beams, length):
    sentences, n = np.repeat(np.array(sentences, np.int32), beams), len(sentences) * beams
    return {"state": np.zeros(n, np.int32), "prefix": np.zeros((n, length, 1), np.int32), "sentence": sentences}


def log_prob_of(table, sentence, tokens):
    state, previous, total = 0, START, np.float32(0)
    for index, token in enumerate(tokens):
        state = hashed(state, previous, index)
        total = total + table[sentence, state, token]
        previous = token
    return total


def brute_force(table, sentence, limit, alpha, kind="gnmt", reward=0.0):
    """All sequences that end in EOS within the limit, best first: [(score, log_prob, tokens)]."""
    penalty = {"gnmt": lambda n: ((5 + n) / 6) ** alpha, "power": lambda n: n**alpha, "none": lambda n: 1.0}[kind]
    words = [token for token in range(table.shape[2]) if token not in (PAD, EOS, START)]
    every = []
    for size in range(limit):
        for start in itertools.product(words, repeat=size):
            tokens = (*start, EOS)
            log_prob = log_prob_of(table, sentence, tokens)
            every.append((log_prob / penalty(len(tokens)) + reward * len(tokens), log_prob, tokens))
    return sorted(every, key=lambda one: -one[0])


def translations(out, row):
    return [tuple(tokens[:size].tolist()) for tokens, size in zip(out.tokens[row], out.length[row], strict=True)]
