"""What the updates of a training change: all parameters, all but those that `train.freeze` names, or adapters alone."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.config import TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.models.adapters import Adapters
from transformer_jax.models.parameter_patterns import matching_paths
from transformer_jax.models.seq2seq import abstract_parameters, count_parameters, parameter_paths

__all__ = ["Trainable"]


class Trainable:
    """What a training of `model` with these settings changes: all parameters, all but those that `config.freeze` names, or with
    `config.lora_rank` the factors of `Adapters` beside parameters that stay. Raises UserError for patterns that name nothing,
    if all parameters are frozen, and as `Adapters.shapes` does.

    What stays has no gradient, no state of the optimizer, no weight decay and no part in the norm that clipping takes.

    >>> from transformer_jax.config import ModelConfig
    >>> from transformer_jax.models.seq2seq import build_model
    >>> model = build_model(ModelConfig(family="lstm", attention="none", num_layers=1, width=4), vocab_size=8)
    >>> sorted(Trainable(TrainConfig(freeze="decoder_0, *embedding"), model).frozen)
    ['decoder_0/input/bias', 'decoder_0/input/kernel', 'decoder_0/recurrent', 'target_embedding/table']

    Attributes:
        frozen: the paths of the parameters that `config.freeze` names
        adapters: those that train; None: parameters train
    """

    def __init__(self, config: TrainConfig, model: nn.Module):
        self.frozen: frozenset[str] = frozenset()
        self.adapters = Adapters.of(config)
        if self.adapters:
            self.adapters.shapes(abstract_parameters(model))
            self._merge_once = jax.jit(self.adapters.merge)
        if config.freeze:
            params = abstract_parameters(model)
            paths = parameter_paths(params)
            self.frozen = matching_paths("train.freeze", config.freeze, paths)
            if len(self.frozen) == len(paths):
                raise UserError(f"config: train.freeze={config.freeze!r} names all parameters: nothing would train")

    def fresh_adapters(self, params: Any, key: jax.Array) -> Any:
        """The factors before the first update; None where parameters train."""
        return self.adapters and self.adapters.init(params, key)

    def split(self, params: Any, factors: Any = None) -> tuple[Any, Any]:
        """The tree of what changes, and that of what does not: `params` itself and {} where all parameters do; `factors` and
        `params` where adapters do."""
        if self.adapters:
            return factors, params
        if not self.frozen:
            return params, {}
        flat = flatten_dict(params, sep="/")
        frozen = {path: leaf for path, leaf in flat.items() if path in self.frozen}
        trained = {path: leaf for path, leaf in flat.items() if path not in self.frozen}
        return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")

    def join(self, trained: Any, fixed: Any) -> tuple[Any, Any]:
        """The inverse of `split`: the parameters and the factors of adapters, None where parameters train."""
        if self.adapters:
            return fixed, trained
        if not self.frozen:
            return trained, None
        return unflatten_dict(flatten_dict(trained, sep="/") | flatten_dict(fixed, sep="/"), sep="/"), None

    def of_model(self, trained: Any, fixed: Any) -> Any:
        """The parameters that the model computes with."""
        return self.adapters.merge(fixed, trained) if self.adapters else self.join(trained, fixed)[0]

    def inference_params(self, state: Any, gather: Callable[[Any], Any]) -> Any:
        """The parameters for evaluation, of a `TrainState` whose trees `gather` makes whole on this process: the average where
        there is one, with adapters merged."""
        if not self.adapters:
            return gather(state.inference_params)
        return self._merge_once(gather(state.params), gather(state.adapters if state.ema is None else state.ema))

    def describe(self, params: Any, factors: Any = None) -> str:
        """How many numbers train; empty where all parameters do."""
        if self.adapters:
            count, products = count_parameters(factors), len(self.adapters.shapes(params))
            rank, alpha = self.adapters.rank, self.adapters.alpha
            return f"{count:,} parameters of adapters train, rank {rank}, alpha {alpha:g}, on {products} kernels; no others do"
        if not self.frozen:
            return ""
        trained, frozen = map(count_parameters, self.split(params))
        return f"{trained:,} parameters train; train.freeze leaves {frozen:,} in {len(self.frozen)} arrays as they are"
