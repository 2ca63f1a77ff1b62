"""Is one system better than another, or was it lucky in its test sentences? Paired tests on the same test set."""

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
    difference: float  # value - other_value; of TER below 0 is better
    p_value: float  # how probable as large a difference is between equally good systems, see `differences`
    signature: str  # sacreBLEU's, with the number of trials and the seed


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A system beside another one on the same test set."""

    other: str  # what the other system is
    differences: list[Difference]
    hypotheses: list[str] = dataclasses.field(repr=False)  # the other's


def differences(
    hypotheses: Sequence[str],
    others: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    rouge: bool = False,
) -> list[Difference]:
    """`scores.score` of two systems, and how probable a difference at least as large is if they are equally good.

    By approximate randomization (Riezler & Maxwell 2005), two-sided: the systems' translations of each sentence change places
    by the toss of a coin, 10,000 times, and p is the share of trials whose difference is larger than the one found. sacreBLEU
    does not count those that are equal to it. Where the systems differ in k sentences, 2 of the 2^k ways to toss are the
    systems themselves, either way round: p is at least 2^(1-k), and 1 for systems that are the same.

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
    least = min(1.0, 2.0 ** (1 - different))
    return [
        Difference(name, this.score, other.score, this.score - other.score, max(this.p_value, least), str(signature))
        for name, signature in signatures.items()
        for other, this in [results[name]]
    ]
