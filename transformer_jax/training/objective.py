"""Label-smoothed cross-entropy, as sums and counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["LossSums", "loss_sums"]


class LossSums(NamedTuple):
    """Float32 sums over the target tokens of each row [B], or of all rows []; means are these divided by `tokens`."""

    loss: Array  # with label smoothing: the objective
    cross_entropy: Array  # without label smoothing, in nats: exp of its mean is the perplexity
    correct: Array  # tokens whose most probable prediction is right
    tokens: Array  # without padding


def loss_sums(logits: Array, target: Array, segment: Array, label_smoothing: float) -> LossSums:
    """For each row, the sum over its tokens of -(1 - eps) log p(y) - eps/V sum_v log p(v) (Szegedy et al. 2016, eq. 3, uniform
    over all V). Padding, where `segment` is 0, does not count.

    logits float32 [B, T, V], target and segment int32 [B, T] -> float32 [B] each. eps is `label_smoothing`.
    """
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    target_logit = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    cross_entropy = log_normaliser - target_logit  # [B, T]
    loss = cross_entropy
    if label_smoothing:
        uniform = log_normaliser - logits.mean(axis=-1)  # the cross-entropy of a uniform target distribution
        loss = (1 - label_smoothing) * cross_entropy + label_smoothing * uniform
    mask = (segment > 0).astype(jnp.float32)
    correct = (target_logit >= logits.max(axis=-1)).astype(jnp.float32)
    return LossSums(*(jnp.sum(value * mask, axis=1) for value in (loss, cross_entropy, correct)), jnp.sum(mask, axis=1))
