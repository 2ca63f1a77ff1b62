"""Confidence: what a model's log-probabilities say of a translation's quality, and how that becomes a number from 0 to 1."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from transformer_jax.config import SearchOptions
from transformer_jax.inference.translation import Translation
from transformer_jax.runs.calibration import FEATURES, Calibration
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["best_feature", "features_of", "isotonic", "spearman", "with_confidence"]

log = logging.getLogger(__name__)


def _of_words(log_probs: np.ndarray, words: np.ndarray) -> np.ndarray:
    """log P of each word: the sum over its tokens. A token that belongs to no word (-1), as EOS, is a word by itself."""
    alone = words < 0
    words = np.where(alone, words.max(initial=-1) + np.cumsum(alone), words)
    return np.bincount(words, log_probs)[np.bincount(words) > 0]


def features_of(translation: Translation, tokenizer: Tokenizer) -> dict[str, float] | None:
    """All `FEATURES` of a translation: the mean and the least log-probability of its tokens (mean, least) and of its words
    (words, least_word), those of a word's tokens added up. None for the translation of a blank line, which has no tokens."""
    if not translation.token_log_probs:
        return None
    of_tokens = np.array(translation.token_log_probs)
    of_words = _of_words(of_tokens, tokenizer.words(translation.tokens))
    values = of_tokens.mean(), of_tokens.min(), of_words.mean(), of_words.min()
    return dict(zip(FEATURES, map(float, values), strict=True))


def with_confidence(
    translations: list[Translation],
    calibration: Calibration | None,
    origin: tuple[tuple[int, ...], str],
    options: SearchOptions,
    tokenizer: Tokenizer,
) -> list[Translation]:
    """The translations with their `confidence`, and their `others` with theirs, by the calibration of the run whose checkpoint
    of these steps and weights (`origin`) has made them. The log warns, once for each difference, where that was not what was
    calibrated. As they are, without one, if there is no calibration, and of samples and minimum Bayes risk: by what a search
    prefers these cannot be judged."""
    if calibration is None or options.temperature or options.mbr:
        return translations
    if all(translation.parts <= 1 for translation in translations):  # then it does not matter how lines would be split
        split = calibration.search.get("split_sentences", SearchOptions.split_sentences)
        options = dataclasses.replace(options, split_sentences=split)
    if difference := calibration.differences(*origin, options):
        _warn_once(difference)

    def confident(translation: Translation) -> Translation:
        features = features_of(translation, tokenizer)
        others = tuple(map(confident, translation.others))
        confidence = calibration.confidence(features[calibration.feature]) if features else None
        return translation._replace(confidence=confidence, others=others)

    return list(map(confident, translations))


@functools.cache
def _warn_once(difference: str) -> None:
    log.warning("the confidence was calibrated %s: calibrate again for what it says to hold", difference)


def best_feature(features: Sequence[Mapping[str, float]], quality: Sequence[float]) -> tuple[str, dict[str, float | None]]:
    """The feature whose values have the highest rank correlation with `quality`, one for each, of equals the first of
    `FEATURES`; and the correlation of each (`spearman`)."""
    correlations = {name: spearman([each[name] for each in features], quality) for name in FEATURES}
    best = max(FEATURES, key=lambda name: -2.0 if correlations[name] is None else correlations[name])
    return best, correlations


def isotonic(x: Sequence[float], y: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The isotonic regression of y on x: the function that never falls and has the least sum of squared errors, by pooling
    adjacent violators (Ayer et al. 1955). Returns, for each block of points that get one value, their mean x and that value.

    >>> isotonic([1, 2, 3, 4], [0.2, 0.6, 0.4, 0.9])
    ((1.0, 2.5, 4.0), (0.2, 0.5, 0.9))
    """
    places, block = np.unique(np.asarray(x, np.float64), return_inverse=True)
    counts = np.bincount(block)
    blocks: list[tuple[float, float, int]] = []  # sums of x and of y, and how many points
    for place, of_y, count in zip(places * counts, np.bincount(block, np.asarray(y, np.float64)), counts, strict=True):
        blocks.append((place, of_y, count))
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append(tuple(map(sum, zip(before, last, strict=True))))
    return tuple(float(x / n) for x, _, n in blocks), tuple(float(y / n) for _, y, n in blocks)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation: that of the ranks, of which equal values have the mean. None where all values of x or of y
    are equal.

    >>> spearman([1, 2, 3], [10, 30, 20])
    0.5
    """
    ranks = [_ranks(x), _ranks(y)]
    x, y = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / size if size else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, places, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
