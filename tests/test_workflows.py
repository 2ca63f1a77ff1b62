"""The workflows of recipes/: to the end on a few lines, stopped anywhere and gone on with to the same bytes."""

import ast
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sacrebleu
from helpers import assert_same_runs, letters, quick_config, write_config, write_tsv

import transformer_jax
from transformer_jax.cli import program, workflow
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.runs.checkpoint_writer import CheckpointWriter
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.growing_files import GrowingFiles
from transformer_jax.training import loop

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "recipes").glob("*.py"))
STEPS = 6

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")


class Killed(BaseException):
    """Stands for a kill: nothing but the files on disk is there afterwards."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a config of a few updates, its text, and text of the target language alone."""
    config = quick_config(tmp_path)
    lines = [f"{line} b" for line in letters(24, 5)]
    config.data.train = write_tsv(tmp_path / "train.tsv", [*lines, lines[0]], [line[::-1] for line in (*lines, lines[0])])
    config.decode.beam = 2
    config.decode.max_length_ratio, config.decode.max_length_extra = 0.5, 2
    write_config(tmp_path / "config.py", config)
    (tmp_path / "mono.txt").write_text("".join(f"a {line}\n" for line in letters(11, 4, seed=2)), encoding="utf-8")
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(name: str, workdir: str, *flags: str) -> None:
    """A recipe, in this process."""
    file = runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="recipe")
    arguments = ["--config=config.py", f"--workdir={workdir}", "--batch_size=4", *flags]
    workflow.run(file[name], file["parser"](), arguments)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def rows_of(path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in lines_of(path)]


def train_text(run: Path) -> str:
    return Run(run).config.data.train


def test_recipes_are_short_and_use_public_names_alone():
    assert [file.stem for file in FILES] == ["back_translation", "distillation", "diversify"]
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 120
        imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        names = {(node.module, alias.name) for node in imports for alias in node.names}
        ours = {(module, name) for module, name in names if module.startswith("transformer_jax")}
        public = {("transformer_jax", name) for name in transformer_jax.__all__}
        assert ours and ours <= public | {("transformer_jax.cli.workflow", name) for name in workflow.__all__}


def test_back_translation(here, capsys, monkeypatch):
    flags = "--monolingual=mono.txt", "--temperature=1", "--ratio=0.25"
    call("back_translation", "bt", *flags)
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["reverse", "synthetic", "synthetic.tsv", "final"]
    assert all(line.endswith(" minutes") for line in told)
    translations, mono = lines_of(here / "bt" / "synthetic.txt"), lines_of(here / "mono.txt")
    rows = rows_of(here / "bt" / "synthetic.tsv")
    assert [target for _, target in rows] == mono and len(translations) == len(mono)
    reverse = Run(here / "bt" / "reverse").config
    assert (reverse.data.train, reverse.data.dev) == (f"{here}/train.tsv (swap=true)", f"{here}/dev.tsv (swap=true)")
    assert train_text(here / "bt" / "final") == f"{here}/train.tsv, bt/synthetic.tsv * {0.25 * 25 / 11} (tag=<bt> max_ratio=3)"

    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trains again"))
    call("back_translation", "bt", *flags)
    again = capsys.readouterr().out.splitlines()
    assert again == [f"{line}, done before" for line in told]
    monkeypatch.undo()
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
    monkeypatch.chdir(here)
    with pytest.raises(UserError, match=r"synthetic.txt: was begun otherwise \(temperature: 1.0 -> 0.5\)"):
        call("back_translation", "bt", *flags, "--temperature=0.5")
    with pytest.raises(UserError, match=r"reverse: was trained with another config .*train.seed"):
        call("back_translation", "bt", *flags, "--config.train.seed=7")


@pytest.mark.slow
def test_back_translation_with_a_model_that_is_there_and_without_a_tag(here):
    call("back_translation", "first", "--monolingual=mono.txt", "--steps=2")
    flags = "--monolingual=mono.txt", "--steps=2", "--reverse=first/reverse:latest", "--tag=", "--filters="
    call("back_translation", "second", *flags)
    assert not (here / "second" / "reverse").exists()
    assert train_text(here / "second" / "final") == f"{here}/train.tsv, second/synthetic.tsv"
    assert (here / "first" / "synthetic.txt").read_bytes() == (here / "second" / "synthetic.txt").read_bytes()


