"""Forced decoding: what the model says of targets that are known, in one teacher-forced pass over any number of rows of ids."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax.data.batch_shapes import Shape
from transformer_jax.data.batching import Batch, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.distributed.rows_over_devices import over_rows
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import hard_alignment, layer_attention, log_coverage, mean_attention
from transformer_jax.inference.length_batches import fill_devices, length_batches, power_of_two
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["ForcedDecoder"]


class ForcedDecoder:
    """A model's view of known targets. Rows are ids, int [tokens] each, EOS included; the rows of a batch of `tokens` positions
    are shared by all local devices.

    `max_positions` is how many places of a row the model has a position for.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, max_positions: int, coarse: bool = False):
        self._tokenizer = tokenizer
        self._max_positions = max_positions
        self._coarse = coarse  # are there very few shapes, and more padding? For programs that should be compiled beforehand
        self._hard_alignments = over_rows(_make_hard_alignments(model, tokenizer.eos_id))
        self._layer_attentions = over_rows(_make_layer_attentions(model, tokenizer.eos_id))
        self._token_log_probs = over_rows(_make_token_log_probs(model))

    def token_log_probs(
        self, params: Any, source: Sequence[np.ndarray], target: Sequence[np.ndarray], tokens: int, coverage: bool = False
    ) -> list[tuple[np.ndarray, float]]:
        """log P(y_i | y_1 .. y_{i-1}, x) of every token of every target row, float32 [T] each, and its `log_coverage` (0
        unless it is asked for). Raises UserError if a row is too long for the model."""
        function = functools.partial(self._token_log_probs, coverage=coverage)
        results: list[tuple[np.ndarray, float]] = [None] * len(source)
        for numbers, (log_probs, covered) in self._batches(function, params, source, target, tokens):
            for i, row, row_covered in zip(numbers, log_probs, covered, strict=False):
                results[i] = row[: len(target[i])], float(row_covered)
        return results

    def hard_alignments(
        self, params: Any, source: Sequence[np.ndarray], target: Sequence[np.ndarray], tokens: int
    ) -> list[np.ndarray] | None:
        """`alignment.hard_alignment` of every row: int32 [L, T or more]; None where there is no attention to the source. Raises
        UserError if a row is too long for the model."""
        results: list[np.ndarray] = [None] * len(source)
        for numbers, places in self._batches(self._hard_alignments, params, source, target, tokens):
            if places is None:
                return None
            for i, row in zip(numbers, places, strict=False):
                results[i] = row
        return results

    def layer_attentions(
        self, params: Any, source: Sequence[np.ndarray], target: Sequence[np.ndarray], tokens: int, layer: int
    ) -> list[np.ndarray]:
        """`alignment.layer_attention` of every row, in the layer `layer` from 1: float32 [T or more, S or more]. Raises
        UserError if a row is too long for the model, or the model has no attention to the source."""
        function = functools.partial(self._layer_attentions, layer=layer)
        results: list[np.ndarray] = [None] * len(source)
        for numbers, weights in self._batches(function, params, source, target, tokens):
            for i, row in zip(numbers, weights, strict=False):
                results[i] = row
        return results

    def _batches(
        self,
        function: Callable[..., Any],
        params: Any,
        source: Sequence[np.ndarray],
        target: Sequence[np.ndarray],
        tokens: int,
    ) -> Iterator[tuple[list[int], Any]]:
        """`function` of batches of these rows, with the numbers of the rows in each."""
        lengths = [max(pair) for pair in zip(map(len, source), map(len, target), strict=True)]
        longest, devices = max(lengths, default=0), jax.local_device_count()
        if longest > self._max_positions:
            raise UserError(f"a sentence of {longest} tokens is too long for model.max_positions={self._max_positions}")
        ids = self._tokenizer.pad_id, self._tokenizer.decoder_start_id
        for numbers, length in length_batches(lengths, tokens, devices):
            store = Store.of([source[i] for i in numbers], [target[i] for i in numbers])
            rows = fill_devices(len(numbers), devices)
            if self._coarse:
                length, rows = max(power_of_two(length), 32), devices * _power_of_eight(rows // devices)
            length = min(length, self._max_positions)
            shape = Shape(rows, length, length)
            batch = bucketed_batch(store, np.arange(len(numbers)), shape, *ids)
            yield numbers, jax.device_get(function(params, batch))


def _power_of_eight(count: int) -> int:
    return 1 << 3 * -(-(count - 1).bit_length() // 3)


def _make_hard_alignments(model: nn.Module, eos_id: int) -> Callable[[Any, Batch], jax.Array | None]:
    def hard_alignments(params: Any, batch: Batch) -> jax.Array | None:
        _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        places = hard_alignment(sown, batch.source, eos_id)
        return None if places is None else places.swapaxes(0, 1)  # [B, L, T]

    return hard_alignments


def _make_layer_attentions(model: nn.Module, eos_id: int) -> Callable[..., jax.Array]:
    def layer_attentions(params: Any, batch: Batch, *, layer: int) -> jax.Array:
        _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        return layer_attention(sown, batch.source, eos_id, layer)

    return layer_attentions


def _make_token_log_probs(model: nn.Module) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def log_probs(params: Any, batch: Batch, *, coverage: bool) -> tuple[jax.Array, jax.Array]:
        logits, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        logits = logits.astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, batch.target_output[:, :, None], axis=2)[:, :, 0]
        covered = jnp.zeros(len(logits))
        if coverage:
            attention = mean_attention(sown) * (batch.target_segment > 0)[:, :, None]
            covered = log_coverage(jnp.where(batch.source_segment > 0, attention.sum(axis=1), 1.0))
        return chosen - jax.nn.logsumexp(logits, axis=2), covered  # [B, T], [B]

    return log_probs
