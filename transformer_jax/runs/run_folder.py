"""The run folder: all that a training leaves behind, and all that evaluating it needs. Nothing in it is ever executed.

    WORKDIR/config.json        the config, as data
    WORKDIR/tokenizer/         the SentencePiece model and the special ids
    WORKDIR/words.npy          hashes of the words of the training text's targets: which words of a test set are new
    WORKDIR/checkpoints/STEP/  params, optimizer, progress, with train.ema_decay also ema (orbax), and their checksums
    WORKDIR/interrupted/STEP/  the same, where training was asked to stop between two checkpoints: to go on from, in no average
    WORKDIR/damaged-*/         checkpoints that were found damaged, out of the way
    WORKDIR/metrics.jsonl      one line for each log entry and evaluation
    WORKDIR/tensorboard/       the same numbers, and sample translations
    WORKDIR/lock               held while a training works on the folder

WORKDIR may be on an object store (gs://BUCKET/FOLDER).
"""

import contextlib
import io
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from typing import IO

import numpy as np
from etils import epath

from transformer_jax.config import Config, continued, differences, from_json, to_json
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.runs.checkpoints import Checkpoints, is_step
from transformer_jax.storage.checksums import sealed
from transformer_jax.storage.files import finite_or_null, is_remote, read_plain, to_path, write_whole
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["MetricsWriter", "Run", "locked", "split_run_name"]

log = logging.getLogger(__name__)


_CHECKPOINTS = ("checkpoints", "interrupted")
_LOGS = "*.log", "*.out", "*.err", "*log*.txt", "*output*.txt"
_LARGEST_CONFIG = 1 << 20  # bytes
_WORDS = "words.npy"


def split_run_name(name: str) -> tuple[str, str]:
    """What RUN or RUN:CHECKPOINT names: the folder, and the checkpoint (`best` where none is named). A folder that is there is
    the former, whatever its name.

    >>> split_run_name("runs/a"), split_run_name("runs/a:average:5:raw")
    (('runs/a', 'best'), ('runs/a', 'average:5:raw'))
    """
    if to_path(name).is_dir():
        return name, "best"
    return re.fullmatch(r"(.+?)(?::((?:average:\d+|[^:/]+)(?::raw|:ema)?))?", name, re.DOTALL).groups(default="best")


