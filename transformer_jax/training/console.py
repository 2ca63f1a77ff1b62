"""What a training shows of itself: a progress bar on a terminal, plain lines in a log."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from transformer_jax import platform
from transformer_jax.config import Config
from transformer_jax.data.batching import Batch
from transformer_jax.data.stream import BatchStream
from transformer_jax.distributed import collectives
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.training.across_devices import StepMemory
from transformer_jax.training.evaluator import Evaluation
from transformer_jax.training.pace import Pace
from transformer_jax.training.summary import (
    describe_best,
    describe_end,
    describe_epochs,
    describe_memory,
    describe_parameters,
    describe_start,
    unused_positions,
)
from transformer_jax.training.visible_log import in_notebook, loggers_of_console

__all__ = ["Console"]

log = logging.getLogger(__name__)

# Without tqdm's own estimate of the remaining time, which counts compilations and evaluations as steps.
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}"


class Console:
    """Shows what a training runs on, its steps, loss, tokens/s and the remaining time, and how it ended: on a terminal with a
    or in a notebook with a bar, in a log file with a line for each report. The training is that of `config`, which the first
    line calls `name`, in the run folder `workdir`, and begins now. Without `verbose` there is no bar."""

    def __init__(self, config: Config, workdir: Any, name: str = "", verbose: bool = True):
        self._config, self._workdir, self._name, self._verbose = config, workdir, name, verbose
        self._began, self._first_step = time.perf_counter(), 0
        self._bar, self._pace = tqdm(disable=True), Pace(config.train)
        self._loss, self._best, self._has_evaluated = "", "", False
        self._shapes, self._compiled = 0, set()  # the number of all shapes of batches, and those that were compiled

    def starting(self) -> None:
        """Reports the version, the config's name, the run folder and the devices."""
        dtype = self._config.model.compute_dtype
        for line in describe_start(self._name, self._workdir, platform.default_compute_dtype() if dtype == "auto" else dtype):
            log.info(line)
        platform.tell_unused_accelerator()

    def prepared(self, stream: BatchStream, params: Mapping[str, Any], trained: str = "") -> None:
        """Reports the size of the model, how much of it is `trained` (in words, empty: all) and the number of epochs."""
        config, self._shapes = self._config, len(stream.shapes)
        log.info(describe_parameters(params, config.model.tied_embeddings != "none"))
        if trained:
            log.info(trained)
        epochs, too_many = describe_epochs(config, stream.batches_per_epoch, stream.pairs)
        log.info(epochs)
        _warn(too_many)
        _warn(unused_positions(config.batch, stream.shapes))

    @contextlib.contextmanager
    def showing(self, progress: TrainProgress) -> Iterator[None]:
        """The bar, from `progress` on, while the block runs."""
        self._first_step, self._best = progress.step, describe_best(self._config, progress)
        self._pace = Pace(self._config.train)
        if not (self._verbose and collectives.is_first() and (sys.stderr.isatty() or in_notebook())):
            yield
            return
        kind = _bar_of_notebook() if in_notebook() else tqdm
        self._bar = kind(
            initial=progress.step, total=self._config.train.steps, dynamic_ncols=True, leave=False, bar_format=_BAR
        )
        with logging_redirect_tqdm(loggers_of_console(), kind), contextlib.closing(self._bar):
            yield

    @contextlib.contextmanager
    def step(self, batch: Batch, memory: Callable[[], StepMemory]) -> Iterator[None]:
        """To be entered for each training step: shows that the program for a new shape of batches is compiled, and reports
        for the first shape what memory it takes (`memory()`)."""
        shape = batch.source.shape, batch.target_input.shape
        if shape in self._compiled:
            yield
            return
        self._compiled.add(shape)
        what = f"compiling shape {len(self._compiled)} of {self._shapes}"
        if len(self._compiled) == 1 and self._bar.disable:
            log.info("%s (each shape of batches has its own program, compiled or read from the cache once)", what)
        self._pace.interrupted()
        with self._showing(what):
            if len(self._compiled) == 1:
                log.info(describe_memory(memory()))
            yield

    def advance(self, step: int) -> None:
        """Advances the bar to this step, and what it says of the remaining time."""
        self._pace.advanced()
        self._bar.set_postfix_str(self._state(step), refresh=False)
        self._bar.update()

    def trained(self, step: int, numbers: Mapping[str, float]) -> None:
        """Reports the numbers of a line of metrics, and the programs that were compiled."""
        loss, rate = numbers["loss"], numbers["target_tokens_per_second"]
        self._loss = f"loss {loss:.3f}, {rate:,.0f} tokens/s"
        self._bar.set_postfix_str(self._state(step))
        if self._bar.disable:
            compiled = ""
            if numbers["compilations"]:
                compiled = f"{numbers['compilations']} programs compiled in {numbers['compile_seconds']:.1f} s"
            parts = [f"loss {loss:.3f}", f"{rate:,.0f} target tokens/s", self._left(step), compiled]
            log.info("step %d/%d: %s", step, self._config.train.steps, ", ".join(filter(None, parts)))

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """To be entered for an evaluation: shows it."""
        with self._pace.evaluation(), self._showing("evaluating"):
            yield

    def evaluating(self, done: int, lines: int) -> None:
        """Shows how many lines of the dev set are translated; in a log, before the first of them, that they will be."""
        if self._bar.disable and not (done or self._has_evaluated):
            log.info("evaluating: translating %s lines of the dev set", f"{lines:,}")
            self._has_evaluated = True
        self._bar.set_description_str(f"evaluating {done:,} of {lines:,} lines ")

    def evaluated(self, step: int, evaluation: Evaluation, progress: TrainProgress) -> None:
        """Reports the scores on the dev set and on those that are watched, the best step, sample translations, and the end of
        the training by `patience`."""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.numbers.items())
        self._best = describe_best(self._config, progress)
        best = " (best so far)" if progress.best_step == step else f" (best at step {progress.best_step})"
        log.info("step %d: dev %s%s", step, numbers, best)
        for name, of_name in evaluation.watched.items():
            log.info("step %d: watched %s: %s", step, name, ", ".join(f"{key} {value:.4g}" for key, value in of_name.items()))
        for sample in evaluation.samples:
            log.info("  %s", sample)
        if progress.stopped:
            log.info("stopped: %d evaluations without a better score", progress.evaluations_without_better)

    def ended(self, progress: TrainProgress) -> None:
        """Reports the steps and minutes of this training, the best score, the run folder and the next command."""
        steps, seconds = progress.step - self._first_step, time.perf_counter() - self._began
        for line in describe_end(self._config, progress, steps, seconds, self._workdir):
            log.info(line)

    @contextlib.contextmanager
    def _showing(self, what: str) -> Iterator[None]:
        """Shows before the bar what keeps the training from its next step."""
        self._bar.set_description_str(f"{what} ")
        try:
            yield
        finally:
            self._bar.set_description_str("", refresh=False)

    def _state(self, step: int) -> str:
        return ", ".join(filter(None, [self._left(step), self._loss, self._best]))

    def _left(self, step: int) -> str:
        seconds = self._pace.seconds_left(step)
        return "" if seconds is None else f"{_duration(seconds)} left"


def _warn(warning: str) -> None:
    if warning:
        log.warning("warning: %s", warning)


def _bar_of_notebook() -> type[tqdm]:
    from tqdm.auto import tqdm as of_notebook

    return of_notebook


def _duration(seconds: float) -> str:
    """
    >>> _duration(3725)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
