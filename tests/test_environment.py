"""What the scripts find around them: environment variables, folders of caches, standard streams, other processes."""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from transformer_jax import platform
from transformer_jax.cli import program
from transformer_jax.cli.evaluate import evaluate_run
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.distributed import cluster
from transformer_jax.errors import UserError
from transformer_jax.models.random_keys import key_of, seed_words
from transformer_jax.storage import cache_folders as caches
from transformer_jax.storage.cache_folders import default_cache_dir, lasting_cache_dir, use_compilation_cache
from transformer_jax.storage.text_files import iter_lines, open_output

ROOT = Path(__file__).parents[1]
SLURM = {
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_NODELIST": "node[1-3]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


# Caches


@pytest.fixture
def unsaid():
    """The log line about caches comes once a process; here each test sees it. Nothing public makes it come again."""
    caches._checked.cache_clear()
    yield
    caches._checked.cache_clear()


@pytest.mark.usefixtures("unsaid")
class TestCaches:
    def test_without_a_home_there_is_no_lasting_cache_and_a_line_says_so(self, monkeypatch, caplog):
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)

        def no_name(_: int):
            raise KeyError("getpwuid(): uid not found")

        monkeypatch.setattr("pwd.getpwuid", no_name)
        assert lasting_cache_dir() is None and lasting_cache_dir() is None
        assert caplog.text.count("HOME is not set, and user") == 1 and "set XDG_CACHE_HOME" in caplog.text
        folder = default_cache_dir()
        assert folder == default_cache_dir() and folder.is_dir() and Path(tempfile.gettempdir()) in folder.parents

    @pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "HOME"])
    def test_a_cache_that_cannot_be_written_is_none(self, name, monkeypatch, caplog, tmp_path):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv(name, str(tmp_path / "file"))
        assert lasting_cache_dir() is None
        assert str(tmp_path / "file") in caplog.text and "Not a directory" in caplog.text

    def test_a_relative_folder_has_no_effect(self, monkeypatch, caplog, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert lasting_cache_dir() == tmp_path / "home" / ".cache" / "transformer_jax"
        assert "XDG_CACHE_HOME=relative has no effect" in caplog.text and not (tmp_path / "relative").exists()

    def test_a_cache_of_programs_that_is_named_must_be_writable(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match="file/programs: compiled programs cannot be kept there"):
            use_compilation_cache(tmp_path / "file" / "programs")

    def test_programs_are_kept_though_jax_has_compiled_before(self, tmp_path):
        names = ["jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"]
        before = {name: getattr(jax.config, name) for name in names}
        try:
            jax.jit(lambda x: x + 2)(1)
            assert use_compilation_cache(tmp_path / "programs") == str(tmp_path / "programs")
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.jit(lambda x: x * 3 + 4)(1)
            assert list((tmp_path / "programs").iterdir())
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


# Devices


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': (set JAX_PLATFORMS='')")]
)
def test_devices_that_are_not_there(error, monkeypatch):
    def no_devices():
        raise error

    monkeypatch.setattr(jax, "local_devices", no_devices)
    monkeypatch.setattr(platform, "_devices_without_variables", lambda: "cpu")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match=r"^JAX_PLATFORMS=cuda: JAX finds no such device \(.+\); there is cpu; unset"):
        platform.find_devices()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(UserError, match=r"^JAX cannot start its devices \(.+\); end the program that holds them"):
        platform.find_devices()


WRONG = {
    "JAX_PLATFORMS=cuda": "JAX_PLATFORMS=cuda: JAX finds no such device",
    "XLA_FLAGS=--xla_nonsense=1": "XLA_FLAGS=--xla_nonsense=1: Unknown flag in XLA_FLAGS: --xla_nonsense=1",
    "JAX_ENABLE_X64=maybe": "invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'",
}


@pytest.mark.parametrize("variable", WRONG)
def test_a_wrong_environment_variable_is_one_line(variable):
    name, _, value = variable.partition("=")
    program = "from transformer_jax.cli.program import main, set_up; main(set_up)"
    environment = os.environ | {name: value}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and WRONG[variable] in line


# Standard streams


