"""The evaluation on the dev set during training: loss, perplexity, the metric `train.metric`, sample translations."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.config import Config
from transformer_jax.data.batch_shapes import Shape
from transformer_jax.data.batching import Batch
from transformer_jax.data.corpus import Pairs
from transformer_jax.data.store import open_store
from transformer_jax.data.stream import one_pass
from transformer_jax.distributed import collectives
from transformer_jax.distributed.rows_over_devices import over_rows
from transformer_jax.errors import UserError
from transformer_jax.evaluation.metrics import make_metric, score_with
from transformer_jax.inference.alignment import best_aligning_layer
from transformer_jax.inference.translator import Translator
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.metrics import loss_means
from transformer_jax.training.objective import LossSums
from transformer_jax.training.step import make_eval_step

__all__ = ["Evaluation", "make_evaluator"]


class Evaluation(NamedTuple):
    """The results of one evaluation on the dev set."""

    numbers: dict[str, float]  # cross_entropy, perplexity, accuracy; train.metric; ema_decay where it is on
    score: float  # higher is better: train.metric, or the negative of cross-entropy or TER
    samples: list[str]  # source  =>  translation  (reference), of the first sentences
    alignment_layer: int  # the layer, from 1, whose attention aligns words best (`best_aligning_layer`); 0: no attention


def make_evaluator(
    config: Config,
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: Pairs,
    shapes: Sequence[Shape],
    between: Callable[[], None] | None = None,
    usual_length: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Callable[[Any], Evaluation]:
    """evaluate(params) -> Evaluation, over the whole dev set, `pairs`. Raises UserError if the model cannot take a sentence.

    The work is shared by all devices of all processes; `between` is called between two batches, `progress` before the
    first line is translated and after each batch of them, with the number of lines that are done and of all. `usual_length` is
    that of `Translator`.
    """
    store = open_store(pairs, tokenizer, config.data.cache_dir)
    longest = max(store.source_lengths.max(), store.target_lengths.max())
    if config.model.positions == "learned" and longest > config.model.max_positions:
        most = config.model.max_positions
        raise UserError(f"{config.data.dev}: a sentence has {longest} tokens; raise model.max_positions={most}")
    # A dev set has a few thousand sentences, so that all its batches stay in memory.
    batches = list(one_pass(store, shapes, config.batch, tokenizer))
    eval_step = over_rows(make_eval_step(model, tokenizer.eos_id))
    translator = Translator(model, None, tokenizer, config, usual_length=usual_length)
    metric = None if config.train.metric == "loss" else make_metric(config.train.metric)

    def evaluate(params: Any) -> Evaluation:
        def evaluate_batch(batch: Batch) -> tuple[list[float], list[list[int]]]:
            sums, places = jax.device_get(eval_step(params, batch))
            return [float(np.sum(rows, dtype=np.float64)) for rows in sums], _links(batch, places, tokenizer.eos_id)

        sums, links = zip(*collectives.map_over_processes(evaluate_batch, batches, between), strict=True)
        layer = _best_aligning_layer(links)
        numbers = loss_means(LossSums(*map(sum, zip(*sums, strict=True))))
        del numbers["loss"]  # without label smoothing it is the cross-entropy
        if config.train.ema_decay:
            numbers["ema_decay"] = config.train.ema_decay  # `params` are a moving average
        decoded = len(pairs.source) if metric else config.train.samples
        sources = pairs.source[:decoded]
        if progress and sources:
            progress(0, len(sources))
        translations = translator.with_params(params).translate(sources, between=between, progress=progress)
        hypotheses = [translation.text for translation in translations]
        samples = [
            f"{source}  =>  {hypothesis}  ({reference})"
            for source, reference, hypothesis in zip(*pairs, hypotheses, strict=False)
        ][: config.train.samples]
        if not metric:
            return Evaluation(numbers, -numbers["cross_entropy"], samples, layer)
        value = numbers[config.train.metric] = score_with(metric, hypotheses, pairs.target).value
        return Evaluation(numbers, -value if config.train.metric == "ter" else value, samples, layer)

    return evaluate


def _links(batch: Batch, places: np.ndarray | None, eos_id: int) -> list[list[int]]:
    """The ids of the target's pieces except EOS, and for each layer the ids of the source pieces with their highest attention;
    [] without attention."""
    if places is None:
        return []
    mask = (batch.target_segment > 0) & (batch.target_output != eos_id)
    sources = [np.take_along_axis(batch.source, of_layer, axis=1)[mask].tolist() for of_layer in places.swapaxes(0, 1)]
    return [batch.target_output[mask].tolist(), *sources]


def _best_aligning_layer(links: Sequence[list[list[int]]]) -> int:
    """The layer, from 1, whose links have the highest mutual information; 0 without attention."""
    if not links[0]:
        return 0
    target, *layers = (list(itertools.chain(*of_batches)) for of_batches in zip(*links, strict=True))
    return best_aligning_layer(layers, target)
