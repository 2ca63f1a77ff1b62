"""The scripts as their users call them, on twenty lines of text: what they do, and how bad input ends."""

import contextlib
import functools
import gzip
import io
import json
import logging
import math
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_trees_equal
from tqdm import tqdm

from transformer_jax.cli import evaluate as evaluate_run_module
from transformer_jax.cli import program, progress_bar
from transformer_jax.cli.evaluate import evaluate_run
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.cli.parser import job_of
from transformer_jax.cli.translate import translate_lines
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.config import from_json, to_json
from transformer_jax.data import demo
from transformer_jax.distributed import cluster
from transformer_jax.errors import UserError
from transformer_jax.evaluation import watch_checkpoints as watch
from transformer_jax.evaluation.report import Report
from transformer_jax.inference.translator import Translator
from transformer_jax.runs.lean import copy_run
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.text_files import iter_lines
from transformer_jax.training import across_devices
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
ROOT = Path(__file__).parents[1]
CONFIG = """
from transformer_jax.config import Config

def get_config():
    config = Config()
    config.data.train, config.data.dev = {train!r}, {dev!r}
    config.tokenizer.vocab_size = 340
    config.batch.tokens, config.batch.shapes, config.batch.row_multiple, config.batch.max_length = 256, 1, 2, 60
    config.model.num_layers, config.model.width, config.model.feed_forward_width, config.model.heads = 1, 16, 32, 2
    config.train.steps, config.train.log_every, config.train.evaluate_every, config.train.checkpoint_every = 4, 2, 2, 1
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 2, 0.5, 2
    return config
"""


def script(name: str, *arguments: str, stdin: bytes = b"", code: int = 0, optimised: bool = False) -> SimpleNamespace:
    """The real thing in a process of its own; standard output as bytes, standard error as text. What XLA optimises rarely
    matters here, and to leave it saves most of the time."""
    as_users = "--xla_force_host_platform_device_count=2"
    flags = as_users if optimised else f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{name}.py"), *arguments],
        input=stdin,
        capture_output=True,
        timeout=300,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
    )
    error = done.stderr.decode("utf-8")
    assert done.returncode == code, error
    return SimpleNamespace(out=done.stdout, err=error, lines=done.stdout.decode("utf-8").split("\n"))


