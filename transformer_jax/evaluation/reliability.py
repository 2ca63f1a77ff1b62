"""Reliability: do translations have the quality that their confidence says?"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer_jax.inference.confidence import spearman

__all__ = ["Reliability", "ReliabilityBin", "reliability"]

_BINS = 10


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """The sentences whose confidence is from `low` to below `low` + 0.1 (to 1.0 in the last)."""

    low: float
    sentences: int
    mean_confidence: float
    mean_chrf: float  # of sentence chrF, over 100


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How a calibrated confidence agrees with sentence chrF on a test set, blank lines left out."""

    feature: str  # what the confidence is made of (`runs.calibration.FEATURES`)
    rank_correlation: float | None  # Spearman's, of confidence and chrF; None: all of one are equal
    calibration_error: float  # see `reliability`
    bins: list[ReliabilityBin]  # those that have sentences
    confidences: list[float | None]  # of each sentence; None for a blank line

    def as_text(self) -> str:
        """A line for a person."""
        ranks = "undefined" if self.rank_correlation is None else f"{self.rank_correlation:.3f}"
        return (
            f"confidence ({self.feature}): Spearman's rank correlation with sentence chrF {ranks}, "
            f"expected calibration error {self.calibration_error:.3f}"
        )


def reliability(feature: str, confidences: Sequence[float | None], chrf: Sequence[float]) -> Reliability:
    """The agreement of confidences with sentence chrF, both from 0 to 1. The expected calibration error is

        ECE = sum_b n_b / n |mean confidence of bin b - mean chrF of bin b|

    over ten bins of equal width (Guo et al. 2017, equation 3)."""
    known = [(confidence, of_line) for confidence, of_line in zip(confidences, chrf, strict=True) if confidence is not None]
    x, y = np.array(known, np.float64).reshape(-1, 2).T
    place = np.minimum((x * _BINS).astype(int), _BINS - 1)
    bins = [
        ReliabilityBin(b / _BINS, int((place == b).sum()), float(x[place == b].mean()), float(y[place == b].mean()))
        for b in sorted(set(place.tolist()))
    ]
    error = sum(each.sentences * abs(each.mean_confidence - each.mean_chrf) for each in bins) / max(len(x), 1)
    return Reliability(feature, spearman(x, y), error, bins, list(confidences))
