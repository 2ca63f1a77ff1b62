"""The run folder: what is saved comes back, what differs is named, and killed and resumed = straight."""

import dataclasses
import errno
import json
import math
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FAMILIES,
    arrays_of,
    assert_same_runs,
    assert_trees_close,
    assert_trees_equal,
    each_family,
    metrics_of,
    quick_config,
    tiny_config,
    tiny_model,
)

from transformer_jax.config import Config, differences, from_json, override, remedy, to_json, validate
from transformer_jax.data.corpus import read_pairs
from transformer_jax.data.training_words import words_outside
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs import lean
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.checksums import write_manifest
from transformer_jax.training import evaluator, loop, prepare
from transformer_jax.training import step as step_module
from transformer_jax.training.loop import train
from transformer_jax.training.metrics import TIMES, Meter, without_times
from transformer_jax.training.metrics_writer import MetricsWriter
from transformer_jax.training.optimizer import learning_rate, make_optimizer, optimizer_average
from transformer_jax.training.step import TrainState

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")

# Checkpoints

TOKENIZER = SimpleNamespace(fingerprint="a" * 64)
OPTIMIZER = optax.adam(1e-3)


def state_at(step: int) -> TrainState:
    random = np.random.default_rng(step)
    params = {"layer": {"kernel": random.standard_normal((3, 4)), "bias": random.standard_normal(4)}}
    params = jax.tree.map(lambda x: jax.numpy.asarray(x, "float32"), params)
    state = TrainState.create(params, OPTIMIZER)
    return state._replace(step=np.int32(step), optimizer_state=OPTIMIZER.update(params, state.optimizer_state)[1])


def averaged_at(step: int) -> TrainState:
    state = state_at(step)
    return state._replace(ema=jax.tree.map(lambda x: 10 * x, state.params))


def shapes(state=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state or state_at(0)).params)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.open_or_create(tmp_path / "run", Config())


def fill(run: Run, scores: dict[int, float | None], keep: int = 10) -> None:
    """Saves a checkpoint at each step, evaluated where it has a score."""
    progress = TrainProgress(tokenizer=TOKENIZER.fingerprint)
    with run.checkpoint_writer(keep=keep) as checkpoints:
        if checkpoints.reader.steps():
            progress = checkpoints.reader.progress(checkpoints.reader.steps()[-1])
        for step, score in scores.items():
            progress = dataclasses.replace(progress, step=step, score=None)
            progress = progress if score is None else progress.evaluated(score, 0)
            checkpoints.save(state_at(step), progress)


def params_of(run: Run, which: str):
    with run.checkpoints() as checkpoints:
        return checkpoints.parameters(CheckpointName.parse(which), shapes(), TOKENIZER)


def test_what_is_saved_comes_back_bit_for_bit(run):
    unwritten = {"seconds": 0.1, "loss.loss": 1e300}
    progress = TrainProgress(3, 1, 40, TOKENIZER.fingerprint, "corpus", 0.1 + 0.2, 2.0, 4, unwritten=unwritten)
    with run.checkpoint_writer(keep=2) as checkpoints:
        checkpoints.save(state_at(3), progress)
    with run.checkpoint_writer(keep=2) as checkpoints:
        state, found = checkpoints.reader.restore(3, state_at(0))
    assert found == progress
    assert_trees_equal(state, state_at(3))
    params, name = params_of(run, "latest")
    assert_trees_equal(params, state_at(3).params)
    assert name == "step 3"


def test_the_latest_and_the_best_are_kept(run):
    fill(run, {1: 5.0, 2: 9.0, 3: None, 4: 7.0, 5: None}, keep=2)
    with run.checkpoints() as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        names = map(CheckpointName.parse, ("latest", "best", "4", "average:2"))
        assert list(map(checkpoints.resolve, names)) == [[5], [2], [4], [4, 5]]
    fill(run, {6: 8.0, 7: 9.5, 8: None, 9: None}, keep=2)  # also after a restart
    with run.checkpoints() as checkpoints:
        assert checkpoints.steps() == [7, 8, 9]
        assert checkpoints.resolve(CheckpointName.parse("best")) == [7]


def test_of_equal_scores_the_first_is_best_and_kept(run):
    """Early in a training all BLEU scores are 0."""
    fill(run, {1: 0.0, 2: 0.0, 3: 0.0}, keep=1)
    fill(run, {4: 0.0}, keep=1)
    with run.checkpoints() as checkpoints:
        assert checkpoints.steps() == [1, 4]
        assert checkpoints.resolve(CheckpointName.parse("best")) == [1]


