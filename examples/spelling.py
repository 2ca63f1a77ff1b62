"""Beam search over a step function of one's own: a spelling corrector from tables of letter probabilities, without a network.

    python examples/spelling.py

Noisy channel: a typed word is the meant word with some letters replaced by neighbours on the keyboard, P(typed | meant)
P(meant), where P(meant) is a table of letter trigrams. The search needs only a function (token, index, cache, memory) ->
(log_probs, cache).
"""

import jax.numpy as jnp
import numpy as np

from transformer_jax import SearchOptions, SpecialIds, beam_search, single_batch
from transformer_jax.data import demo

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PAD, END, START = 26, 27, 28
IDS = SpecialIds(start=START, eos=END, pad=PAD)
SLIP = 0.1
ROWS = "qwertyuiop", "asdfghjkl", "zxcvbnm"


def read_words() -> list[str]:
    lines = " ".join(example.source for example in demo.generate("train", 2000)).lower()
    return sorted({word.strip(".,") for word in lines.split() if word.strip(".,").isalpha()})


def letter_table(words: list[str]) -> np.ndarray:
    """log P(letter | the two before it) [29, 29, 29], of the words: each counts once."""
    counts = np.full((29, 29, 29), 1e-3)
    for word in words:
        ids = [START, START, *map(LETTERS.index, word), END]
        for before, last, letter in zip(ids, ids[1:], ids[2:], strict=False):
            counts[before, last, letter] += 1
    return np.log(counts / counts.sum(-1, keepdims=True))


def slip_table() -> np.ndarray:
    """log P(typed | meant) [29, 29]: mostly the letter itself, else one beside it; a word ends where it is meant to."""
    table = np.full((29, 29), 1e-6)
    for row in ROWS:
        for place, meant in enumerate(row):
            beside = [row[i] for i in (place - 1, place + 1) if 0 <= i < len(row)]
            table[LETTERS.index(meant), LETTERS.index(meant)] = 1 - SLIP
            table[LETTERS.index(meant), [LETTERS.index(letter) for letter in beside]] = SLIP / len(beside)
    table[END] = np.where(np.arange(29) == END, 1.0, 1e-9)
    return np.log(table / table.sum(1, keepdims=True))


def correct(typed: list[str], beams: int = 8, returned: int = 3) -> list[list[tuple[str, float]]]:
    """For each typed word the likeliest words, with log P(typed, meant), likeliest first."""
    follows, slips = jnp.asarray(letter_table(read_words()), jnp.float32), jnp.asarray(slip_table(), jnp.float32)
    longest = max(map(len, typed)) + 1
    seen = np.full((len(typed), longest), END, np.int32)
    for row, word in zip(seen, typed, strict=True):
        row[: len(word)] = [LETTERS.index(letter) for letter in word.lower()]

    def step(token, index, before, seen):
        """`before` [N] is the letter before `token`, and all the cache there is; `seen` [B, longest] is the memory."""
        now = jnp.repeat(seen[:, jnp.minimum(index, longest - 1)], beams)
        return follows[before, token] + slips[:, now].T, token

    cache, limits = jnp.full(len(typed) * beams, START, jnp.int32), jnp.array([len(word) + 1 for word in typed])
    options = SearchOptions(beam=beams, nbest=returned, length_penalty=0.0)
    found = beam_search(step, single_batch(cache, limits, jnp.asarray(seen)), IDS, options, length=longest)
    texts = [["".join(LETTERS[i] for i in row if i < 26) for row in rows] for rows in np.asarray(found.tokens)]
    return [list(zip(*each, strict=True)) for each in zip(texts, np.asarray(found.log_prob).tolist(), strict=True)]


if __name__ == "__main__":
    misspelt = ["elephsnt", "hungey", "becaise", "wster"]
    for word, words in zip(misspelt, correct(misspelt), strict=True):
        print(word, "->", ", ".join(f"{text} ({log_prob:.1f})" for text, log_prob in words))
