"""The learning rate schedule and the optax chain."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import Array

from transformer_jax.config import Config
from transformer_jax.training.matrices import matrix_shape, on_matrices

__all__ = ["learning_rate", "make_optimizer", "optimizer_average"]


def learning_rate(config: Config) -> optax.Schedule:
    """step (from 0) -> learning rate of the next update, number n = step + 1.

    With w = `warmup_steps` (at least 1) and D = `model.width`, the rate is peak n / w up to n = w, and then

    * inverse_sqrt: peak sqrt(w / n)
    * constant: peak
    * cosine: peak (1 + cos(pi (n - w) / (d - w))) / 2, and 0 from n = d = `decay_steps` on (0: `train.steps`)

    The peak is `learning_rate`, or where that is 0 (D w)^-0.5, with which inverse_sqrt is Vaswani et al. 2017, eq. 3.

    >>> config = Config()
    >>> config.model.width, config.optimizer.warmup_steps = 64, 4
    >>> [float(learning_rate(config)(step)) for step in (0, 3, 15)]
    [0.015625, 0.0625, 0.03125]
    """
    optimizer = config.optimizer
    warmup = max(optimizer.warmup_steps, 1)
    peak = optimizer.learning_rate or (config.model.width * warmup) ** -0.5
    if optimizer.schedule == "inverse_sqrt":
        return lambda step: peak * jnp.minimum((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)
    rise = optax.linear_schedule(peak / warmup, peak, warmup - 1)
    if optimizer.schedule == "constant":
        return rise
    decay = (optimizer.decay_steps or config.train.steps) - warmup
    return optax.join_schedules([rise, optax.cosine_decay_schedule(peak, max(decay, 1))], [warmup - 1])


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping by the global norm (with `clip_norm`), then the rule that `optimizer.name` names, with the rate of
    `learning_rate`, and with `weight_decay` decoupled weight decay on matrices (Loshchilov and Hutter 2019):

    * adam: Kingma and Ba 2015; with weight decay it is AdamW
    * adafactor: Shazeer and Stern 2018, algorithms 4 to 6 without momentum: squared gradients in factored form for matrices
      whose sides are both at least 128, decay 1 - t^-0.8, update clipped to a root mean square of 1, and times
      max(10^-3, RMS(array))
    * muon: Jordan et al. 2024 on the matrices of layers (`matrices.matrix_shape`), with Nesterov momentum 0.95 and updates
      times 0.2 sqrt(max(rows, columns)), whose root mean square is that of Adam's updates (Liu et al. 2025, eq. 4), so that
      one rate serves both; Adam on embeddings, learned positions, biases and norms
    * lion: Chen et al. 2023, algorithm 2
    * schedule_free: Defazio et al. 2024, algorithm 1: gradients are taken at y = (1 - beta1) z + beta1 x, where Adam without
      momentum moves z, and x is the average of all z, each with the weight of the largest squared rate so far. The parameters
      of training are y, and `optimizer_average` is x.

    >>> config = Config()
    >>> config.optimizer.name, config.optimizer.learning_rate, config.optimizer.warmup_steps = "lion", 0.5, 1
    >>> optimizer, params = make_optimizer(config), jnp.array([1.0, 1.0])
    >>> [float(x) for x in optimizer.update(jnp.array([3.0, -7.0]), optimizer.init(params), params)[0]]
    [-0.5, 0.5]
    """
    options, rate = config.optimizer, learning_rate(config)
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    beta1, beta2, epsilon, decay = options.beta1, options.beta2, options.epsilon, options.weight_decay
    if options.name == "adam":
        return optax.chain(clip, optax.adamw(rate, beta1, beta2, epsilon, weight_decay=decay, mask=_decayed))

    def rule(scaling: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(scaling, optax.add_decayed_weights(decay, _decayed), optax.scale_by_learning_rate(rate))

    if options.name == "schedule_free":
        scaling = optax.scale_by_rms(beta2, epsilon, eps_in_sqrt=False, bias_correction=True)
        # Its count of updates begins at 1, that of the learning rate at 0.
        return optax.chain(clip, optax.contrib.schedule_free(rule(scaling), lambda count: rate(count - 1), beta1))
    scaling = {
        "adafactor": _adafactor,
        "muon": lambda: _muon(beta1, beta2, epsilon),
        "lion": lambda: optax.scale_by_lion(beta1, beta2),
    }[options.name]
    return optax.chain(clip, rule(scaling()))


def optimizer_average(optimizer_state: optax.OptState, params: Any) -> Any:
    """The average x of the parameters that the optimizer `schedule_free` evaluates, of its state and the parameters of training
    y: x = (y - (1 - beta1) z) / beta1 (Defazio et al. 2024). None for the other optimizers."""
    states = jax.tree.leaves(optimizer_state, is_leaf=_is_schedule_free)
    state = next(filter(_is_schedule_free, states), None)
    return None if state is None else optax.contrib.schedule_free_eval_params(state, params)


def _is_schedule_free(state: Any) -> bool:
    return isinstance(state, optax.contrib.ScheduleFreeState)


def _decayed(params: Any) -> Any:
    """Where `params` has a matrix or a table: the bias of an attention has two or three axes, and is not one."""

    def is_decayed(path: tuple, leaf: Array) -> bool:
        return leaf.ndim > 1 and not jax.tree_util.keystr(path, simple=True, separator="/").endswith("bias")

    return jax.tree.map_with_path(is_decayed, params)


def _adafactor() -> optax.GradientTransformation:
    return on_matrices(
        optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms(1e-3))
    )


def _muon(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    def sides(updates: Any) -> Any:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), updates)

    def sized(updates: Any, _: Any = None) -> Any:
        return jax.tree.map(lambda x: x * (0.2 * max(x.shape[-2:]) ** 0.5), updates)

    def label(path: tuple, leaf: Array) -> str:
        return "muon" if matrix_shape(path, leaf.shape) else "adam"

    orthogonal = optax.chain(optax.contrib.scale_by_muon(weight_dimension_numbers=sides), optax.stateless(sized))
    groups = {"muon": orthogonal, "adam": optax.scale_by_adam(beta1, beta2, epsilon)}
    return on_matrices(optax.partition(groups, lambda params: jax.tree.map_with_path(label, params)))