def test_average_is_the_mean_of_the_latest(run):
    fill(run, dict.fromkeys(range(1, 6)))
    params, name = params_of(run, "average:3")
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float64), *(state_at(n).params for n in (3, 4, 5)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert "3 checkpoints, steps 3 to 5" in name
    assert_trees_equal(params_of(run, "average:1")[0], state_at(5).params)


def test_average_leaves_out_a_best_that_is_kept_beyond_its_time(tmp_path):
    config = Config()
    config.train.keep_checkpoints = 2
    run = Run.open_or_create(tmp_path / "run", config)
    fill(run, {1: 9.0, 2: 1.0, 3: 1.0, 4: 1.0}, keep=2)
    with run.checkpoints() as checkpoints:
        assert checkpoints.steps() == [1, 3, 4]
        assert checkpoints.resolve(CheckpointName.parse("average:2")) == [3, 4]
        with pytest.raises(UserError, match="keeps the latest 2 checkpoints, cannot average 3"):
            checkpoints.resolve(CheckpointName.parse("average:3"))


def test_moving_averages_are_saved_and_are_what_is_asked_for_unless_raw_is(tmp_path):
    config = Config()
    config.train.ema_decay = 0.9
    run = Run.open_or_create(tmp_path / "run", config)
    with run.checkpoint_writer(keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(averaged_at(step), TrainProgress(step=step, tokenizer=TOKENIZER.fingerprint))
    with run.checkpoint_writer(keep=2) as checkpoints:
        assert_trees_equal(checkpoints.reader.restore(2, averaged_at(0))[0], averaged_at(2))
    for which in ("latest", "2", "latest:ema"):
        params, name = params_of(run, which)
        assert_trees_equal(params, averaged_at(2).ema)
        assert name == "step 2, ema weights"
    params, name = params_of(run, "latest:raw")
    assert_trees_equal(params, state_at(2).params)
    assert name == "step 2, raw weights"
    (averages, _), (raw, name) = params_of(run, "average:2"), params_of(run, "average:2:raw")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 10 * b, rtol=1e-5), averages, raw)
    assert name == "average of 2 checkpoints, steps 1 to 2, raw weights"


def test_a_run_without_moving_averages_has_only_raw_ones(run):
    fill(run, {1: None})
    assert not (run.workdir / "checkpoints" / "1" / "ema").exists()
    assert_trees_equal(params_of(run, "1:raw")[0], params_of(run, "1")[0])
    with pytest.raises(UserError, match=r"without train.ema_decay, there is no average:1:ema"):
        params_of(run, "average:1:ema")


def test_a_lean_copy_has_averages_or_raw_parameters_and_says_which(tmp_path, monkeypatch):
    config = Config()
    config.train.ema_decay = 0.9
    run = Run.open_or_create(tmp_path / "run", config)
    monkeypatch.setattr(Run, "tokenizer", lambda _: SimpleNamespace(vocab_size=1, copy_to=lambda _: None, **vars(TOKENIZER)))
    monkeypatch.setattr(lean, "abstract_parameters", lambda _: shapes())
    with run.checkpoint_writer(keep=3) as checkpoints:
        for step in (1, 2, 3):
            progress = TrainProgress(step=step, tokenizer=TOKENIZER.fingerprint, unwritten=[1.0], skipped=1)
            checkpoints.save(averaged_at(step), progress.evaluated(-float(step), 0))
    for name, weights, other in (("3", "ema", "raw"), ("3:raw", "raw", "ema")):
        out = tmp_path / weights
        assert lean.copy_run(str(run.workdir), str(out), [name]) == [f"step 3, {weights} weights"]
        copied = Run(out)
        expected = averaged_at(3).ema if weights == "ema" else state_at(3).params
        for which in ("best", "latest", "3", f"3:{weights}"):
            found, described = params_of(copied, which)
            assert_trees_equal(found, expected)
            assert described == f"step 3, {weights} weights"
        with pytest.raises(UserError, match=f"was copied without what 3:{other} asks for; leave out :{other}"):
            params_of(copied, f"3:{other}")
        with copied.checkpoints() as checkpoints:
            progress = checkpoints.progress(3)
        assert (progress.best_step, progress.score, progress.unwritten, progress.skipped) == (3, -3.0, {}, 1)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("7", r"no checkpoint of step 7; there are 1, 2"),
        ("average:3", r"has 2 checkpoints, cannot average 3"),
        ("best", r"no evaluation has named a best"),
        ("average:0", r"should be latest, best, a step, or average:N"),
        ("newest", r"'newest' should be latest, best, a step, or average:N"),
        ("-1", r"should be latest"),
    ],
)
def test_checkpoints_that_are_not_there(run, which, message):
    fill(run, {1: None, 2: None})
    with pytest.raises(UserError, match=message):
        params_of(run, which)


def test_a_run_without_checkpoints(run):
    with pytest.raises(UserError, match="no checkpoint there yet"):
        run.checkpoints()
    fill(run, {})
    with pytest.raises(UserError, match=r"no checkpoint there yet; [^;]*$"):
        params_of(run, "latest")
    (run.workdir / "interrupted").mkdir()
    with pytest.raises(UserError, match=r"was stopped before; its command goes on, also with a smaller --config\.train"):
        params_of(run, "latest")


def test_parameters_of_another_tokenizer_or_shape_are_refused(run):
    fill(run, {1: None})
    with run.checkpoints() as checkpoints:
        with pytest.raises(UserError, match=r"trained with another tokenizer .* aaaaaaaaaaaa, not bbbbbbbbbbbb"):
            checkpoints.parameters(CheckpointName("latest"), shapes(), SimpleNamespace(fingerprint="b" * 64))
        wider, more, fewer = (jax.tree.map(lambda x: x, shapes()) for _ in range(3))
        wider["layer"]["kernel"] = jax.ShapeDtypeStruct((3, 5), np.float32)
        more["layer"]["scale"] = jax.ShapeDtypeStruct((4,), np.float32)
        del fewer["layer"]["bias"]
        for other, message in ((wider, r"'kernel'\] is \(3, 4\), not \(3, 5\)"), (more, "read"), (fewer, "read")):
            with pytest.raises(UserError, match=message):
                checkpoints.parameters(CheckpointName("latest"), other, TOKENIZER)


