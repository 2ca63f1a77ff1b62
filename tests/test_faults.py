"""What can go wrong around a training: damaged checkpoints, full disks, signals, a second training of the same folder."""

import contextlib
import gc
import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from helpers import assert_same_runs, assert_trees_equal, quick_config

from transformer_jax.distributed import collectives
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs import checkpoint_reader, orbax_manager
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.runs.run_lock import locked
from transformer_jax.storage.checksums import find_damage, write_manifest
from transformer_jax.training import loop
from transformer_jax.training.loop import train
from transformer_jax.training.preemption import Preemption

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with checkpoints of steps 2, 4 and 6. Tests work on copies."""
    folder = tmp_path_factory.mktemp("trained")
    config = config_in(folder)
    train(config, folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def config_in(folder: Path):
    config = quick_config(folder)
    config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 2
    return config


# Checksums


def test_a_manifest_tells_of_every_change(tmp_path):
    files = {"a": b"some text", "deep/er/b": bytes(range(256)), "empty": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert "has no checksums" in find_damage(tmp_path)
    write_manifest(tmp_path)
    assert find_damage(tmp_path) == ""
    for name, data in files.items():
        for changed in (data + b"x", data[:-1], data[:-1] + bytes([data[-1] ^ 1]) if data else b"\0"):
            if changed != data:
                (tmp_path / name).write_bytes(changed)
                assert find_damage(tmp_path) == f"{name} is damaged"
        (tmp_path / name).unlink()
        assert find_damage(tmp_path) == f"{name} is missing"
        (tmp_path / name).write_bytes(data)
    assert find_damage(tmp_path) == ""
    manifest = (tmp_path / "manifest.json").read_bytes()
    for bit in range(8 * len(manifest)):
        changed = bytearray(manifest)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "manifest.json").write_bytes(changed)
        assert find_damage(tmp_path) == "manifest.json is damaged"
    (tmp_path / "manifest.json").write_text("{")
    assert find_damage(tmp_path) == "manifest.json is damaged"


def flip_a_bit(path: Path, random=None) -> None:
    random = random or np.random.default_rng(0)
    data = bytearray(path.read_bytes())
    data[random.integers(len(data))] ^= 1 << random.integers(8)
    path.write_bytes(data)


def files_of(run: Path, step: int) -> list[Path]:
    return sorted(path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file() and path.stat().st_size)


def test_one_flipped_bit_in_any_file_is_noticed(run):
    """Orbax notices none of those in its data files. Loading parameters notices those in the files that it reads."""
    random = np.random.default_rng(1)
    files = files_of(run, 6)
    assert len(files) > 10
    opened = Run(run)
    tokenizer = opened.tokenizer()
    shapes = abstract_parameters(build_model(opened.config.model, tokenizer.vocab_size))
    for path in files:
        before = path.read_bytes()
        flip_a_bit(path, random)
        refused = pytest.raises(UserError, match=r"checkpoints/6: .* is damaged; choose another with --checkpoint=STEP")
        is_read = "optimizer" not in path.relative_to(run).parts
        with opened.checkpoints() as checkpoints, refused if is_read else contextlib.nullcontext():
            checkpoints.parameters(CheckpointName("step", 6), shapes, tokenizer)
        folder = run / "checkpoints" / "6"
        assert find_damage(folder) == f"{path.relative_to(folder)} is damaged"
        path.write_bytes(before)
    Translator.load(run, "6")


def largest_file(run: Path, step: int, item: str) -> Path:
    files = (path for path in files_of(run, step) if item in path.relative_to(run).parts)
    return max(files, key=lambda path: path.stat().st_size)


# What happens to an item, such as the parameters, of the checkpoint of step 6.
DAMAGES = {
    "one bit": lambda run, item: flip_a_bit(largest_file(run, 6, item)),
    "half written": lambda run, item: os.truncate(largest_file(run, 6, item), 10),
    "half deleted": lambda run, item: largest_file(run, 6, item).unlink(),
    "without its checksums": lambda run, _: (run / "checkpoints" / "6" / "manifest.json").unlink(),
    "emptied": lambda run, _: [path.unlink() for path in files_of(run, 6)],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_goes_back_to_the_newest_whole_checkpoint(damage, run, trained, tmp_path, caplog):
    DAMAGES[damage](run, "optimizer")
    caplog.set_level("INFO", "transformer_jax")
    train(Run(run).config, run)
    named = [record.getMessage() for record in caplog.records if "checkpoints/6: " in record.getMessage()]
    assert len(named) == 1 and "going on from step 4" in caplog.text
    assert (run / "damaged-checkpoints-6").is_dir()
    assert_same_runs(run, trained, 6)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_latest_for_scoring_is_the_newest_whole_one_and_says_so(damage, run, caplog):
    DAMAGES[damage](run, "params")
    with Run(run).checkpoints() as checkpoints:
        assert checkpoints.resolve(CheckpointName("latest")) == [4]
    assert "checkpoints/6: " in caplog.text and "taking the one before" in caplog.text
    with pytest.raises(UserError, match=r"checkpoints/6: "):
        Translator.load(run, "average:2")


@pytest.mark.parametrize("damage", ["one bit", "half written", "half deleted"])
def test_a_damaged_optimizer_state_is_no_matter_to_who_loads_parameters(damage, run, caplog):
    expected = Translator.load(run, "latest").params
    DAMAGES[damage](run, "optimizer")
    assert_trees_equal(Translator.load(run, "latest").params, expected)
    assert_trees_equal(Translator.load(run, "6").params, expected)
    shutil.rmtree(run / "checkpoints" / "6" / "optimizer")
    assert_trees_equal(Translator.load(run, "6").params, expected)
    assert loaded(run, "average:2") == "average of 2 checkpoints, steps 4 to 6"
    assert not caplog.records


def test_the_second_of_several_processes_verifies_nothing_and_hears_of_damage_from_the_first(run, monkeypatch):
    answers = iter([[2, 4, 6], "params/_METADATA is damaged"])
    monkeypatch.setattr(collectives, "is_first", lambda: False)
    monkeypatch.setattr(collectives, "gather", lambda _: [next(answers)])
    monkeypatch.setattr(checkpoint_reader, "find_damage", lambda *_: pytest.fail("verified"))
    with pytest.raises(UserError, match="checkpoints/6: params/_METADATA is damaged"):
        loaded(run, "6")


def test_no_whole_checkpoint_ends_both_and_nothing_is_moved(run, tmp_path):
    for step in (2, 4, 6):
        flip_a_bit(largest_file(run, step, "params"))
    before = sorted(run.rglob("*"))
    for use in (lambda: train(Run(run).config, run), lambda: Translator.load(run, "latest")):
        with pytest.raises(UserError, match=r"no checkpoint is whole \(of steps 2, 4, 6\)"):
            use()
    assert [path for path in sorted(run.rglob("*")) if path.name != "lock"] == [p for p in before if p.name != "lock"]


def test_a_kill_between_the_first_checkpoint_and_its_checksums_begins_anew(run, trained, tmp_path):
    for step in (4, 6):
        epath.Path(run / "checkpoints" / str(step)).rmtree()
    (run / "checkpoints" / "2" / "manifest.json").unlink()
    train(Run(run).config, run)
    assert_same_runs(run, trained, 6)


# A full disk, folders that cannot be written


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays_whole(tmp_path, monkeypatch):
    class Full(orbax_manager._Manager):
        def save(self, step, **kwargs):
            if step == 4:
                raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")
            return super().save(step, **kwargs)

    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(orbax_manager, "_Manager", Full)
        with pytest.raises(UserError, match=r"checkpoints: the disk is full, step 4 is not saved; .* free some space"):
            train(config, tmp_path / "run")
    assert find_damage(tmp_path / "run" / "checkpoints" / "2") == ""
    train(config, tmp_path / "again")
    train(config, tmp_path / "run")
    assert_same_runs(tmp_path / "run", tmp_path / "again", 6)


# Orbax's threads end with the error that is also raised where it is waited for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_really_full_disk(tmp_path):
    """A file system in memory with room for some checkpoints and not for all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        config = config_in(tmp_path)
        config.train.steps, config.train.keep_checkpoints = 100, 100
        with pytest.raises((UserError, OSError), match=r"the disk is full|No space left"):  # the scripts tell both in one line
            train(config, disk / "run")
        steps = [int(path.name) for path in (disk / "run" / "checkpoints").iterdir() if path.name.isdecimal()]
        whole = [step for step in steps if not find_damage(disk / "run" / "checkpoints" / str(step))]
        assert whole and len(steps) - len(whole) <= 1
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        gc.collect()  # what orbax began and cannot end is dropped here, not in a later test


