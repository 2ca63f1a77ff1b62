"""Several processes, each with devices of its own, against one: run with `make test-processes`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from helpers import arrays_of, assert_trees_close, assert_trees_equal, metrics_of, tiny_config, write_config

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[1]
LONG = dict(train__steps=100_000, train__evaluate_every=50_000, train__log_every=20)
SECONDS = 400  # after which a process that should have ended counts as hanging


class Processes:
    """A script with its flags in `count` processes of `devices` virtual devices each, which work in `folders` and have
    `variables` in their environments."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        count: int = 1,
        devices: int = 1,
        folders: Sequence[Path] = (ROOT, ROOT),
        variables: Sequence[dict[str, str]] = ({}, {}),
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "PJRT_NPROC": "16",
            "PYTHONPATH": str(ROOT),
        }
        self.logs = [log.with_name(f"{log.name}-{time.monotonic_ns()}-{number}.log") for number in range(count)]
        self._processes = []
        for number, log in enumerate(self.logs):
            flags = [f"--coordinator={address}", f"--processes={count}", f"--process={number}"] if count > 1 else []
            with log.open("w") as out:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, *command, *flags],
                        cwd=folders[number],
                        env=environment | variables[number],
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )

    def send(self, number: int, what: int) -> None:
        self._processes[number].send_signal(what)

    def wait_for(self, text: str) -> None:
        """Until the first process's log has `text`."""
        deadline = time.monotonic() + SECONDS
        while text not in self.logs[0].read_text():
            assert time.monotonic() < deadline and self._processes[0].poll() is None, self.told()
            time.sleep(0.02)

    def codes(self, seconds: float = SECONDS) -> list[int]:
        """The exit codes; whoever has not ended by then is killed and has None."""
        deadline = time.monotonic() + seconds
        codes = []
        for process in self._processes:
            try:
                codes.append(process.wait(max(deadline - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes.append(None)
        return codes

    def told(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


def training(config_file: Path, workdir: Path, count: int = 1, devices: int = 1, *overrides: str) -> Processes:
    command = ["train.py", f"--config={config_file}", f"--workdir={workdir}", *overrides]
    return Processes(command, workdir, count, devices)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """A function that writes a config of a few steps without dropout, with changes, as a file."""
    folder = tmp_path_factory.mktemp("configs")
    files = {}

    def write(**changes) -> Path:
        name = repr(sorted(changes.items()))
        if name not in files:
            config = tiny_config(folder)
            config.model.dropout = 0.0
            config.batch.row_multiple = 8
            config.train.steps, config.train.samples, config.train.ema_decay = 6, 1, 0.9
            config.decode.spelling = "correct"
            for key, value in changes.items():
                part, _, field = key.partition("__")
                setattr(getattr(config, part), field, value)
            files[name] = folder / f"config{len(files)}.py"
            write_config(files[name], config)
        return files[name]

    return write


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("what", ["config", "text", "devices"])
def test_bad_input_of_one_ends_all_as_bad_input(what, bad, config_file, tmp_path):
    """Where the config file or the text is missing on one host, or a device: a scheduler that starts anew what ends with 75
    would do so for ever."""
    folders = [tmp_path / "0", tmp_path / "1"]
    config = config_file()
    for number, folder in enumerate(folders):
        folder.mkdir()
        for name in ("train.tsv", "dev.tsv", config.name):
            if number != bad or what == "devices" or name != {"config": config.name, "text": "dev.tsv"}[what]:
                shutil.copy(config.parent / name, folder)
    variables = [{"JAX_PLATFORMS": "cuda"} if what == "devices" and number == bad else {} for number in range(2)]
    text = "--config.data.train=train.tsv", "--config.data.dev=dev.tsv"
    command = [str(ROOT / "train.py"), f"--config={config.name}", f"--workdir={tmp_path / 'run'}", *text]
    processes = Processes(command, tmp_path / "log", 2, folders=folders, variables=variables)
    assert processes.codes(120) == [2, 2], processes.told()
    last = [log.read_text().splitlines()[-1] for log in processes.logs]
    assert last[bad].startswith("error: "), processes.told()
    assert last[1 - bad] == f"process {bad} ended with code 2, and so does this one: {last[bad]}", processes.told()


def test_bad_input_of_all_is_told_by_each(config_file, tmp_path):
    processes = training(config_file(), tmp_path / "run", 2, 1, "--config.data.dev=none.tsv")
    assert processes.codes(90) == [2, 2], processes.told()
    assert all("error: none.tsv: no such file" in log.read_text() for log in processes.logs), processes.told()


def test_a_bug_in_one_ends_all_as_a_bug(tmp_path):
    program = (
        "import sys\n"
        "from transformer_jax.cli.program import main, set_up\n"
        "from transformer_jax.distributed import collectives\n"
        "def run():\n"
        "    address, count, process = (flag.partition('=')[2] for flag in sys.argv[1:4])\n"
        "    set_up((address, int(count), int(process)))\n"
        "    with collectives.first_before_others('a place') as first: first and 1 / 0\n"
        "main(run)"
    )
    processes = Processes(["-c", program], tmp_path / "log", 2)
    assert processes.codes(90) == [1, 1], processes.told()
    told = [log.read_text() for log in processes.logs]
    assert "Traceback" in told[0] and "Traceback" not in told[1]
    assert "process 0 ended with code 1, and so does this one: ZeroDivisionError: division by zero" in told[1]


def assert_ended(processes: Processes, *codes: int) -> None:
    assert processes.codes() == list(codes), processes.told()


def assert_same_training(found: Path, expected: Path, step: int = 6, atol: float = 1e-5) -> None:
    """The same metrics and parameters, up to the order of float summation."""
    for a, b in zip(metrics_of(found), metrics_of(expected), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(map(float, list(a.values())[2:])), list(map(float, list(b.values())[2:])), rtol=1e-4)
    (arrays, progress), (expected_arrays, expected_progress) = arrays_of(found, step), arrays_of(expected, step)
    assert_trees_close(arrays, expected_arrays, rtol=1e-3, atol=atol)
    assert (progress.step, progress.epoch, progress.offset) == (step, expected_progress.epoch, expected_progress.offset)


@pytest.fixture(scope="module", params=["pmap", "sharded"])
def mode(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def one(mode, config_file, tmp_path_factory) -> Path:
    """The training that one process with one device does."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert_ended(training(config_file(parallel__mode=mode, parallel__min_sharded_size=64), workdir), 0)
    return workdir


@pytest.mark.parametrize(("count", "devices"), [(2, 1), (2, 2), (1, 4)])
def test_many_processes_and_devices_are_one(count, devices, mode, one, config_file, tmp_path):
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64)
    assert_ended(training(config, tmp_path / "run", count, devices), *[0] * count)
    assert_same_training(tmp_path / "run", one)
    words = [(run / "source_words.npz").read_bytes() for run in (tmp_path / "run", one)]
    assert words[0] == words[1]


@pytest.mark.parametrize(("before", "after"), [((2, 1), (1, 1)), ((2, 1), (1, 4)), ((1, 4), (2, 1)), ((1, 1), (2, 2))])
def test_a_run_goes_on_with_another_number_of_processes_and_devices(before, after, mode, one, config_file, tmp_path):
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64)
    assert_ended(training(config, tmp_path / "run", *before, "--config.train.steps=3"), *[0] * before[0])
    assert_ended(training(config, tmp_path / "run", *after), *[0] * after[0])
    assert_same_training(tmp_path / "run", one)


def test_killed_and_resumed_is_straight_with_two_processes(mode, config_file, tmp_path):
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64, model__dropout=0.3)
    assert_ended(training(config, tmp_path / "straight", 2), 0, 0)
    assert_ended(training(config, tmp_path / "resumed", 2, 1, "--config.train.steps=3"), 0, 0)
    assert_ended(training(config, tmp_path / "resumed", 2), 0, 0)
    assert metrics_of(tmp_path / "resumed") == metrics_of(tmp_path / "straight")
    assert_trees_equal(arrays_of(tmp_path / "resumed", 6)[0], arrays_of(tmp_path / "straight", 6)[0])


def test_gradients_added_up_in_bfloat16_train_nearly_the_same_and_resume_exactly(config_file, tmp_path):
    config, exact = (config_file(parallel__reduce_dtype=each, train__metric="loss") for each in ("bfloat16", "float32"))
    stop = "--config.train.steps=3"
    for name, settings, *flags in (("run", config), ("resumed", config, stop), ("resumed", config), ("exact", exact)):
        assert_ended(training(settings, tmp_path / name, 2, 1, *flags), 0, 0)
    run, resumed, exact = (arrays_of(tmp_path / name, 6)[0][0] for name in ("run", "resumed", "exact"))
    assert_trees_equal(resumed, run)
    off = float(optax.tree.norm(jax.tree.map(np.subtract, run, exact)) / optax.tree.norm(exact))
    assert 0 < off < 0.01


def test_two_processes_find_one_batch_that_fits_and_the_run_keeps_it(mode, config_file, tmp_path):
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64, batch__tokens=0, batch__memory=0.002)
    found = []
    for steps, how in ((3, (2, 1)), (6, (1, 2))):
        assert_ended(training(config, tmp_path / "run", *how, f"--config.train.steps={steps}"), *[0] * how[0])
        found.append(json.loads((tmp_path / "run" / "config.json").read_text())["batch"]["tokens"])
    named = config_file(parallel__mode=mode, parallel__min_sharded_size=64, batch__tokens=found[0])
    assert_ended(training(named, tmp_path / "named"), 0)
    assert found[0] == found[1] > 256
    assert_same_training(tmp_path / "run", tmp_path / "named")


def test_an_optimizer_with_a_state_of_its_own_is_the_same_on_two_processes(mode, config_file, tmp_path):
    """The average of schedule_free, which is what the dev set is scored with, and the matrices of muon."""
    name = {"pmap": "schedule_free", "sharded": "muon"}[mode]
    changes = dict(optimizer__name=name, optimizer__schedule="constant", train__ema_decay=0.0)
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64, **changes)
    assert_ended(training(config, tmp_path / "one"), 0)
    assert_ended(training(config, tmp_path / "two", 2, 1, "--config.train.steps=3"), 0, 0)
    assert_ended(training(config, tmp_path / "two", 2), 0, 0)
    assert_same_training(tmp_path / "two", tmp_path / "one")


def test_a_part_that_trains_and_a_set_that_is_watched_are_the_same_on_two_processes(mode, one, config_file, tmp_path):
    """Beside frozen parameters, and beside adapters, whose factors are split over devices as parameters are."""
    what = {"pmap": dict(train__freeze="encoder_*, *embedding"), "sharded": dict(train__lora_rank=4)}[mode]
    watch = f"{config_file().parent}/dev.tsv (tag=a)"
    changes = dict(train__init_from=f"{one}:6", data__watch=watch, **what)
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64, **changes)
    assert_ended(training(config, tmp_path / "one"), 0)
    assert_ended(training(config, tmp_path / "two", 2, 1, "--config.train.steps=3"), 0, 0)
    assert_ended(training(config, tmp_path / "two", 2), 0, 0)
    # Adam divides the factors' gradients, which are near 0 at first, by their size.
    assert_same_training(tmp_path / "two", tmp_path / "one", atol=1e-4)
    assert [line["step"] for line in metrics_of(tmp_path / "two") if line["split"] == f"watch:{watch}"] == [3, 6]


def test_search_and_scores_are_those_of_one_process(mode, config_file, tmp_path):
    """In training, where each evaluation translates the dev set, and in evaluate.py."""
    config = config_file(parallel__mode=mode, parallel__min_sharded_size=64, train__metric="bleu", decode__tokens=32)
    assert_ended(training(config, tmp_path / "one"), 0)
    assert_ended(training(config, tmp_path / "two", 2), 0, 0)
    assert_same_training(tmp_path / "two", tmp_path / "one")
    assert all("bleu" in line for line in metrics_of(tmp_path / "two") if line["split"] == "dev")
    (dev,) = config.parent.glob("dev.tsv")
    found = []
    for count, devices in [(1, 1), (2, 1), (1, 2), (2, 2)]:
        files = tmp_path / f"text{count}{devices}", tmp_path / f"report{count}{devices}"
        flags = [f"--workdir={tmp_path / 'one'}", f"--test={dev}", f"--output={files[0]}", f"--report={files[1]}"]
        scoring = Processes(["evaluate.py", *flags], tmp_path / "scoring", count, devices)
        assert_ended(scoring, *[0] * count)
        report = json.loads(files[1].read_text())
        for each in report:
            del each["seconds"], each["source_tokens_per_second"]
        found.append((files[0].read_text(), report))
        assert [f"{dev}: 10 sentences" in log.read_text() for log in scoring.logs] == [True] + [False] * (count - 1)
    assert all(each == found[0] for each in found)


def test_processes_share_a_file_of_lines_are_stopped_and_go_on(tmp_path):
    run, source = ROOT / "tests" / "runs" / "9f7c919", tmp_path / "in.en"
    source.write_text("".join(f"The dog sees {number} cats.\n" for number in range(400)), encoding="utf-8")
    flags = [f"--workdir={run}", f"--input={source}", "--resume", "--batch_size=4", "--temperature=1", "--max_length_ratio=0.5"]

    def translating(output: str, count: int) -> Processes:
        return Processes(["translate.py", *flags, f"--output={tmp_path / output}"], tmp_path / output, count)

    assert_ended(translating("one", 1), 0)
    stopped = translating("two", 2)
    note = tmp_path / "two.progress"
    while not note.exists() or json.loads(note.read_text())["lines"] < 8:
        time.sleep(0.02)
    stopped.send(1, signal.SIGTERM)
    assert_ended(stopped, 75, 75)
    assert 8 <= (tmp_path / "two").read_bytes().count(b"\n") < 400
    assert_ended(translating("two", 2), 0, 0)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    again = translating("two", 2)
    assert_ended(again, 0, 0)
    assert ["nothing to do" in log.read_text() for log in again.logs] == [True, False]


def test_processes_that_read_different_texts_end_with_a_line(tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder, line in zip(folders, ("A dog.", "A cat."), strict=True):
        folder.mkdir()
        (folder / "in.en").write_text(f"{line}\n", encoding="utf-8")
    run = ROOT / "tests" / "runs" / "9f7c919"
    command = [str(ROOT / "translate.py"), f"--workdir={run}", "--input=in.en", f"--output={tmp_path / 'out'}", "--resume"]
    processes = Processes(command, tmp_path / "log", 2, folders=folders)
    assert processes.codes(120) == [2, 2], processes.told()
    assert "the processes have read different lines up to 1; give all the same file" in processes.told()


def test_a_workflow_of_two_processes_is_that_of_one(config_file, tmp_path):
    """Stopped in a translation, and gone on with."""
    config = config_file(decode__tokens=32, decode__beam=2)
    lines = tmp_path / "mono.txt"
    lines.write_text("".join(f"a b {'c ' * (number % 5)}d\n" for number in range(40)), encoding="utf-8")
    recipe = ["recipes/back_translation.py", f"--config={config}", f"--monolingual={lines}", "--batch_size=4"]
    assert_ended(Processes([*recipe, f"--workdir={tmp_path / 'one'}"], tmp_path / "log", 1), 0)
    note = tmp_path / "two" / "synthetic.txt.progress"
    stopped = Processes([*recipe, f"--workdir={tmp_path / 'two'}"], tmp_path / "log", 2)
    while not note.exists() or json.loads(note.read_text())["lines"] < 4:
        time.sleep(0.01)
    stopped.send(0, signal.SIGTERM)
    assert_ended(stopped, 75, 75)
    again = Processes([*recipe, f"--workdir={tmp_path / 'two'}"], tmp_path / "log", 2)
    assert_ended(again, 0, 0)
    assert ["reverse: loss" in log.read_text() and "done before" in log.read_text() for log in again.logs] == [True, False]
    pairs = [(tmp_path / name / "synthetic.tsv").read_text().splitlines() for name in ("one", "two")]
    assert len(pairs[0]) == len(pairs[1]) == 40 and [line.split("\t")[1] for line in pairs[0]] == lines.read_text().splitlines()
    assert_same_training(tmp_path / "two" / "reverse", tmp_path / "one" / "reverse")


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "not shared"])
def test_processes_share_the_tokenising_where_they_share_the_cache(shared, config_file, tmp_path):
    """Each counts the lines that it encodes and tells the files of its store. With a cache of its own each makes all of it."""
    program = """
import hashlib, json, sys
from pathlib import Path
from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.program import main, set_up
from transformer_jax.data import encode_lines, encode_pairs
from transformer_jax.data.store import local_cache
from transformer_jax.training.prepare import open_run, prepare
encode_pairs._CHUNK, encode_pairs._BLOCK, encode, counts = 10, 30, encode_lines._encode, []
def count(tokenizer, side, text, sampled):
    counts.append(text.count(b"\\n") + 1)
    return encode(tokenizer, side, text, sampled)
encode_lines._encode = count
def run():
    config, workdir, *flags = sys.argv[1:]
    address, processes, process = (flag.partition("=")[2] for flag in flags or ["=", "=1", "=0"])
    set_up((address or None, int(processes), int(process)))
    prepare(open_run(workdir, load_config(config, {})))
    (folder,) = (path for path in local_cache().iterdir() if len(path.name) == 32)
    files = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    print(json.dumps([sum(counts), len(list(local_cache().glob("blocks/*"))), folder.name, files]))
main(run)"""
    config, results = config_file(), {}
    for name, count, caches in (("one", 1, "aa"), ("two", 2, "bb" if shared else "bc")):
        variables = [{"XDG_CACHE_HOME": str(tmp_path / cache)} for cache in caches]
        command = ["-c", program, str(config), str(tmp_path / name)]
        processes = Processes(command, tmp_path / name, count, variables=variables)
        assert_ended(processes, *[0] * count)
        results[name] = [json.loads(log.read_text().splitlines()[-1]) for log in processes.logs]
    lines, left, *store = results["one"][0]
    assert left == 0 and lines > 300
    assert [each[1:] for each in results["two"]] == 2 * [[0, *store]]
    encoded = [each[0] for each in results["two"]]
    assert sum(encoded) == lines and min(encoded) > lines / 3 if shared else encoded == [lines, lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("to", [0, 1])
def test_a_signal_to_one_stops_all_at_the_same_step(to, number, config_file, tmp_path):
    config = config_file(
        train__steps=100_000, train__checkpoint_every=50_000, train__evaluate_every=50_000, train__log_every=20
    )
    processes = training(config, tmp_path / "run", 2)
    processes.wait_for("step 60/")
    processes.send(to, number)
    codes = processes.codes(60)
    assert codes == [75, 75], processes.told()
    (step,) = [int(path.name) for path in (tmp_path / "run" / "interrupted").iterdir() if path.name.isdecimal()]
    assert step > 60
    again = training(config, tmp_path / "run")
    again.wait_for(f"going on from step {step}\n")
    again.send(0, signal.SIGTERM)
    assert_ended(again, 75)


@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_process_of_a_killed_one_ends_with_a_line(killed, config_file, tmp_path):
    config = config_file(**LONG, train__checkpoint_every=20)
    processes = training(config, tmp_path / "run", 2)
    processes.wait_for("step 60/")
    processes.send(killed, signal.SIGKILL)
    started = time.monotonic()
    codes = processes.codes(120)
    assert time.monotonic() - started < 100
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 75, processes.told()
    assert "the same command" in processes.logs[1 - killed].read_text().splitlines()[-1], processes.told()


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_waits_for_the_others_in_vain_ends_with_a_line(process):
    program = (
        "import sys\n"
        "from transformer_jax.distributed import cluster\n"
        "cluster.join('127.0.0.1:45671', 2, int(sys.argv[1]), patience=3)"
    )
    command = [sys.executable, "-c", program, str(process)]
    found = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert found.returncode == 75
    assert found.stderr.splitlines()[-1].startswith(
        "not all processes came together within 3 s: there was nothing to be seen of 1 other process at 127.0.0.1:45671"
    )