@pytest.mark.parametrize("text", ["", '{"step": 1', "[1]", '{"stage": 1}'])
def test_a_damaged_checkpoint_is_one_line(run, text):
    fill(run, {1: None})
    folder = run.workdir / "checkpoints" / "1"
    (file,) = (folder / "progress").glob("metadata*")
    file.write_text(text)
    write_manifest(folder)  # whoever damaged it knew what he did: checksums tell nothing
    with pytest.raises(UserError, match=r"checkpoints/1: cannot be read") as error:
        params_of(run, "latest")
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_its_arrays_is_one_line(run):
    fill(run, {1: None})
    folder = run.workdir / "checkpoints" / "1"
    (folder / "params").rmtree()
    (folder / "params").mkdir()
    write_manifest(folder)
    with pytest.raises(UserError, match=r"checkpoints/1: cannot be read"):
        params_of(run, "latest")


# Progress, the folder, the metrics


def test_progress_remembers_the_best_and_loses_patience():
    progress, course = TrainProgress(), []
    for step, score in enumerate([1.0, 3.0, 3.0, 2.0, 4.0, 0.0, 0.0], 1):
        progress = dataclasses.replace(progress, step=step).evaluated(score, patience=2)
        course.append((progress.best_step, progress.evaluations_without_better, progress.stopped))
    assert course == [
        (1, 0, False),
        (2, 0, False),
        (2, 1, False),
        (2, 2, True),
        (5, 0, False),
        (5, 1, False),
        (5, 2, True),
    ]
    assert not progress.evaluated(0.0, patience=0).stopped


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        Run(tmp_path / "none")
    with pytest.raises(UserError, match="not a run folder, it has no config"):
        Run(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not a run folder"):
        Run.open_or_create(tmp_path, Config())
    with pytest.raises(UserError, match="cannot be written"):
        Run.open_or_create(tmp_path / "thesis.txt" / "run", Config())
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_run_goes_on_with_more_steps_and_not_with_another_model(run):
    fill(run, {1: None})
    more = Config()
    more.train.steps += 1
    assert Run.open_or_create(run.workdir, more).config == more
    assert Run(run.workdir).config == more
    other = dataclasses.replace(more, model=dataclasses.replace(more.model, width=256))
    with pytest.raises(UserError, match=r"trained with another config \(model.width: 512 -> 256\)"):
        Run.open_or_create(run.workdir, other)
    assert Run(run.workdir).config == more
    run.config_file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Run(run.workdir)


def test_a_first_attempt_that_failed_binds_nobody(run):
    run.tokenizer_folder.mkdir()
    run.tokenizer_file.write_text("trained on other text")
    other = Config()
    other.model.width = 256
    assert Run.open_or_create(run.workdir, other).config == other
    assert not run.tokenizer_file.exists()


def test_a_folder_that_holds_only_logs_becomes_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("train.log", "nohup.out", "slurm-1.err", "log.txt", ".gitignore", "lock"):
        (tmp_path / "run" / name).write_text(name)
    Run.open_or_create(tmp_path / "run", Config())
    assert (tmp_path / "run" / "train.log").read_text() == "train.log"
    for name in ("logs.log", "thesis.tex", ".git", "log"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / "train.log").write_text("x")
        (folder / name).mkdir() if name != "thesis.tex" else (folder / name).write_text("x")
        with pytest.raises(UserError, match=rf"is not empty and not a run folder: it holds {name}; name another"):
            Run.open_or_create(folder, Config())


def test_metrics_beyond_the_checkpoint_are_taken_back(tmp_path):
    file, started = tmp_path / "metrics.jsonl", time.time()
    with MetricsWriter(tmp_path, 0) as writer:
        for step in range(1, 5):
            writer.write(step, "train", {"loss": step / 10}, ["a text"])
    assert all(started - 1 < json.loads(line)["time"] < time.time() + 1 for line in file.read_text().splitlines())
    file.write_text(file.read_text() + '{"step": 5, "spl')  # killed while writing
    with MetricsWriter(tmp_path, 2) as writer:
        writer.write(3, "dev", {"bleu": 3.0})
    assert metrics_of(tmp_path) == [
        {"step": 1, "split": "train", "loss": 0.1},
        {"step": 2, "split": "train", "loss": 0.2},
        {"step": 3, "split": "dev", "bleu": 3.0},
    ]


def events_in(folder: Path) -> list:
    """The events of a folder's only file: each has its length in 8 bytes before it, and 4 bytes of checksum around it."""
    from tensorboardX.proto.event_pb2 import Event  # after the first writer, which keeps PyTorch out

    (file,) = folder.iterdir()
    data, events = file.read_bytes(), []
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return events


def test_tensorboard_has_every_number_and_is_written_by_no_thread(tmp_path):
    threads = threading.enumerate()
    with MetricsWriter(tmp_path, 2) as writer:
        writer.write(3, "train", {"loss": 0.5, "updates": 7}, ["one", "two"])
        events = events_in(tmp_path / "tensorboard")  # whatever becomes of the training, they are there
        assert threading.enumerate() == threads
        writer.write(4, "dev", {"perplexity": math.inf})
    assert events_in(tmp_path / "tensorboard")[:-1] == events
    version, start, *told = events_in(tmp_path / "tensorboard")
    assert (version.file_version, start.step, start.session_log.status) == ("brain.Event:2", 3, 1)
    texts = [value.tensor.string_val[0] for event in told for value in event.summary.value if value.tensor.string_val]
    assert texts == [b"one\n\ntwo"]
    numbers = [(event.step, value.tag, value.simple_value) for event in told for value in event.summary.value]
    assert numbers == [
        *[(3, "train/loss", 0.5), (3, "train/updates", 7.0)],
        (3, "train/translations/text_summary", 0.0),
        (4, "dev/perplexity", math.inf),
    ]


def test_a_disk_that_is_full_for_the_events_ends_the_training_once_and_closes_its_files(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), MetricsWriter(tmp_path, 0) as writer:
        monkeypatch.setattr(os, "fsync", full)
        writer.write(1, "train", {"loss": 0.5})
    assert writer._file.closed
    assert metrics_of(tmp_path) == [{"step": 1, "split": "train", "loss": 0.5}]


def test_metrics_that_cannot_be_written_are_told_before_the_first_update(tmp_path):
    for name in ("tensorboard", "metrics.jsonl", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / "tensorboard" / "tensorboard").write_text("no folder")
    (tmp_path / "metrics.jsonl" / "metrics.jsonl").mkdir()
    (tmp_path / "text" / "metrics.jsonl").write_bytes(b"\xff\xfe")
    for name in ("tensorboard", "metrics.jsonl"):
        with pytest.raises(UserError, match=r"metrics.jsonl or tensorboard cannot be written \((Is|Not) a directory\)"):
            MetricsWriter(tmp_path / name, 0)
    with pytest.raises(UserError, match=r"metrics\.jsonl: is not UTF-8"):
        MetricsWriter(tmp_path / "text", 0)
    assert (tmp_path / "text" / "metrics.jsonl").read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize("evaluated", [True, False])
def test_an_evaluation_that_is_not_in_the_checkpoint_is_made_again_and_not_told_twice(tmp_path, evaluated):
    """A training that was stopped between a step and its evaluation makes it up before it saves; it can be killed between."""
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, "dev", {"bleu": 1.0})
        writer.write(2, "train", {"loss": 0.2})
        writer.write(2, "dev", {"bleu": 2.0})
        writer.write(2, "watch:old/dev", {"bleu": 1.5})
    with MetricsWriter(tmp_path, 2, evaluated) as writer:
        writer.write(3, "train", {"loss": 0.3})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        (1, "dev"),
        (2, "train"),
        *[(2, "dev"), (2, "watch:old/dev")] * evaluated,
        (3, "train"),
    ]