def test_files_whose_owner_has_no_name(run, trained, monkeypatch):
    """The user of a container, and of a disk that came from another machine, may be a number alone."""

    def nameless(number):
        raise KeyError(f"no name for {number}")

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    monkeypatch.setattr(grp, "getgrgid", nameless)
    shutil.rmtree(run / "checkpoints" / "6")
    train(Run(run).config, run)
    assert_same_runs(run, trained, 6)
    assert loaded(run, "average:2") == "average of 2 checkpoints, steps 4 to 6"


# Folders of checkpoints that were renamed by hand


def loaded(run: Path, which: str) -> str:
    """Which parameters `which` is, in words."""
    found = Run(run)
    tokenizer = found.tokenizer()
    shapes = abstract_parameters(build_model(found.config.model, tokenizer.vocab_size))
    with found.checkpoints() as checkpoints:
        return checkpoints.parameters(CheckpointName.parse(which), shapes, tokenizer)[1]


@pytest.mark.parametrize("name", ["best", "06", "6.bak", "6 (copy)", "\u0666"])
def test_a_checkpoint_whose_folder_has_no_steps_name_is_named_and_left_alone(name, run, caplog):
    folder = run / "checkpoints"
    (folder / "6").rename(folder / name)
    assert loaded(run, "latest") == "step 4"
    with Run(run).checkpoint_writer(keep=2) as checkpoints:
        assert checkpoints.reader.steps() == [2, 4]
    assert caplog.text.count(f"checkpoints/{name}: a checkpoint's folder has the number of its step as its name") == 2
    assert (folder / name).is_dir()


