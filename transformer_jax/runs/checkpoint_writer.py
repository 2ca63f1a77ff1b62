"""Writes checkpoints: while training goes on, whole or not at all, and no more of them than a run keeps."""

import contextlib
import dataclasses
import errno
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.models.adapters import Adapters
from transformer_jax.runs.checkpoint_damage import move_damaged_aside
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.orbax_manager import array_items, open_manager
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.storage.checksums import write_manifest

__all__ = ["CheckpointWriter"]


@dataclasses.dataclass
class _LatestAndBest:
    """The checkpoints that orbax does not delete. Orbax's own BestN forgets all scores at a restart, and keeps the last of
    equal scores, where the best of `TrainProgress` is the first."""

    latest: int
    best_step: int = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self.latest
        return [i >= first or checkpoint.step == self.best_step for i, checkpoint in enumerate(checkpoints)]


class CheckpointWriter:
    """The checkpoints of a run, to write. A context manager, which waits for the last save when it ends.

    A manifest of checksums is the last that is written of a checkpoint. The latest `keep` are kept, and the best; `kept`, `ema`
    and `adapters` are those of the reader. Checkpoints newer than the newest whole one are moved aside first; raises UserError
    if none is whole, unless they are `discardable` (`checkpoint_damage.move_damaged_aside`).

    Attributes:
        reader: the `CheckpointReader` of the same checkpoints, to go on from
    """

    def __init__(
        self,
        folder: epath.Path,
        *,
        keep: int,
        kept: int,
        ema: bool,
        discardable: bool = False,
        adapters: Adapters | None = None,
    ):
        with collectives.first_before_others(f"damaged checkpoints of {folder}") as first:
            if first:
                move_damaged_aside(folder, discardable)
        self._folder = folder
        self._policy = _LatestAndBest(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._policy, cleanup_tmp_directories=True)
        self._manager = open_manager(folder, options)
        self.reader = CheckpointReader(folder, kept=kept, ema=ema, manager=self._manager, adapters=adapters)
        self._thread = ThreadPoolExecutor(1)
        self._manifest: Future | None = None  # of the last save

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        failed = kind is not None
        try:
            self.wait()
        except Exception:
            failed = True
            raise
        finally:
            self._thread.shutdown()
            # Orbax would raise the error of a failed save once more, in other words.
            with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
                self._manager.close()

    def save(self, state: Any, progress: TrainProgress) -> None:
        """Starts to write step `progress.step` of `state` (a `TrainState`); returns as soon as its arrays may be changed.

        Raises UserError if the disk is too full for this save, or was for the one before.
        """
        self.wait()
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in array_items(state).items()}
        self._policy.best_step = progress.best_step
        with _full_disk_explained(self._folder, progress.step):
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(**arrays, progress=ocp.args.JsonSave(dataclasses.asdict(progress))),
            )
        self._manifest = self._thread.submit(self._complete, progress.step)

    def wait(self) -> None:
        """Waits until the last save is complete. Raises the error that ended it."""
        manifest, self._manifest = self._manifest, None
        if manifest:
            manifest.result()

    def _complete(self, step: int) -> None:
        with _full_disk_explained(self._folder, step):
            self._manager.wait_until_finished()
            if collectives.is_first():
                write_manifest(self._folder / str(step))


@contextlib.contextmanager
def _full_disk_explained(folder: epath.Path, step: int) -> Iterator[None]:
    """Turns the various errors of orbax and its libraries about a full disk into one UserError."""
    try:
        yield
    except Exception as error:
        cause, full = error, False
        while cause is not None and not full:
            full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause)
            cause = cause.__cause__ or cause.__context__
        if not full:
            raise
        raise UserError(
            f"{folder}: the disk is full, step {step} is not saved; the checkpoints before it are whole: free some space and "
            "run the same command again"
        ) from error
