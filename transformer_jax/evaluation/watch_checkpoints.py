"""Waits for the checkpoints of a training that is going on, and loads each as it appears."""

import logging
import time
from collections.abc import Iterator

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.checksums import is_complete

__all__ = ["new_checkpoints"]

log = logging.getLogger(__name__)


def new_checkpoints(
    workdir: str, minutes: float, pause: float = 10.0, compute_dtype: str | None = None
) -> Iterator[tuple[Translator, str]]:
    """A translator for each checkpoint of a run, and its name: the existing ones, oldest first, then each new one.
    `compute_dtype` is that of `Translator.of_run`.

    Ends with the training (by its steps, or because the dev score stopped rising), or after `minutes` without a new checkpoint,
    because a training that was killed looks like a slow one. The folder is only read, every `pause` seconds. A checkpoint that
    is deleted before it is read, as training keeps only the latest, is left out with a line in the log.

    If there are several processes, all of them must call this. Raises UserError if there is no such run.
    """
    done, translator, waiting_since = set(), None, time.monotonic()
    while True:
        run = Run(workdir)  # read anew, because more steps may have been asked for
        steps, ended = _look(run)
        new = [step for step in steps if step not in done]
        for step in new:
            translator = translator or Translator.of_run(run, compute_dtype=compute_dtype)
            if loaded := _load(translator, run, step):
                yield loaded
                waiting_since = time.monotonic()
        done.update(new)
        late = collectives.gather(time.monotonic() - waiting_since > 60 * minutes)[0]
        if ended and not new:
            return
        if late:
            log.info("%s: no new checkpoint for %g minutes", workdir, minutes)
            return
        if not new:
            time.sleep(min(pause, 60 * minutes))


def _look(run: Run) -> tuple[list[int], bool]:
    """The steps of the complete checkpoints that the first process finds, and whether training ended with the last of them."""
    if not collectives.from_first(run.has_checkpoints):
        return [], False
    with run.checkpoints() as checkpoints:

        def complete_steps() -> list[int]:
            return [step for step in checkpoints.steps() if is_complete(checkpoints.folder / str(step))]

        steps = collectives.from_first(complete_steps)
        if not steps:
            return [], False
        try:
            progress = checkpoints.progress(steps[-1])
            ended = progress.stopped or steps[-1] >= run.config.train.steps
        except UserError:  # it was deleted since, or is damaged
            ended = False
    return steps, collectives.from_first(lambda: ended)


def _load(translator: Translator, run: Run, step: int) -> tuple[Translator, str] | None:
    loaded, message = None, ""
    try:
        with run.checkpoints() as checkpoints:
            loaded = translator.with_checkpoint(checkpoints, CheckpointName("step", step))
    except UserError as error:
        message = str(error)
    message = next(filter(None, collectives.gather(message)), "")  # all processes load it, or none goes on with it
    if message:
        log.warning("step %d is left out: %s", step, message)
    return None if message else loaded
