"""One update and one evaluation as pure functions of state, batch and key."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from transformer_jax.config import TrainConfig
from transformer_jax.inference.alignment import hard_alignment
from transformer_jax.training.consistency import consistency_sums
from transformer_jax.training.objective import LossSums, loss_sums
from transformer_jax.training.optimizer import optimizer_average
from transformer_jax.training.trainable import Trainable

__all__ = ["StepSums", "TrainState", "make_eval_step", "make_train_step", "moving_average"]


class TrainState(NamedTuple):
    """All that training changes. Random keys are not part of it: each step uses `fold_in(key, step)`."""

    step: Array  # int32 []: the number of batches so far
    params: Any  # a tree of float32 arrays
    optimizer_state: optax.OptState
    ema: Any = None  # `moving_average` of the parameters in float32, or `optimizer_average`; None: there is none
    skipped: Array | int = 0  # int32 []: how many of the steps changed no parameter (`config.max_skipped`)
    adapters: Any = None  # the factors of `Adapters`, of which `ema` then is the average; None: parameters train

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        ema_decay: float = 0.0,
        trainable: Trainable | None = None,
        adapters: Any = None,
    ) -> "TrainState":
        """The state before the first update: a new optimizer state of what is `trainable` (None: all parameters), the
        `adapters` where these are, and with `ema_decay` or an optimizer that averages the parameters an average equal to the
        parameters, or to the adapters."""
        trained = trainable.split(params, adapters)[0] if trainable else params
        optimizer_state = optimizer.init(trained)
        averages = ema_decay or optimizer_average(optimizer_state, trained) is not None
        # A copy: both are donated to the step.
        averaged = params if adapters is None else adapters
        ema = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), averaged) if averages else None
        return cls(jnp.zeros((), jnp.int32), params, optimizer_state, ema, jnp.zeros((), jnp.int32), adapters)

    @property
    def inference_params(self) -> Any:
        """The parameters for evaluation and translation: their average where there is one, else the parameters. Not where there
        are adapters (`Trainable.inference_params`)."""
        return self.params if self.ema is None else self.ema


class StepSums(NamedTuple):
    """Sums of one step, to be added up over steps and divided when metrics are written. Float32 scalars."""

    loss: LossSums
    source_tokens: Array
    gradient_norm: Array  # before clipping, of the parameters that train
    finite: Array  # 1 if the loss, the gradient's norm and all new parameters are finite numbers, else 0
    steps: Array  # 1
    divergence: Array | None = None  # of the two passes, over the target tokens; None with `config.consistency` "none"


def moving_average(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """ema_t = d_t ema_(t-1) + (1 - d_t) params_t, where d_t = min(decay, (1 + t) / (10 + t)) and t = `step`, the number of
    updates, from 1.

    The mean of about the last 1 / (1 - decay) parameters (Polyak and Juditsky 1992). The smaller decay of the first updates
    removes the initial parameters soon, as in TensorFlow's `ExponentialMovingAverage` and Marian's `--exponential-smoothing`
    (which is given 1 - decay).

    `ema` and `params` are trees of the same shapes, `step` is int32 [].

    >>> round(float(moving_average(1.0, 2.0, step=1, decay=0.999)), 3)
    1.818
    """
    return optax.incremental_update(params, ema, jnp.maximum(1 - decay, 9 / (10 + step)))


def _new_average(
    state: TrainState, trained: Any, optimizer_state: optax.OptState, ema_decay: float, trainable: Trainable
) -> Any:
    """The `ema` of the state that follows `state` with these trained parameters and this state of the optimizer. That of a
    frozen parameter is not computed, which would round it, but stays."""
    if state.ema is None:
        return None
    before, frozen = (state.ema, {}) if trainable.adapters else trainable.split(state.ema)
    if ema_decay:
        average = moving_average(before, trained, state.step + 1 - state.skipped, ema_decay)
    else:
        average = optimizer_average(optimizer_state, trained)
    return average if trainable.adapters else trainable.join(average, frozen)[0]


def _objective(
    trained: Any,
    batch: Any,
    key: Array,
    *,
    frozen: Any,
    model: nn.Module,
    config: TrainConfig,
    trainable: Trainable,
    gather_params: Callable | None,
) -> tuple[Array, tuple[LossSums, Array | None]]:
    """The sum of the objective over the target tokens of these rows, and all sums of the step."""
    if gather_params:
        trained, frozen = gather_params(trained), frozen and gather_params(frozen)
    params = trainable.of_model(trained, frozen)
    if config.consistency == "none":
        logits = model.apply({"params": params}, batch, train=True, rngs={"dropout": key})
        sums, divergence = loss_sums(logits, batch.target_output, batch.target_segment, config.label_smoothing), None
    else:
        sums, divergence = consistency_sums(model, params, batch, key, config)
    sums, divergence = jax.tree.map(jnp.sum, (sums, divergence))
    return sums.loss, (sums, divergence)


def make_train_step(model: nn.Module, optimizer: optax.GradientTransformation, config: TrainConfig) -> Callable:
    """The pure function train_step(state, batch, key, *, axis_name=None, reduce_dtype="float32", gather_params=None) ->
    (state, StepSums).

    `state` is a `TrainState`, `batch` a `Batch`. The step minimises the mean loss of all target tokens of the global batch,
    which is that of `consistency_sums` with `config.consistency`, else that of `loss_sums`.
    Gradients, losses and counts are summed over `config.accumulation` slices of the rows, then over `axis_name` (if the rows
    are also split over devices; gradients in `reduce_dtype`, all else in float32), and divided by the number of tokens once, at
    the end. `gather_params`, where it is given, places the parameters for the model. With `config.ema_decay` the state's `ema`
    follows the new parameters; with an optimizer that averages them, it is `optimizer_average`. With `config.max_skipped`, an
    update in which a number is not finite changes only `step` and `skipped`, and of its sums only `steps` is not 0: the
    learning rate, the optimizer's state and the decay of the moving average continue from the last update that was applied.
    With `config.freeze` or `config.lora_rank` only what is `Trainable` has gradients and changes. With `config.remat` the
    model's backward pass is `recomputed`. Raises UserError as `Trainable` does.
    """
    trainable = Trainable(config, model)
    if config.remat != "none":
        model = model.clone(remat=config.remat)

    def accumulate(params, frozen, batch, key, gather_params):
        fixed = dict(frozen=frozen, model=model, config=config, trainable=trainable, gather_params=gather_params)
        of_rows = functools.partial(_objective, **fixed)
        gradient_of = jax.grad(of_rows, has_aux=True)
        count = config.accumulation
        if count == 1:
            return gradient_of(params, batch, key)
        # Slice a has the rows a, a + count, ...: it has the same number of rows of every device, whose rows are neighbours.
        slices = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, indexed_slice):
            index, rows = indexed_slice
            return jax.tree.map(jnp.add, total, gradient_of(params, rows, jax.random.fold_in(key, index))), None

        sums = LossSums(*[jnp.zeros(())] * 4), None if config.consistency == "none" else jnp.zeros(())
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, sums))
        return jax.lax.scan(add, zero, (jnp.arange(count), slices))[0]

    def train_step(state, batch, key, *, axis_name=None, reduce_dtype="float32", gather_params=None):
        key = jax.random.fold_in(key, state.step)
        source_tokens = jnp.sum(batch.source_segment > 0, dtype=jnp.float32)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        trained, frozen = trainable.split(state.params, state.adapters)
        gradient, sums_of_rows = accumulate(trained, frozen, batch, key, gather_params)
        total = jax.tree.map(lambda leaf: leaf.astype(reduce_dtype), gradient), sums_of_rows, source_tokens
        if axis_name is not None:
            total = jax.lax.psum(total, axis_name)
        gradient, (sums, divergence), source_tokens = total
        gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / jnp.maximum(sums.tokens, 1), gradient)
        norm = optax.tree.norm(gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, trained)
        trained = optax.apply_updates(trained, updates)
        # The new parameters too: a finite gradient times a huge rate overflows, and a save may come before the next loss.
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in (sums.loss, norm, *jax.tree.leaves(trained))]).all()
        step_sums = StepSums(sums, source_tokens, norm, finite.astype(jnp.float32), jnp.ones(()), divergence)
        ema = _new_average(state, trained, optimizer_state, config.ema_decay, trainable)
        params, adapters = trainable.join(trained, frozen)
        new = TrainState(state.step + 1, params, optimizer_state, ema, state.skipped, adapters)
        if config.max_skipped:
            unchanged = state._replace(step=new.step, skipped=state.skipped + 1)
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, unchanged)
            step_sums = jax.tree.map(lambda x: jnp.where(finite, x, 0), step_sums)._replace(steps=step_sums.steps)
        return new, step_sums

    return train_step


def make_eval_step(model: nn.Module, eos_id: int) -> Callable:
    """The pure function eval_step(params, batch) -> (`LossSums` of each row [B], without dropout and label smoothing, and the
    rows' `hard_alignment`, int32 [B, L, T], or None where there is no attention to the source)."""

    def eval_step(params, batch):
        logits, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        sums = loss_sums(logits, batch.target_output, batch.target_segment, label_smoothing=0.0)
        places = hard_alignment(sown, batch.source, eos_id)
        return sums, None if places is None else places.swapaxes(0, 1)

    return eval_step
