"""The files that evaluate.py writes: translations, reports as JSON or text, a page."""

import dataclasses
import json
from collections.abc import Sequence

from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.data.corpus import Pairs
from transformer_jax.evaluation.report import Report
from transformer_jax.evaluation.robustness import PLAIN, as_table
from transformer_jax.storage.files import finite_or_null
from transformer_jax.storage.text_files import check_writable, open_output
from transformer_jax.visualization.report_page import write_report_page

__all__ = ["check_files", "robustness_tables", "write_files"]


def check_files(job: EvaluationJob) -> None:
    """Raises UserError if one of the files cannot be written: a wrong path should not cost a translation of the test set."""
    for path in filter(None, (job.output, job.report, job.html)):
        check_writable(path)


def write_files(job: EvaluationJob, reports: Sequence[Report], pairs: Sequence[Pairs]) -> None:
    """Writes the files that `job` names; `pairs` are the test set of each report."""
    if job.output:
        with open_output(job.output) as file:
            file.writelines(f"{line}\n" for report in reports for line in report.hypotheses)
    if job.report:
        with open_output(job.report) as file:
            file.write(_as_text(reports) if job.report.endswith((".txt", ".txt.gz")) else _as_json(reports))
    if job.html:
        write_report_page(job.html, job.workdir, reports, pairs)


def _as_text(reports: Sequence[Report]) -> str:
    return "\n\n".join([*map(_report_as_text, reports), *robustness_tables(reports)]) + "\n"


def robustness_tables(reports: Sequence[Report]) -> list[str]:
    """The tables of `--robustness`, one for each test set and checkpoint."""
    tables: list[list[Report]] = []
    for report in reports:
        if report.robustness and report.robustness.noise == PLAIN:
            tables.append([])
        if report.robustness:
            tables[-1].append(report)
    return [f"{table[0].checkpoint}, {as_table([report.robustness for report in table])}" for table in tables]


def _report_as_text(report: Report) -> str:
    checks = f"\n  {report.checks.as_text()}" * (not report.checks.notable)  # else as_text has them
    return f"{report.as_text()}{checks}\n{report.analysis.as_text()}"


def _as_json(reports: Sequence[Report]) -> str:
    plain = finite_or_null([dataclasses.asdict(report) for report in reports])
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
