"""One page for a browser: the scores of an evaluation, pictures of where they come from, and every sentence."""

import dataclasses
import difflib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from transformer_jax.data.corpus import Pairs
from transformer_jax.evaluation.analysis import sentence_chrf
from transformer_jax.evaluation.report import Report
from transformer_jax.storage.files import finite_or_null
from transformer_jax.storage.text_files import open_output

__all__ = ["not_in_common", "write_report_page"]

PLACEHOLDER = "{{data}}"  # where report_page.html takes everything that differs from page to page


def write_report_page(file: str | Path, title: str, reports: Sequence[Report], sets: Sequence[Pairs]) -> None:
    """Writes one HTML file, compressed if its name ends in `.gz`, that needs nothing else: no network, no other file.

    `reports` have their analysis, and `sets` the test set of each. Raises UserError if the file cannot be written.
    """
    data = {"title": title, "reports": [_plain(*each) for each in zip(reports, sets, strict=True)]}
    # A "<" inside a string could end the element that holds the data, or open a comment in it.
    plain = finite_or_null(data)
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", r"\u003c")
    template = resources.files("transformer_jax.visualization").joinpath("report_page.html").read_text(encoding="utf-8")
    with open_output(file) as page:
        page.write(template.replace(PLACEHOLDER, text))


def not_in_common(words: Sequence[str], others: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which words of each side the longest runs of words that both have leave over, by their places.

    >>> not_in_common("der Hund schläft heute".split(), "heute schläft der Hund nicht".split())
    ([2, 3], [0, 1, 4])
    """
    changed = [
        each for each in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes() if each[0] != "equal"
    ]
    return [i for _, start, end, _, _ in changed for i in range(start, end)], [
        i for _, _, _, start, end in changed for i in range(start, end)
    ]


def _plain(report: Report, pairs: Pairs) -> dict[str, Any]:
    analysis, comparison = report.analysis, report.comparison
    others = comparison.hypotheses if comparison else []
    return {
        "name": f"{report.test}, {report.checkpoint}",
        "search": report.search + (f", words aligned by decoder layer {report.alignment_layer}" * bool(report.alignment_layer)),
        "sentences": report.sentences,
        "exact": report.exact,
        "scores": [dataclasses.asdict(each) for each in report.scores],
        "other": comparison and comparison.other,
        "differences": [dataclasses.asdict(each) for each in comparison.differences] if comparison else [],
        "byLength": [dataclasses.asdict(each) for each in analysis.by_length],
        "byUnseen": analysis.by_unseen and [dataclasses.asdict(each) for each in analysis.by_unseen],
        "trainingText": analysis.training_text,
        "chrf": [round(value, 1) for value in analysis.sentence_chrf],
        "otherChrf": [round(sentence_chrf(*each), 1) for each in zip(others, pairs.target, strict=False)],
        "source": list(map(_words, pairs.source)),
        "reference": list(map(_words, pairs.target)),
        "hypothesis": list(map(_words, report.hypotheses)),
        "otherHypothesis": list(map(_words, others)),
        "marks": _marks(report.hypotheses, pairs.target),
        "otherMarks": [extra for extra, _ in _marks(others, pairs.target)],
        "links": report.alignments,
    }


def _marks(hypotheses: Sequence[str], references: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    return [not_in_common(ours.split(), theirs.split()) for ours, theirs in zip(hypotheses, references, strict=False)]


def _words(line: str) -> str:
    # White space is not the same in JavaScript; there it splits at single spaces.
    return " ".join(line.split())
