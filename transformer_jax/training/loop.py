"""train(config, workdir): the whole of a training, from text to the last checkpoint."""

import dataclasses
import logging
from collections.abc import Callable

import jax

from transformer_jax.checkpoints import Progress
from transformer_jax.config import Config, validate
from transformer_jax.data.stream import Position, prefetch
from transformer_jax.errors import memory_advice
from transformer_jax.models.seq2seq import build_model, count_parameters, init_parameters
from transformer_jax.run import MetricsWriter, Run
from transformer_jax.training.console import Console
from transformer_jax.training.evaluator import make_evaluator
from transformer_jax.training.metrics import Meter
from transformer_jax.training.optimizer import learning_rate, make_optimizer
from transformer_jax.training.parallel import parallel_step
from transformer_jax.training.prepare import prepare
from transformer_jax.training.step import TrainState, make_train_step

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(config: Config, workdir: str) -> Progress:
    """Trains until `config.train.steps`, or until the dev score has not risen for `train.patience` evaluations.

    `workdir` keeps everything (see `run.py`). Called again with the same arguments it goes on where the last checkpoint was.
    Raises UserError for bad input, and when a loss is not finite.
    """
    run = Run.open_or_create(workdir, validate(config))
    tokenizer, stream = prepare(run)
    model, optimizer = build_model(config.model, tokenizer.vocab_size), make_optimizer(config)
    train_step = parallel_step(make_train_step(model, optimizer, config.train), config)
    evaluate = make_evaluator(config, model, tokenizer, stream.shapes)
    rate = learning_rate(config)
    init_key, step_key = jax.random.split(jax.random.key(config.train.seed))
    state = TrainState.create(init_parameters(model, init_key), optimizer)
    progress = Progress(tokenizer=tokenizer.fingerprint, corpus=stream.corpus)
    log.info("%s parameters, computed in %s", f"{count_parameters(state.params):,}", model.dtype)

    with run.checkpoints(keep=config.train.keep_checkpoints) as checkpoints:
        if checkpoints.steps():
            latest = checkpoints.steps()[-1]
            checkpoints.check_belongs(latest, tokenizer, stream.corpus)
            state, progress = checkpoints.restore(latest, state)
            log.info("going on from the checkpoint of step %d", progress.step)
        if progress.stopped or progress.step >= config.train.steps:
            log.info("already trained to step %d, nothing to do", progress.step)
            return progress
        batches = prefetch(stream.batches(Position(progress.epoch, progress.offset)))
        console = Console(progress.step, config.train.steps)
        memory = memory_advice(f"lower batch.tokens={config.batch.tokens} or raise train.accumulation")
        with memory, batches, console, MetricsWriter(run.workdir, progress.step) as writer:
            meter = Meter(progress.unwritten)
            for step, (batch, position) in enumerate(batches, progress.step + 1):
                due = _due(step, config.train.steps)
                state, sums = train_step(state, batch, step_key)
                meter.add(step, sums)
                progress = dataclasses.replace(progress, step=step, epoch=position.epoch, offset=position.offset, score=None)
                console.advance()
                if due(config.train.log_every):
                    numbers = meter.take() | {"epoch": position.epoch, "learning_rate": float(rate(step - 1))}
                    writer.write(step, "train", numbers)
                    console.trained(step, numbers)
                if due(config.train.evaluate_every):
                    with meter.pause():
                        evaluation = evaluate(state.params)
                    progress = progress.evaluated(evaluation.score, config.train.patience, evaluation.alignment_layer)
                    writer.write(step, "dev", evaluation.numbers, evaluation.samples)
                    console.evaluated(step, evaluation, progress)
                if due(config.train.evaluate_every) or due(config.train.checkpoint_every):
                    with meter.pause():
                        checkpoints.save(state, dataclasses.replace(progress, unwritten=meter.unwritten()))
                if progress.stopped or step == config.train.steps:
                    return progress


def _due(step: int, last: int) -> Callable[[int], bool]:
    """due(every): is what happens every so many steps, and at the last, to happen at this one?"""
    return lambda every: step % every == 0 or step == last
