"""train(config, workdir): a whole training, from text to the last checkpoint."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax

from transformer_jax.config import Config, validate
from transformer_jax.data.prefetch import prefetch
from transformer_jax.data.stream import StreamPosition
from transformer_jax.distributed.log_of_first import first_speaks
from transformer_jax.errors import ToBeContinued, UserError, memory_advice
from transformer_jax.inference.translator import Translator
from transformer_jax.models.attention_kernel import require_kernel
from transformer_jax.models.random_keys import key_of, seed_words
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.platform import without_warning_of_jax
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.checkpoint_writer import CheckpointWriter
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.runs.run_folder import Run
from transformer_jax.runs.run_lock import locked
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.batch_fit import token_finder
from transformer_jax.training.compilations import Compilations
from transformer_jax.training.console import Console
from transformer_jax.training.evaluator import Evaluation, make_evaluator
from transformer_jax.training.init_from import first_parameters
from transformer_jax.training.metrics import Meter
from transformer_jax.training.metrics_writer import MetricsWriter
from transformer_jax.training.optimizer import learning_rate, make_optimizer
from transformer_jax.training.preemption import Preemption
from transformer_jax.training.prepare import open_run, prepare, read_watched
from transformer_jax.training.profiling import Profiler
from transformer_jax.training.step import TrainState, make_train_step
from transformer_jax.training.trainable import Trainable
from transformer_jax.training.visible_log import visible_log

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(
    config: Config,
    workdir: str,
    extend: bool = False,
    *,
    verbose: bool = True,
    name: str = "",
    profile: tuple[int, int] | None = None,
) -> TrainProgress:
    """Trains until `config.train.steps`, or until the dev score has not risen for `train.patience` evaluations.

    `workdir` is the run folder (`runs/run_folder.py`). Called again with the same arguments, training continues from its
    newest checkpoint. `extend` lets a run whose learning rate decays over all its steps go on to more of them, from there on
    with the rates of the longer schedule.

    The log (`logging.getLogger("transformer_jax")`) has the first lines, the progress and the last lines; where the program has
    not set up `logging`, they are printed on standard error, or in a notebook. A terminal and a notebook have a bar. With
    `verbose=False` nothing is shown. `name` is what the first line calls the config. JAX's profiler traces the updates
    from the first to the last of `profile` (`profiling.Profiler`).

    Returns the progress at the end. Raises UserError for bad input, and when a loss is not finite; ToBeContinued after a
    SIGTERM, SIGHUP or Ctrl-C, when a checkpoint of the last step has been saved.
    """
    with visible_log(verbose), without_warning_of_jax():
        require_kernel(validate(config).model)
        if config.decode.shortlist:
            raise UserError(
                f"config: decode.shortlist={config.decode.shortlist} should be 0: its table is made of a finished run "
                "(transformer-jax shortlist); from then on give --shortlist to translate.py, evaluate.py or serve.py"
            )
        parallel, console = Parallel(config), Console(config, workdir, name, verbose)
        return _train(parallel, config, workdir, extend, console, Profiler(profile, config.train.steps, workdir))


def _train(parallel: Parallel, config: Config, workdir: str, extend: bool, console: Console, trace: Profiler) -> TrainProgress:
    # Patterns that name no parameter are reported before any text is read. Paths do not depend on the vocabulary.
    trainable = Trainable(config.train, build_model(config.model, vocab_size=8))
    with Preemption() as preemption, first_speaks(), locked(workdir):
        watched = read_watched(config)  # first: a set that cannot be read changes no config.json
        run = open_run(workdir, config, extend)
        console.starting()
        find_tokens = None if run.config.batch.tokens else token_finder(config, parallel)
        tokenizer, stream, dev = prepare(run, find_tokens)
        model, optimizer = build_model(config.model, tokenizer.vocab_size), make_optimizer(config)
        train_step = parallel.step(make_train_step(model, optimizer, config.train))
        translator = Translator(model, None, tokenizer, config, usual_length=stream.usual_length)
        translator.spell_by(run.source_words)
        translator.speller(translator.search_config())  # words that are damaged are told before the first update
        evaluate_params = make_evaluator(config, translator, dev, stream.shapes, preemption.check, console.evaluating, watched)
        rate = learning_rate(config)
        init_key, step_key = jax.random.split(key_of(seed_words(config.train.seed)))

        def evaluate(state: TrainState) -> Evaluation:
            return evaluate_params(trainable.inference_params(state, parallel.gather_params))

        def first_state(params: Any) -> TrainState:
            adapters = trainable.fresh_adapters(params, init_key)
            return TrainState.create(params, optimizer, config.train.ema_decay, trainable, adapters)

        state = parallel.create(lambda key: first_state(init_parameters(model, key)), init_key)
        progress = TrainProgress(tokenizer=tokenizer.fingerprint, corpus=stream.corpus, usual_length=stream.usual_length)
        console.prepared(stream, state.params, trainable.describe(state.params, state.adapters))
        preemption.hold()
        with run.checkpoint_writer() as checkpoints:
            state, progress = _resume(run, checkpoints.reader, parallel, state, progress)
            if config.train.init_from and not progress.step:
                params = first_parameters(config, model, tokenizer, init_key)
                state = parallel.create(first_state, params)
            batches = prefetch(stream.batches(StreamPosition(progress.epoch, progress.offset), *parallel.process_shard))
            memory = memory_advice(f"lower batch.tokens={run.config.batch.tokens} or raise train.accumulation")
            metrics = MetricsWriter(run.workdir, progress.step, evaluated=progress.score is not None)
            with memory, batches, console.showing(progress), metrics as writer, trace:
                session = _Session(
                    config, run, checkpoints, parallel, evaluate, writer, console, state, progress, stream.require_whole
                )
                if session.done():
                    log.info("trained to step %d already, nothing to do", progress.step)
                try:
                    session.make_up_evaluation()
                    while not session.done():
                        preemption.check()
                        with session.waiting():
                            batch, position = next(batches)
                        told = console.step(batch, lambda batch=batch: train_step.memory(session.state, batch, step_key))
                        with told, trace.update(session.progress.step + 1, lambda: session.state):
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
        console.ended(session.progress)
        return session.progress


class _Session:
    """The state and progress of a running training, and its periodic work: metrics, evaluations, checkpoints."""

    def __init__(
        self,
        config: Config,
        run: Run,
        checkpoints: CheckpointWriter,
        parallel: Parallel,
        evaluate: Callable[[TrainState], Evaluation],
        writer: MetricsWriter,
        console: Console,
        state: TrainState,
        progress: TrainProgress,
        require_whole: Callable[[], None],
    ):
        self.state, self.progress, self._require_whole = state, progress, require_whole
        self._config, self._run, self._checkpoints, self._parallel = config.train, run, checkpoints, parallel
        self._evaluate, self._writer, self._console = evaluate, writer, console
        consistency = config.train.consistency != "none"
        self._meter = Meter(progress.unwritten, progress.skipped, config.train.max_skipped, consistency)
        self._compilations = Compilations()
        self._saved = progress.step

    def done(self) -> bool:
        return self.progress.stopped or self.progress.step >= self._config.steps

    def waiting(self) -> contextlib.AbstractContextManager:
        return self._meter.waiting()

    def due(self, every: int) -> bool:
        """Is this step a multiple of `every`, or the last?"""
        return self.progress.step % every == 0 or self.progress.step == self._config.steps

    def after_update(self, position: StreamPosition, sums: Any) -> None:
        step = self.progress.step + 1
        self.progress = dataclasses.replace(self.progress, step=step, epoch=position.epoch, offset=position.offset, score=None)
        self._meter.add(step, sums)
        self._console.advance(step)

    def log(self, rate: Callable[[int], Any]) -> None:
        numbers = self._meter.take()
        # The optimizer does not count skipped updates.
        last_update = max(self.progress.step - self._meter.skipped - 1, 0)
        numbers = numbers | {"epoch": self.progress.epoch, "learning_rate": float(rate(last_update))}
        numbers |= self._compilations.take_numbers()
        self._writer.write(self.progress.step, "train", numbers)
        self._console.trained(self.progress.step, numbers)

    def evaluate(self) -> None:
        with self._meter.pause(), self._console.evaluation():
            evaluation = self._evaluate(self.state)
        self.progress = self.progress.evaluated(evaluation.score, self._config.patience, evaluation.alignment_layer)
        numbers = evaluation.numbers | self._compilations.take_numbers()
        self._writer.write(self.progress.step, "dev", numbers, evaluation.samples)
        for name, of_name in evaluation.watched.items():
            self._writer.write(self.progress.step, f"watch:{name}", of_name)
        self._console.evaluated(self.progress.step, evaluation, self.progress)

    def make_up_evaluation(self) -> None:
        """Evaluates and saves first where the training was interrupted between a step and its evaluation."""
        if self.progress.step and self.progress.score is None and self.due(self._config.evaluate_every):
            self.evaluate()
            self.save(self._checkpoints)

    def save(self, checkpoints: CheckpointWriter) -> None:
        with self._meter.pause():
            self._require_whole()  # nothing that was learned from damaged text is kept
            progress = dataclasses.replace(self.progress, unwritten=self._meter.unwritten(), skipped=self._meter.skipped)
            checkpoints.save(self._parallel.to_save(self.state), progress)
        self._saved = self.progress.step

    def save_interrupted(self) -> None:
        """Saves the steps since the last checkpoint in a folder of its own: the run's checkpoints stay those of an
        uninterrupted training."""
        if self.progress.step > self._saved:
            with self._run.interrupted() as interrupted:
                self.save(interrupted)


def _resume(
    run: Run, checkpoints: CheckpointReader, parallel: Parallel, state: TrainState, progress: TrainProgress
) -> tuple[TrainState, TrainProgress]:
    """The run's newest state and progress; `state` and `progress` unchanged where it has no checkpoint."""
    newest = max(checkpoints.steps(), default=0)
    if run.was_interrupted():
        with run.interrupted() as interrupted:
            step = max(interrupted.reader.steps(), default=0)
            if step > newest:
                return _restore(interrupted.reader, step, parallel, state, progress)
    return _restore(checkpoints, newest, parallel, state, progress) if newest else (state, progress)


def _restore(
    checkpoints: CheckpointReader, step: int, parallel: Parallel, state: TrainState, progress: TrainProgress
) -> tuple[TrainState, TrainProgress]:
    checkpoints.check_belongs(step, progress.tokenizer, progress.corpus)
    state, restored = checkpoints.restore(step, parallel.to_restore(state))
    log.info("going on from step %d", restored.step)
    # The usual length is a property of the corpus, and older checkpoints do not have it.
    return parallel.restored(state), dataclasses.replace(restored, usual_length=progress.usual_length)
