"""Paired significance tests: may the difference between two systems on one test set be chance?"""

import dataclasses
from collections.abc import Sequence

from sacrebleu.significance import PairedTest

from transformer_jax.evaluation.metrics import check_lines, metrics

__all__ = ["Comparison", "Difference", "differences"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """One system's figure beside another's."""

    metric: str
    value: float  # percent
    other_value: float
    difference: float  # value - other_value; for TER, below 0 is better
    p_value: float  # the probability of a difference at least as large between equally good systems (`differences`)
    signature: str  # sacreBLEU's, with the number of trials and the seed


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison with another system on the same test set."""

    other: str  # the other system's name
    differences: list[Difference]
    hypotheses: list[str] = dataclasses.field(repr=False)  # the other system's


def differences(
    hypotheses: Sequence[str],
    others: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    rouge: bool = False,
) -> list[Difference]:
    """`metrics.score` of two systems, and the probability of a difference at least as large if they are equally good.

    The test is approximate randomization (Riezler & Maxwell 2005), two-sided: each of 10,000 trials swaps the systems'
    translations of a sentence with probability 1/2, and p = (c + 1) / (10,000 + 1), where c trials have a larger
    difference than the observed one (sacreBLEU leaves out equal ones). Where the systems differ in k sentences, 2 of the 2^k
    assignments are the systems themselves, in either order: p is at least 2^(1-k), and 1 for equal systems.

    Raises UserError unless there is one line of each system for each reference.

    >>> [(d.metric, d.p_value) for d in differences(["a b c d e", "f"], ["a b c d f", "f"], ["a b c d e", "f"])]
    [('BLEU', 1.0), ('chrF2', 1.0), ('TER', 1.0)]
    """
    check_lines(hypotheses, references, "translations")
    check_lines(others, references, "translations of the other system")
    test = PairedTest(
        [("other", list(others)), ("this", list(hypotheses))],
        dict(enumerate(metrics(tokenize, lowercase, rouge=rouge))),
        [list(references)],
        test_type="ar",
    )
    signatures, results = test()
    different = sum(map(str.__ne__, hypotheses, others))
    smallest_p = min(1.0, 2.0 ** (1 - different))
    compared = []
    for name, signature in signatures.items():
        other, this = results[name]
        p_value = max(this.p_value, smallest_p)
        compared.append(Difference(name, this.score, other.score, this.score - other.score, p_value, str(signature)))
    return compared