def test_a_checkpoint_under_another_steps_name_is_not_taken_for_that(run):
    folder = run / "checkpoints"
    shutil.copytree(folder / "4", folder / "8")
    for which in ("latest", "best", "8", "average:2"):
        with pytest.raises(UserError, match="checkpoints/8: is the checkpoint of step 4, whose folder was renamed or copied"):
            loaded(run, which)
    assert loaded(run, "4") == "step 4"


def test_a_training_whose_checkpoints_were_all_renamed_does_not_begin_anew(run):
    folder = run / "checkpoints"
    for step in (2, 4, 6):
        (folder / str(step)).rename(folder / f"step {step}")
    with pytest.raises(UserError, match=r"checkpoints/step 2: a checkpoint's folder has the number.*; and there is no other"):
        loaded(run, "latest")
    with pytest.raises(UserError, match=r"checkpoints/step 2: .*; and there is no other checkpoint to go on from"):
        Run(run).checkpoint_writer(keep=2)
    Run.open_or_create(run, Run(run).config)
    assert (run / "tokenizer").is_dir()


# Two trainings of one folder


def test_a_second_training_of_the_same_folder_is_refused(tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is training in it"):
            train(config_in(tmp_path), tmp_path / "run")
        with locked(tmp_path / "another"):
            pass
    with locked(tmp_path / "run"):
        pass


def test_the_lock_of_a_killed_training_holds_nobody_up(tmp_path):
    program = (
        "import sys, time; from transformer_jax.runs.run_lock import locked\n"
        f"with locked({str(tmp_path / 'run')!r}): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"process {process.pid} on "), locked(tmp_path / "run"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with locked(tmp_path / "run"):
        pass


# Signals


def signal_when(monkeypatch, owner, name: str, count: int, number: int = signal.SIGTERM) -> None:
    """Sends this process a signal at the `count`-th call of `owner.name`."""
    original, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


MOMENTS = {
    "in a step": (loop.Meter, "add", 3),
    "in a step before an evaluation": (loop.Meter, "add", 4),
    "in an evaluation": (loop._Session, "evaluate", 2),
    "while saving": (loop.CheckpointWriter, "save", 2),
    "at the last step": (loop.Meter, "add", 6),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(moment, number, marks=[pytest.mark.slow] * ((number == signal.SIGINT) != (moment == "in a step")))
        for moment in MOMENTS
        for number in (signal.SIGTERM, signal.SIGINT)
    ],
)
def test_stopped_by_a_signal_and_continued_is_straight(moment, number, trained, tmp_path, monkeypatch):
    config, handler = config_in(tmp_path), signal.getsignal(number)
    with monkeypatch.context() as patch:
        signal_when(patch, *MOMENTS[moment], number)
        with pytest.raises(ToBeContinued, match="the same command goes on"):
            train(config, tmp_path / "run")
    assert signal.getsignal(number) == handler
    train(config, tmp_path / "run")
    assert_same_runs(tmp_path / "run", trained, 6)


def test_a_checkpoint_of_an_interruption_is_in_no_average(tmp_path, monkeypatch):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        signal_when(patch, loop.Meter, "add", 5)
        with pytest.raises(ToBeContinued):
            train(config, tmp_path / "run")
    with Run(tmp_path / "run").checkpoints() as checkpoints:
        assert checkpoints.steps() == [2, 4]
    with Run(tmp_path / "run").interrupted() as interrupted:
        assert interrupted.reader.steps() == [5]


def test_a_damaged_checkpoint_of_an_interruption_is_passed_over(trained, tmp_path, monkeypatch, caplog):
    config = config_in(tmp_path)
    with monkeypatch.context() as patch:
        signal_when(patch, loop.Meter, "add", 5)
        with pytest.raises(ToBeContinued):
            train(config, tmp_path / "run")
    flip_a_bit(max((tmp_path / "run" / "interrupted").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size))
    train(config, tmp_path / "run")
    assert "interrupted/5: " in caplog.text
    assert_same_runs(tmp_path / "run", trained, 6)


def test_before_there_is_anything_to_save_a_signal_ends_at_once(tmp_path, monkeypatch):
    signal_when(monkeypatch, loop, "prepare", 1)
    with pytest.raises(ToBeContinued):
        train(config_in(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_second_ctrl_c_is_not_caught():
    program = (
        "import os, signal; from transformer_jax.training.preemption import Preemption\n"
        "with Preemption() as preemption:\n"
        "    preemption.hold()\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('one', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('two', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "one\n")


@pytest.fixture
def hangup_ends():
    """SIGHUP as in a terminal, even where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_is_a_request_to_stop_unless_that_is_ignored(hangup_ends):
    before = signal.getsignal(signal.SIGHUP)
    with Preemption() as preemption:
        preemption.hold()
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(ToBeContinued):
            preemption.check()
    assert signal.getsignal(signal.SIGHUP) == before
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            preemption.check()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_one_of_several_processes_asks_the_others_through_jax(number, hangup_ends, monkeypatch):
    """JAX passes SIGTERM on, to all processes."""
    received, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    try:
        signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        with Preemption():
            os.kill(os.getpid(), number)
            assert received == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_signals_are_left_alone():
    handlers, before = [], signal.getsignal(signal.SIGTERM)

    def enter():
        with Preemption():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]
