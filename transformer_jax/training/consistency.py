"""Consistency training: two passes of each batch that differ in what is dropped, and a loss for how far their predictions are
apart. SimCut (Gao et al. 2022) and R-Drop (Liang et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from transformer_jax.config import TrainConfig
from transformer_jax.models.layers import CUT
from transformer_jax.training.objective import LossSums, loss_sums

__all__ = ["consistency_sums", "divergence", "draw_cut", "symmetric_divergence"]

# `train.consistency_weight` of the papers' translation experiments.
_PAPERS_WEIGHT = {"simcut": 3.0, "rdrop": 5.0}


def divergence(p_logits: Array, q_logits: Array) -> Array:
    """KL(p || q) = sum_v p(v) (log p(v) - log q(v)) at each position, p and q being the softmax of the logits.

    float32 [B, T, V] each -> float32 [B, T], in nats. The gradient flows into both.

    >>> p, q = jnp.log(jnp.array([[[0.5, 0.5]]])), jnp.log(jnp.array([[[0.25, 0.75]]]))
    >>> round(float(divergence(p, q)[0, 0]), 4)  # 0.5 log 2 + 0.5 log(2/3)
    0.1438
    """
    return _divergence(p_logits, q_logits)


def symmetric_divergence(p_logits: Array, q_logits: Array) -> Array:
    """(KL(p || q) + KL(q || p)) / 2 = sum_v (p(v) - q(v)) (log p(v) - log q(v)) / 2, otherwise as `divergence`.

    >>> p, q = jnp.log(jnp.array([[[0.5, 0.5]]])), jnp.log(jnp.array([[[0.25, 0.75]]]))
    >>> float(symmetric_divergence(p, q)[0, 0]) == float(divergence(p, q)[0, 0] + divergence(q, p)[0, 0]) / 2
    True
    """
    return (_divergence(p_logits, q_logits) + _divergence(q_logits, p_logits)) / 2


# A gradient of its own, because only the logits are then kept for it: left to itself, JAX keeps probabilities and ratios too,
# float32 [B, T, V]. For three layers of width 192 and 8,000 pieces that is a fifth of the workspace of a step.
@jax.custom_vjp
def _divergence(p_logits: Array, q_logits: Array) -> Array:
    p, _, log_ratio = _compare(p_logits, q_logits)
    return jnp.sum(p * log_ratio, axis=-1)


def _forward(p_logits: Array, q_logits: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    value = _divergence(p_logits, q_logits)
    return value, (p_logits, q_logits, value)


def _backward(kept: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array]:
    """d KL / d p_logits = p (log p - log q - KL), d KL / d q_logits = q - p."""
    p_logits, q_logits, value = kept
    p, q, log_ratio = _compare(p_logits, q_logits)
    return gradient[..., None] * p * (log_ratio - value[..., None]), gradient[..., None] * (q - p)


_divergence.defvjp(_forward, _backward)


def _compare(p_logits: Array, q_logits: Array) -> tuple[Array, Array, Array]:
    """p, q and log p - log q, [B, T, V] each."""
    p_normaliser, q_normaliser = (jax.nn.logsumexp(logits, axis=-1, keepdims=True) for logits in (p_logits, q_logits))
    log_ratio = (p_logits - q_logits) - (p_normaliser - q_normaliser)
    return jnp.exp(p_logits - p_normaliser), jnp.exp(q_logits - q_normaliser), log_ratio


def draw_cut(key: Array, batch: Any, share: float) -> dict[str, Array]:
    """Which embeddings of a `Batch` are zero in SimCut's second pass: {"source": bool [B, S], "target": bool [B, T]}, for
    `target_input`.

    Each token is drawn by itself with probability `share`; never an EOS (the last position of a segment of the source), never
    a decoder start (position 0 of a segment of the target), never padding (segment 0).
    """
    source_key, target_key = jax.random.split(key)
    segment = batch.source_segment
    following = jnp.pad(segment[:, 1:], ((0, 0), (0, 1)))
    may_be_cut = {
        "source": (segment > 0) & (segment == following),
        "target": (batch.target_segment > 0) & (batch.target_position > 0),
    }
    drawn = {
        "source": jax.random.bernoulli(source_key, share, segment.shape),
        "target": jax.random.bernoulli(target_key, share, batch.target_segment.shape),
    }
    return jax.tree.map(jnp.logical_and, may_be_cut, drawn)


def consistency_sums(model: nn.Module, params: Any, batch: Any, key: Array, config: TrainConfig) -> tuple[LossSums, Array]:
    """The sums over each row's target tokens, float32 [B] each, of the objective of `config.consistency`, and of the divergence
    of the two passes. CE is the label-smoothed cross-entropy, alpha `config.consistency_weight` (0: 3 for simcut, 5 for rdrop).

    * `simcut` (Gao et al. 2022): CE(p) + alpha KL(p || q), where q is the pass in which the embeddings that
      `draw_cut` names are zero. q has no cross-entropy of its own; both passes have dropout. The embeddings are zero before
      positions are added, as in the first author's code.
    * `rdrop` (Liang et al. 2021, equation 4): CE(p) + CE(q) + alpha (KL(p || q) + KL(q || p)) / 2 for two passes with different
      dropout masks. The two cross-entropies are added, not averaged: without dropout the loss is twice the usual one.

    Gradients flow through both passes. `loss` is the objective; `cross_entropy`, `correct` and `tokens` are those of the first
    pass, which has nothing cut. The divergence is what alpha multiplies. `key` draws the masks and the cut.
    """
    first_key, second_key, cut_key = jax.random.split(key, 3)
    simcut = config.consistency == "simcut"
    cut = {CUT: draw_cut(cut_key, batch, config.cut)} if simcut else {}
    # Two passes, not one of 2B rows: on a CPU core the one took 5% to 8% longer (a Transformer of width 192 and the recipe
    # multi30k_lstm_attention, 64 rows of 18 tokens), and each device's rows stay where they are.
    first = model.apply({"params": params}, batch, train=True, rngs={"dropout": first_key})
    second = model.apply({"params": params} | cut, batch, train=True, rngs={"dropout": second_key})
    sums = loss_sums(first, batch.target_output, batch.target_segment, config.label_smoothing)
    loss = sums.loss
    if not simcut:
        loss += loss_sums(second, batch.target_output, batch.target_segment, config.label_smoothing).loss
    apart = (divergence if simcut else symmetric_divergence)(first, second)
    apart = jnp.sum(apart * (batch.target_segment > 0), axis=1)
    alpha = config.consistency_weight or _PAPERS_WEIGHT[config.consistency]
    return sums._replace(loss=loss + alpha * apart), apart