def write_pairs(prefix: Path, pairs: list[tuple[str, str]]) -> str:
    for ending, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
        prefix.with_name(f"{prefix.name}.{ending}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(prefix)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> SimpleNamespace:
    """A run that train.py made, in another folder than it was trained in, without the text that it was trained on."""
    folder = tmp_path_factory.mktemp("here")
    pairs = [(example.source, example.target) for example in demo.generate("train", 20)]
    train, dev = write_pairs(folder / "train", pairs), write_pairs(folder / "dev", pairs[:4])
    config = folder / "config.py"
    config.write_text(CONFIG.format(train=train, dev=dev), encoding="utf-8")
    trained = script("train", f"--config={config}", f"--workdir={folder / 'first'}")
    files = {file: file.read_bytes() for file in folder.glob("train.*")}
    run = tmp_path_factory.mktemp("elsewhere") / "run"
    shutil.copytree(folder / "first", run)
    for file in files:
        file.unlink()

    def bring_back_text():
        for file, content in files.items():
            file.write_bytes(content)

    return SimpleNamespace(
        folder=folder,
        config=config,
        run=run,
        dev=dev,
        trained=trained,
        pairs=pairs,
        short=sorted((source for source, _ in pairs), key=len),
        bring_back_text=bring_back_text,
    )


@pytest.fixture
def text(here):
    """The training text, for as long as a test lasts."""
    here.bring_back_text()
    yield
    for ending in ("en", "de"):
        (here.folder / f"train.{ending}").unlink()


@pytest.fixture
def fails(monkeypatch, capfd):
    """Calls a script in this process; it must end with code 2 and one line on standard error, which is returned."""
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def call(name: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
        captured = capfd.readouterr()
        assert (ended.value.code, captured.out) == (2, ""), captured.err
        return only_error(captured.err)

    return call


def only_error(err: str) -> str:
    lines = err.rstrip("\n").split("\n")
    assert "Traceback" not in err
    assert lines[-1].startswith("error: ") and not any(line.startswith("error") for line in lines[:-1]), err
    return lines[-1]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but `lock`, which says who held it last."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def evaluated_run(run: Path, dev: str, **flags) -> list[Report]:
    """The reports of evaluate.py on a dev set that is translated greedily, without a process of its own."""
    return evaluate_run(EvaluationJob(workdir=str(run), test=[dev], search=dict(beam=1), **flags))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """Standard error as a terminal, on which bars are shown at once."""
    bar = functools.partial(tqdm, mininterval=0, miniters=1)
    with (
        mock.patch.object(sys, "stderr", Terminal()) as stream,
        mock.patch.object(progress_bar, "_DELAY", 0),
        mock.patch("tqdm.tqdm", bar),
    ):
        yield stream


class TestTrain:
    def test_it_tells_loss_speed_and_dev_score(self, here):
        for part in (r"20 kept", r"step 2/4: loss \d+\.\d+, [\d,]+ target tokens/s", r"step 4: dev .*bleu"):
            assert re.search(part, here.trained.err)
        assert not here.trained.out

    def test_the_same_command_again_has_nothing_to_do_and_a_larger_limit_goes_on(self, here, text, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(here.run, run)
        before = contents(run / "checkpoints")
        again = script("train", f"--config={here.config}", f"--workdir={run}")
        assert "nothing to do" in again.err and contents(run / "checkpoints") == before
        further = script("train", f"--config={here.config}", f"--workdir={run}", "--config.train.steps=5")
        assert "config changed: train.steps: 4 -> 5" in further.err and "going on from step 4" in further.err
        assert (run / "checkpoints" / "5").is_dir()
        assert from_json((run / "config.json").read_text()).train.steps == 5

    def test_the_usual_length_and_the_normalisation_are_kept_with_the_run(self, here):
        run = Run(here.run)
        sides = map(run.tokenizer().encode_source, zip(*here.pairs, strict=True))  # one model for both
        lengths = sorted(len(source) for source, target in zip(*sides, strict=True) if max(len(source), len(target)) <= 60)
        usual = lengths[math.ceil(0.95 * len(lengths)) - 1]
        with run.checkpoints() as checkpoints:
            assert checkpoints.progress(4).usual_length == usual
        assert Translator.load(here.run).usual_length == usual
        assert run.tokenizer().normalizes and run.config.tokenizer.normalize

    def test_a_batch_too_large_for_memory_says_what_to_lower(self, here, text, fails, tmp_path, monkeypatch):
        huge = jax.jit(lambda: jnp.ones((1 << 24, 1 << 22))[::-1] @ jnp.ones((1 << 22, 3)))
        monkeypatch.setattr(across_devices.ParallelStep, "__call__", lambda *_: jax.block_until_ready(huge()))
        error = fails("train", f"--config={here.config}", f"--workdir={tmp_path / 'run'}")
        assert "lower batch.tokens=256 or raise train.accumulation" in error


class TestEvaluate:
    def test_every_line_of_every_set_is_translated_and_every_score_signed(self, here, tmp_path):
        hypotheses, report = tmp_path / "out.de", tmp_path / "report.json"
        pairs = [*here.pairs[:2], ("", ""), here.pairs[2]]
        other = write_pairs(tmp_path / "other", pairs)
        arguments = f"--workdir={here.run}", f"--output={hypotheses}", f"--report={report}", "--test", here.dev, other
        printed = script("evaluate", *arguments).out.decode()
        reports = json.loads(report.read_text(encoding="utf-8"))
        assert [each["sentences"] for each in reports] == [4, 4]
        written = hypotheses.read_text(encoding="utf-8")
        assert written == "".join(f"{line}\n" for each in reports for line in each["hypotheses"])
        assert written.count("\n") == 8 and written.split("\n")[6] == ""
        assert reports[0]["hypotheses"][:2] == reports[1]["hypotheses"][:2]
        for each in reports:
            assert [score["metric"] for score in each["scores"]] == ["BLEU", "chrF2", "TER"]
            assert all(score["signature"] in printed and "version:" in score["signature"] for score in each["scores"])

    @pytest.mark.parametrize(
        "which, found", [("latest", "step 4"), ("2", "step 2"), ("average:3", "average of 3 checkpoints, steps 2 to 4")]
    )
    def test_the_checkpoint_can_be_chosen(self, here, monkeypatch, capfd, which, found):
        monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
        flags = [f"--workdir={here.run}", f"--checkpoint={which}", "--beam=1", "--test", here.dev]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *flags])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
        assert ended.value.code == 0
        assert f"4 sentences, {found}, greedy" in capfd.readouterr().out

    @pytest.fixture
    def evaluated(self, here):
        """The reports of the run on the dev set, translated greedily, without a process of its own."""
        return lambda checkpoint=None, **flags: evaluated_run(here.run, here.dev, checkpoint=checkpoint, **flags)

    def test_a_bar_counts_the_lines_on_a_terminal_alone(self, here, evaluated, capfd):
        with terminal() as stream:
            evaluated(bootstrap=0, compare=f"{here.run}:2")
        shown = re.split(r"[\r\n]+", stream.getvalue())
        for what in (here.dev, f"{here.dev} with {here.run}"):
            assert any(line.startswith(f"translating {what}: 100%|") and " 4/4 " in line for line in shown)
        assert "translating" not in capfd.readouterr().out

    def test_checkpoints_in_one_call_and_in_a_comparison_are_those_of_a_call_each(self, here, evaluated, capfd):
        together = evaluated(["2", "average:3"], bootstrap=0)
        (apart,) = evaluated(["average:3"], bootstrap=0, compare=f"{here.run}:2")
        assert [each.checkpoint for each in together] == ["step 2", "average of 3 checkpoints, steps 2 to 4"]
        assert [each.hypotheses for each in together] == [apart.comparison.hypotheses, apart.hypotheses]
        for scored, difference in zip(together[0].scores, apart.comparison.differences, strict=True):
            assert (difference.metric, difference.other_value) == (scored.metric, scored.value)
        printed = capfd.readouterr().out
        assert printed.count("4 sentences, step 2, greedy") == 1 and f"compared with {here.run}, step 2, greedy:" in printed

    def test_reports_tell_where_scores_come_from(self, here, text, evaluated, tmp_path):
        report, html, other = (tmp_path / name for name in ("report.json", "page.html", "other.de"))
        other.write_text("".join(f"{target}\n" for _, target in here.pairs[:4]), encoding="utf-8")
        evaluated(report=str(report), html=str(html), compare=str(other), bootstrap=40, rouge=True)
        (written,) = json.loads(report.read_text(encoding="utf-8"))
        assert written["scores"][0]["interval"] is None and written["no_interval"].startswith("too few sentences")
        names = ["BLEU", "chrF2", "TER", "ROUGE-1", "ROUGE-2", "ROUGE-L"]
        assert [each["metric"] for each in written["scores"]] == names
        assert [each["metric"] for each in written["comparison"]["differences"]] == names
        assert written["comparison"]["hypotheses"] == [target for _, target in here.pairs[:4]]
        assert written["comparison"]["differences"][0]["other_value"] == pytest.approx(100)
        assert len(written["alignments"]) == 4
        # The dev set is the first four lines of the training text.
        assert [(each["label"], each["sentences"]) for each in written["analysis"]["by_unseen"]] == [("0", 4)]
        assert str(other) in html.read_text(encoding="utf-8")

    def test_robustness_has_a_report_for_each_noise_and_a_table(self, here, evaluated, capfd, tmp_path):
        files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "html")}
        options = dict(report=str(files["json"]), html=str(files["html"]), bootstrap=0)
        found = evaluated(robustness=["upper", "typos"], **options)
        assert [each.test for each in found] == [here.dev, f"{here.dev} (upper)", f"{here.dev} (typos)"]
        (alone,) = evaluated_run(here.run, f"{here.dev} (upper)", bootstrap=0)
        assert (alone.hypotheses, alone.scores) == (found[1].hypotheses, found[1].scores) and alone.robustness is None
        printed = capfd.readouterr().out
        assert printed.count("robustness:") == 1 and re.search(r"\n  upper .* 4  changed alike\n", printed)
        written = json.loads(files["json"].read_text(encoding="utf-8"))
        for each in written:
            assert each["robustness"]["difference"] == each["scores"][0]["value"] - written[0]["scores"][0]["value"]
            assert each["robustness"]["looping"] == len(each["checks"]["looping"])
        assert '"noise":"upper"' in files["html"].read_text(encoding="utf-8")

    def test_without_the_training_text_the_report_has_the_words_that_were_kept_or_says_why_not(self, here, evaluated, tmp_path):
        (found,) = evaluated(report=str(tmp_path / "report.json"), bootstrap=0)
        assert [(each.label, each.sentences) for each in found.analysis.by_unseen] == [("0", 4)]
        words = here.run / "words.npy"
        kept = words.read_bytes()
        words.write_bytes(kept[:-1])
        (found,) = evaluated(report=str(tmp_path / "report.json"), bootstrap=0)
        assert found.analysis.by_unseen is None and "words.npy: damaged" in found.analysis.training_text
        words.unlink()  # as in a run of an older version
        try:
            (found,) = evaluated(report=str(tmp_path / "report.txt"), bootstrap=0)
        finally:
            words.write_bytes(kept)
        assert found.analysis.by_unseen is None and "train.en" in found.analysis.training_text
        written = (tmp_path / "report.txt").read_text(encoding="utf-8")
        assert written.startswith(found.as_text()) and "no BLEU by unseen words: " in written and "worst sentences" in written

    def test_a_checkpoint_from_before_the_first_evaluation_is_aligned(self, here, evaluated, tmp_path):
        report, page = tmp_path / "report.json", tmp_path / "page.html"
        (found,) = evaluated(["1"], report=str(report), html=str(page), bootstrap=0)
        assert found.alignment_layer == 1 and len(found.alignments) == 4
        assert "words aligned by the attention of decoder layer 1" in found.as_text()
        assert json.loads(report.read_text(encoding="utf-8"))[0]["alignment_layer"] == 1
        assert "words aligned by decoder layer 1" in page.read_text(encoding="utf-8")

    def test_a_layer_that_is_not_there_is_told_before_anything_is_translated(self, evaluated, tmp_path, monkeypatch):
        monkeypatch.setattr(Translator, "translate", lambda *_, **__: pytest.fail("translated"))
        with pytest.raises(UserError, match=r"alignment layer 2 should be from 1 to 1; name it with --alignment_layer"):
            evaluated(html=str(tmp_path / "page.html"), alignment_layer=2)
        with pytest.raises(UserError, match=r"--alignment_layer is for --html"):
            evaluated(alignment_layer=1)

    def test_a_text_that_would_have_to_be_downloaded_is_not_known(self, here, tmp_path, monkeypatch):
        monkeypatch.setattr(evaluate_run_module, "training_targets", lambda _: pytest.fail("read"))
        run = shutil.copytree(here.run, tmp_path / "run")
        (run / "words.npy").unlink()
        config = from_json((run / "config.json").read_text(encoding="utf-8"))
        for text in ("tfds:wmt14_translate/de-en", "gs://bucket/train", "demo:train, tfds:wmt14_translate/de-en * 2"):
            config.data.train = text
            (run / "config.json").write_text(to_json(config), encoding="utf-8")
            (found,) = evaluated_run(run, here.dev, bootstrap=0, report=str(tmp_path / "report.json"))
            assert f"were not kept with the run, and {text} is not on this disk" in found.analysis.training_text


