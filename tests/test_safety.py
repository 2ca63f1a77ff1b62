"""A run folder may be a stranger's: it reads no other file, it does not hang, and it ends in one line."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import tiny_model

from transformer_jax.config import Config, from_json
from transformer_jax.errors import UserError
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.checksums import find_damage, write_manifest
from transformer_jax.storage.files import read_plain
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.metrics import without_times
from transformer_jax.training.metrics_writer import MetricsWriter
from transformer_jax.training.step import TrainState


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a manifest, as a checkpoint is one, and beside it a file that does not belong to it."""
    (tmp_path / "secret").write_text("x" * 12)
    folder = tmp_path / "checkpoint"
    (folder / "params" / "d").mkdir(parents=True)
    for name in ("progress", "params/_METADATA", "params/d/1"):
        (folder / name).write_text(f"{name:12}")
    write_manifest(folder)
    assert find_damage(folder) == ""
    return folder


def forged(folder: Path, **entries) -> None:
    """A manifest without an entry for itself, as older versions wrote it, and as anybody can."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[""]
    (folder / "manifest.json").write_text(json.dumps(manifest | entries))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret",
        "params/../../secret",
        "params/d/../_METADATA",
        "params//d/1",
        "./progress",
        ".",
        "..\\x",
        "a\0b",
    ],
)
def test_a_manifest_names_files_of_its_folder_alone(name, folder):
    forged(folder, **{name: [12, "0" * 32]})
    assert find_damage(folder).endswith("(in manifest.json) is not the name of a file in this folder")


@pytest.mark.parametrize("value", [None, 5, "x", [], [12], [12, 12], [True, "x"], [-1, "x"], [1.5, "x"], {"size": 12}])
def test_a_manifest_of_other_types_is_damaged(value, folder):
    forged(folder, progress=value)
    assert find_damage(folder) == "manifest.json is damaged"


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '{"": 5}'])
def test_what_is_no_manifest_is_damaged(text, folder):
    (folder / "manifest.json").write_text(text)
    assert find_damage(folder) == "manifest.json is damaged"


def test_a_manifest_that_is_too_large_is_not_read(folder):
    os.truncate(folder / "manifest.json", 1 << 40)
    assert find_damage(folder) == "manifest.json is damaged"


def test_links_devices_pipes_and_folders_are_not_opened(folder, tmp_path):
    file = folder / "params" / "_METADATA"
    shutil.copy(file, tmp_path / "the same")
    makers = {
        "is a link: put the file itself in its place": [lambda: file.symlink_to(tmp_path / "the same")],
        "is not a plain file": [lambda: os.mkfifo(file), lambda: file.mkdir()],
    }
    makers["is a link: put the file itself in its place"].append(lambda: file.symlink_to("/dev/zero"))
    for told, each in makers.items():
        for make in each:
            file.rmdir() if file.is_dir() else file.unlink()
            make()
            assert find_damage(folder) == f"params/_METADATA {told}"
    file.rmdir()
    shutil.copy(tmp_path / "the same", file)
    assert find_damage(folder) == ""
    (folder / "params").rename(tmp_path / "elsewhere")
    (folder / "params").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in find_damage(folder)
    for special in ("manifest.json",):
        (folder / special).unlink()
        os.mkfifo(folder / special)
        assert find_damage(folder) == f"{special} is damaged"


def test_a_file_of_another_size_is_damaged_without_being_read(folder, monkeypatch):
    os.truncate(folder / "params" / "d" / "1", 1 << 40)  # a terabyte of nothing
    assert find_damage(folder) == "params/d/1 is damaged"


def test_files_that_were_not_saved_with_it_are_named(folder, caplog):
    for litter in (".DS_Store", "params/.DS_Store", "params/._x", "Thumbs.db", "@eaDir/x"):
        (folder / litter).parent.mkdir(exist_ok=True)
        (folder / litter).write_text("x")
    assert find_damage(folder) == "" and not caplog.records
    (folder / "notes.txt").write_text("x")
    (folder / "loop").symlink_to(".")
    assert find_damage(folder) == ""
    assert "not saved with it and that are not read: 'loop', 'notes.txt'" in caplog.text
    for number in range(5):  # where orbax might read them
        (folder / "params" / f"x{number}").write_text("x")
    assert find_damage(folder) == (
        "has files that were not saved with it ('params/x0', 'params/x1', 'params/x2' and 2 more): remove them"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    run = Run.open_or_create(tmp_path_factory.mktemp("runs") / "run", Config(model=tiny_model()))
    with run.checkpoint_writer(keep=2) as checkpoints:
        state = TrainState(np.int32(1), {"a": jax.numpy.ones(3)}, {"b": jax.numpy.ones(2)})
        checkpoints.save(state, TrainProgress(step=1, tokenizer="t"))
    return Path(run.workdir)


def opened(run: Path) -> tuple:
    with Run(run).checkpoints() as checkpoints:
        return checkpoints.progress(1), parameters_of(checkpoints, (3,))


def parameters_of(checkpoints: CheckpointReader, shape: tuple[int, ...]):
    shapes = {"a": jax.ShapeDtypeStruct(shape, np.float32)}
    return checkpoints.parameters(CheckpointName("step", 1), shapes, SimpleNamespace(fingerprint="t"))


DAMAGES = {
    "progress/metadata": [
        "[]",
        "null",
        "[" * 100_000,
        '{"step": "1"}',
        '{"unwritten": [null]}',
        '{"tokenizer": 5}',
        '{"x": 1}',
    ],
    "params/_METADATA": ["[]", "null", "[" * 100_000, "{}", ""],
    "_CHECKPOINT_METADATA": ["[]", "[" * 100_000, "9" * 10_000],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGES.items() for text in texts])
def test_a_stranger_who_writes_checksums_is_refused_in_one_line(name, text, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    assert opened(tmp_path / "run")[0].step == 1
    (tmp_path / "run" / "checkpoints" / "1" / name).write_text(text)
    write_manifest(tmp_path / "run" / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"checkpoints/1: .*(cannot be read|is damaged)") as error:
        opened(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_what_orbax_reads_first_is_no_device(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    for make in (lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero")):
        file.unlink()
        make()
        with pytest.raises(UserError, match=r"_CHECKPOINT_METADATA is damaged .is not a plain file"):
            opened(tmp_path / "run")


def test_a_config_that_is_no_file_or_never_ends_is_one_line(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    os.truncate(file, 1 << 40)
    with pytest.raises(UserError, match=r"config\.json: cannot be read .has more than 1,048,576 bytes"):
        Run(tmp_path / "run")
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"config\.json"):
        Run(tmp_path / "run")
    for text in ("[" * 100_000, "9" * 10_000, '{"train": {"seed": ' + "9" * 5000 + "}}"):
        with pytest.raises(UserError, match="not JSON"):
            from_json(text)
    for sign in ("", "-"):
        with pytest.raises(UserError, match=rf"learning_rate={sign}inf should be"):
            from_json('{"optimizer": {"learning_rate": ' + sign + "9" * 400 + "}}")
    for key in ("width", "num_layers"):
        with pytest.raises(UserError, match=f"model.{key}=1000000000 should be at most"):
            from_json(f'{{"model": {{"{key}": 1000000000}}}}')


def test_parameters_larger_than_any_memory_are_one_line(saved):
    with Run(saved).checkpoints() as checkpoints, pytest.raises(UserError, match="larger than this machine's memory"):
        parameters_of(checkpoints, (1 << 40, 1 << 20))


@pytest.mark.parametrize(
    "text", ["[]", "5", json.dumps("source_model target_model vocabulary pad_id eos_id unknown_id bos_id decoder_start_id")]
)
def test_a_tokenizer_that_is_no_object_is_damaged(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged, expected JSON"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a\0b", "\ud800", ["a"], None])
def test_a_tokenizer_names_files_of_its_folder_alone(name, tmp_path):
    ids = dict.fromkeys(("pad_id", "eos_id", "unknown_id", "bos_id", "decoder_start_id"), 0)
    description = {"source_model": name, "target_model": "x", "vocabulary": None} | ids
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="should be names of files in the same folder"):
        Tokenizer.load(tmp_path)
    description["source_model"] = "pipe"
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: cannot be read .is not a plain file"):
        Tokenizer.load(tmp_path)


def test_a_plain_file_is_read_up_to_a_size(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_plain(tmp_path / "file", 5) == b"12345"
    for path, largest, told in ((tmp_path / "file", 4, "more than 4 bytes"), (tmp_path, 5, "is a folder")):
        with pytest.raises(OSError, match=told):
            read_plain(path, largest)
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "none")


# JSON


def strict(text: str):
    """As every other program reads JSON: NaN and Infinity are no words of it."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_metrics_that_are_not_finite_are_null(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, "train", {"perplexity": float("inf"), "loss": float("nan"), "accuracy": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [without_times(strict(line)) for line in lines] == [
        {"step": 1, "split": "train", "perplexity": None, "loss": None, "accuracy": 0.5}
    ]
    for line in ("5", "[]", '{"step": "x"}', '{"step": null}', "[" * 100_000):  # of a run folder that is a stranger's
        (tmp_path / "metrics.jsonl").write_text(line + "\n")
        MetricsWriter(tmp_path, 1).__exit__()
        assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_score_that_is_no_number_is_never_the_best():
    progress = TrainProgress(step=1).evaluated(float("nan"), patience=0)
    assert progress.best_score is None and progress.best_step == 0
    assert TrainProgress(step=2).evaluated(1.0, 0).evaluated(float("nan"), 0).best_score == 1.0
