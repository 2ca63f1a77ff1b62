"""Writes the numbers of a training to `metrics.jsonl` and TensorBoard."""

import contextlib
import errno
import json
import os
import socket
import sys
import time

from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.storage.files import finite_or_null, is_remote, to_path, write_whole

__all__ = ["MetricsWriter"]


class MetricsWriter:
    """Writes numbers from `start_step` on. The lines that a killed training wrote beyond that step are removed first, and those
    of that step's evaluation too unless its checkpoint has been `evaluated`, for then the evaluation is made again.

    Of several processes only the first writes. Raises UserError where the files cannot be read or written, and OSError where
    the disk is full.
    """

    def __init__(self, workdir: epath.Path, start_step: int, evaluated: bool = True):
        self._path = to_path(workdir) / "metrics.jsonl"
        self._lines: list[str] = []
        self._board = self._file = None
        if not collectives.is_first():
            return
        try:
            if self._path.exists():
                lines = self._path.read_text(encoding="utf-8").splitlines()
                self._lines = [f"{line}\n" for line in lines if _is_before(line, start_step, evaluated)]
                write_whole(self._path, "".join(self._lines))
            if not is_remote(workdir):
                self._file = self._path.open("a", encoding="utf-8")
            self._board = _EventFile(workdir / "tensorboard", start_step + 1)
        except UnicodeDecodeError:
            raise UserError(f"{self._path}: is not UTF-8; move it away, and a new one is begun") from None
        except OSError as error:
            self.__exit__()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = error.strerror or error
            raise UserError(f"{workdir}: metrics.jsonl or tensorboard cannot be written ({reason}); move it away") from None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.ExitStack() as both:  # a full disk can fail each
            for file in filter(None, (self._board, self._file)):
                both.callback(file.close)

    def write(self, step: int, split: str, numbers: dict[str, float], texts: list[str] | None = None) -> None:
        """Writes one line of `metrics.jsonl`, {"step": ..., "split": ..., NAME: NUMBER, ..., "time": ...}, with null for a
        number that is not finite (a perplexity that overflows) and the seconds since 1970 as the time, and the numbers and
        texts for TensorBoard.

        `split` is "train", with the numbers of `metrics.Meter.take`, the epoch and the learning rate, or "dev", with those of
        `evaluator.Evaluation`. Both have the counts of `compilations.Compilations` since the last line. A set that is watched
        has the split "watch:NAME", with its numbers in that `Evaluation`.
        """
        if not self._board:
            return
        line = {"step": step, "split": split} | numbers | {"time": round(time.time(), 3)}
        line = json.dumps(finite_or_null(line), allow_nan=False) + "\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:  # an object in a store cannot be appended to
            self._lines.append(line)
            self._path.write_text("".join(self._lines), encoding="utf-8")
        self._board.write(step, {f"{split}/{name}": value for name, value in numbers.items()}, f"{split}/translations", texts)


class _EventFile:
    """A file of events for TensorBoard, which hides what earlier files tell of `start_step` and later.

    It is written in the caller's thread, with the parts of tensorboardX that have no thread of their own. The thread of its
    `SummaryWriter` ends with a traceback on a full disk, and the training would then wait for ever for room in its queue.
    """

    def __init__(self, folder: epath.Path, start_step: int):
        with _without_torch():
            from tensorboardX import record_writer, summary
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        self._summary, self._event = summary, Event
        record_writer.directory_check(str(folder))
        # TensorBoard reads the files of a folder in the order of their names, and only those with "tfevents" in them.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = record_writer.RecordWriter(str(folder / name))
        self._remote, self._flushed = is_remote(folder), time.monotonic()
        self._add(0, file_version="brain.Event:2")
        self._add(start_step, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def _add(self, step: int, **what) -> None:
        self._file.write(self._event(step=step, wall_time=time.time(), **what).SerializeToString())

    def write(self, step: int, numbers: dict[str, float], title: str, texts: list[str] | None) -> None:
        """Writes the numbers, each under its name, and the texts as one under the title."""
        for name, value in numbers.items():
            self._add(step, summary=self._summary.scalar(name, value))
        if texts:
            self._add(step, summary=self._summary.text(title, "\n\n".join(texts)))
        now = time.monotonic()
        if not self._remote or now - self._flushed > 120:  # on an object store a flush uploads all that was ever written
            self._flushed = now
            self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _without_torch():
    """Imports without PyTorch: tensorboardX would import it if it could, for tensors that it never gets here, and delay every
    start by more than a second."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # makes Python find no such module
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def _is_before(line: str, start_step: int, evaluated: bool) -> bool:
    """Whether a line of `metrics.jsonl` was written before the checkpoint of `start_step`, at which the dev set was `evaluated`
    or not. A line that a kill cut off was not: its step cannot be read."""
    try:
        entry = json.loads(line)
        step, split = entry["step"], entry.get("split")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    of_evaluation = split == "dev" or str(split).startswith("watch:")
    return type(step) is int and (step < start_step or (step == start_step and (evaluated or not of_evaluation)))
