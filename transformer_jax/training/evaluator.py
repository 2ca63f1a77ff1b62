"""The evaluation during training, on the dev set and on those that are watched beside it: loss, perplexity, the metric
`train.metric`, sample translations."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

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
from transformer_jax.training.metrics import loss_means
from transformer_jax.training.objective import LossSums
from transformer_jax.training.step import make_eval_step

__all__ = ["Evaluation", "make_evaluator"]


class Evaluation(NamedTuple):
    """The results of one evaluation on the dev set, and on those that are watched beside it."""

    numbers: dict[str, float]  # cross_entropy, perplexity, accuracy; train.metric; ema_decay where it is on
    score: float  # higher is better: train.metric, or the negative of cross-entropy or TER
    samples: list[str]  # source  =>  translation  (reference), of the first sentences
    alignment_layer: int  # the layer, from 1, whose attention aligns words best (`best_aligning_layer`); 0: no attention
    watched: Mapping[str, dict[str, float]] = MappingProxyType({})  # `numbers` of each set of `data.watch`, by its name


def make_evaluator(
    config: Config,
    translator: Translator,
    pairs: Pairs,
    shapes: Sequence[Shape],
    between: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    watched: Mapping[str, Pairs] = MappingProxyType({}),
) -> Callable[[Any], Evaluation]:
    """evaluate(params) -> Evaluation, over the whole dev set, `pairs`, and the sets that are `watched`, by their names. Raises
    UserError if the model cannot take a sentence.

    The work is shared by all devices of all processes; `between` is called between two batches, `progress` before the
    first line of a set is translated and after each batch of them, with the number of lines that are done and of all.
    `translator` is that of the run, without parameters.
    """
    scorer = _Scorer(config, translator, between, progress)
    batches = scorer.batches(config.data.dev, pairs, shapes)
    others = {name: (of_name, scorer.batches(name, of_name, shapes)) for name, of_name in watched.items()}
    metric, shown = config.train.metric, config.train.samples

    def evaluate(params: Any) -> Evaluation:
        numbers, layer = scorer.losses(params, batches)
        hypotheses = scorer.translations(params, pairs.source if metric != "loss" else pairs.source[:shown])
        samples = [
            f"{source}  =>  {hypothesis}  ({reference})"
            for source, reference, hypothesis in zip(*pairs, hypotheses, strict=False)
        ][:shown]
        if metric == "loss":
            score = -numbers["cross_entropy"]
        else:
            value = numbers[metric] = scorer.score(hypotheses, pairs.target)
            score = -value if metric == "ter" else value
        return Evaluation(
            numbers, score, samples, layer, {name: scorer.numbers(params, *each) for name, each in others.items()}
        )

    return evaluate


class _Scorer:
    """What the evaluations of several sets share: the programs that are compiled, and the metric. Arguments are those of
    `make_evaluator`."""

    def __init__(
        self,
        config: Config,
        translator: Translator,
        between: Callable[[], None] | None,
        progress: Callable[[int, int], None] | None,
    ):
        self._config, self._between, self._progress = config, between, progress
        self._translator, self._tokenizer = translator, translator.tokenizer
        self._eval_step = over_rows(make_eval_step(translator.model, translator.tokenizer.eos_id))
        self._metric = None if config.train.metric == "loss" else make_metric(config.train.metric)

    def batches(self, name: str, pairs: Pairs, shapes: Sequence[Shape]) -> list[Batch]:
        """All of a set, which has a few thousand sentences, so that it stays in memory."""
        config = self._config
        store = open_store(pairs, self._tokenizer, config.data.cache_dir)
        longest = max(store.source_lengths.max(), store.target_lengths.max())
        if config.model.positions == "learned" and longest > config.model.max_positions:
            most = config.model.max_positions
            raise UserError(f"{name}: a sentence has {longest} tokens; raise model.max_positions={most}")
        return list(one_pass(store, shapes, config.batch, self._tokenizer))

    def losses(self, params: Any, batches: Sequence[Batch]) -> tuple[dict[str, float], int]:
        """The numbers that need no translation, and the layer that aligns best."""
        eos_id = self._tokenizer.eos_id

        def evaluate_batch(batch: Batch) -> tuple[list[float], list[list[int]]]:
            sums, places = jax.device_get(self._eval_step(params, batch))
            return [float(np.sum(rows, dtype=np.float64)) for rows in sums], _links(batch, places, eos_id)

        sums, links = zip(*collectives.map_over_processes(evaluate_batch, batches, self._between), strict=True)
        layer = _best_aligning_layer(links)
        numbers = loss_means(LossSums(*map(sum, zip(*sums, strict=True))))
        del numbers["loss"]  # without label smoothing it is the cross-entropy
        if self._config.train.ema_decay:
            numbers["ema_decay"] = self._config.train.ema_decay  # `params` are a moving average
        return numbers, layer

    def translations(self, params: Any, sources: Sequence[str]) -> list[str]:
        if self._progress and sources:
            self._progress(0, len(sources))
        translator = self._translator.with_params(params)
        return [each.text for each in translator.translate(sources, between=self._between, progress=self._progress)]

    def score(self, hypotheses: Sequence[str], references: Sequence[str]) -> float:
        return score_with(self._metric, hypotheses, references).value

    def numbers(self, params: Any, pairs: Pairs, batches: Sequence[Batch]) -> dict[str, float]:
        """All numbers of a set, `train.metric` included."""
        numbers, _ = self.losses(params, batches)
        if self._metric:
            numbers[self._config.train.metric] = self.score(self.translations(params, pairs.source), pairs.target)
        return numbers


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
