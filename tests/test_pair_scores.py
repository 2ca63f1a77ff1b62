"""Dual conditional cross-entropy of pairs, and the command that writes a file of it: whole, resumed, and refused."""

import gzip
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import write_tsv

from transformer_jax.cli import pair_scoring, program
from transformer_jax.cli.subcommands import run
from transformer_jax.config import DataConfig
from transformer_jax.data import demo
from transformer_jax.data.sources import read_sources
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.inference.pair_scores import adequacy, score_pairs
from transformer_jax.inference.translator import Translator
from transformer_jax.storage.growing_files import GrowingFiles

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
ROOT = Path(__file__).parents[1]
FORWARD = ROOT / "tests" / "runs" / "9f7c919"


@pytest.fixture(autouse=True)
def _no_set_up(monkeypatch):
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)


@pytest.fixture(scope="module")
def backward(tmp_path_factory):
    """A run of the other direction: the same parameters, which read German as English."""
    folder = tmp_path_factory.mktemp("runs") / "backward"
    shutil.copytree(FORWARD, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= {"source_language": "de", "target_language": "en"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def pairs():
    found = [(pair.source, pair.target) for pair in demo.generate("dev", 40)]
    found[3], found[7], found[11] = ("", "Der Hund."), ("The dog.", " "), ("dog " * 60, "Hund")
    return found


@pytest.fixture
def text(pairs, tmp_path):
    return write_tsv(tmp_path / "web.tsv", *zip(*pairs, strict=True))


def expected(pairs, forward, backward) -> list[float]:
    """The paper's formula, pair by pair."""
    known = [i for i, pair in enumerate(pairs) if pair[0].strip() and pair[1].strip() and len(pair[0]) < 200]
    sources, targets = zip(*(pairs[i] for i in known), strict=True)
    values = [0.0] * len(pairs)
    there, back = (
        model and [-sum(one.token_log_probs) / len(one.token_log_probs) for one in model.score(*sides)]
        for model, sides in ((forward, (sources, targets)), (backward, (targets, sources)))
    )
    for number, i in enumerate(known):
        if there and back:
            values[i] = math.exp(-(abs(there[number] - back[number]) + (there[number] + back[number]) / 2))
        else:
            values[i] = math.exp(-(there or back)[number])
    return values


def test_the_formula():
    there, back = np.random.default_rng(0).uniform(0, 9, (2, 50))
    found = adequacy(there, back)
    np.testing.assert_allclose(found, [math.exp(-(abs(a - b) + 0.5 * (a + b))) for a, b in zip(there, back, strict=True)])
    np.testing.assert_array_equal(found, adequacy(back, there))
    np.testing.assert_allclose(adequacy(there, None), np.exp(-there))
    np.testing.assert_allclose(adequacy(None, back), np.exp(-back))
    assert (adequacy(there, there + 1) < adequacy(there, there)).all()


def test_pairs_of_both_directions_and_of_one(pairs, backward):
    models = Translator.load(FORWARD), Translator.load(backward)
    for chosen in (models, (models[0], None), (None, models[1])):
        scores, blank, too_long = score_pairs(*map(list, zip(*pairs, strict=True)), *chosen, max_length=100)
        assert (blank, too_long) == (2, 1)
        np.testing.assert_allclose(scores, expected(pairs, *chosen), rtol=2e-5)
    assert score_pairs([], [], *models, max_length=100)[0].shape == (0,)


def test_a_file_of_scores_is_one_that_training_reads(text, pairs, backward, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    output = tmp_path / "web.scores"
    arguments = [
        "score_pairs",
        text,
        f"--forward={FORWARD}",
        f"--backward={backward}",
        f"--output={output}",
        "--max_length=100",
    ]
    run([*arguments, "--batch_size=40"])
    scores = list(map(float, output.read_text().splitlines()))
    np.testing.assert_allclose(scores, expected(pairs, *map(Translator.load, (FORWARD, backward))), rtol=1e-5)
    assert "40 scores; 0 for 2 pairs with a blank side and 1 of more than 100 tokens" in caplog.text
    assert "min_score=" in caplog.text and "keeps 50%" in caplog.text
    note = json.loads(Path(f"{output}.progress").read_text())
    assert (note["lines"], note["complete"], note["sizes"]) == (40, True, [output.stat().st_size])
    least = sorted(scores)[20]
    kept = read_sources(DataConfig(train=f"{text} (scores={output} min_score={least})", cache_dir=str(tmp_path)))[0]
    assert list(kept.source) == [pair[0] for pair, score in zip(pairs, scores, strict=True) if score >= least]
    # The same command again does nothing, and another one does not overwrite.
    before = output.stat()
    run([*arguments, "--batch_size=40"])
    assert output.stat() == before and "is there already" in caplog.text
    for other, message in {
        "--batch_size=8": "batch_size: 40 -> 8",
        "--max_length=20": "max_length: 100 -> 20",
        f"--backward={backward}:750": r"backward: \w{32} -> \w{32}",
    }.items():
        with pytest.raises(UserError, match=rf"web.scores: was begun otherwise \({message}\): give the same"):
            run([*arguments, "--batch_size=40", other])


class Killed(BaseException):
    """Stands for a kill: nothing but the files on disk is there afterwards."""


def scores_of_block(sources, targets, forward, backward, max_length):
    """In place of the models' scores, numbers that depend on a pair and on what else is in its block."""
    return np.array([1 / (2 + len(source) * len(sources[0]) + i) for i, source in enumerate(sources)]), 0, 0


@pytest.mark.parametrize("rest", ["", "0.123\n0.", "\0\0\0\0\n"])
def test_a_text_goes_on_where_it_was_stopped_with_the_same_file(rest, text, backward, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_scoring, "score_pairs", scores_of_block)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    arguments = ["score_pairs", text, f"--forward={FORWARD}", f"--backward={backward}", "--batch_size=8"]
    run([*arguments, f"--output={straight}"])
    append = GrowingFiles.append

    def stop(files, texts, done):
        if done.lines == 24:
            raise Killed
        append(files, texts, done)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(GrowingFiles, "append", stop)
        run([*arguments, f"--output={stopped}"])
    assert len(stopped.read_text().splitlines()) == 16
    with pytest.raises(UserError, match=r"expected one for each"):
        read_sources(DataConfig(train=f"{text} (scores={stopped} min_score=0.1)", cache_dir=str(tmp_path)))
    with stopped.open("a") as file:
        file.write(rest)  # of the next block, as a kill leaves it
    blocks = []

    def tell(files, texts, done):
        blocks.append(done.lines)
        append(files, texts, done)

    monkeypatch.setattr(GrowingFiles, "append", tell)
    run([*arguments, f"--output={stopped}"])
    assert blocks == [24, 32, 40, 40] and stopped.read_bytes() == straight.read_bytes()


def test_the_text_is_known_again(text, pairs, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pair_scoring, "score_pairs", scores_of_block)
    output = tmp_path / "out"
    arguments = ["score_pairs", text, f"--forward={FORWARD}", f"--output={output}", "--batch_size=20"]
    run(arguments)
    before, lines = output.read_bytes(), Path(text).read_text().splitlines(keepends=True)
    for other in ([*lines[:20], "Another.\tEin anderer.\n", *lines[21:]], lines[:39]):
        Path(text).write_text("".join(other))
        with pytest.raises(UserError, match=r"web.tsv: its first 40 pairs are not those whose scores .*out has"):
            run(arguments)
        assert output.read_bytes() == before
    Path(text).write_text("".join([*lines, *lines[:5]]))
    run(arguments)
    assert output.read_bytes().startswith(before) and output.read_bytes().count(b"\n") == 45
    assert "out: goes on after 40 pairs" in caplog.text
    os.rename(text, tmp_path / "same.tsv")  # its content counts, not its name
    caplog.clear()
    run(["score_pairs", str(tmp_path / "same.tsv"), *arguments[2:]])
    assert "is there already" in caplog.text


def test_a_signal_stops_it_to_be_continued(text, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_scoring, "score_pairs", scores_of_block)
    straight, stopped, append = tmp_path / "straight", tmp_path / "stopped.gz", GrowingFiles.append
    arguments = ["score_pairs", text, f"--forward={FORWARD}", "--batch_size=8"]
    run([*arguments, f"--output={straight}"])

    def stop(files, texts, done):
        append(files, texts, done)
        if done.lines == 24:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(ToBeContinued):
        patch.setattr(GrowingFiles, "append", stop)
        run([*arguments, f"--output={stopped}"])
    assert gzip.decompress(stopped.read_bytes()).count(b"\n") == 24
    run([*arguments, f"--output={stopped}"])
    assert gzip.decompress(stopped.read_bytes()) == straight.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--forward and --backward: expected a model of one of them"),
        (["--forward={run}", "--batch_size=0"], "--batch_size=0 should be 1 or more"),
        (["--forward={run}", "--max_length=1"], "--max_length=1 should be 2 or more"),
        (
            ["--forward={run}", "--backward={run}"],
            "translates en to de and --backward=.* en to de: expected models of two opposite",
        ),
        (["--forward=no_run"], "no_run: no such run folder"),
        (["--forward={run}:77"], "77"),
        (["--forward={run}", "--output=gs://a/b"], "gs://a/b: cannot grow in blocks on an object store"),
        (["--forward={run}", "--output=-"], "--output=-: the command can only go on with a file"),
        (["--forward={run}", "--output=no/such/folder"], "no/such/folder: cannot be written"),
    ],
)
def test_what_cannot_be_scored(arguments, message, text, tmp_path):
    given = [argument.format(run=FORWARD) for argument in arguments]
    with pytest.raises(UserError, match=message):
        run(["score_pairs", text, f"--output={tmp_path / 'out'}", *given])
    assert not (tmp_path / "out").exists()


def test_texts_that_cannot_be_scored(tmp_path):
    for name, message in {
        "no/such": "no/such: no such file",
        "demo:dev (tag=<x>)": "leave the tag out",
        "demo:dev (filters=usual)": "filters filters training text",
    }.items():
        with pytest.raises(UserError, match=message):
            run(["score_pairs", name, f"--forward={FORWARD}", f"--output={tmp_path / 'out'}"])


@pytest.mark.slow
def test_killed_at_any_moment_and_terminated_it_goes_on(text, backward, tmp_path):
    command = [sys.executable, "-m", "transformer_jax", "score_pairs", text, f"--forward={FORWARD}", f"--backward={backward}"]
    command += ["--batch_size=2"]
    output, straight = tmp_path / "killed", tmp_path / "straight"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    codes: list[int] = []
    while not codes or codes[-1]:
        stop = signal.SIGTERM if len(codes) == 1 else signal.SIGKILL
        process = subprocess.Popen([*command, f"--output={output}"], env=environment, stderr=subprocess.PIPE)
        size, began = output.stat().st_size if output.exists() else 0, time.monotonic()
        while process.poll() is None and time.monotonic() - began < 120:
            if output.exists() and output.stat().st_size > size + 60:
                process.send_signal(stop)
                break
            time.sleep(0.002)
        said = process.communicate(timeout=120)[1].decode()
        codes.append(process.returncode)
        assert codes[-1] in (0, 75, -signal.SIGKILL), said
        assert (codes[-1] == 75) == said.endswith("stopped as asked; the same command goes on from here\n")
    assert codes[:2] == [-signal.SIGKILL, 75]
    subprocess.run([*command, f"--output={straight}"], env=environment, check=True, capture_output=True)
    assert output.read_bytes() == straight.read_bytes() and len(output.read_text().splitlines()) == 40
