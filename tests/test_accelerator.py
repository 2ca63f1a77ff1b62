"""`benchmarks/accelerator.sh`, which is run where there is an accelerator, as far as it can be tried without one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder's modules can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(BENCHMARKS / "accelerator.sh"), *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_page_tells_how_each_part_ended_and_keeps_the_finished_rows(benchmarks, tmp_path):
    from accelerator_page import write_page

    files = {
        "parts.tsv": "devices\t0\t4\t30\tpython a.py\nspeed\t124\t110\t110\tpython b.py --laps=3\n"
        "pytorch\t-\t0\t0\tPyTorch is not installed\ndecoding\t2\t1\t60\tpython c.py\n",
        "devices.out": "| what | found |\n| --- | --- |\n| devices | 1 TPU v5 lite |\n\n* a remark\n",
        "speed.out": "| model | tokens/s |\n|---|---:|\n| base | 700,000 |\n| big |",
        "speed.log": "Terminated\n",
        "decoding.log": "12:00:00 a line of the log\nerror: no system is left to time\n12:00:01 a later line\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    write_page(tmp_path)
    parts = json.loads((tmp_path / "accelerator.json").read_text())["parts"]
    assert [part["ended"] for part in parts] == ["whole", "cut", "not run", "failed"]
    assert parts[0]["tables"] == [[{"what": "devices", "found": "1 TPU v5 lite"}]] and parts[0]["lines"] == ["* a remark"]
    assert parts[1]["tables"] == [[{"model": "base", "tokens/s": "700,000"}]]
    assert [part["why"] for part in parts[2:]] == ["PyTorch is not installed", "exit code 2: no system is left to time"]
    page = (tmp_path / "accelerator.md").read_text()
    assert "| base | 700,000 |" in page and "**Cut**: its 110 s were over" in page and "**Not run**: PyTorch is not" in page


@pytest.mark.parametrize("error, holds", [(0.0, True), (1e-6, True), (1e-3, False), (np.nan, False)])
def test_a_gradient_of_fewer_bits_is_not_equal(benchmarks, error, holds):
    from accelerator_equality import FAMILIES, compared

    random = np.random.default_rng(0)
    expected = {
        f"beam {beam}/{name}": np.array(["5 1"] if name == "tokens" else [-0.5])
        for beam in (1, 4)
        for name in ("tokens", "scores")
    }
    for family in FAMILIES:
        expected |= {f"{family}/loss": np.array(7.0), f"{family}/gradient": random.standard_normal(1000)}
    found = dict(expected)
    found["LSTM/gradient"] = found["LSTM/gradient"] * (1 + error * random.standard_normal(1000))
    comparisons = list(compared(expected, found))
    assert [each.what for each in comparisons if not each.holds] == ([] if holds else ["LSTM, one step"])
    found["beam 4/tokens"] = np.array(["6 1"])
    assert any(not each.holds and each.what == "search, beam 4" for each in compared(expected, found))


@pytest.fixture
def python(tmp_path) -> str:
    """An interpreter with a CPU for JAX, in which the part `equality` prints a row and then hangs in another process."""
    hangs = tmp_path / "hangs.py"
    hangs.write_text("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    file = tmp_path / "python"
    file.write_text(f"""#!/bin/bash
case "$*" in
  -c*) echo cpu ;;
  *"accelerator.py page"*) exec {sys.executable} "$@" ;;
  *"accelerator.py equality"*) printf '| what |\\n|---|\\n| first |\\n'; cd {tmp_path}; {sys.executable} hangs.py ;;
  *) exit 3 ;;
esac
""")
    file.chmod(0o755)
    return str(file)


def is_there(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and ") Z" not in state.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_part_that_hangs_is_ended_with_its_processes_and_the_others_go_on(python, tmp_path):
    done = start(tmp_path, "out", PYTHON=python, MINUTES="1", PARTS="equality captions")
    assert "equality: 5 s at most" in done.communicate(timeout=60)[0] and done.returncode == 0
    parts = json.loads((tmp_path / "out" / "accelerator.json").read_text())["parts"]
    assert [(part["name"], part["ended"]) for part in parts] == [("equality", "cut"), ("captions", "not run")]
    assert parts[0]["tables"] == [[{"what": "first"}]] and parts[1]["why"] == "no folder of Multi30k was given"
    deadline = time.monotonic() + 10
    while is_there(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_script_measures_and_writes_its_page(tmp_path):
    done = start(tmp_path, "out", PYTHON=sys.executable, TINY="1", PARTS="devices deterministic decoding")
    assert "out/accelerator.md" in done.communicate(timeout=300)[0] and done.returncode == 0
    devices, decoding, deterministic = json.loads((tmp_path / "out" / "accelerator.json").read_text())["parts"]
    assert devices["tables"][0][0]["what"] == "devices"
    assert decoding["why"] == "the part demo trained no model"
    assert [row["the same bits"] for row in deterministic["tables"][0]] == ["yes"]


@pytest.mark.parametrize(
    "arguments, environment, says",
    [
        ((), {}, "benchmarks/accelerator.sh OUTPUT [MULTI30K]"),
        (("out", "."), {}, "there is no train.en in it"),
        (("out",), {"MINUTES": "0"}, "MINUTES=0 should be a whole number"),
    ],
    ids=["nothing", "no corpus", "no time"],
)
def test_what_the_script_cannot_do_is_a_line_and_code_2(tmp_path, arguments, environment, says):
    done = start(tmp_path, *arguments, **environment)
    assert says in done.communicate(timeout=60)[0] and done.returncode == 2