class Run:
    """A run folder that exists. Raises UserError where a part is missing or damaged.

    Attributes:
        workdir: the folder, a path of etils' epath
        config_file: its config.json
        config: what that says
    """

    def __init__(self, workdir: epath.PathLike):
        self.workdir = to_path(workdir)
        self.config_file = self.workdir / "config.json"
        if not self.workdir.is_dir():
            raise UserError(f"{workdir}: no such run folder; train.py --workdir={workdir} makes one")
        if not self.config_file.is_file():
            raise UserError(f"{workdir}: not a run folder, it has no config.json")
        try:
            content = read_plain(self.config_file, _LARGEST_CONFIG)
        except OSError as error:
            raise UserError(f"{self.config_file}: cannot be read ({error.strerror}); bring back this run's config") from None
        self.config = from_json(content.decode("utf-8", "replace"), str(self.config_file))

    @classmethod
    def open_or_create(cls, workdir: epath.PathLike, config: Config) -> "Run":
        """A new folder with `config`, or the one that is there, if its config has the same result as `config`.

        A folder without a checkpoint, as a failed first attempt leaves it, has nothing to lose and is begun anew. Raises
        UserError naming what differs, or where the folder holds something else or cannot be written.
        """
        workdir = to_path(workdir)
        try:
            if not (workdir / "config.json").exists():
                _make(workdir)
            elif not any(_has_steps(workdir / kind) for kind in _CHECKPOINTS):
                (workdir / "tokenizer").rmtree(missing_ok=True)
                (workdir / _WORDS).unlink(missing_ok=True)
            else:
                _require_optimizer_state(workdir)
                stored, asked = cls(workdir).config, config
                config = continued(stored, asked)
                if config.tokenizer != asked.tokenizer:
                    log.info("tokenizer.normalize stays false: the run was begun without")
                forbidden, allowed = differences(stored, config)
                if forbidden:
                    raise UserError(
                        f"{workdir}: was trained with another config ({'; '.join(forbidden)}); "
                        "use that one, or another --workdir"
                    )
                for line in allowed:
                    log.info("config changed: %s", line)
            write_whole(workdir / "config.json", to_json(config))
        except OSError as error:
            raise _not_writable(workdir, error) from None
        return cls(workdir)

    @property
    def tokenizer_folder(self) -> epath.Path:
        """Where the tokenizer is, or will be."""
        return self.workdir / "tokenizer"

    @property
    def tokenizer_file(self) -> epath.Path:
        """Written last of all in the tokenizer's folder: where it is, the tokenizer is whole."""
        return self.tokenizer_folder / "tokenizer.json"

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Raises UserError where it is missing or damaged."""
        return Tokenizer.load(self.tokenizer_folder)

    def words(self) -> np.ndarray | None:
        """What `keep_words` was given; None where there is none, as in runs of older versions and of imported models. Raises
        UserError where it is damaged."""
        path = self.workdir / _WORDS
        try:
            words = np.load(io.BytesIO(read_plain(path)), allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError):
            words = None
        if words is None or words.dtype != np.uint64 or words.ndim != 1:
            raise UserError(f"{path}: damaged, expected the hashes of the training text's words; remove it, or bring it back")
        return words

    def keep_words(self, words: np.ndarray) -> None:
        """Keeps the words of the training text's targets, uint64 [words], `data.words.vocabulary_of` them."""
        content = io.BytesIO()
        np.save(content, words)
        write_whole(self.workdir / _WORDS, content.getvalue())

    def checkpoints(self, keep: int | None = None) -> Checkpoints:
        """To read; with `keep`, to write, and then only the latest so many are kept, and the best. Raises UserError where there
        are none to read, or none that is whole to go on from."""
        train = self.config.train
        return Checkpoints(self.workdir / _CHECKPOINTS[0], keep, latest=train.keep_checkpoints, ema=train.ema_decay > 0)

    def interrupted(self) -> Checkpoints:
        """The checkpoint of a training that was asked to stop, to read and to write; one is kept."""
        return Checkpoints(self.workdir / _CHECKPOINTS[1], 1, latest=1, ema=self.config.train.ema_decay > 0, spare=True)

    def has_checkpoints(self) -> bool:
        """Is there a folder of checkpoints, though perhaps an empty one?"""
        return (self.workdir / _CHECKPOINTS[0]).is_dir()

    def was_interrupted(self) -> bool:
        """Is there a folder of what training saved when it was asked to stop?"""
        return (self.workdir / _CHECKPOINTS[1]).is_dir()


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the run folder, made if it is not there, against a second training of it. Raises UserError if one has it.

    The lock goes with the process, however it ends. It is the operating system's, on `WORKDIR/lock`: on an object store (and on
    a network file system without locks) there is none, and nobody may start two trainings of one folder.
    """
    workdir = to_path(workdir)
    if not collectives.is_first() or is_remote(workdir):
        yield
        return
    try:
        if not (workdir / "config.json").exists():
            _make(workdir)
        file = open(workdir / "lock", "a+", encoding="utf-8")
    except OSError as error:
        raise _not_writable(workdir, error) from None
    with file:
        _lock(workdir, file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _lock(workdir: epath.Path, file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another process"
        raise UserError(f"{workdir}: {holder} is training in it; wait for it, end it, or name another --workdir") from None
    except OSError as error:
        log.warning("%s: cannot be locked (%s); see that no other training works in it", workdir, error.strerror)


class MetricsWriter:
    """Numbers to `metrics.jsonl` and TensorBoard, from `start_step` on: what a killed run wrote beyond it is taken back.

    Of several processes only the first writes.
    """

    def __init__(self, workdir: epath.Path, start_step: int):
        self._path = to_path(workdir) / "metrics.jsonl"
        self._lines: list[str] = []
        self._board = self._file = None
        if not collectives.is_first():
            return
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = [f"{line}\n" for line in lines if _step_of(line) <= start_step]
            write_whole(self._path, "".join(self._lines))
        if not is_remote(workdir):
            self._file = self._path.open("a", encoding="utf-8")
        self._board = _tensorboard()(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def write(self, step: int, split: str, numbers: dict[str, float], texts: list[str] | None = None) -> None:
        """One line of `metrics.jsonl`, {"step": ..., "split": ..., NAME: NUMBER, ...}, with null for a number that is not
        finite (a perplexity that overflows); numbers and texts for TensorBoard."""
        if not self._board:
            return
        line = json.dumps(finite_or_null({"step": step, "split": split} | numbers), allow_nan=False) + "\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:  # nothing can be added to the end of an object
            self._lines.append(line)
            self._path.write_text("".join(self._lines), encoding="utf-8")
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if texts:
            self._board.add_text(f"{split}/translations", "\n\n".join(texts), step)
        if self._file:  # on an object store this would upload all that was ever written; there it is done every two minutes
            self._board.flush()


def _tensorboard() -> type:
    """tensorboardX's writer, without PyTorch, which it imports where it can: over a second of every start, for tensors that are
    never given to it."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # Python's way to say that there is no such module
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def _require_optimizer_state(workdir: epath.Path) -> None:
    folders = [workdir / kind for kind in _CHECKPOINTS if (workdir / kind).is_dir()]
    steps = [path for folder in folders for path in folder.iterdir() if is_step(path.name)]
    if steps and all(sealed(path) and not (path / "optimizer").is_dir() for path in steps):
        raise UserError(
            f"{workdir}: has no optimizer state to go on from: begin with its parameters in another --workdir, with "
            f"--config.train.init_from={workdir}"
        )


def _has_steps(folder: epath.Path) -> bool:
    return folder.is_dir() and any(is_step(path.name) or sealed(path) for path in folder.iterdir())  # sealed: if renamed


def _make(workdir: epath.Path) -> None:
    others = sorted(path.name for path in workdir.iterdir() if not _may_stay(path)) if workdir.is_dir() else []
    if others:
        shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        raise UserError(
            f"{workdir}: is not empty and not a run folder: it holds {shown}; name another --workdir "
            f"(one with nothing but log files, {', '.join(_LOGS)}, would do)"
        )
    workdir.mkdir(parents=True, exist_ok=True)


def _may_stay(path: epath.Path) -> bool:
    """May this be in a folder before it is a run's? Yes, if it is the lock, a log (`> runs/x/train.log`) or a hidden file."""
    return path.name == "lock" or (path.is_file() and any(map(path.match, (".*", *_LOGS))))


def _not_writable(workdir: epath.Path, error: OSError) -> UserError:
    return UserError(f"{workdir}: cannot be written ({error.strerror}); name another --workdir")


def _step_of(line: str) -> float:
    # A line cut in the middle by a kill belongs to the time after the last checkpoint.
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        step = None
    return step if type(step) is int else float("inf")
