"""translate.py --resume: stopped at any moment and continued, the output has the bytes of an uninterrupted call."""

import functools
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transformer_jax.cli import translate as translate_module
from transformer_jax.cli import translation_output
from transformer_jax.cli.translate import translate_lines
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.data import demo
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.storage import growing_files
from transformer_jax.storage.growing_files import GrowingFiles, LinesDone

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")

ROOT = Path(__file__).parents[1]
RUN = ROOT / "tests" / "runs" / "9f7c919"
SAMPLING = dict(temperature=1.0, top_k=10, seed=3, max_length_ratio=0.5, max_length_extra=4)


class Killed(BaseException):
    """Stands for a kill: nothing but the files on disk is there afterwards."""


@pytest.fixture
def source(tmp_path):
    """Eleven lines; the last is the first once more, one is blank."""
    lines = sorted((example.source for example in demo.generate("dev", 40)), key=len)[:9]
    path = tmp_path / "in.en"
    path.write_text("".join(f"{line}\n" for line in [*lines, "", lines[0]]), encoding="utf-8")
    return path


@pytest.fixture(autouse=True, scope="module")
def _compiled_once():
    """One translator of each checkpoint, whose programs are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        load = functools.cache(lambda checkpoint: Translator.load(RUN, checkpoint))
        patch.setattr(translate_module, "load_for", lambda job: load(job.checkpoint))
        yield


def translate(source: Path, output: Path, **changes) -> None:
    fields = dict(workdir=str(RUN), input=str(source), output=str(output), batch_size=3, resume=True, search=SAMPLING)
    translate_lines(TranslationJob(**fields | changes))


# The files


def blocks(files: GrowingFiles, until: int = 5) -> None:
    with files.open():
        for number in range(files.done.lines, until):
            files.append((f"block {number} \u00fc\n", f"{number}\n"), LinesDone(number + 1, f"digest {number}"))
        files.append(("", ""), files.done._replace(complete=until == 5))


@pytest.mark.parametrize("call", range(1, 21))
def test_a_kill_at_any_write_loses_at_most_a_block(call, tmp_path, monkeypatch):
    """Each fsync is a moment between two writes: of either file, or of the note."""
    straight, killed = ([tmp_path / name, tmp_path / f"{name}.gz"] for name in ("straight", "killed"))
    blocks(GrowingFiles(straight, {"beam": 1}))
    calls = 0

    def fsync(number: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed

    monkeypatch.setattr(growing_files.os, "fsync", fsync)
    try:
        blocks(GrowingFiles(killed, {"beam": 1}))
        assert call > calls
    except Killed:
        pass
    monkeypatch.undo()
    there = GrowingFiles(killed, {"beam": 1}).done.lines
    blocks(GrowingFiles(killed, {"beam": 1}))
    assert there >= min((call - 2) // 3, 5)
    assert [path.read_bytes() for path in killed] == [path.read_bytes() for path in straight]
    notes = [json.loads(Path(f"{paths[0]}.progress").read_text()) for paths in (straight, killed)]
    assert notes[0] == notes[1] and notes[0]["complete"] and notes[0]["lines"] == 5


def test_what_cannot_be_gone_on_with_is_refused_in_a_line(tmp_path):
    paths = [tmp_path / "out", tmp_path / "links"]
    blocks(GrowingFiles(paths, {"beam": 1, "seed": 3}), 2)
    with pytest.raises(UserError, match=r"out: was begun otherwise \(beam: 1 -> default, seed: 3 -> 4\): give the same"):
        GrowingFiles(paths, {"seed": 4})
    with pytest.raises(UserError, match=r"out.progress: is damaged, or of other files; remove .*out.progress to begin anew"):
        GrowingFiles(paths[:1], {"beam": 1, "seed": 3})
    with GrowingFiles(paths, {"beam": 1, "seed": 3}).open():
        with pytest.raises(UserError, match="another process writes it"), GrowingFiles(paths, {"beam": 1, "seed": 3}).open():
            pass
    paths[1].write_bytes(b"0")
    with pytest.raises(UserError, match=r"links: is shorter than .*out.progress says"):
        GrowingFiles(paths, {"beam": 1, "seed": 3})
    (tmp_path / "out.progress").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        GrowingFiles(paths, {"beam": 1, "seed": 3})
    (tmp_path / "out.progress").unlink()
    with pytest.raises(UserError, match=r"out: exists, and there is no .*out.progress that tells how far it is"):
        GrowingFiles(paths, {"beam": 1, "seed": 3})
    with pytest.raises(UserError, match="object store"):
        GrowingFiles(["gs://bucket/out"], {})
    with pytest.raises(UserError, match="cannot be written"), GrowingFiles([tmp_path / "none" / "out"], {}).open():
        pass


# Translations


@pytest.mark.parametrize("kind", ["text", "gz", pytest.param("json", marks=pytest.mark.slow), "alignments", "score"])
def test_stopped_in_any_block_it_goes_on_to_the_same_bytes(kind, source, tmp_path, monkeypatch):
    changes = {
        "json": dict(format="json", nbest=2),
        "alignments": dict(alignment_layer=1, alignments=str(tmp_path / "links")),
        "score": dict(score=str(tmp_path / "other"), search={}),
    }.get(kind, {})
    shutil.copy(source, tmp_path / "other")
    names = ["out.gz" if kind == "gz" else "out"] + (["links"] if kind == "alignments" else [])
    translate(source, tmp_path / names[0], **changes)
    straight = [(tmp_path / name).read_bytes() for name in names]
    text = gzip.decompress(straight[0]) if kind == "gz" else straight[0]
    assert text.count(b"\n") == 11
    if kind in ("text", "gz"):  # without --resume and in one block: what is drawn depends on seed and line alone
        translate(source, tmp_path / "plain", **changes | dict(resume=False, batch_size=1000))
        assert (tmp_path / "plain").read_bytes() == text

    real = GrowingFiles.append
    for name in [*names, f"{names[0]}.progress"]:
        (tmp_path / name).unlink()

    def dies(self, texts, done):
        if done.lines > self.done.lines and written:
            self._files[0].write(b"half a blo")
            raise Killed
        written.append(done.lines)
        real(self, texts, done)

    monkeypatch.setattr(GrowingFiles, "append", dies)
    for after in (3, 6, 9, 11):  # each call gets one block further
        written: list[int] = []
        if after < 11:
            with pytest.raises(Killed):
                translate(source, tmp_path / names[0], **changes)
        else:
            translate(source, tmp_path / names[0], **changes)
        assert written[0] == after
    assert [(tmp_path / name).read_bytes() for name in names] == straight


def test_equal_lines_get_equal_draws_and_other_seeds_others(source, tmp_path):
    translate(source, tmp_path / "one")
    translate(source, tmp_path / "other", search=SAMPLING | {"seed": 4})
    one, other = ((tmp_path / name).read_text(encoding="utf-8").split("\n") for name in ("one", "other"))
    assert one[0] == one[10] and other[0] == other[10] and one != other and one[9] == ""


def test_nothing_is_left_to_do_and_a_text_that_has_grown_is_gone_on_with(source, tmp_path, capfd, monkeypatch):
    translate(source, tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    monkeypatch.setattr(Translator, "translate", lambda *_, **__: pytest.fail("translates again"))
    translate(source, tmp_path / "out")
    assert "out: has the translations of all 11 lines, nothing to do" in capfd.readouterr().err
    monkeypatch.undo()
    with source.open("a", encoding="utf-8") as file:
        file.write("The dog sleeps.\n")
    translate(source, tmp_path / "out")
    after = (tmp_path / "out").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 12


def test_another_text_model_or_search_is_refused(source, tmp_path):
    translate(source, tmp_path / "out")
    shutil.copy(source, tmp_path / "starts")
    for changes, message in (
        (dict(search=SAMPLING | {"top_k": 5}), r"out: was begun otherwise \(top_k: 10 -> 5\)"),
        (dict(checkpoint="750"), r"was begun otherwise \(parameters: \w{32} -> \w{32}\)"),
        (dict(format="tsv", batch_size=4), r"was begun otherwise \(batch_size: 3 -> 4, format: default -> tsv\)"),
        (dict(prefixes=str(tmp_path / "starts")), r"was begun otherwise \(prefixes: default -> True\)"),
    ):
        with pytest.raises(UserError, match=message):
            translate(source, tmp_path / "out", **changes)
    translate(source, tmp_path / "out", search=SAMPLING | {"tokens": 64})  # a matter of memory
    lines = source.read_text(encoding="utf-8").split("\n")
    source.write_text("\n".join([*lines[:4], "Another.", *lines[5:]]), encoding="utf-8")
    with pytest.raises(UserError, match=r"in.en: its first 11 lines are not those whose translations .*out has"):
        translate(source, tmp_path / "out")


def test_a_bad_line_is_mended_and_whole_blocks_stay_blocks(source, tmp_path):
    good = source.read_bytes()
    lines = good.split(b"\n")
    source.write_bytes(b"\n".join([*lines[:7], b"\xff", *lines[8:]]))
    with pytest.raises(UserError, match="line 8 is not UTF-8"):
        translate(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes().count(b"\n") == 6
    source.write_bytes(good)
    translate(source, tmp_path / "out")
    translate(source, tmp_path / "straight")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "straight").read_bytes()


def test_flags_that_cannot_go_together(tmp_path, monkeypatch):
    files = dict(workdir=str(RUN), input="a", output="b", resume=True)
    for changes, message in (
        (dict(output=None), "--resume needs --input and --output=FILE"),
        (dict(input=None), "--resume needs --input and --output=FILE"),
        (dict(alignments="-"), "--resume needs --input and --output=FILE"),
        (dict(attention="a.png"), "--attention is about the first line"),
    ):
        with pytest.raises(UserError, match=message):
            TranslationJob(**files | changes)
    monkeypatch.setattr(translation_output.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="--input: of several processes each reads the text"):
        translate_lines(TranslationJob(**files | dict(input="-")))


def test_a_signal_stops_it_to_be_continued(source, tmp_path, monkeypatch):
    real = GrowingFiles.append

    def stopped(self, texts, done):
        real(self, texts, done)
        if done.lines == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(GrowingFiles, "append", stopped)
    with pytest.raises(ToBeContinued):
        translate(source, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out").read_bytes().count(b"\n") == 6
    translate(source, tmp_path / "out")
    translate(source, tmp_path / "straight")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "straight").read_bytes()


@pytest.mark.slow
def test_the_program_killed_and_terminated_goes_on(tmp_path):
    lines = [example.source for example in demo.generate("dev", 60)]
    (tmp_path / "in.en").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    shutil.copytree(RUN, tmp_path / "run")

    def begin(output: str) -> subprocess.Popen:
        flags = ["--workdir=run", "--input=in.en", f"--output={output}", "--resume", "--batch_size=2", "--temperature=1"]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "translate.py"), *flags],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
        )

    def wait_for(lines: int, process: subprocess.Popen) -> None:
        note = tmp_path / "out.progress"
        while not note.exists() or json.loads(note.read_text())["lines"] < lines:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)

    def finish(output: str) -> None:
        with begin(output) as process:
            assert process.wait(300) == 0, process.stderr.read()

    finish("straight")
    for lines_done, number, code in ((4, signal.SIGKILL, -signal.SIGKILL), (20, signal.SIGTERM, 75)):
        with begin("out") as process:
            wait_for(lines_done, process)
            process.send_signal(number)
            assert process.wait(300) == code, process.stderr.read()
    assert 20 <= (tmp_path / "out").read_bytes().count(b"\n") < 60
    finish("out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "straight").read_bytes()
