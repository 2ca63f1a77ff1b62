"""The learning rate schedule and the optax chain."""

import jax
import jax.numpy as jnp
import optax

from transformer_jax.config import Config

__all__ = ["learning_rate", "make_optimizer"]


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
    """Clipping by the global norm (with `clip_norm`), then Adam (Kingma and Ba 2015) with `learning_rate`, and with
    `weight_decay` decoupled weight decay on matrices (Loshchilov and Hutter 2019)."""
    optimizer = config.optimizer
    clip = optax.clip_by_global_norm(optimizer.clip_norm) if optimizer.clip_norm else optax.identity()
    adam = optax.adamw(
        learning_rate(config),
        optimizer.beta1,
        optimizer.beta2,
        optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    )
    return optax.chain(clip, adam)