@pytest.mark.slow
def test_distillation_keeps_the_candidate_most_like_the_reference(here):
    call("distillation", "distil", "--teachers=2", "--best_of=3", "--metric=chrf", "--original=4")
    rows = rows_of(here / "distil" / "distilled.tsv")
    sources, targets = (lines_of(here / "distil" / f"text.{side}.txt") for side in ("source", "target"))
    assert list(zip(sources, targets, strict=True)) == list(dict.fromkeys(rows_of(here / "train.tsv")))
    assert len(sources) == len(targets) == len(rows) and [source for source, _ in rows] == sources
    for line, target, (_, chosen) in zip(lines_of(here / "distil" / "candidates.jsonl"), targets, rows, strict=True):
        texts = [one["text"].replace("\0", "\ufffd") for one in json.loads(line)["translations"]]
        scores = [sacrebleu.sentence_chrf(text, [target]).score for text in texts]
        assert len(texts) == 3 and chosen == texts[scores.index(max(scores))]
    teachers = [Run(here / "distil" / f"teacher_{number}").config.train.seed for number in range(2)]
    assert teachers == [0, 1]
    assert train_text(here / "distil" / "student") == f"{here}/train.tsv, distil/distilled.tsv * 0.25"


@pytest.mark.slow
def test_distillation_of_a_given_teacher_to_more_layers(here):
    call("distillation", "first", "--steps=2")
    call("distillation", "second", "--steps=2", "--teacher=first/teacher_0", "--student_layers=2")
    assert train_text(here / "second" / "student") == "second/distilled.tsv"
    assert Run(here / "second" / "student").config.model.num_layers == 2
    assert (here / "first" / "distilled.tsv").read_bytes() == (here / "second" / "distilled.tsv").read_bytes()
    for flag, message in (("--metric=ter", "one of bleu, chrf"), ("--best_of=0", "1 or more"), ("--stpes=2", "did you mean")):
        with pytest.raises(UserError, match=message):
            call("distillation", "second", flag)


@pytest.mark.slow
def test_diversification_has_both_directions_of_the_text(here):
    call("diversify", "diverse", "--final_steps=8")
    sources, targets = (lines_of(here / "diverse" / f"text.{side}.txt") for side in ("source", "target"))
    assert [source for source, _ in rows_of(here / "diverse" / "forward_0.tsv")] == sources
    assert [target for _, target in rows_of(here / "diverse" / "backward_0.tsv")] == targets
    final = Run(here / "diverse" / "final").config
    assert final.data.train == f"{here}/train.tsv, diverse/forward_0.tsv, diverse/backward_0.tsv"
    assert final.train.steps == 8 and Run(here / "diverse" / "forward_0").config.train.steps == STEPS


def stopped(monkeypatch, owner: type, name: str, times: int, how: Callable[[], None]) -> None:
    """Calls `how` after so many calls of a method."""
    real, calls = getattr(owner, name), 0

    def counted(*args, **kwargs):
        nonlocal calls
        result = real(*args, **kwargs)
        calls += 1
        if calls == times:
            how()
        return result

    monkeypatch.setattr(owner, name, counted)


def dies() -> None:
    raise Killed