# The config


def test_json_round_trip():
    config = Config()
    config.model.norm, config.optimizer.learning_rate, config.data.deduplicate = "pre", 1e-4, False
    assert from_json(to_json(config)) == config
    assert from_json("{}") == Config()
    assert from_json("\ufeff" + to_json(config).replace("\n", "\r\n")) == config
    assert from_json('{"optimizer": {"learning_rate": 1}}').optimizer.learning_rate == 1.0


def test_runs_from_before_there_was_a_choice_of_metrics_are_read():
    assert from_json('{"train": {"evaluate_bleu": true}}') == Config()
    assert from_json('{"train": {"evaluate_bleu": false}}').train.metric == "loss"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", r"expected an object with keys, found \[\]"),
        ('{"model": 3}', "expected an object"),
        ('{"modle": {}}', r"unknown key 'modle' \(did you mean model\?\)"),
        ('{"model": {"num_layer": 2}}', r"unknown key 'num_layer' \(did you mean num_layers\?\)"),
        ('{"model": {"num_layers": "2"}}', "num_layers should be .*'2'"),
        ('{"model": {"num_layers": true}}', "num_layers should be .*True"),
        ('{"model": {"num_layers": 2.0}}', "num_layers should be .*2.0"),
        ('{"data": {"deduplicate": 1}}', "deduplicate should be"),
        ('{"model": {"width": 0}}', "model.width=0 should be more than 0"),
        ('{"decode": {"temperature": Infinity}}', "temperature=inf should be at most"),
        ('{"decode": {"temperature": NaN}}', "temperature=nan should be 0 or more"),
        ('{"decode": {"temperature": 1' + "0" * 400 + "}}", "temperature=inf should be at most"),
        ('{"train": {"steps": 1' + "0" * 5000 + "}}", "not JSON .*digits"),
        ("[" * 100_000, "not JSON .*recursion"),
    ],
)
def test_json_that_is_no_config(text, message):
    with pytest.raises(UserError, match=message) as error:
        from_json(text, "run/config.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.num_layers", "2", 2),
        ("model.dropout", "0.5", 0.5),
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("optimizer.clip_norm", "1", 1.0),
        ("data.deduplicate", "False", False),
        ("data.train", "a=b", "a=b"),
    ],
)
def test_override(key, text, value):
    config = Config()
    override(config, key, text)
    part, name = key.split(".")
    found = getattr(getattr(config, part), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("model.num_layer", "2", r"unknown key 'model.num_layer' \(did you mean model.num_layers\?\)"),
        ("modle.num_layers", "2", r"did you mean model.num_layers\?"),
        ("model", "2", "unknown key 'model'"),
        ("model.num_layers", "two", "model.num_layers='two' should be a whole number"),
        ("model.num_layers", "2.5", "should be a whole number"),
        ("model.dropout", "half", "should be a number"),
        ("data.deduplicate", "1", "should be true or false"),
    ],
)
def test_override_that_cannot_be(key, text, message):
    config = Config()
    with pytest.raises(UserError, match=message):
        override(config, key, text)
    assert config == Config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm": "prenorm"}, r"model.norm='prenorm' should be one of post, pre \(did you mean pre\?\)"),
        ({"model.dropout": "1"}, "model.dropout=1.0 should be at least 0 and below 1"),
        ({"model.dropout": "nan"}, "model.dropout=nan"),
        ({"optimizer.learning_rate": "-1"}, "learning_rate=-1.0 should be 0 or more"),
        ({"train.steps": "0"}, "train.steps=0 should be more than 0"),
        ({"optimizer.learning_rate": "inf"}, "learning_rate=inf should be at most 1e\\+30"),
        ({"data.max_ratio": "nan"}, "max_ratio=nan should be more than 0"),
        ({"optimizer.warmup_steps": str(1 << 31)}, "warmup_steps=2147483648 should be at most 2,147,483,647"),
        ({"train.seed": str(1 << 64)}, "train.seed=18446744073709551616 should be at most 18,446,744,073,709,551,615"),
        ({"train.steps": "1" + "0" * 30}, "train.steps=10+ should be at most 9,223,372,036,854,775,807"),
        ({"batch.tokens": "1000000000000"}, "batch.tokens=1000000000000 should be at most 16,777,216"),
        ({"model.width": "1000000000000"}, "model.width=1000000000000 should be at most 65,536"),
        ({"decode.beam": "99999999999"}, "decode.beam=99999999999 should be at most 10,000"),
        ({"decode.max_length_ratio": "1e9"}, "max_length_ratio=1000000000.0 should be at most 1,000"),
        ({"decode.min_length_ratio": "inf"}, "min_length_ratio=inf should be at most 1,000"),
        ({"decode.temperature": "inf"}, "temperature=inf should be at most 1e\\+06"),
        ({"decode.temperature": "1e-30"}, "temperature=1e-30 should be 0 or at least 1e-06"),
        ({"train.ema_decay": "1"}, "train.ema_decay=1.0 should be at least 0 and below 1"),
        ({"decode.beam": "0"}, "decode.beam=0 should be more than 0"),
        ({"decode.nbest": "5"}, "decode.nbest=5 should be at most decode.beam=4"),
        ({"tokenizer.character_coverage": "0.97"}, "character_coverage=0.97 should be from 0.98 to 1"),
        ({"tokenizer.character_coverage": "1.01"}, "character_coverage=1.01 should be from 0.98 to 1"),
        ({"tokenizer.vocab_size": "4"}, "tokenizer.vocab_size=4 should be 0 or at least 5"),
        ({"tokenizer.vocab_size": "2147483648"}, "tokenizer.vocab_size=2147483648 should be at most 2,147,483,647"),
        ({"tokenizer.alpha": "1.5"}, "tokenizer.alpha=1.5 should be at most 1 with tokenizer.algorithm=bpe"),
        ({"model.heads": "7"}, "model.heads=7 should be a divisor of model.width=512"),
        ({"model.width": "9", "model.heads": "3"}, "model.width=9 should be even"),
        ({"model.positions": "rotary", "model.key_width": "5"}, "model.key_width=5 should be even"),
        ({"model.positions": "learned", "model.max_positions": "100"}, "max_positions=100 should be at least"),
        ({"batch.kind": "packed", "batch.packed_length": "128"}, "at most batch.packed_length=128"),
        ({"batch.kind": "packed"}, "batch.tokens=4096 should be at least .* 16384"),
        ({"model.family": "lstm", "model.heads": "4"}, "model.heads=4 should be left out: model.family=lstm has no use for it"),
        ({"model.attention": "dot"}, "model.attention='dot' should be left out: model.family=transformer"),
        ({"model.family": "lstm", "model.attention": "mlp"}, "model.attention='mlp' should be one of none, dot, scaled_dot,"),
        ({"model.family": "lstm", "model.width": "9"}, "model.width=9 should be even"),
        (
            {"model.family": "lstm", "model.attention": "none", "model.input_feeding": "true"},
            "model.input_feeding=True should be false where model.attention is none",
        ),
        ({"model.family": "lstm", "batch.kind": "packed", "batch.tokens": "99999"}, "batch.kind='packed' should be bucketed"),
        ({"train.accumulation": "3"}, "accumulation=3 should be a divisor of batch.row_multiple=64"),
    ],
)
def test_configs_that_cannot_be(changes, message):
    config = Config()
    assert validate(config) is config
    for key, text in changes.items():
        override(config, key, text)
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("train.steps", "200000", True),
        ("train.steps", "50000", False),
        ("train.log_every", "7", True),
        ("train.checkpoint_every", "7", True),
        ("train.keep_checkpoints", "7", True),
        ("data.cache_dir", "/tmp", True),
        ("decode.tokens", "4096", True),
        ("data.train", "other", False),
        ("tokenizer.vocab_size", "7000", False),
        ("batch.tokens", "8192", False),
        ("model.norm", "pre", False),
        ("optimizer.beta2", "0.9", False),
        ("optimizer.name", "lion", False),
        ("model.first_position", "2", False),
        ("train.seed", "1", False),
        ("train.metric", "chrf", False),
        ("train.accumulation", "2", False),
        ("train.ema_decay", "0.9", False),
    ],
)
def test_what_may_change_when_a_run_goes_on(key, text, allowed):
    stored, given = Config(), Config()
    override(given, key, text)
    found = differences(stored, given)
    (line,) = found[1 if allowed else 0]
    assert line.startswith(f"{key}: ") and not found[0 if allowed else 1]
    assert differences(stored, Config()) == ([], [])


