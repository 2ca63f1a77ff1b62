"""train(config, workdir): the whole of a training, from text to the last checkpoint."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax

from transformer_jax.config import Config, validate
from transformer_jax.data.prefetch import prefetch
from transformer_jax.data.stream import StreamPosition
from transformer_jax.errors import ToBeContinued, memory_advice
from transformer_jax.models.random_keys import key_of, seed_words
from transformer_jax.models.seq2seq import build_model, count_parameters, init_parameters
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.checkpoint_writer import CheckpointWriter
from transformer_jax.runs.progress import Progress
from transformer_jax.runs.run_folder import Run
from transformer_jax.runs.run_lock import locked
from transformer_jax.training.compilations import Compilations
from transformer_jax.training.console import Console
from transformer_jax.training.evaluator import Evaluation, make_evaluator
from transformer_jax.training.metrics import Meter
from transformer_jax.training.metrics_writer import MetricsWriter
from transformer_jax.training.optimizer import learning_rate, make_optimizer
from transformer_jax.training.parallel import Parallel
from transformer_jax.training.preemption import Preemption
from transformer_jax.training.prepare import open_run, prepare
from transformer_jax.training.start import first_parameters
from transformer_jax.training.step import TrainState, make_train_step

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(config: Config, workdir: str) -> Progress:
    """Trains until `config.train.steps`, or until the dev score has not risen for `train.patience` evaluations.

    `workdir` keeps everything (see `run.py`). Called again with the same arguments it goes on where it was. Returns where it
    stands at the end. Raises UserError for bad input, and when a loss is not finite; ToBeContinued, with all that was done
    saved, after a SIGTERM or Ctrl-C.
    """
    parallel = Parallel(validate(config))
    with Preemption() as preemption, locked(workdir):
        run = open_run(workdir, config)
        tokenizer, stream, dev = prepare(run)
        model, optimizer = build_model(config.model, tokenizer.vocab_size), make_optimizer(config)
        train_step = parallel.step(make_train_step(model, optimizer, config.train))
        evaluate = make_evaluator(config, model, tokenizer, dev, stream.shapes, preemption.check, stream.usual_length)
        rate = learning_rate(config)
        init_key, step_key = jax.random.split(key_of(seed_words(config.train.seed)))
        decay = config.train.ema_decay
        state = parallel.create(lambda key: TrainState.create(init_parameters(model, key), optimizer, decay), init_key)
        progress = Progress(tokenizer=tokenizer.fingerprint, corpus=stream.corpus, usual_length=stream.usual_length)
        log.info("%s parameters, computed in %s", f"{count_parameters(state.params):,}", model.dtype)
        preemption.hold()
        with run.checkpoint_writer() as checkpoints:
            state, progress = _resume(run, checkpoints.reader, parallel, state, progress)
            if config.train.init_from and not progress.step:
                params = first_parameters(config, model, tokenizer)
                state = parallel.create(lambda params: TrainState.create(params, optimizer, decay), params)
            batches = prefetch(stream.batches(StreamPosition(progress.epoch, progress.offset), *parallel.part_of_rows))
            console = Console(progress.step, config.train.steps)
            memory = memory_advice(f"lower batch.tokens={config.batch.tokens} or raise train.accumulation")
            with memory, batches, console, MetricsWriter(run.workdir, progress.step) as writer:
                session = _Session(config, run, checkpoints, parallel, evaluate, writer, console, state, progress)
                if session.done():
                    log.info("trained to step %d already, nothing to do", progress.step)
                try:
                    session.evaluate_if_left_undone()
                    while not session.done():
                        preemption.check()
                        with session.waiting():
                            batch, position = next(batches)
                        session.state, sums = train_step(session.state, batch, step_key)
                        session.after_update(position, sums)
                        if session.due(config.train.log_every):
                            session.log(rate)
                        if session.due(config.train.evaluate_every):
                            session.evaluate()
                        if session.due(config.train.evaluate_every) or session.due(config.train.checkpoint_every):
                            session.save(checkpoints)
                except ToBeContinued:
                    session.save_interrupted()
                    raise
                return session.progress


class _Session:
    """What changes while a training goes on, and what is done with it now and then."""

    def __init__(
        self,
        config: Config,
        run: Run,
        checkpoints: CheckpointWriter,
        parallel: Parallel,
        evaluate: Callable[[Any], Evaluation],
        writer: MetricsWriter,
        console: Console,
        state: TrainState,
        progress: Progress,
    ):
        self.state, self.progress = state, progress
        self._config, self._run, self._checkpoints, self._parallel = config.train, run, checkpoints, parallel
        self._evaluate, self._writer, self._console = evaluate, writer, console
        self._meter = Meter(progress.unwritten, progress.skipped, config.train.max_skipped)
        self._compilations = Compilations()
        self._saved = progress.step

    def done(self) -> bool:
        return self.progress.stopped or self.progress.step >= self._config.steps

    def waiting(self) -> contextlib.AbstractContextManager:
        return self._meter.waiting()

    def due(self, every: int) -> bool:
        """Is what happens every so many steps, and at the last, to happen at this one?"""
        return self.progress.step % every == 0 or self.progress.step == self._config.steps

    def after_update(self, position: StreamPosition, sums: Any) -> None:
        step = self.progress.step + 1
        self.progress = dataclasses.replace(self.progress, step=step, epoch=position.epoch, offset=position.offset, score=None)
        self._meter.add(step, sums)
        self._console.advance()

    def log(self, rate: Callable[[int], Any]) -> None:
        numbers = self._meter.take()
        # The optimizer counts the updates that it was given, not those that were skipped.
        last_update = max(self.progress.step - self._meter.skipped - 1, 0)
        numbers = numbers | {"epoch": self.progress.epoch, "learning_rate": float(rate(last_update))}
        numbers |= self._compilations.take_numbers()
        self._writer.write(self.progress.step, "train", numbers)
        self._console.trained(self.progress.step, numbers)

    def evaluate(self) -> None:
        with self._meter.pause():
            evaluation = self._evaluate(self._parallel.whole(self.state.inference_params))
        self.progress = self.progress.evaluated(evaluation.score, self._config.patience, evaluation.alignment_layer)
        numbers = evaluation.numbers | self._compilations.take_numbers()
        self._writer.write(self.progress.step, "dev", numbers, evaluation.samples)
        self._console.evaluated(self.progress.step, evaluation, self.progress)

    def evaluate_if_left_undone(self) -> None:
        """A training that was interrupted in the evaluation of a step, or just before, makes up for it."""
        if self.progress.step and self.progress.score is None and self.due(self._config.evaluate_every):
            self.evaluate()
            self.save(self._checkpoints)

    def save(self, checkpoints: CheckpointWriter) -> None:
        with self._meter.pause():
            standing = dataclasses.replace(self.progress, unwritten=self._meter.unwritten(), skipped=self._meter.skipped)
            checkpoints.save(self._parallel.to_save(self.state), standing)
        self._saved = self.progress.step

    def save_interrupted(self) -> None:
        """What no checkpoint has yet; not among the checkpoints, which are to be those of an undisturbed training."""
        if self.progress.step > self._saved:
            with self._run.interrupted() as interrupted:
                self.save(interrupted)


def _resume(
    run: Run, checkpoints: CheckpointReader, parallel: Parallel, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    """The newest state of the run and where it stands; `state` and `progress` as they are if it has none."""
    newest = max(checkpoints.steps(), default=0)
    if run.was_interrupted():
        with run.interrupted() as interrupted:
            step = max(interrupted.reader.steps(), default=0)
            if step > newest:
                return _restore(interrupted.reader, step, parallel, state, progress)
    return _restore(checkpoints, newest, parallel, state, progress) if newest else (state, progress)


def _restore(
    checkpoints: CheckpointReader, step: int, parallel: Parallel, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    checkpoints.check_belongs(step, progress.tokenizer, progress.corpus)
    state, restored = checkpoints.restore(step, parallel.to_restore(state))
    log.info("going on from step %d", restored.step)
    # A checkpoint from before the usual length was kept does not have it; it is a fact of the corpus.
    return parallel.restored(state), dataclasses.replace(restored, usual_length=progress.usual_length)