def test_closed_streams_are_bad_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        next(iter_lines(None))
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UserError, match="standard output is closed"), open_output(None):
        pass
    with pytest.raises(UserError, match="standard output, where the scores go, is closed"):
        evaluate_run(EvaluationJob(workdir="nowhere", test=["demo:test"]))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed, tmp_path):
    """Lines for standard output and error would otherwise go into the first file that is opened."""
    program = (
        "import os, sys\nfrom transformer_jax.cli.program import main\n"
        "def run():\n"
        f"    with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "        os.write(1, b'out')\n        os.write(2, b'err')\n        print('a line', file=sys.stderr)\n"
        "        file.write(str(file.fileno()))\n"
        "main(run)"
    )
    command = f'"{sys.executable}" -c "$PROGRAM" {closed}'
    environment = os.environ | {"PROGRAM": program}
    done = subprocess.run(["sh", "-c", command], env=environment, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0 and int((tmp_path / "file").read_text()) > 2
    assert done.stdout == (b"" if ">&- " in f"{closed} ".replace("2>&-", "") else b"out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_one_line():
    program = "from transformer_jax.cli.program import main; main(lambda: print('x'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "No space left on device" in done.stderr


# Other processes


@pytest.fixture
def nowhere(monkeypatch):
    """Neither Slurm nor TPUs."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cluster, "_on_tpu", lambda: False)


@pytest.mark.usefixtures("nowhere")
class TestOthers:
    def test_nothing_tells_of_others(self):
        assert cluster.others(None, None, None) == ""

    def test_slurm_tells_of_them(self, monkeypatch):
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        assert cluster.others(None, None, None) == "2 other processes on node[1-3] (Slurm: SLURM_STEP_NUM_TASKS=3)"
        assert cluster.others(None, 1, None) == ""

    def test_slurm_tells_half(self, monkeypatch):
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        expected = "SLURM_STEP_NUM_TASKS=2 .* SLURM_JOB_ID, .*, SLURM_LOCALID are not set: .*--processes=1 to run alone"
        with pytest.raises(UserError, match=expected):
            cluster.others(None, None, None)
        cluster.join(None, 1, None)
        assert not cluster.several()

    def test_flags_tell_of_them(self, monkeypatch):
        assert cluster.others("host:1", 2, 1) == "1 other process at host:1 (--coordinator, --processes)"
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        assert cluster.others("host:1", 3, 1) == "2 other processes at host:1 (--coordinator, --processes)"

    def test_the_log_says_for_whom_it_waits_before_it_waits(self, monkeypatch, caplog):
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(cluster, "_catch_aborts", lambda: None)
        said = []
        monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: said.append(caplog.text))
        cluster.join("host:1", 2, 1)
        assert "waiting for 1 other process at host:1" in said[0] and "to run alone: --processes=1" in said[0]

    def test_what_jax_cannot_make_of_the_environment_is_bad_input(self, monkeypatch):
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SLURM_PROCID", "seven")
        monkeypatch.setattr(cluster, "_catch_aborts", lambda: None)
        monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: int(os.environ["SLURM_PROCID"]))
        with pytest.raises(UserError, match=r"JAX cannot join 2 other processes .*'seven'.*--processes=1"):
            cluster.join(None, None, None)

    def test_a_program_that_works_alone_joins_nobody(self, monkeypatch):
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        joined = []
        monkeypatch.setattr(cluster, "join", lambda *flags: joined.append(flags))
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
        for name in ("import_jax", "use_compilation_cache", "find_devices", "_keep_freed_memory"):
            monkeypatch.setattr(program, name, lambda **_: None)
        for name in ("absl", "orbax", "jax", "transformer_jax"):
            monkeypatch.setattr(logging.getLogger(name), "level", logging.getLogger(name).level)
        program.set_up()
        assert not joined
        program.set_up((None, None, None))
        assert joined == [(None, None, None)]

    @pytest.mark.parametrize(
        ("trains", "start", "limit", "promises"),
        [
            (True, 4096 * 7 + 16, -1, "0\n"),
            (True, None, -1, "0\n"),
            (True, 4096 * 7 + 16, 10**9, "0\n"),
            (True, 4096 * 7 + 16, -1, "2\n"),
            (False, 4096 * 7 + 16, -1, "0\n"),
        ],
        ids=["training", "no addresses", "limited", "counted", "search"],
    )
    def test_only_a_training_has_one_heap_of_huge_pages_for_all_threads(self, trains, start, limit, promises, monkeypatch):
        """Searches side by side would wait for each other; a training's workspace is kept in no other heap."""
        given, asked, freed, arena_max = [], [], [], -8
        library = SimpleNamespace(
            mallopt=lambda name, value: given.append((name, value)),
            malloc=lambda size: start,
            madvise=lambda first, size, advice: asked.append((first, first + size)),
            free=lambda place: freed.append(place),
        )
        monkeypatch.setattr(program.ctypes, "CDLL", lambda _: library)
        monkeypatch.setattr(program.sys, "platform", "linux")
        monkeypatch.setattr(program.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 200}.get)
        monkeypatch.setattr("resource.getrlimit", lambda kind: (limit, limit))
        monkeypatch.setattr(program.Path, "read_text", lambda path: promises)
        program._keep_freed_memory(one_heap=trains)
        assert ((arena_max, 1) in given) == trains and len(given) >= 3
        asks = trains and start and limit == -1 and promises != "2\n"
        whole_pages = [(4096 * 8, start + 4096 * 100)] if asks else []  # half of the machine's
        assert asked == whole_pages and freed == [start] * len(whole_pages)

    def test_programs_that_were_compiled_are_told_where_asked(self, caplog):
        with caplog.at_level(logging.INFO), program.told_compilations(False):
            jax.jit(lambda x: x + 91)(1.0)
        assert not caplog.messages
        with caplog.at_level(logging.INFO), program.told_compilations(True):
            jax.jit(lambda x: x + 92)(1.0)
        assert len(caplog.messages) == 1 and re.match(r"programs: \d read from the cache, \d compiled; ", caplog.messages[0])

    def test_bad_input_before_the_others_are_joined_is_told_to_them(self, monkeypatch):
        set_up = []
        monkeypatch.setattr(program, "set_up", set_up.append)
        for flags in [("host:1", 2, 1), (None, None, None)]:
            with pytest.raises(UserError, match="bad"), program.report_to_all(flags):
                raise UserError("bad")
        assert set_up == [("host:1", 2, 1)]


class Store:
    """The keys and values that JAX's processes share."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key: str, value: str) -> None:
        if self.values.setdefault(key, value) != value:
            raise RuntimeError("ALREADY_EXISTS")

    def key_value_try_get(self, key: str) -> str:
        if key not in self.values:
            raise RuntimeError("NOT_FOUND")
        return self.values[key]


@pytest.fixture
def together(monkeypatch):
    """This is the second of three processes; it does not really end."""
    found = SimpleNamespace(client=Store(), process_id=1, num_processes=3)
    monkeypatch.setattr(cluster, "_together", lambda: found)
    monkeypatch.setattr(cluster, "_state", {"several": True, "if aborted": None, "handler": None})
    monkeypatch.setattr(cluster, "_leaving", cluster.threading.Event())

    def leave(code: int):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    return found


@pytest.mark.parametrize("code", [1, 2])
def test_an_end_with_an_error_is_told_until_the_others_have_noticed(code, together):
    for number in (0, 2):
        together.client.key_value_set(cluster._NOTICED.format(number), "yes")
    with pytest.raises(SystemExit) as ended:
        cluster.leave(code, "error: no such file")
    assert ended.value.code == code
    assert json.loads(together.client.values[cluster._END]) == [1, code, "error: no such file"]
    assert cluster.end_of_another() == (code, f"process 1 ended with code {code}, and so does this one: error: no such file")


def test_the_first_end_is_the_one_that_counts(together):
    for number in (0, 2):
        together.client.key_value_set(cluster._NOTICED.format(number), "yes")
    together.client.key_value_set(cluster._END, json.dumps([0, 2, "error: the first"]))
    with pytest.raises(SystemExit) as ended:
        cluster.leave(1, "a bug")
    assert ended.value.code == 1 and "the first" in cluster.end_of_another()[1]


def test_an_end_that_is_to_be_continued_is_not_told(together):
    with pytest.raises(SystemExit):
        cluster.leave(cluster.TO_BE_CONTINUED, "stopped as asked")
    assert not together.client.values and cluster.end_of_another() is None


def test_a_loss_after_a_told_end_has_its_code(together, capfd):
    def lose() -> None:
        raise RuntimeError("Gloo: Connection closed by peer")

    with pytest.raises(SystemExit) as ended:
        program.main(lose)
    assert ended.value.code == 75 and "the same command everywhere goes on" in capfd.readouterr().err
    together.client.key_value_set(cluster._END, json.dumps([0, 2, "error: no such file"]))
    for number in (0, 2):
        together.client.key_value_set(cluster._NOTICED.format(number), "yes")
    with pytest.raises(SystemExit) as ended:
        program.main(lose)
    assert ended.value.code == 2 and "process 0 ended with code 2" in capfd.readouterr().err


# Seeds


def test_seeds_of_32_bits_are_jax_s_and_of_longer_ones_each_bit_counts():
    def data(seed: int) -> tuple[int, ...]:
        return tuple(np.asarray(jax.random.key_data(key_of(seed_words(seed)))).tolist())

    for seed in (0, 1, 2**31, 2**32 - 1):
        assert data(seed) == tuple(np.asarray(jax.random.key_data(jax.random.key(np.uint32(seed)))).tolist())
    seeds = [0, *(1 << bit for bit in range(64)), 2**64 - 1]
    assert len({data(seed) for seed in seeds}) == len(seeds)
