"""What a training reports: its first lines, its progress, its last lines."""

import io
import itertools
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import quick_config, tiny_model

from transformer_jax.config import BatchConfig, Config, TrainConfig
from transformer_jax.data.batch_shapes import Shape
from transformer_jax.models.seq2seq import abstract_parameters, build_model, count_parameters
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.training import console, pace, summary, visible_log
from transformer_jax.training.loop import train
from transformer_jax.version import __version__

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")


@pytest.mark.parametrize(
    "changes, output, pattern",
    [
        (dict(tied_embeddings="all"), 0, "320 (also the output)"),
        (dict(tied_embeddings="target", output_bias=True), 20, "640 (also the output)"),
        (dict(tied_embeddings="none", positions="learned", max_positions=10), 320, "960, encoder"),
        (dict(family="lstm", attention="general", num_layers=2, input_feeding=True), 0, "320 (also the output)"),
    ],
)
def test_parameters_are_counted_by_part(changes, output, pattern):
    config = tiny_model(**changes)
    params = abstract_parameters(build_model(config, 20))
    parts = summary.parameters_by_part(params)
    assert sum(parts.values()) == count_parameters(params) and parts["output"] == output
    assert parts["encoder"] > 0 < parts["decoder"]
    assert pattern in summary.describe_parameters(params, config.tied_embeddings != "none")


def test_hundreds_of_epochs_are_worth_a_warning():
    config = Config()
    config.train.steps = 2000
    assert summary.describe_epochs(config, 25.0, 500) == ("2,000 steps are about 80 epochs of 500 pairs", "")
    line, warning = summary.describe_epochs(config, 5.0, 100)
    assert line == "2,000 steps are about 400 epochs of 100 pairs"
    assert "400 times" in warning and "train.steps=150 is about 30 epochs" in warning and "set train.patience" in warning
    config.train.patience = 4
    assert "train.patience=4 may end it earlier" in summary.describe_epochs(config, 5.0, 100)[1]


def test_packed_batches_that_cannot_use_their_positions_are_worth_a_warning():
    config = BatchConfig(kind="packed", tokens=25_600)
    warning = summary.unused_positions(config, [Shape(64, 240, 256)])
    assert "batch.tokens=25,600, but a packed batch has 64 x 256 = 16,384 positions" in warning
    assert "set batch.tokens=32768 or 16384" in warning
    config.tokens = 32_768
    assert not summary.unused_positions(config, [Shape(128, 240, 256)])
    assert not summary.unused_positions(BatchConfig(tokens=25_600), [Shape(64, 200, 256)])


@pytest.fixture
def train_one_step(tmp_path, caplog):
    """Trains for a step in `tmp_path / name`, with changes to the section `train`; gives the lines of the log."""

    def call(name: str, config_name: str = "", **changes) -> list[str]:
        config = quick_config(tmp_path)
        config.train.steps = config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 1
        for field, value in changes.items():
            setattr(config.train, field, value)
        caplog.clear()
        with caplog.at_level(logging.INFO, "transformer_jax"):
            train(config, tmp_path / name, name=config_name)
        return [record.getMessage() for record in caplog.records]

    return call


def test_a_training_reports_what_it_runs_on_and_how_it_ended(tmp_path, train_one_step, monkeypatch):
    monkeypatch.setattr(console.platform, "accelerator_files", lambda: ["/dev/nvidia0"])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    console.platform.tell_unused_accelerator.cache_clear()
    lines = train_one_step("run", "demo")
    assert lines[0].endswith(f", config demo, run folder {tmp_path / 'run'}")
    assert "CPU devices on" in lines[1] and lines[1].endswith(": float32")
    assert lines[2].startswith("warning: there seems to be a GPU")
    said = "\n".join(lines)
    size = r"\d+(\.\d+)? [kM]B"
    assert re.search(rf"memory of a step: {size} on each device, of which parameters and optimizer state are {size}", said)
    assert "parameters: embeddings 4,352 (also the output), encoder" in said
    assert "1 steps are about 0." in said
    best = r"best cross_entropy \d\.\d+ at step 1"
    assert re.fullmatch(rf"trained to step 1, 1 steps in \d+\.\d minutes; {best}; run folder .*run", lines[-2])
    assert lines[-1].startswith("next: ")
    again = train_one_step("run")
    assert again[0].endswith(f"{__version__}, run folder {tmp_path / 'run'}") and "there seems to be" not in "".join(again)
    assert again[-3] == "trained to step 1 already, nothing to do" and re.match(best, again[-2])