class TestLean:
    def test_a_copy_translates_and_is_scored_and_does_not_train_on(self, here, tmp_path):
        out = tmp_path / "lean"
        assert copy_run(str(here.run), str(out), ["average:2", "1"]) == [
            "step 1",
            "average of 2 checkpoints, steps 3 to 4",
        ]
        for ours, theirs in (("best", "average:2"), ("latest", "average:2"), ("1", "1"), ("1:raw", "1")):
            found, expected = Translator.load(out, ours), Translator.load(here.run, theirs)
            assert_trees_equal(jax.device_get(found.params), jax.device_get(expected.params))
            assert found.alignment_layer == expected.alignment_layer
        (found,) = evaluated_run(out, here.dev, bootstrap=0, report=str(tmp_path / "report.json"))
        (expected,) = evaluated_run(here.run, here.dev, checkpoint=["average:2"], bootstrap=0)
        assert found.hypotheses == expected.hypotheses and found.analysis.by_unseen

        def size(folder):
            return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

        assert not list(out.rglob("optimizer")) and size(out / "checkpoints" / "1") < size(here.run / "checkpoints" / "1") / 2
        with pytest.raises(UserError, match=r"has no optimizer state to go on from: .* --config\.train\.init_from=.*lean"):
            train(Run(out).config, str(out))
        assert size(copy_of := shutil.copytree(out, tmp_path / "again")) == size(out) and Run(copy_of).config == Run(out).config

    def test_what_cannot_be_copied_is_one_line_and_leaves_nothing(self, here, tmp_path):
        for which, told in (
            (["latest", "average:2"], r"latest and average:2 are both of step 4"),
            (["9"], r"no checkpoint of step 9"),
            (["best:ema"], r"without train\.ema_decay, there is no best:ema"),
            (["newest"], r"should be latest, best"),
        ):
            with pytest.raises(UserError, match=told):
                copy_run(str(here.run), str(tmp_path / "out"), which)
            assert not list(tmp_path.iterdir())
        copy_run(str(here.run), str(tmp_path / "out"), ["4", "latest", "4:raw"])
        with pytest.raises(UserError, match="is not an empty folder"):
            copy_run(str(here.run), str(tmp_path / "out"))


class TestWatch:
    """evaluate.py --watch beside a training, which here goes on whenever the watch sleeps."""

    @pytest.fixture
    def watched(self, here, tmp_path, monkeypatch):
        run = tmp_path / "run"
        shutil.copytree(here.run, run)
        later = tmp_path / "later"
        (run / "checkpoints").rename(later)
        events, clock = [], [0.0]

        def sleep(seconds: float) -> None:
            clock[0] += seconds
            if events:
                events.pop(0)()

        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))

        def appears(step: int) -> None:
            shutil.copytree(later / str(step), run / "checkpoints" / str(step))

        return SimpleNamespace(run=run, events=events, clock=clock, appears=appears)

    def test_each_checkpoint_is_scored_once_until_the_training_ends(self, here, watched, capfd, tmp_path):
        manifest = watched.run / "checkpoints" / "2" / "manifest.json"
        aside = tmp_path / "manifest.json"

        def half_written() -> None:
            watched.appears(2)
            manifest.rename(aside)

        watched.events += [lambda: watched.appears(1), half_written, lambda: aside.rename(manifest), lambda: watched.appears(4)]
        before = contents(watched.run)
        reports = evaluated_run(watched.run, here.dev, watch=True, bootstrap=40)
        assert [each.checkpoint for each in reports] == ["step 1", "step 2", "step 4"] and not watched.events
        lines = capfd.readouterr().out.splitlines()
        assert len(lines) == 3 and all(re.match(r"step \d, .*: BLEU .*chrF2.*too few.*exactly right", line) for line in lines)
        assert before.items() <= contents(watched.run).items()

    def test_it_ends_when_nothing_comes_for_long(self, watched):
        watched.events += [lambda: watched.appears(1)]
        assert [name for _, name in watch.new_checkpoints(watched.run, minutes=2, pause=30)] == ["step 1"]
        assert 120 < watched.clock[0] - 30 <= 180

    def test_a_checkpoint_that_vanishes_is_left_out_with_a_line(self, watched, caplog):
        for step in (1, 2, 3, 4):
            watched.appears(step)
        found = []
        for _, name in watch.new_checkpoints(watched.run, minutes=1):
            found.append(name)
            shutil.rmtree(watched.run / "checkpoints" / "2", ignore_errors=True)
        assert found == ["step 1", "step 3", "step 4"]
        assert "step 2 is left out" in caplog.text


