"""An HTML page of an evaluation: its scores, charts of its analysis, and every sentence."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.data.corpus import Pairs
from transformer_jax.evaluation.analysis import sentence_chrf
from transformer_jax.evaluation.metrics import LEAST_SENTENCES
from transformer_jax.evaluation.reliability import Reliability
from transformer_jax.evaluation.report import Report
from transformer_jax.visualization.page_template import write_html

__all__ = ["not_in_common", "write_report_page"]


def write_report_page(file: str | Path, title: str, reports: Sequence[Report], sets: Sequence[Pairs]) -> None:
    """Writes one self-contained HTML file, compressed if its name ends in `.gz`. It loads no other file and uses no network.

    Every report has its analysis; `sets` has the test set of each. Raises UserError if the file cannot be written.
    """
    plain = [_plain(report, pairs) for report, pairs in zip(reports, sets, strict=True)]
    data = {"title": title, "leastSentences": LEAST_SENTENCES, "reports": plain}
    write_html(file, "report_page", data)


def not_in_common(words: Sequence[str], others: Sequence[str]) -> tuple[list[int], list[int]]:
    """The indices of the words on each side that are outside the longest runs of words that both sides have.

    >>> not_in_common("der Hund schläft heute".split(), "heute schläft der Hund nicht".split())
    ([2, 3], [0, 1, 4])
    """
    operations = difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
    changed = [spans for kind, *spans in operations if kind != "equal"]
    return (
        [i for start, end, _, _ in changed for i in range(start, end)],
        [i for _, _, start, end in changed for i in range(start, end)],
    )


def _plain(report: Report, pairs: Pairs) -> dict[str, Any]:
    analysis, comparison = report.analysis, report.comparison
    others = comparison.hypotheses if comparison else []
    return {
        "name": f"{report.test}, {report.checkpoint}",
        "search": report.search + (f", words aligned by decoder layer {report.alignment_layer}" * bool(report.alignment_layer)),
        "sentences": report.sentences,
        "exact": report.exact,
        "noInterval": report.no_interval,
        "scores": list(map(dataclasses.asdict, report.scores)),
        "other": comparison and comparison.other,
        "differences": list(map(dataclasses.asdict, comparison.differences)) if comparison else [],
        "checks": report.checks and report.checks.as_text(),
        "looping": report.checks.looping if report.checks else [],
        "robustness": report.robustness and dataclasses.asdict(report.robustness),
        "byLength": list(map(dataclasses.asdict, analysis.by_length)),
        "byUnseen": analysis.by_unseen and list(map(dataclasses.asdict, analysis.by_unseen)),
        "trainingText": analysis.training_text,
        "chrf": [round(value, 1) for value in analysis.sentence_chrf],
        "otherChrf": [round(sentence_chrf(*lines), 1) for lines in zip(others, pairs.target, strict=False)],
        "reliability": report.reliability and _without_sentences(report.reliability),
        "source": list(map(_words, pairs.source)),
        "reference": list(map(_words, pairs.target)),
        "hypothesis": list(map(_words, report.hypotheses)),
        "otherHypothesis": list(map(_words, others)),
        "marks": _marks(report.hypotheses, pairs.target),
        "otherMarks": [extra for extra, _ in _marks(others, pairs.target)],
        "links": report.alignments,
    }


def _without_sentences(found: Reliability) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(found).items() if name != "confidences"}


def _marks(hypotheses: Sequence[str], references: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    lines = zip(hypotheses, references, strict=False)
    return [not_in_common(hypothesis.split(), reference.split()) for hypothesis, reference in lines]


def _words(line: str) -> str:
    # The page splits lines at single spaces: JavaScript does not count the same characters as white space.
    return " ".join(line.split())
