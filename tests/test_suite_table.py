"""The table of `make test-all`."""

import subprocess
import sys
from pathlib import Path

import suite_table

PASSING, FAILING = "def test_a():\n    pass\n", "def test_b():\n    assert False\n"
SKIPPED = "import pytest\n\n\ndef test_c():\n    pytest.skip('no reason')\n"


def report_of(folder: Path, suite: str, text: str) -> str:
    """What pytest reports of a file with this text."""
    (folder / f"test_{suite}.py").write_text(text)
    report = folder / f"{suite}.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", f"--junitxml={report}"]
    subprocess.run([*command, f"test_{suite}.py"], cwd=folder, capture_output=True, timeout=120, check=False)
    return str(report)


def test_a_failure_or_a_missing_report_is_an_exit_code(tmp_path, capsys):
    quick = report_of(tmp_path, "quick", f"{SKIPPED}\n\n{PASSING}")
    slow = report_of(tmp_path, "slow", f"{PASSING}\n\n{FAILING}")
    assert suite_table.main([quick]) == 0
    assert suite_table.main([quick, slow]) == 1
    assert suite_table.main([quick, str(tmp_path / "absent.xml")]) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[-3:]] == [
        ["suite", "passed", "failed", "skipped"],
        ["quick", "1", "0", "1"],
        ["absent", "-", "no", "report"],
    ]
    assert ["slow", "1", "1", "0"] in [line[:4] for line in lines]
