"""The checkpoints of a training that goes on, one after the other as they come."""

import logging
import time
from collections.abc import Iterator

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.runs.checkpoints import Checkpoints
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.checksums import sealed

__all__ = ["new_checkpoints"]

log = logging.getLogger(__name__)


def new_checkpoints(workdir: str, minutes: float, pause: float = 10.0) -> Iterator[tuple[Translator, str]]:
    """A translator for each checkpoint of a run, and its name: those that are there, oldest first, then each that comes.

    It ends when the training has ended, by its steps or because the dev score had stopped rising, or after `minutes` without a
    new checkpoint: a training that was killed cannot be told from a slow one. It looks every `pause` seconds, and only reads. A
    checkpoint that goes before it is read, as training keeps only the latest, is left out with a line in the log.

    Where there are several processes, all of them must come here. Raises UserError if there is no such run.
    """
    done, translator, waiting_since = set(), None, time.monotonic()
    while True:
        run, ended = Run(workdir), False  # read anew: more steps may have been asked for
        new: list[int] = []
        if collectives.gather(run.has_checkpoints())[0]:
            with run.checkpoints() as checkpoints:
                whole = [step for step in checkpoints.steps() if sealed(checkpoints.folder / str(step))]
                new = collectives.gather([step for step in whole if step not in done])[0]
                for step in new:
                    translator = translator or Translator.of_run(run)
                    if found := _load(translator, checkpoints, step):
                        yield found
                        waiting_since = time.monotonic()
                done.update(new)
                ended = bool(whole) and _is_last(checkpoints, whole[-1], run.config.train.steps)
        late = time.monotonic() - waiting_since > 60 * minutes
        ended, late = collectives.gather([ended, late])[0]
        if ended and not new:
            return
        if late:
            log.info("%s: no new checkpoint for %g minutes", workdir, minutes)
            return
        if not new:
            time.sleep(min(pause, 60 * minutes))


def _load(translator: Translator, checkpoints: Checkpoints, step: int) -> tuple[Translator, str] | None:
    found, wrong = None, ""
    try:
        found = translator.with_checkpoint(checkpoints, str(step))
    except UserError as error:
        wrong = str(error)
    wrong = next(filter(None, collectives.gather(wrong)), "")  # all have it, or none goes on with it
    if wrong:
        log.warning("step %d is left out: %s", step, wrong)
    return None if wrong else found


def _is_last(checkpoints: Checkpoints, step: int, steps: int) -> bool:
    try:
        progress = checkpoints.progress(step)
    except UserError:  # it has gone since, or is damaged
        return False
    return progress.stopped or step >= steps
