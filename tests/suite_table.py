"""The table at the end of `make test-all`: python tests/suite_table.py REPORT.xml ...

Reads pytest's JUnit reports and prints a row for each. Exit code 1 if a test failed, or if a report is missing because its
suite did not come to its end.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

COLUMNS = ("suite", "passed", "failed", "skipped", "seconds")


def row(report: Path) -> tuple[str, ...]:
    """The cells of one suite, which has the name of its report."""
    if not report.is_file():
        return report.stem, "-", "no report", "-", "-"
    suites = list(ElementTree.parse(report).iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    seconds = sum(float(suite.get("time", 0)) for suite in suites)
    return report.stem, str(total - failed - skipped), str(failed), str(skipped), f"{seconds:.0f}"


def main(reports: Sequence[str]) -> int:
    """Prints the table and returns the exit code."""
    rows = [row(Path(report)) for report in reports]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for name, *numbers in (COLUMNS, *rows):
        cells = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
        print("  ".join(cells))
    return int(any(failed != "0" for _, _, failed, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
