"""A difference between two systems, and whether it may be chance."""

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from transformer_jax.data import demo
from transformer_jax.errors import UserError
from transformer_jax.evaluation.significance import differences

REFERENCES = [example.target for example in demo.generate("train", 60)]


def garbled(share: float, seed: int) -> list[str]:
    """The references with the words of some sentences in reverse."""
    chosen = np.random.default_rng(seed).random(len(REFERENCES)) < share
    return [" ".join(line.split()[::-1]) if wrong else line for line, wrong in zip(REFERENCES, chosen, strict=True)]


def test_differences_and_p_values_are_sacrebleus():
    ours, other = garbled(0.2, seed=1), garbled(0.4, seed=2)
    bleu, chrf, ter = found = differences(ours, other, REFERENCES)
    metric = sacrebleu.BLEU()
    _, expected = PairedTest([("other", other), ("ours", ours)], {"BLEU": metric}, [REFERENCES], "ar")()
    assert bleu.p_value == expected["BLEU"][1].p_value < 0.2
    assert (bleu.value, bleu.other_value) == tuple(metric.corpus_score(lines, [REFERENCES]).score for lines in (ours, other))
    assert bleu.difference > 0 and chrf.difference > 0 and ter.difference < 0
    assert all(each.difference == each.value - each.other_value for each in found)
    assert all("ar:10000|seed:" in each.signature for each in found)


@pytest.mark.parametrize("changed", [0, 2])
def test_few_sentences_that_differ_prove_nothing(changed):
    """Of the 2^k ways to exchange k translations, the systems themselves are two."""
    other = [*["etwas ganz anderes"] * changed, *REFERENCES[changed:]]
    assert all(each.p_value >= min(1, 2.0 ** (1 - changed)) for each in differences(REFERENCES, other, REFERENCES))


@pytest.mark.parametrize("ours, other", [(2, 1), (1, 2)])
def test_systems_of_other_test_sets_are_refused(ours, other):
    with pytest.raises(UserError, match="expected one for each"):
        differences(REFERENCES[:ours], REFERENCES[:other], REFERENCES[:2])