def translated(here, folder: Path, text: Sequence[str] = (), stdin: bytes = b"", **flags) -> list[str]:
    """The lines that translate.py writes, without a process of its own."""
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin))):
        flags = dict(workdir=str(here.run), text=text, output=str(folder / "translated")) | flags
        translate_lines(job_of(TranslationJob, flags))
    return (folder / "translated").read_text(encoding="utf-8").split("\n")[:-1]


class TestTranslate:
    @pytest.mark.slow
    def test_argument_file_standard_input_and_output_are_the_same(self, here, tmp_path, capfd):
        lines = here.short[:3]
        run = f"--workdir={here.run}"
        (tmp_path / "in.en").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        with gzip.open(tmp_path / "in.en.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines))
        expected = script("translate", run, *lines, f"--attention={tmp_path / 'map.png'}").out
        assert expected.count(b"\n") == 3 and expected.strip()
        assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
        assert script("translate", run, stdin="\n".join(lines).encode()).out == expected
        for flags in dict(input=str(tmp_path / "in.en"), batch_size=2, tokens=30), dict(input=str(tmp_path / "in.en.gz")):
            translated(here, tmp_path, **flags)
            assert (tmp_path / "translated").read_bytes() == expected
        assert not capfd.readouterr().out
        packed = tmp_path / "translated.gz"
        translate_lines(TranslationJob(workdir=str(here.run), text=lines, output=str(packed), batch_size=1))
        assert gzip.decompress(packed.read_bytes()) == expected and list(iter_lines(packed)) == expected.decode().splitlines()

    @pytest.mark.slow
    def test_all_that_xla_optimises_where_users_translate_changes_nothing(self, here):
        run, stdin = f"--workdir={here.run}", "\n".join(here.short[:3]).encode()
        assert script("translate", run, stdin=stdin, optimised=True).out == script("translate", run, stdin=stdin).out

    def test_alignments_and_the_page_of_the_first_line(self, here, tmp_path):
        links, page = tmp_path / "links", tmp_path / "page.html"
        lines = [here.short[0], "", " ".join([here.short[0]] * 12), here.short[1]]
        files = dict(alignments=str(links), attention=str(page))
        translations = translated(here, tmp_path, lines, **files, attention_words=True, batch_size=2)
        found = links.read_text(encoding="utf-8").split("\n")
        assert len(translations) == len(lines) and found[-1] == "" and len(found) == len(lines) + 1
        assert found[1] == "" and found[0]
        for line, translation, each in zip(lines, translations, found, strict=False):
            pairs = [tuple(map(int, link.split("-"))) for link in each.split()]
            assert all(i < len(line.split()) and j < len(translation.split()) for i, j in pairs)
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")

    def test_n_lines_in_are_n_lines_out_whatever_is_in_them(self, here, tmp_path, capfd):
        source = here.short[0]
        long = " ".join([source] * 12)
        lines = [source, "", "  \t ", f"{source}\r", "a\u2028dog", long, "\U0001f600 \u4f60\u597d", "\x0c", source]
        found = translated(here, tmp_path, stdin="\n".join(lines).encode())
        assert len(found) == len(lines)
        assert found[1] == found[2] == found[7] == ""
        assert found[0] == found[3] == found[8] != ""
        told = capfd.readouterr().err
        assert re.search(r"line 6: too long for the model, translated in \d+ pieces", told)
        assert "line 1:" not in told

    def test_several_sentences_on_a_line(self, here, tmp_path, capfd):
        """Each by itself, with the white space between them; a line stays a line."""
        one, two = (f"{source.rstrip('.?!')}." for source in here.short[:2])
        lines = [f"{one} {two}", f"{two}  \t{one}", f"{one}\u2028{two}", one, f"\ufeff {one}\u00a0{two}\u200b", two]
        found = translated(here, tmp_path, lines, split_sentences="always")
        a, b = found[3], found[5]
        assert found == [f"{a} {b}", f"{b}  \t{a}", f"{a} {b}", a, f"{a}\u00a0{b}", b]
        assert "pieces" not in capfd.readouterr().err
        with pytest.raises(UserError, match="split_sentences='somtimes' should be one of never, long, always"):
            translated(here, tmp_path, lines, split_sentences="somtimes")

    def test_nasty_lines_come_out_one_for_one(self, here, tmp_path):
        source = here.short[0]
        nasty = [
            source.encode(),
            b"",
            b" \t ",
            b"word " * 5000,
            "👩‍👩‍👧‍👦 🇩🇪 \U0001f600".encode(),
            b"\x00\x01\x1b[31mred\x7f",
            b"\x01\x1b\xef\xbb\xbf\x7f",
            "שלום \u202eright to left\u202c مرحبا".encode(),
            "日本語 한국어 ไทย हिन्दी".encode(),
            "\u2028\x85\x0b\x0c\x1c \u00a0".encode(),
            f"{source}\r".encode(),
            b"caf\xe9 \xff\xfe\x80\0",
            b"</s> <pad> <unk> <0x0A> <b>bold</b> &quot; [MASK] \xe2\x96\x81",
            b"https://example.org/a?b=c&d=%20#e me@example.org C:\\x /etc/passwd",
            b"1,234.56 -7e10 \xc2\xbd \xe2\x85\xa7 12:34 50% $3",
            b"x" * 3000,
            source.encode(),
        ]
        done = script("translate", f"--workdir={here.run}", "--errors=replace", "--batch_size=5", stdin=b"\n".join(nasty))
        (tmp_path / "nasty").write_bytes(b"\n".join(nasty))
        told = translated(here, tmp_path, input=str(tmp_path / "nasty"), errors="replace", format="json")
        lines = done.lines
        assert len(lines) == len(nasty) + 1 and lines[-1] == ""
        assert lines[0] == lines[10] == lines[16] != "" and lines[1] == lines[2] == lines[6] == lines[9] == ""
        told = [json.loads(line) for line in told]
        assert [each["translations"][0]["text"] for each in told] == lines[:-1]
        assert [each["line"] for each in told] == list(range(1, len(nasty) + 1))
        assert told[11]["source"] == "caf\ufffd \ufffd\ufffd\ufffd\ufffd" and told[10]["source"] == source
        assert told[6]["source"] == "\x01\x1b\ufeff\x7f"  # as it was
        assert re.search(r"line 4: too long for the model, translated in \d+ pieces", done.err)

    @pytest.mark.slow
    def test_phrases_terms_and_ensembles_by_files(self, here, tmp_path, capfd):
        (tmp_path / "phrases").write_text("der Hund\tgut\n\n", encoding="utf-8")
        (tmp_path / "terms").write_text("# a comment\nthe\tKatze\nthe zebra\tZebra\n", encoding="utf-8")
        lines = ["The xyz", "xyz"]
        found = translated(here, tmp_path, lines, phrases=str(tmp_path / "phrases"), terminology=str(tmp_path / "terms"))
        assert all(phrase in found[0] for phrase in ("der Hund", "gut", "Katze"))
        assert f"{tmp_path / 'terms'}: 1 of 2 terms never occurred in the input: the zebra\n" in capfd.readouterr().err
        plain = translated(here, tmp_path, lines)
        assert found[1] == plain[1]
        assert translated(here, tmp_path, lines, ensemble=[str(here.run)]) == plain
        weighted = dict(ensemble=[f"{here.run}:3", f"{here.run}:4"], ensemble_weights=[1e-6, 1e-6, 1.0])
        last = Translator.load(here.run, "4").translate(lines)
        assert translated(here, tmp_path, lines, **weighted) == [each.text for each in last]
        for text, told in (("a\n", "line 1: expected a term"), ("a\tb\na\tc\n", "line 2: 'a' has another")):
            (tmp_path / "terms").write_text(text, encoding="utf-8")
            with pytest.raises(UserError, match=told):
                translated(here, tmp_path, lines, terminology=str(tmp_path / "terms"))
        (tmp_path / "prefixes").write_text("Der Hu\n\n", encoding="utf-8")
        begun = translated(here, tmp_path, lines, prefixes=str(tmp_path / "prefixes"), complete_words=True)
        assert begun[0].startswith("Der Hu") and begun[1] == plain[1]
        for option, told in ((dict(complete_words=True), "--complete_words"), (dict(phrase_ends="word"), "--phrase_ends")):
            with pytest.raises(UserError, match=f"{told} is about"):
                translated(here, tmp_path, lines, **option)
        (tmp_path / "phrases").write_text("der\n", encoding="utf-8")
        with pytest.raises(UserError, match="input has more than the 1 lines of"):
            translated(here, tmp_path, lines, phrases=str(tmp_path / "phrases"))

    def test_formats_and_scores_agree(self, here, tmp_path):
        """Text, tab-separated and JSON tell the same, of what is found and of what is given."""
        text = [*here.short[:3], ""]
        plain = translated(here, tmp_path, text)
        rows = [line.split("\t") for line in translated(here, tmp_path, text, format="tsv", nbest=2)]
        told = [json.loads(line) for line in translated(here, tmp_path, text, format="json", nbest=2)]
        assert [row[:2] for row in rows] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"], ["3", "1"], ["3", "2"], ["4", "1"]]
        assert [row[4] for row in rows if row[1] == "1"] == plain
        flat = [each for line in told for each in line["translations"]]
        for row, each in zip(rows, flat, strict=True):
            assert row[4] == each["text"]
            assert (float(row[2]), float(row[3])) == pytest.approx((each["score"], each["log_prob"]), abs=1e-5)
            assert sum(each["token_log_probs"]) == pytest.approx(each["log_prob"], abs=1e-4)
            assert len(each["pieces"]) == len(each["token_log_probs"])
        (tmp_path / "found").write_text("".join(f"{line}\n" for line in plain), encoding="utf-8")
        scored = translated(here, tmp_path, text, format="json", score=str(tmp_path / "found"))
        numbers = translated(here, tmp_path, text, score=str(tmp_path / "found"))
        for line, again, number in zip(told, map(json.loads, scored), numbers, strict=True):
            (found,) = again["translations"]
            # Search may spell a text in other pieces than the tokenizer does, and its log-probability is then another.
            assert found["text"] == line["translations"][0]["text"]
            assert float(number) == pytest.approx(found["log_prob"], abs=1e-5)
            assert found["log_prob"] == pytest.approx(sum(found["token_log_probs"]), abs=1e-5)
        (tmp_path / "found").write_bytes(b"x\n")
        with pytest.raises(UserError, match="input has more than the 1 lines of"):
            translated(here, tmp_path, text, score=str(tmp_path / "found"))

    def test_samples(self, here, tmp_path):
        text, flags = [*here.short[:2], *here.short[:2]], dict(temperature=1.0, nbest=3, format="tsv")
        one, again, other = (translated(here, tmp_path, text, seed=seed, **flags) for seed in (1, 1, 2))
        assert one == again != other and len(one) == 12
        assert [line.split("\t")[1:] for line in one[:6]] == [line.split("\t")[1:] for line in one[6:]]

    def test_on_a_terminal_each_line_is_asked_for_and_answered(self, here, tmp_path, monkeypatch, capfd):
        expected, answers, asked = translated(here, tmp_path, here.short[:2]), tmp_path / "answers", []
        typed = iter([here.short[0], "", here.short[1]])

        def type_line() -> str:
            asked.append(answers.read_text().split("\n")[:-1] if answers.exists() else [])
            if line := next(typed, None):
                return line
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", type_line)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        translate_lines(TranslationJob(workdir=str(here.run), output=str(answers)))
        assert asked == [[], expected[:1], [expected[0], ""], [expected[0], "", expected[1]]]
        assert capfd.readouterr().err == "A sentence a line; Ctrl-D ends.\n> > > > \n"

    def test_bytes_that_are_typed_and_are_not_utf_8_are_named(self, here, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda: b"\xff".decode("utf-8"))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        with pytest.raises(UserError, match="standard input: line 1 is not UTF-8"):
            translate_lines(TranslationJob(workdir=str(here.run)))

    @pytest.mark.parametrize("score", [False, True])
    def test_a_bar_counts_the_lines_of_a_long_file(self, here, tmp_path, score):
        source = tmp_path / "source.en"
        source.write_text("\n".join(here.short[:5]))
        if score:
            shutil.copy(source, tmp_path / "same.de")
        with terminal() as stream:
            translated(here, tmp_path, input=str(source), batch_size=2, score=str(tmp_path / "same.de") if score else None)
        shown = re.findall(r"translating: +(\d+)%\|.*?\| (\d)/5", stream.getvalue())
        assert shown[-1] == ("100", "5") and ("40", "2") in shown

    @pytest.mark.parametrize("stdin, expected", [(b"", b""), (b"\n\n\n", b"\n\n\n"), (b"\xef\xbb\xbf\n ", b"\n\n")])
    def test_nothing_and_blank_lines_stay_what_they_are(self, here, tmp_path, stdin, expected):
        translated(here, tmp_path, stdin=stdin)
        assert (tmp_path / "translated").read_bytes() == expected

    def test_a_reader_that_leaves_is_no_error(self, here):
        command = f"yes '' | head -n 200000 | '{sys.executable}' '{ROOT / 'translate.py'}' --workdir='{here.run}' | head -n 1"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}; echo ${{PIPESTATUS[2]}} >&2"], capture_output=True, timeout=300
        )
        assert (done.stdout, done.stderr) == (b"\n", b"0\n")

    def test_the_lines_before_a_bad_one_are_written(self, here):
        done = script("translate", f"--workdir={here.run}", "--batch_size=1", stdin=b"\n\n\xff\n\n", code=2)
        assert done.out == b"\n\n"
        assert "line 3 is not UTF-8" in only_error(done.err)


