"""What a training shows of itself: a progress bar on a terminal, plain lines in a log."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from transformer_jax import platform
from transformer_jax.config import Config
from transformer_jax.data.stream import BatchStream
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.training.evaluator import Evaluation
from transformer_jax.training.summary import (
    describe_end,
    describe_epochs,
    describe_parameters,
    describe_start,
    unused_positions,
)

__all__ = ["Console"]

log = logging.getLogger(__name__)


class Console:
    """Shows what a training runs on, its steps, loss, tokens/s and the remaining time, and how it ended: on a terminal with a
    bar, in a log file with a line for each report. The training is that of `config` in the run folder `workdir`, and begins
    now."""

    def __init__(self, config: Config, workdir: Any):
        self._config, self._workdir = config, workdir
        self._steps, self._first_step, self._began = config.train.steps, 0, time.perf_counter()
        self._bar = tqdm(disable=True)

    def starting(self) -> None:
        """Reports the version, the run folder and the devices."""
        dtype = self._config.model.compute_dtype
        for line in describe_start(self._workdir, platform.default_compute_dtype() if dtype == "auto" else dtype):
            log.info(line)
        _warn(platform.unused_accelerator(platform.accelerator_files(), jax.default_backend(), os.environ))

    def prepared(self, stream: BatchStream, params: Mapping[str, Any]) -> None:
        """Reports the size of the model and the number of epochs."""
        config = self._config
        log.info(describe_parameters(params, config.model.tied_embeddings != "none"))
        epochs, too_many = describe_epochs(config, stream.batches_per_epoch, stream.pairs)
        log.info(epochs)
        _warn(too_many)
        _warn(unused_positions(config.batch, stream.shapes))

    @contextlib.contextmanager
    def showing(self, progress: TrainProgress) -> Iterator[None]:
        """The bar, from `progress` on, while the block runs."""
        self._first_step = progress.step
        hidden = not sys.stderr.isatty()
        self._bar = tqdm(initial=progress.step, total=self._steps, unit="step", dynamic_ncols=True, disable=hidden)
        with logging_redirect_tqdm(), contextlib.closing(self._bar):
            yield

    def advance(self) -> None:
        """Advances the bar by one step."""
        self._bar.update()

    def trained(self, step: int, numbers: Mapping[str, float]) -> None:
        """Reports the numbers of a line of metrics, and the programs that were compiled."""
        loss, rate = numbers["loss"], numbers["target_tokens_per_second"]
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s")
        if self._bar.disable:
            left = (self._steps - step) / numbers["steps_per_second"]
            compiled = ""
            if numbers["compilations"]:
                compiled = f", {numbers['compilations']} programs compiled in {numbers['compile_seconds']:.1f} s"
            speed = f"{rate:,.0f} target tokens/s, {_duration(left)} left"
            log.info("step %d/%d: loss %.3f, %s%s", step, self._steps, loss, speed, compiled)

    def evaluated(self, step: int, evaluation: Evaluation, progress: TrainProgress) -> None:
        """Reports the scores on the dev set, the best step, sample translations, and the end of the training by `patience`."""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.numbers.items())
        best = " (best so far)" if progress.best_step == step else f" (best at step {progress.best_step})"
        log.info("step %d: dev %s%s", step, numbers, best)
        for sample in evaluation.samples:
            log.info("  %s", sample)
        if progress.stopped:
            log.info("stopped: %d evaluations without a better score", progress.evaluations_without_better)

    def ended(self, progress: TrainProgress) -> None:
        """Reports the steps and minutes of this training, the best score, the run folder and the next command."""
        steps, seconds = progress.step - self._first_step, time.perf_counter() - self._began
        for line in describe_end(self._config, progress, steps, seconds, self._workdir):
            log.info(line)


def _warn(warning: str) -> None:
    if warning:
        log.warning("warning: %s", warning)


def _duration(seconds: float) -> str:
    """
    >>> _duration(3725)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
