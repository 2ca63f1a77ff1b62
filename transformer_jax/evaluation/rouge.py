"""ROUGE (Lin 2004) as a metric of sacreBLEU, and so with signatures, confidence intervals and significance tests."""

import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics.base import Metric, Score, Signature

from transformer_jax.errors import UserError, pip_install

__all__ = ["Rouge"]


class _Signature(Signature):
    def __init__(self, args: dict[str, Any]):
        super().__init__(args)
        self.info |= {"case": "lc", "tok": "words", "stem": False, "rouge-score": importlib.metadata.version("rouge-score")}


class Rouge(Metric):
    """The mean over the sentences of the F1 of the units that hypothesis and reference share, in percent, by Google's
    rouge-score.

    `kind` names the units: `rouge1` words, `rouge2` pairs of words, `rougeL` words of the longest common subsequence. With m
    matches among h units of the hypothesis and r of the reference, F1 = 2 P R / (P + R) for P = m / h and R = m / r; of several
    references the one with the largest F1 counts. Words are runs of letters and digits of any script, lower-cased, not stemmed.

    Raises UserError if rouge-score is not installed.
    """

    _SIGNATURE_TYPE = _Signature

    def __init__(self, kind: str):
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise UserError(f"ROUGE needs rouge-score; {pip_install('rouge-score')}, or set train.metric=chrf") from None
        super().__init__()
        self._kind = kind
        self._scorer = RougeScorer([kind], tokenizer=self)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text; rouge-score calls this."""
        return _words(text)

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"references": refs}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[float]:
        return [self._scorer.score_multi(ref_kwargs["references"], hypothesis)[self._kind].fmeasure, 1]

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Score:
        return Score(f"ROUGE-{self._kind[-1]}", float(100 * stats[0] / stats[1]))

    def _aggregate_and_compute(self, stats: list[list[float]]) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])


def _words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits of any script. For English these are the words of rouge-score's own tokenizer,
    which splits words at umlauts.

    >>> _words("Über 40 Hunde, don't!")
    ['über', '40', 'hunde', 'don', 't']
    """
    return re.findall(r"[^\W_]+", text.lower())