def test_more_steps_change_a_cosine_that_ends_with_them():
    stored, given = Config(), Config()
    for config in (stored, given):
        config.optimizer.schedule = "cosine"
    given.train.steps *= 2
    assert differences(stored, given)[0]
    stored.optimizer.decay_steps = given.optimizer.decay_steps = 1000
    assert not differences(stored, given)[0]


def test_a_cosine_that_ends_with_the_steps_is_named_with_the_ways_out():
    stored, given = Config(), Config()
    stored.optimizer.schedule = given.optimizer.schedule = "cosine"
    given.train.steps *= 2
    advice = remedy(stored, given, "runs/a")
    for part in (
        "optimizer.schedule=cosine",
        "train.steps=100000",
        "another --workdir",
        "train.init_from=runs/a:latest",
        "--extend",
    ):
        assert part in advice
    given.train.seed = 1
    assert remedy(stored, given, "runs/a") == "use that one, or another --workdir"


def test_a_checkpoints_name_has_digits_only():
    for text in ("", "average", "average:x", "average:-1", "1.5", "²", ":raw", "average:raw", "best:", "best:raw:raw"):
        with pytest.raises(UserError):
            CheckpointName.parse(text)


# Resume


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("kind", "family", "samples", "ema_decay"),
    [
        # Of the Transformer the packed case is the harder one.
        pytest.param("bucketed", "Transformer", 0, 0.0, marks=pytest.mark.slow),
        *each_family(*(("bucketed", family, 0, 0.0) for family in FAMILIES))[1:],
        ("packed", "Transformer", 3, 0.9),
    ],
    ids=str,
)
@pytest.mark.accelerator
def test_killed_and_resumed_is_straight(kind, family, samples, ema_decay, tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    config.model = tiny_model(dropout=0.3, **FAMILIES[family])
    config.batch.kind = kind
    config.tokenizer.samples, config.train.ema_decay = samples, ema_decay
    assert_killed_and_resumed_is_straight(config, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adafactor", "muon", "lion", "schedule_free"])
def test_killed_and_resumed_is_straight_with_each_optimizer(name, tmp_path, monkeypatch):
    config = quick_config(tmp_path)
    config.optimizer.name = name
    if name == "schedule_free":
        config.optimizer.schedule = "constant"
    assert_killed_and_resumed_is_straight(config, tmp_path, monkeypatch)
    run = Run(tmp_path / "straight")
    optimizer = make_optimizer(run.config)
    with run.checkpoints() as checkpoints:
        shapes = abstract_parameters(build_model(run.config.model, run.tokenizer().vocab_size))
        read, _ = checkpoints.parameters(CheckpointName.parse("6"), shapes, run.tokenizer())
        state = jax.eval_shape(lambda: TrainState.create(jax.tree.map(lambda x: jnp.zeros(x.shape), shapes), optimizer))
        state, _ = checkpoints.restore(6, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state))
    average = optimizer_average(state.optimizer_state, state.params)
    assert_trees_close(read, state.params if average is None else average, rtol=1e-5, atol=1e-6)
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(state.params), strict=True)]
    assert (max(moved) > 1e-4) == (name == "schedule_free")


