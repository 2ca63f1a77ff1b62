"""Minimum Bayes risk: its scores against sacreBLEU's by brute force, and what it chooses."""

import random
import time

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from transformer_jax.inference.batched_search import Candidate
from transformer_jax.inference.minimum_bayes_risk import expected_utilities, most_expected
from transformer_jax.inference.pairwise_scores import METRICS, pairwise_bleu, pairwise_chrf

ODD = [
    "",
    " ",
    "a",
    "aa",
    "aaaaaaaa",
    "aaaa aaa",
    "ab",
    "Ja.",
    "Ja .",
    "ß\u2028ü",
    "😀 😀 ja",
    "a b c d e f",
    "f e d c b a",
    "7,5 %",
    "x" * 300,
]
SENTENCE_SCORES = {"chrf": CHRF().sentence_score, "bleu": BLEU(effective_order=True).sentence_score}


def sentences(count, seed=0):
    """Sentences that share many words, as samples of one translation do."""
    chance = random.Random(seed)
    words = "der die das Hund Hunde schläft schlafen heute nicht , . ein eine einen Hof-Hund 3,5".split()
    return [" ".join(chance.choices(words, k=chance.randrange(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("texts", [ODD, sentences(30), sentences(12, 1) * 2, ["one"], []], ids=len)
def test_the_scores_of_all_pairs_are_sacrebleus(metric, texts):
    expected = [[SENTENCE_SCORES[metric](h, [r]).score for r in texts] for h in texts]
    np.testing.assert_allclose(METRICS[metric](texts), np.reshape(expected, (len(texts), len(texts))), rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_the_expected_utility_is_the_mean_over_all_candidates(metric):
    texts = sentences(8) + sentences(5) + sentences(3)
    found = expected_utilities(texts, metric)
    assert list(found) == list(dict.fromkeys(texts))
    for text, utility in found.items():
        by_hand = np.mean([SENTENCE_SCORES[metric](text, [reference]).score for reference in texts])
        assert utility == pytest.approx(by_hand, abs=1e-8)


def candidates(texts):
    return [Candidate([number], -float(number), 0.0, [-float(number)]) for number in range(len(texts))]


def test_a_translation_that_comes_often_wins_and_of_equals_the_first():
    texts = ["Ein Hund.", "Katzen", "Katzen", "Ein Hund!", "Katzen", "Katzen"]
    best, found = most_expected(texts, candidates(texts), "chrf", 2)
    assert best == ["Katzen", "Ein Hund."] and [one.ids for one in found] == [[1], [0]]
    assert found[0].score == expected_utilities(texts, "chrf")["Katzen"]
    equal = ["x y", "u v", "p q"]  # nothing in common
    assert most_expected(equal, candidates(equal), "bleu", 3)[0] == equal
    assert most_expected(equal[::-1], candidates(equal), "bleu", 1)[0] == ["p q"]


def test_many_candidates_take_milliseconds():
    texts = sentences(128)
    pairwise_chrf(texts), pairwise_bleu(texts)
    started = time.process_time()
    pairwise_chrf(texts), pairwise_bleu(texts)
    assert time.process_time() - started < 1  # about 0.03 s; one after the other 12 s
