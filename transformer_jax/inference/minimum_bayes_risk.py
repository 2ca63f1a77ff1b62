"""Minimum Bayes risk: of many candidates, the translation that is most like all of them."""

from collections.abc import Sequence

import numpy as np

from transformer_jax.inference.batched_search import Candidate
from transformer_jax.inference.pairwise_scores import METRICS

__all__ = ["expected_utilities", "most_expected"]

_DIGITS = 9  # percent beyond so many decimals is rounding, and no reason to prefer a candidate to an earlier one


def expected_utilities(texts: Sequence[str], metric: str, shares: Sequence[float] | None = None) -> dict[str, float]:
    """Of each text, once, in the order in which they first come, its mean score with all N `texts` as references, in percent:

        u(h) = sum_r share(r) metric(h, r),    share(r) = 1 / N unless `shares`, which add up to 1, are given

    the expected utility under the distribution that the candidates were drawn from (Freitag et al. 2023, equation 2). A text
    that comes k times counts k times in the sum, and is compared once. `metric`: chrf or bleu (`pairwise_scores`).

    >>> {text: round(value) for text, value in expected_utilities(["Hund", "Hunde", "Hunde"], "chrf").items()}
    {'Hund': 82, 'Hunde': 97}
    """
    together: dict[str, float] = {}
    for text, share in zip(texts, [1 / len(texts)] * len(texts) if shares is None else shares, strict=True):
        together[text] = together.get(text, 0.0) + share
    scores = METRICS[metric](list(together)) * np.array(list(together.values()))
    return dict(zip(together, scores.sum(axis=1).round(_DIGITS).tolist(), strict=True))


def most_expected(
    texts: Sequence[str], candidates: Sequence[Candidate], metric: str, nbest: int, shares: Sequence[float] | None = None
) -> tuple[list[str], list[Candidate]]:
    """The `nbest` different texts of the greatest `expected_utilities`, the greatest first and of equals the first to come, and
    their candidates (of those with one text the first), whose `score` is that utility. `texts` are those of `candidates`."""
    utilities, firsts = expected_utilities(texts, metric, shares), {}
    for text, candidate in zip(texts, candidates, strict=True):
        firsts.setdefault(text, candidate)
    best = sorted(utilities, key=lambda text: -utilities[text])[:nbest]
    return best, [firsts[text]._replace(score=utilities[text]) for text in best]