def assert_same_results(found: Path, expected: Path, *runs: str) -> None:
    names = sorted(path.name for path in expected.iterdir() if path.suffix in (".txt", ".jsonl", ".tsv"))
    assert names and names == sorted(path.name for path in found.iterdir() if path.suffix in (".txt", ".jsonl", ".tsv"))
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    for run in runs:
        assert_same_runs(found / run, expected / run, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, flags, runs",
    [
        ("back_translation", ("--monolingual=mono.txt", "--temperature=1"), ("reverse", "final")),
        pytest.param("distillation", ("--best_of=2",), ("teacher_0", "student"), marks=pytest.mark.slow),
        pytest.param("diversify", (), ("forward_0", "backward_0", "final"), marks=pytest.mark.slow),
    ],
)
def test_stopped_in_every_stage_it_goes_on_to_the_same_result(name, flags, runs, here, monkeypatch):
    """In two folders of one parent, with the same relative names: the configs of the runs have them."""
    results = []
    for parent in ("straight", "stopped"):
        (here / parent).mkdir()
        (here / parent / "config.py").write_bytes((here / "config.py").read_bytes())
        (here / parent / "mono.txt").write_bytes((here / "mono.txt").read_bytes())
        monkeypatch.chdir(here / parent)
        terminate = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        moments = [
            (CheckpointWriter, "save", 1, terminate, ToBeContinued),
            (CheckpointWriter, "save", 1, dies, Killed),
            (GrowingFiles, "append", 1, dies, Killed),
            (GrowingFiles, "append", 1, terminate, ToBeContinued),
            (CheckpointWriter, "save", 1, dies, Killed),
        ]
        for owner, method, times, how, raised in moments if parent == "stopped" else ():
            with monkeypatch.context() as patch:
                stopped(patch, owner, method, times, how)
                with pytest.raises(raised):
                    call(name, "out", *flags)
        call(name, "out", *flags)
        results.append(here / parent / "out")
    assert_same_results(results[1], results[0], *runs)


@pytest.mark.slow
def test_the_program_killed_and_terminated_goes_on(here):
    """kill -9 and SIGTERM in the middle of a training and of a translation."""
    (here / "mono.txt").write_text("".join(f"a {line}\n" for line in letters(200, 4, seed=2)), encoding="utf-8")

    def begin(folder: str) -> subprocess.Popen:
        command = [str(ROOT / "recipes" / "back_translation.py"), "--config=../config.py", "--workdir=out", "--batch_size=4"]
        command += ["--monolingual=../mono.txt", "--temperature=1", "--steps=200", "--config.train.evaluate_every=100"]
        command += ["--config.tokenizer.vocab_size=400", "--config.tokenizer.vocab_may_shrink=true"]
        (here / folder).mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, *command], cwd=here / folder, env=environment, stderr=subprocess.DEVNULL)

    def finish(folder: str) -> None:
        with begin(folder) as process:
            assert process.wait(600) == 0

    finish("straight")
    out = here / "stopped" / "out"
    moments = [
        (signal.SIGKILL, -signal.SIGKILL, out / "reverse" / "checkpoints" / "9"),
        (signal.SIGTERM, 75, out / "reverse" / "checkpoints" / "30"),
        (signal.SIGKILL, -signal.SIGKILL, out / "synthetic.txt"),
        (signal.SIGTERM, 75, out / "synthetic.txt"),
        (signal.SIGKILL, -signal.SIGKILL, out / "final" / "checkpoints" / "9"),
    ]
    for number, code, path in moments:
        before = path.stat().st_size if path.is_file() else 0
        with begin("stopped") as process:
            while not path.exists() or (path.is_file() and path.stat().st_size <= before):
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(number)
            assert process.wait(600) == code
    finish("stopped")
    assert_same_results(out, here / "straight" / "out")
    for run in ("reverse", "final"):
        assert_same_runs(out / run, here / "straight" / "out" / run, 200)


def test_what_a_workflow_refuses(here, tmp_path):
    flags = SimpleNamespace(workdir="gs://bucket/x")
    with pytest.raises(UserError, match="a folder on a local disk"):
        workflow.Workflow(flags, None, [])
    (tmp_path / "one").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"--workdir=one: cannot be made \(File exists\)"):
        call("back_translation", "one", "--monolingual=mono.txt")
    (tmp_path / "other").write_text("a\n")
    with pytest.raises(UserError, match="only one of them has a line 2"):
        list(workflow.line_pairs(tmp_path / "one", tmp_path / "other"))
    (tmp_path / "bt").mkdir()
    (tmp_path / "bt" / "stages.json").write_text("{")
    with pytest.raises(UserError, match=r"stages.json: is damaged; remove it"):
        call("back_translation", "bt", "--monolingual=mono.txt")
    with pytest.raises(UserError, match="the following arguments are required: --monolingual"):
        call("back_translation", "bt")