class TestBadConfig:
    @pytest.mark.parametrize(
        "text, parts",
        [
            ("x = 1", ["no get_config()"]),
            ("def get_config(): return {}", ["transformer_jax.Config", "dict"]),
            ("def get_config(:", ["line 1", "SyntaxError"]),
            ("import nothing_of_that_name", ["line 1", "nothing_of_that_name"]),
            (
                "from transformer_jax import Config\ndef get_config():\n  Config().model.num_layer = 2",
                ["line 3", "unknown key 'num_layer'", "did you mean model.num_layers?"],
            ),
            (
                "from transformer_jax import ModelConfig\ndef get_config(): return ModelConfig(widht=2)",
                ["line 2", "unknown key 'widht'", "did you mean model.width?"],
            ),
            (
                "from transformer_jax.config import *\ndef get_config(): return Config(model=ModelConfig(width='2'))",
                ["model", "width", "int", "'2'"],
            ),
        ],
    )
    def test_a_config_file_that_is_none(self, fails, tmp_path, text, parts):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        error = fails("train", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
        assert all(part in error for part in parts), error
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "arguments, parts",
        [
            (["--config=configs/dmeo.py"], ["configs/dmeo.py", "no such config file", "demo.py"]),
            (["--config=configs/transformer_table3.py"], ["no such row", "base, A-h1"]),
            (["--config=configs/transformer_table3.py:C-N3"], ["transformer_table3:C-N3", "C-N2, C-N4"]),
            (["--config=transformer_table3:C-N3"], ["transformer_table3:C-N3", "C-N2, C-N4"]),
            (["--config=dmeo"], ["dmeo", "no such recipe", "did you mean demo?"]),
            (["--config=dmeo.py"], ["dmeo.py", "no such config file", "did you mean demo?"]),
            (["--config=no/such/folder.py"], ["no/such/folder.py", "no such config file", "recipes above"]),
            (["--config=demo:base"], ["demo.py", "takes 0 positional arguments"]),
            (["--config=configs/dmeo.py:base"], ["configs/dmeo.py", "no such config file"]),
            (["--config=configs/demo.py:base"], ["configs/demo.py", "takes 0 positional arguments"]),
            (["--config=configs/demo.py", "--config.model.num_layer=2"], ["model.num_layer", "model.num_layers"]),
            (["--config=configs/demo.py", "--config.num_layers=2"], ["num_layers", "model.num_layers"]),
            (["--config=configs/demo.py", "--config.model.num_layers=two"], ["model.num_layers", "'two'", "whole number"]),
            (["--config=configs/demo.py", "--config.data.deduplicate=maybe"], ["data.deduplicate", "true or false"]),
            (["--config=configs/demo.py", "--config.model.dropout=1.5"], ["model.dropout=1.5", "below 1"]),
            (["--config=configs/demo.py", "--config.model.norm=prae"], ["model.norm", "post, pre", "did you mean pre?"]),
            (["--config=configs/demo.py", "--config.model.heads=3"], ["model.heads=3", "divisor"]),
            (["--config=configs/demo.py", "--config.model.num_layers"], ["--config.model.num_layers", "--config.KEY=VALUE"]),
            (["--config=configs/demo.py", "--steps=3"], ["--steps=3", "--help"]),
            (["--config=configs/demo.py", "--config.data.train=gopher:x"], ["gopher", "demo:SPLIT"]),
            (["--config=configs/demo.py", "--config.data.train=demo:trian"], ["demo:trian", "train"]),
            ([], ["--config", "--help"]),
        ],
    )
    def test_what_is_wrong_is_named(self, fails, tmp_path, monkeypatch, arguments, parts):
        monkeypatch.chdir(ROOT)
        error = fails("train", f"--workdir={tmp_path / 'run'}", *arguments)
        assert all(part in error for part in parts), error