def assert_killed_and_resumed_is_straight(config, tmp_path, monkeypatch):
    """Logged at steps 4 and 6, saved at 3 and 6, killed in step 5: what was written of step 4 is taken back, and its line is
    made again, of one step before the checkpoint and one after."""
    config.train.log_every = 4
    train(config, tmp_path / "straight")

    def killing_meter(*args):
        meter = loop_meter(*args)
        add = meter.add

        def add_or_die(step, sums):
            if step == 5:
                raise Killed
            add(step, sums)

        meter.add = add_or_die
        return meter

    loop_meter = loop.Meter
    monkeypatch.setattr(loop, "Meter", killing_meter)
    with pytest.raises(Killed):
        train(config, tmp_path / "resumed")
    assert [line["step"] for line in metrics_of(tmp_path / "resumed")] == [3, 4]
    monkeypatch.setattr(loop, "Meter", loop_meter)
    progress = train(config, tmp_path / "resumed")
    assert progress.step == 6 and progress.epoch + progress.offset > 0
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)
    assert train(config, tmp_path / "resumed") == dataclasses.replace(
        arrays_of(tmp_path / "resumed", 6)[1]
    )  # nothing left to do


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> tuple[Path, Path]:
    """The same training twice, each with a checkpoint of step 3 whose sums are written at step 4."""
    folder = tmp_path_factory.mktemp("twins")
    config = quick_config(folder)
    config.train.log_every = 4
    for name in ("first", "second"):
        train(config, folder / name)
    return folder / "first", folder / "second"


