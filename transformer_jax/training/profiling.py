"""JAX's profiler around some updates of a training (`train --profile=FROM:TO`)."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote, to_path

__all__ = ["Profiler"]

log = logging.getLogger(__name__)


class Profiler:
    """Traces updates of a training, numbered from 1, from `first` to `last`, into the folder `profile` of its run folder:
    WORKDIR/profile/plugins/profile/TIME/HOST.xplane.pb, for XProf. Of several processes the first one is traced. Without
    `updates` it traces nothing.

    A context manager, at whose end a trace that is under way ends, too. Raises UserError for updates that the training's
    `steps` do not have.
    """

    def __init__(self, updates: tuple[int, int] | None, steps: int, workdir: epath.PathLike):
        if updates and not 0 < updates[0] <= updates[1] <= steps:
            raise UserError(
                f"--profile={updates[0]}:{updates[1]} should be two updates from 1 to train.steps={steps}, in order"
            )
        self._updates = updates if collectives.is_first() else None
        self._folder = to_path(workdir) / "profile"
        self._local: tempfile.TemporaryDirectory | None = None  # where the profiler writes if the run folder is on a bucket
        self._runs = self._has_run = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._runs:
            self._stop()
        if self._updates and not self._has_run:
            log.warning("--profile: none of the updates %d to %d was made, and nothing was traced", *self._updates)

    @contextlib.contextmanager
    def update(self, number: int, result: Callable[[], Any]) -> Iterator[None]:
        """The block dispatches update `number`, whose arrays `result()` gives afterwards."""
        if self._updates is None or not self._updates[0] <= number <= self._updates[1]:
            yield
            return
        if not self._runs:
            self._start()
        with jax.profiler.StepTraceAnnotation("update", step_num=number):
            yield
        if number == self._updates[1]:
            jax.block_until_ready(result())  # the device may be some updates behind
            self._stop()

    def _start(self) -> None:
        folder = str(self._folder)
        if is_remote(self._folder):
            self._local = tempfile.TemporaryDirectory()
            folder = self._local.name
        jax.profiler.start_trace(folder)
        self._runs = self._has_run = True

    def _stop(self) -> None:
        self._runs = False
        jax.profiler.stop_trace()
        if self._local is not None:
            with self._local as folder:
                for file in filter(Path.is_file, Path(folder).rglob("*")):
                    copy = self._folder / file.relative_to(folder)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(file.read_bytes())
            self._local = None
        log.info("the trace is in %s: xprof --logdir=%s", self._folder, self._folder)