class TestBadText:
    @pytest.mark.parametrize(
        "content, parts",
        [
            ({"t.en": b"a\nb\n", "t.de": b"c\n"}, ["t.en has 2 lines", "t.de has 1"]),
            ({"t.en": b"a\nb\n\xff\n", "t.de": b"c\nd\ne\n"}, ["t.en", "line 3", "UTF-8"]),
            ({"t.en": b"", "t.de": b"c\n"}, ["t.en", "empty"]),
            ({"t.en": b"a\n"}, ["t.de", "no such file"]),
            ({"t.en": b"a dog\n", "t.de": b"ein Hund\n"}, ["tokenizer.vocab_size=340", "use at most"]),
            ({"t.en": b"\n\n", "t.de": b"\n\n"}, ["text", "at least one line"]),
        ],
    )
    def test_of_training_and_test(self, here, fails, tmp_path, content, parts):
        for name, data in content.items():
            (tmp_path / name).write_bytes(data)
        flags = f"--config={here.config}", f"--workdir={tmp_path / 'run'}", f"--config.data.train={tmp_path / 't'}"
        error = fails("train", *flags)
        assert all(part in error for part in parts), error
        if "tokenizer.vocab_size=340" not in parts and "text" not in parts:
            error = fails("evaluate", f"--workdir={here.run}", "--test", tmp_path / "t")
            assert all(part in error for part in parts), error

    def test_a_file_of_one_side_is_answered_with_the_prefix(self, here, text, fails, tmp_path):
        train, workdir = here.folder / "train", f"--workdir={tmp_path / 'run'}"
        error = fails("train", f"--config={here.config}", workdir, f"--config.data.train={train}.en")
        assert f"{train}.en: is one side of the text; give the prefix {train}, which stands for {train}.en and" in error
        error = fails("evaluate", f"--workdir={here.run}", f"--test={here.dev}.de")
        assert f"give the prefix {here.dev}" in error

    @pytest.mark.parametrize("name", ["demo:tset", "sacrebleu:wmt41", "no/such/file", "no/such.tsv"])
    def test_no_such_test_set(self, here, fails, name):
        assert name in fails("evaluate", f"--workdir={here.run}", "--test", here.dev, name)

    def test_of_translate(self, here, fails, tmp_path):
        run = f"--workdir={here.run}"
        assert "no such file" in fails("translate", run, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
        assert not (tmp_path / "out").exists()
        assert "not UTF-8" in fails("translate", run, "a \udcff b")
        (tmp_path / "in").write_bytes(b"a\n")
        same = f"--input={tmp_path / 'in'}", f"--output={tmp_path / '.' / 'in'}"
        assert "is the file of --input" in fails("translate", run, *same)
        assert (tmp_path / "in").read_bytes() == b"a\n"
        (tmp_path / "in.gz").write_bytes(b"no gzip")
        assert "in.gz" in fails("translate", run, f"--input={tmp_path / 'in.gz'}")
        (tmp_path / "cut.gz").write_bytes(gzip.compress(b"\n" * 100_000)[:-9])
        assert "cut.gz" in fails(
            "translate", run, "--batch_size=1000000", f"--input={tmp_path / 'cut.gz'}", "--output=/dev/null"
        )


class TestBadFlags:
    @pytest.mark.parametrize(
        "name, flags, parts",
        [
            ("evaluate", ["--beam=0"], ["beam=0", "more than 0"]),
            ("evaluate", ["--beam=few"], ["--beam", "few"]),
            ("evaluate", ["--length_penalty=-1"], ["length_penalty=-1"]),
            ("evaluate", ["--tokenize=14a"], ["14a", "13a"]),
            ("evaluate", ["--output=/no/such/folder/out"], ["/no/such/folder/out", "cannot be written"]),
            ("evaluate", ["--report=/"], ["/", "cannot be written"]),
            ("evaluate", ["--html=/no/such/folder/page"], ["/no/such/folder/page", "cannot be written"]),
            ("evaluate", ["--html=same", "--report=./same"], ["--html=same", "--report", "name another"]),
            ("evaluate", ["--bootstrap=7"], ["bootstrap=7", "at least 40"]),
            ("evaluate", ["--compare=/no/such"], ["--compare=/no/such", "RUN:CHECKPOINT"]),
            ("evaluate", ["--watch", "--checkpoint=2"], ["--watch", "--checkpoint"]),
            ("evaluate", ["--watch", "--watch_minutes=0"], ["--watch_minutes=0", "above 0"]),
            ("evaluate", ["--checkpoint", "latest", "77"], ["step 77", "there are"]),
            ("evaluate", ["--chekpoint=2"], ["--chekpoint", "--help"]),
            ("evaluate", ["--check=2"], ["--check", "--help"]),
            ("evaluate", ["--checkpoint=bst"], ["'bst'", "latest, best"]),
            ("evaluate", ["--checkpoint=77"], ["step 77", "there are"]),
            ("evaluate", ["--checkpoint=average:77"], ["average 77"]),
            ("evaluate", ["--checkpoint=average:0"], ["average:0", "average:N"]),
            ("translate", ["", "--decode_tokens=-1"], ["decode.tokens=-1"]),
            ("translate", ["", "--batch_size=0"], ["batch_size=0"]),
            ("translate", ["", "--format=xml"], ["--format=xml", "text, tsv, json"]),
            ("translate", ["", "--errors=ignore"], ["--errors=ignore", "strict or replace"]),
            ("translate", ["", "--nbest=2"], ["--nbest", "--format=tsv"]),
            ("translate", ["", "--nbest=9", "--format=tsv"], ["nbest=9", "at most decode.beam=2"]),
            ("translate", ["", "--temperature=-1"], ["temperature=-1"]),
            ("translate", ["", "--top_p=2"], ["top_p=2", "at most 1"]),
            ("translate", ["", "--epsilon=0.02"], ["epsilon=0.02", "set decode.temperature"]),
            ("translate", ["", "--top_k=10"], ["top_k=10", "set temperature"]),
            ("translate", ["", "--top_p=0.9"], ["top_p=0.9", "set temperature"]),
            ("translate", ["", "--mbr=1"], ["mbr=1", "0 or at least 2"]),
            ("translate", ["", "--mbr=4", "--mbr_metric=chrF"], ["mbr_metric='chrF'", "chrf, bleu"]),
            ("translate", ["", "--mbr_from=beam"], ["mbr_from='beam'", "left out with decode.mbr=0"]),
            ("translate", ["", "--mbr=4", "--score=x"], ["--score", "--mbr"]),
            ("translate", ["", "--min_confidence=2"], ["--min_confidence=2", "from 0 to 1"]),
            ("translate", ["", "--min_confidence=nan"], ["--min_confidence=nan", "from 0 to 1"]),
            ("translate", ["", "--below=source"], ["--below=source needs --min_confidence"]),
            ("translate", ["", "--min_confidence=0.5", "--below=none"], ["--below=none", "empty or source"]),
            ("translate", ["", "--min_confidence=0.5", "--nbest=2", "--format=tsv"], ["--min_confidence", "--nbest"]),
            ("translate", ["", "--ensemble_weights", "1", "2"], ["--ensemble_weights", "--ensemble, which is not given"]),
            ("evaluate", ["--ensemble=x", "--ensemble_weights=1"], ["1 weights, expected 2", "--workdir first"]),
            ("evaluate", ["--ensemble=x", "--ensemble_weights", "1", "0"], ["0 should be more than 0", "leave"]),
            ("translate", ["", "--score=x", "--alignments=y"], ["--score", "--alignments"]),
            ("translate", ["", "--score=/no/such"], ["/no/such", "no such file"]),
            ("translate", ["", "--input=x"], ["--input"]),
            ("translate", ["--prefixes=-"], ["--input and --prefixes would share standard input"]),
            ("translate", ["", "--alignments=-", "--output=-"], ["--output and --alignments would share standard output"]),
            ("translate", ["", "--attention=-"], ["--attention=-", "name a file"]),
            ("translate", ["", "--terminology_case=ignore"], ["--terminology_case=ignore needs --terminology"]),
            ("translate", ["", "--beem=4"], ["--beem=4", "did you mean --beam?"]),
            ("evaluate", ["--output=-"], ["standard output has the scores", "name a file"]),
            ("translate", ["", "--output=/no/such/folder/out"], ["/no/such/folder/out", "cannot be written"]),
            ("translate", ["", "--attention=map.png"], ["map.png", "blank"]),
            ("translate", ["a", "--attention=map.png", "--attention_kind=self"], ["kind=self", "cross", "encoder", "decoder"]),
            ("translate", ["a", "--attention=map.png", "--attention_layer=9"], ["layer 9", "from 1 to 1"]),
            ("translate", ["a", "--attention=map.html", "--attention_head=-1"], ["head -1", "from 1 to 2"]),
            ("translate", ["", "--alignments=/no/such/folder/out"], ["/no/such/folder/out", "cannot be written"]),
            (
                "translate",
                ["", "--alignments=same", "--attention=./same"],
                ["--attention=./same", "--alignments", "name another"],
            ),
            ("translate", ["a", "--alignments=links", "--alignment_layer=3"], ["alignment layer 3", "from 1 to 1"]),
        ],
    )
    def test_what_is_wrong_is_named(self, here, fails, name, flags, parts, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        flags = [*flags, "--test", here.dev] if name == "evaluate" else flags
        # A blank sentence is written before the missing picture is told.
        output = [] if name == "evaluate" or any("--output" in flag for flag in flags) else ["--output=out"]
        error = fails(name, f"--workdir={here.run}", *flags, *output)
        assert all(part in error for part in parts), error

    def test_a_file_to_compare_with_that_is_of_another_test_set_is_told(self, here, fails, tmp_path):
        (tmp_path / "other.de").write_text("a\nb\n")
        error = fails("evaluate", f"--workdir={here.run}", "--test", here.dev, f"--compare={tmp_path / 'other.de'}")
        assert "other.de: has 2 lines, expected 4" in error
        assert "step 77" in fails("evaluate", f"--workdir={here.run}", "--test", here.dev, f"--compare={here.run}:77")

    @pytest.mark.parametrize("name, missing", [("train", "--workdir"), ("evaluate", "--test"), ("translate", "--workdir")])
    def test_a_missing_flag_is_named(self, fails, name, missing):
        assert missing in fails(name)

    def test_a_full_disk_is_no_bug(self, here):
        if Path("/dev/full").exists():
            done = script("translate", f"--workdir={here.run}", "--output=/dev/full", stdin=b"\n", code=2)
            assert "No space left" in only_error(done.err)


class TestBadRun:
    @pytest.fixture
    def copy(self, here, tmp_path):
        return Path(shutil.copytree(here.run, tmp_path / "copy"))

    def test_no_such_run_and_folders_that_are_none(self, fails, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("x")
        for name, part in (("none", "no such run folder"), ("empty", "config.json"), ("file", "no such run folder")):
            for call in (("evaluate", "--test=x"), ("translate",)):
                error = fails(*call, f"--workdir={tmp_path / name}")
                assert str(tmp_path / name) in error and part in error

    @pytest.mark.parametrize(
        "name, part", [("file", "cannot be written"), ("full", "not empty"), ("file/below", "cannot be written")]
    )
    def test_a_workdir_that_cannot_be_one(self, here, text, fails, tmp_path, name, part):
        (tmp_path / "file").write_text("x")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("x")
        before = contents(tmp_path)
        error = fails("train", f"--config={here.config}", f"--workdir={tmp_path / name}")
        assert part in error and name in error and contents(tmp_path) == before

    @pytest.mark.parametrize(
        "override",
        [
            "model.width=8",
            "tokenizer.vocab_size=330",
            "data.train=demo:train",
            "batch.tokens=512",
            "train.seed=1",
            "train.steps=3",
        ],
    )
    def test_another_config_is_refused_and_the_run_left_as_it_was(self, here, text, fails, copy, override):
        before = contents(copy)
        error = fails("train", f"--config={here.config}", f"--workdir={copy}", f"--config.{override}")
        assert override.partition("=")[0] in error and "another --workdir" in error
        assert contents(copy) == before

    @pytest.mark.parametrize(
        "damage",
        [b"", b"{", b"[]", b"\xff\xfe", b'{"model": {"widht": 2}}', b'{"model": {"width": "2"}}', b'{"model": {"width": -2}}'],
    )
    def test_a_damaged_config_is_named(self, here, text, fails, copy, damage):
        (copy / "config.json").write_bytes(damage)
        for call in (("evaluate", "--test=x"), ("translate", ""), ("train", f"--config={here.config}")):
            assert str(copy / "config.json") in fails(*call, f"--workdir={copy}")

    def test_a_tokenizer_that_does_not_belong_to_the_checkpoint(self, here, text, fails, copy, tmp_path):
        file = copy / "tokenizer" / "tokenizer.json"
        file.write_bytes(file.read_bytes().replace(b'"bos_id": 3', b'"bos_id": 2'))
        for call in (("evaluate", "--test", here.dev), ("translate", ""), ("train", f"--config={here.config}")):
            error = fails(*call, f"--workdir={copy}")
            assert "another tokenizer" in error, error
        shutil.rmtree(copy / "tokenizer")
        assert "no such file" in fails("translate", "", f"--workdir={copy}")

    def test_checkpoints_that_are_missing_or_damaged(self, here, fails, copy):
        for array in (copy / "checkpoints" / "4").rglob("*"):
            if array.is_file() and array.stat().st_size > 100:
                array.write_bytes(b"damaged")
        assert "checkpoints/4: manifest.json is damaged" in fails("translate", "", f"--workdir={copy}", "--checkpoint=4")
        shutil.rmtree(copy / "checkpoints")
        assert "no checkpoint" in fails("translate", "", f"--workdir={copy}")
        (copy / "checkpoints").mkdir()
        assert "no checkpoint" in fails("translate", "", f"--workdir={copy}", "--checkpoint=latest")


@pytest.mark.parametrize("name", ["train", "evaluate", "translate"])
def test_bad_input_in_a_process_of_its_own(name, tmp_path):
    arguments = ["--config=none.json"] if name == "train" else ["--test=x"] if name == "evaluate" else ["a"]
    done = script(name, f"--workdir={tmp_path / 'none'}", *arguments, code=2)
    assert "no such" in only_error(done.err) and done.err.count("\n") == 1 and not done.out


def test_from_python_nothing_is_said_when_a_translator_is_loaded(here):
    program = f"from transformer_jax import Translator; Translator.load({str(here.run)!r})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, None), "give all three"),
        (("host:1", 2, 2), "give all three, and a process from 0"),
        (("host", 2, 0), "--coordinator=host should be HOST:PORT"),
    ],
)
def test_flags_of_processes_that_cannot_be(flags, message):
    with pytest.raises(UserError, match=message):
        cluster.join(*flags)


def test_a_port_that_is_taken(here, tmp_path):
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        flags = [f"--coordinator={address}", "--processes=2", "--process=0"]
        done = script("train", f"--config={here.config}", f"--workdir={tmp_path / 'run'}", *flags, code=2)
    assert f"--coordinator={address}: cannot open this port" in only_error(done.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train", "evaluate", "translate"])
def test_help_names_the_flags(name):
    assert b"--workdir" in script(name, "--help").out