def test_two_trainings_differ_in_times_alone(twins):
    runs = []
    for run in twins:
        numbers = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        with Run(run).checkpoints() as checkpoints:
            standing = [dataclasses.asdict(checkpoints.progress(step)) for step in checkpoints.steps()]
        runs.append([*numbers, *(each.pop("unwritten") for each in standing), *standing])
    names, differing = set(), set()
    for first, second in zip(*runs, strict=True):
        assert first.keys() == second.keys()
        names |= first.keys()
        differing |= {name for name in first if first[name] != second[name]}
    assert {"seconds", "steps_per_second"} <= differing <= TIMES <= names
    assert_same_runs(*twins, 6)


def test_a_checkpoint_whose_unwritten_sums_are_a_list_goes_on_as_it_did(twins, tmp_path):
    """As checkpoints had them before the sums had names: seconds, those waited for input, then the sums in their order."""
    shutil.copytree(twins[1], tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "6")
    (file,) = (checkpoints / "3" / "progress").glob("metadata*")
    saved = json.loads(file.read_text())
    assert len(saved["unwritten"]) == 10 and saved["unwritten"]["steps"] == 3
    saved["unwritten"] = list(saved["unwritten"].values())
    file.write_text(json.dumps(saved))
    write_manifest(checkpoints / "3")
    train(Run(tmp_path / "run").config, tmp_path / "run")
    assert_same_runs(tmp_path / "run", twins[0], 6)


def test_a_list_of_sums_is_read_by_position_and_one_of_another_version_is_left_out():
    saved = {"step": 3, "unwritten": [30.0, 0.5, 8.0, 6.0, 2.0, 4.0, 5.0, 21.0, 3.0, 3.0]}
    unwritten = TrainProgress.parse(saved).unwritten
    assert unwritten == {
        "seconds": 30.0,
        "waited_seconds": 0.5,
        "loss.loss": 8.0,
        "loss.cross_entropy": 6.0,
        "loss.correct": 2.0,
        "loss.tokens": 4.0,
        "source_tokens": 5.0,
        "gradient_norm": 21.0,
        "finite": 3.0,
        "steps": 3.0,
    }
    numbers = without_times(Meter(unwritten).take())
    assert numbers["loss"] == 2.0 and numbers["gradient_norm"] == 7.0 and numbers["target_tokens"] == 4.0
    for other in ([], [1.0] * 9):
        assert TrainProgress.parse({"unwritten": other}) == TrainProgress()


def test_more_steps_later_are_as_many_steps_at_once(tmp_path):
    config = quick_config(tmp_path)
    train(config, tmp_path / "straight")
    config.train.steps = 3
    train(config, tmp_path / "in two parts")
    config.train.steps = 6
    train(config, tmp_path / "in two parts")
    assert_same_runs(tmp_path / "in two parts", tmp_path / "straight", 6)
    steps = [(line["step"], line["split"]) for line in metrics_of(tmp_path / "straight")]
    assert steps == [(3, "train"), (3, "dev"), (6, "train"), (6, "dev")]


def test_a_run_that_is_extended_has_the_rates_of_the_longer_schedule_from_there_on(tmp_path, caplog):
    config = quick_config(tmp_path)
    config.optimizer.schedule, config.optimizer.warmup_steps = "cosine", 2
    config.train.log_every, config.train.steps = 1, 3
    train(config, tmp_path / "run")
    short = learning_rate(config)
    config.train.steps = 6
    with pytest.raises(UserError, match="--extend"):
        train(config, tmp_path / "run")
    with caplog.at_level("INFO", "transformer_jax"):
        train(config, tmp_path / "run", extend=True)
    long = learning_rate(config)
    rates = [f"{float(rate(3)):.3g}" for rate in (long, short)]
    told = f"extended from 3 to 6 steps: at step 3 the learning rate is {rates[0]}, where it was {rates[1]}"
    assert told in caplog.text and float(long(3)) > float(short(3))
    rates = [line["learning_rate"] for line in metrics_of(tmp_path / "run") if line["split"] == "train"]
    assert rates == [float(rate(step)) for step, rate in enumerate([short] * 3 + [long] * 3)]
    assert train(config, tmp_path / "run").step == 6  # from now on it is a run of six steps
    config.train.seed = 1
    with pytest.raises(UserError, match=r"train\.seed: 0 -> 1"):
        train(config, tmp_path / "run", extend=True)