def standard_error_without_logging(monkeypatch) -> io.StringIO:
    """What a program would see that has set up no logging; pytest has, again for the body of each test."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    return error


@pytest.mark.parametrize("handlers", ["none", "of a library", "of the program"])
def test_a_program_sees_each_line_once_whether_it_has_set_up_logging_or_not(tmp_path, monkeypatch, handlers):
    is_set_up = handlers == "of the program"
    standard_error = standard_error_without_logging(monkeypatch)
    config, logger = quick_config(tmp_path), logging.getLogger("transformer_jax")
    config.train.steps = 1
    before = logger.level, logger.propagate, logger.handlers.copy()
    if handlers == "of a library":
        logging.basicConfig()  # as absl does at its first message
        logging.getLogger().setLevel(logging.WARNING)
    if is_set_up:
        logging.getLogger().addHandler(logging.StreamHandler(standard_error))
        logger.setLevel(logging.INFO)
    train(config, tmp_path / "run")
    logger.setLevel(before[0])
    for start in ("transformer_jax ", "memory of a step", "trained to step 1", "next: "):
        lines = re.findall(rf"^(?:\d\d:\d\d:\d\d )?{start}.*$", standard_error.getvalue(), re.MULTILINE)
        assert len(lines) == 1 and bool(re.match(r"\d\d:", lines[0])) is not is_set_up, lines
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_without_verbose_nothing_is_shown(tmp_path, monkeypatch, capfd):
    standard_error = standard_error_without_logging(monkeypatch)
    config = quick_config(tmp_path)
    config.train.steps = 1
    standard_error.isatty = lambda: True
    train(config, tmp_path / "run", verbose=False)
    assert not standard_error.getvalue() and capfd.readouterr() == ("", "")


def test_a_bar_steps_aside_for_the_handlers_of_the_console_alone(monkeypatch, tmp_path):
    root = logging.getLogger()
    file = logging.FileHandler(tmp_path / "log")
    monkeypatch.setattr(root, "handlers", [file])
    assert visible_log.loggers_of_console() == []
    with visible_log.visible_log(verbose=True):
        assert visible_log.loggers_of_console() == []  # the program has set up where its lines go
    monkeypatch.setattr(root, "handlers", [file, logging.StreamHandler()])
    assert visible_log.loggers_of_console() == [root]
    file.close()


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    assert not visible_log.in_notebook()
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert visible_log.in_notebook()
    del shell.kernel  # IPython in a terminal
    assert not visible_log.in_notebook()


@pytest.mark.parametrize("verbose", [True, False])
def test_a_notebook_has_a_bar_although_it_is_no_terminal(monkeypatch, verbose):
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    with console.Console(Config(), "run", verbose=verbose).showing(TrainProgress()):
        pass
    assert ("steps" in error.getvalue()) == verbose


def test_where_the_first_parameters_are_from_is_reported(tmp_path, train_one_step):
    train_one_step("base")
    lines = train_one_step("tuned", init_from=f"{tmp_path / 'base'}:latest")
    assert f"the first parameters are those of {tmp_path / 'base'}, checkpoint latest: step 1" in lines


@pytest.mark.parametrize(
    "metric, score, expected",
    [
        ("bleu", 31.46, "best bleu 31.46 at step 1,500"),
        ("ter", -48.2, "best ter 48.2 at step 1,500"),
        ("loss", -2.5, "best cross_entropy 2.5 at step 1,500"),
        ("bleu", None, ""),
    ],
)
def test_the_best_score_is_that_of_the_metric(metric, score, expected):
    config = Config()
    config.train.metric = metric
    assert summary.describe_best(config, TrainProgress(best_score=score, best_step=1500)) == expected


def test_the_next_command_is_like_the_one_before(tmp_path, monkeypatch):
    def after(program: str) -> str:
        return summary.next_command("runs/my run", "demo:test", program)

    flags = "--workdir='runs/my run' --test demo:test"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    Path("evaluate.py").touch()
    assert after("train.py") == f".venv/bin/python evaluate.py {flags}"
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    assert after("../train.py") == f"{tmp_path}/.venv/bin/python {tmp_path}/evaluate.py {flags}"
    assert after("/usr/bin/transformer-jax") == f"transformer-jax evaluate {flags}"
    assert after("/lib/transformer_jax/__main__.py") == f"{tmp_path}/.venv/bin/python -m transformer_jax evaluate {flags}"
    assert after("notebook.py") == after("train.py") == "transformer_jax.Translator.load('runs/my run')"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def scored_config(tmp_path):
    """Two steps of two shapes, each with an evaluation by BLEU."""
    config = quick_config(tmp_path)
    config.batch.shapes, config.train.metric, config.decode.beam, config.train.samples = 2, "bleu", 1, 1
    config.train.steps, config.train.log_every, config.train.evaluate_every = 2, 1, 1
    return config


def test_on_a_terminal_a_bar_shows_what_is_being_done(scored_config, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(console.tqdm, "mininterval", 0, raising=False)
    train(scored_config, tmp_path / "run")
    shown = re.split(r"[\r\n]+", terminal.getvalue())
    assert any(line.startswith("compiling shape 1 of 2   0%|") and "| 0/2 steps" in line for line in shown)
    assert any(line.startswith("evaluating 0 of 10 lines  50%|") for line in shown)
    assert any(line.startswith("evaluating 10 of 10 lines 100%|") for line in shown)
    assert any(re.search(r"2/2 steps, .*loss \d\.\d+, [\d,]+ tokens/s, best bleu [\d.]+ at step 1", line) for line in shown)


def test_a_log_has_no_bar_but_says_that_it_compiles_and_evaluates(scored_config, tmp_path, monkeypatch, caplog):
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    with caplog.at_level(logging.INFO, "transformer_jax"):
        train(scored_config, tmp_path / "run")
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("compiling shape 1 of 2 (") for line in lines) == 1
    assert lines.count("evaluating: translating 10 lines of the dev set") == 1
    assert not error.getvalue() and not re.search(r"%\||\r", "".join(lines))


def test_the_remaining_time_is_that_of_steps_and_evaluations_without_compilations(monkeypatch):
    clock = itertools.accumulate([100, 2, 2, 0, 30, 500, 4])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    measured = pace.Pace(TrainConfig(steps=25, evaluate_every=10))
    measured.interrupted()
    measured.advanced()  # at 100: it compiled
    assert measured.seconds_left(1) is None
    measured.advanced()
    measured.advanced()
    assert measured.seconds_left(3) == 22 * 2
    with measured.evaluation():  # 30 s
        pass
    measured.advanced()  # at 634: the 500 s do not count
    assert measured.seconds_left(10) == 15 * 2 + 2 * 30
    measured.advanced()
    assert measured.seconds_left(25) == 0
