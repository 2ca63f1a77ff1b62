"""Writes the numbers of a training to `metrics.jsonl` and TensorBoard."""

import json
import sys
import time

from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.storage.files import finite_or_null, is_remote, to_path, write_whole

__all__ = ["MetricsWriter"]


class MetricsWriter:
    """Writes numbers from `start_step` on; the lines that a killed training wrote beyond that step are removed first, and so is
    the lines of that step's evaluation unless its checkpoint has been `evaluated`: a killed training can leave them, and the
    evaluation is made again.

    Of several processes only the first writes.
    """

    def __init__(self, workdir: epath.Path, start_step: int, evaluated: bool = True):
        self._path = to_path(workdir) / "metrics.jsonl"
        self._lines: list[str] = []
        self._board = self._file = None
        if not collectives.is_first():
            return
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = [f"{line}\n" for line in lines if _is_before(line, start_step, evaluated)]
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
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if texts:
            self._board.add_text(f"{split}/translations", "\n\n".join(texts), step)
        if self._file:  # on an object store a flush uploads all that was ever written; there it happens every two minutes
            self._board.flush()


def _tensorboard() -> type:
    """tensorboardX's writer, imported without PyTorch: tensorboardX would import it if it could, for tensors that it never gets
    here, and delay every start by more than a second."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # makes Python find no such module
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


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