@pytest.mark.parametrize("metric", ["ter", pytest.param("rouge1", marks=pytest.mark.slow)])
def test_the_metric_of_the_config_decides_which_is_best(metric, tmp_path, monkeypatch):
    """Training makes nothing better here; the translations do, from evaluation to evaluation, and then not any more."""
    config = quick_config(tmp_path)
    config.train.metric, config.train.steps = metric, 4
    config.train.evaluate_every = config.train.checkpoint_every = 1
    references = read_pairs(config.data.dev, "en", "de").target
    right = iter([0, len(references) // 2, len(references), 3])

    def translate(*args, **kwargs):
        count = next(right)
        return [SimpleNamespace(text=line if i < count else "x") for i, line in enumerate(references)]

    monkeypatch.setattr(evaluator.Translator, "translate", translate)
    progress = train(config, tmp_path / "run")
    values = [line[metric] for line in metrics_of(tmp_path / "run") if line["split"] == "dev"]
    best = min(values) if metric == "ter" else max(values)
    assert values.index(best) == 2 and progress.best_step == 3
    assert best == pytest.approx(0 if metric == "ter" else 100)
    assert progress.best_score == (-best if metric == "ter" else best)


def test_the_moving_average_is_what_is_evaluated(tmp_path):
    config = tiny_config(tmp_path)
    config.train.ema_decay = 0.9
    train(config, tmp_path / "run")
    dev = metrics_of(tmp_path / "run")[-1]
    assert dev["ema_decay"] == 0.9
    pairs = read_pairs(config.data.dev, "en", "de")
    cross_entropies = []
    for which in ("6", "6:ema", "6:raw"):
        scored = Translator.load(tmp_path / "run", which).score(*pairs)
        tokens = sum(len(each.tokens) for each in scored)
        cross_entropies.append(-sum(each.log_prob for each in scored) / tokens)
    assert cross_entropies[:2] == pytest.approx([dev["cross_entropy"]] * 2, rel=1e-5)
    assert abs(cross_entropies[2] - dev["cross_entropy"]) > 1e-3


@pytest.mark.slow
def test_skipped_updates_change_no_rate_and_a_run_with_them_is_resumed(tmp_path, monkeypatch):
    """A third of the batches, by what is in them, have a loss that is no number."""
    config = quick_config(tmp_path)
    config.optimizer.schedule, config.optimizer.decay_steps = "cosine", 10
    config.train.ema_decay, config.train.max_skipped, config.train.log_every = 0.9, 6, 1
    loss_sums = step_module.loss_sums

    def loss_of_some(logits, target, segment, label_smoothing):
        sums = loss_sums(logits, target, segment, label_smoothing)
        bad = (jax.numpy.sum(target) % 3 == 0) & (label_smoothing > 0)  # the dev set's loss is without
        return jax.tree.map(lambda x: jax.numpy.where(bad, jax.numpy.nan, x), sums)

    monkeypatch.setattr(step_module, "loss_sums", loss_of_some)
    train(config, tmp_path / "straight")
    lines = [line for line in metrics_of(tmp_path / "straight") if line["split"] == "train"]
    skipped = [line["skipped_steps"] for line in lines]
    assert 0 < skipped[-1] < 6
    rate = learning_rate(config)
    expected = [float(rate(max(step - count - 1, 0))) for step, count in enumerate(skipped, 1)]
    assert [line["learning_rate"] for line in lines] == expected
    (_, optimizer, _), progress = arrays_of(tmp_path / "straight", 6)
    counts = {int(leaf) for leaf in jax.tree.leaves(optimizer) if np.ndim(leaf) == 0}
    assert counts == {6 - skipped[-1]} and progress.skipped == skipped[-1]
    config.train.steps = 3
    train(config, tmp_path / "resumed")
    config.train.steps = 6
    train(config, tmp_path / "resumed")
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)


def test_numbers_that_are_not_finite_end_a_training_and_are_not_saved(tmp_path):
    config = tiny_config(tmp_path)
    config.optimizer.schedule, config.optimizer.learning_rate, config.optimizer.warmup_steps = "constant", 1e30, 1
    config.train.checkpoint_every, config.train.steps = 1, 20
    with pytest.raises(UserError, match=r"step \d+: the loss .* is not a finite number; no checkpoint has it"):
        train(config, tmp_path / "run")
    with Run(tmp_path / "run").checkpoint_writer(keep=10) as checkpoints:
        steps = checkpoints.reader.steps()
    for step in steps:
        (params, optimizer), _ = arrays_of(tmp_path / "run", step)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, optimizer)))


def test_the_words_of_the_training_text_are_kept_also_where_it_is_not_read_again(tmp_path, monkeypatch):
    config = quick_config(tmp_path)
    config.data.cache_dir = str(tmp_path / "cache")
    first, second, third = (Run.open_or_create(tmp_path / name, config) for name in ("first", "second", "third"))
    prepare.prepare(first)
    targets = read_pairs(config.data.train, "en", "de").target
    assert words_outside(first.words(), ["a b x", *targets]) == {"x"}
    assert len(first.words()) == len({word for line in targets for word in line.split()})
    monkeypatch.setattr(prepare, "read_sources", lambda _: pytest.fail("the text was read again"))
    prepare.prepare(second)
    np.testing.assert_array_equal(second.words(), first.words())
    # Tokenised text as older versions kept it has no words: then a run has none.
    for words in (tmp_path / "cache").rglob("words.npy"):
        words.unlink()
        write_manifest(words.parent)
    prepare.prepare(third)
    assert third.words() is None


def test_a_run_does_not_go_on_with_other_text(tmp_path):
    config = quick_config(tmp_path)
    train(config, str(tmp_path / "run"))
    config.train.steps += 1
    text = Path(config.data.train)
    text.write_text(text.read_text(encoding="utf-8") + "a\tb\n", encoding="utf-8")
    with pytest.raises(UserError, match="6: the training text has changed since"):
        train(config, str(tmp_path / "run"))


def test_early_stopping_ends_a_run_for_good(tmp_path):
    config = quick_config(tmp_path)
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-30, 1  # nothing ever gets better
    config.train.steps, config.train.patience = 50, 2
    config.train.evaluate_every = config.train.checkpoint_every = 1
    progress = train(config, tmp_path / "run")
    assert progress.stopped and progress.step == 3 and progress.best_step == 1
    assert train(config, tmp_path / "run").step == 3
