"""What a training is told of itself on the dev set: loss, perplexity, BLEU, sample translations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.alignment import mutual_information
from transformer_jax.config import Config
from transformer_jax.data.batching import Batch, Shape
from transformer_jax.data.corpus import read_pairs
from transformer_jax.data.store import open_store
from transformer_jax.data.stream import one_pass
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError
from transformer_jax.evaluation import score
from transformer_jax.training.metrics import loss_means
from transformer_jax.training.step import make_eval_step
from transformer_jax.translator import Translator

__all__ = ["Evaluation", "make_evaluator"]


class Evaluation(NamedTuple):
    numbers: dict[str, float]  # cross_entropy, perplexity, accuracy, and bleu if it was asked for
    score: float  # what is to rise: BLEU, or else minus the cross-entropy
    samples: list[str]
    alignment_layer: int  # whose attention tells most of which word became which, from 1; 0: there is none


def make_evaluator(
    config: Config, model: nn.Module, tokenizer: Tokenizer, shapes: Sequence[Shape]
) -> Callable[[Any], Evaluation]:
    """evaluate(params) -> Evaluation, over the whole dev set, unfiltered. Raises UserError if it cannot be read."""
    data = config.data
    pairs = read_pairs(data.dev, data.source_language, data.target_language)
    store = open_store(pairs, tokenizer, data.cache_dir)
    longest = max(store.source_lengths.max(), store.target_lengths.max())
    if config.model.positions == "learned" and longest > config.model.max_positions:
        raise UserError(f"{data.dev}: a sentence has {longest} tokens; raise model.max_positions={config.model.max_positions}")
    # A few thousand sentences: their batches are kept.
    batches = list(one_pass(store, shapes, config.batch, tokenizer))
    eval_step = jax.jit(make_eval_step(model, tokenizer.eos_id))
    translator = Translator(model, None, tokenizer, config)

    def evaluate(params: Any) -> Evaluation:
        sums, places = zip(*jax.device_get([eval_step(params, batch) for batch in batches]), strict=True)
        layer = _best_aligning_layer(batches, places, tokenizer.eos_id)
        numbers = loss_means(jax.tree.map(lambda *parts: np.sum(parts, dtype=np.float64), *sums))
        del numbers["loss"]  # without label smoothing it is the cross-entropy
        decoded = len(pairs.source) if config.train.evaluate_bleu else config.train.samples
        found = [translation.text for translation in translator.translate(pairs.source[:decoded], params=params)]
        samples = [
            f"{source}  =>  {hypothesis}  ({reference})" for source, reference, hypothesis in zip(*pairs, found, strict=False)
        ][: config.train.samples]
        if not config.train.evaluate_bleu:
            return Evaluation(numbers, -numbers["cross_entropy"], samples, layer)
        numbers["bleu"] = score(found, pairs.target)[0].value
        return Evaluation(numbers, numbers["bleu"], samples, layer)

    return evaluate


def _best_aligning_layer(batches: Sequence[Batch], places: Sequence[np.ndarray | None], eos_id: int) -> int:
    """The layer whose links, from every target piece but EOS to the place it looked at, have the most mutual information."""
    if places[0] is None:
        return 0
    real = [(batch.target_segment > 0) & (batch.target_output != eos_id) for batch in batches]
    target = np.concatenate([batch.target_output[mask] for batch, mask in zip(batches, real, strict=True)])

    def information(layer: int) -> float:
        looked = [
            np.take_along_axis(batch.source, at[layer], axis=1)[mask]
            for batch, at, mask in zip(batches, places, real, strict=True)
        ]
        return mutual_information(np.concatenate(looked), target)

    return 1 + max(range(len(places[0])), key=information)
