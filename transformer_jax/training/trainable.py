"""Which parameters the updates of a training change: all, or all but those that `train.freeze` names."""

import difflib
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.config import TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters, count_parameters, parameter_paths

__all__ = ["Trainable", "matching_paths"]


class Trainable:
    """The parameters of a model that a training with these settings changes: all, or all but those that `config.freeze` names.
    Raises UserError for a pattern that names none, and if all are named.

    The others have no gradient, no state of the optimizer, no weight decay and no part in the norm that clipping takes.

    >>> from transformer_jax.config import ModelConfig
    >>> from transformer_jax.models.seq2seq import build_model
    >>> model = build_model(ModelConfig(family="lstm", attention="none", num_layers=1, width=4), vocab_size=8)
    >>> sorted(Trainable(TrainConfig(freeze="decoder_0, *embedding"), model).frozen)
    ['decoder_0/input/bias', 'decoder_0/input/kernel', 'decoder_0/recurrent', 'target_embedding/table']

    Attributes:
        frozen: the paths of the parameters that do not change
    """

    def __init__(self, config: TrainConfig, model: nn.Module):
        self.frozen: frozenset[str] = frozenset()
        if config.freeze:
            params = abstract_parameters(model)
            paths = parameter_paths(params)
            self.frozen = matching_paths("train.freeze", config.freeze, paths)
            if len(self.frozen) == len(paths):
                raise UserError(f"config: train.freeze={config.freeze!r} names all parameters: nothing would train")

    def split(self, params: Any) -> tuple[Any, dict[str, Any]]:
        """The trees of those that change and of those that do not; `params` itself and {} where all change."""
        if not self.frozen:
            return params, {}
        flat = flatten_dict(params, sep="/")
        frozen = {path: leaf for path, leaf in flat.items() if path in self.frozen}
        trained = {path: leaf for path, leaf in flat.items() if path not in self.frozen}
        return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")

    def merge(self, trained: Any, frozen: Mapping[str, Any]) -> Any:
        """The inverse of `split`."""
        if not self.frozen:
            return trained
        return unflatten_dict(flatten_dict(trained, sep="/") | flatten_dict(frozen, sep="/"), sep="/")

    def describe(self, params: Any) -> str:
        """How many of the parameters train; empty where all do."""
        if not self.frozen:
            return ""
        trained, frozen = map(count_parameters, self.split(params))
        return f"{trained:,} parameters train; train.freeze leaves {frozen:,} in {len(self.frozen)} arrays as they are"


def matching_paths(key: str, patterns: str, paths: Collection[str]) -> frozenset[str]:
    """Those of `paths` that one of the `patterns` names: patterns as the shell has them (`*` also stands for slashes), with
    commas between, of a whole path or of its beginning up to a slash. Raises UserError for a pattern that names none, with the
    names that are like it; `key` is whose value the patterns are.

    >>> sorted(matching_paths("train.freeze", "encoder_*/bias, decoder", ["encoder_0/bias", "encoder_0/a", "decoder/bias"]))
    ['decoder/bias', 'encoder_0/bias']
    >>> matching_paths("train.freeze", "encoder", ["encoder_0/bias", "decoder_0/bias"])
    Traceback (most recent call last):
    transformer_jax.errors.UserError: config: train.freeze: encoder names no parameter (did you mean encoder_0?)
    """
    named: set[str] = set()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        found = {path for path in paths if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")}
        if not found:
            raise UserError(f"config: {key}: {pattern} names no parameter ({_near(pattern, paths)})")
        named |= found
    if not named:
        raise UserError(f"config: {key}={patterns!r} should be patterns of parameters' paths, with commas between")
    return frozenset(named)


def _near(pattern: str, paths: Collection[str]) -> str:
    """The names that are like `pattern`: whole paths, or their beginnings."""
    parts = [path.split("/") for path in paths]
    names = dict.fromkeys("/".join(path[: depth + 1]) for depth in range(max(map(len, parts))) for path in parts)
    near = difflib.get_close_matches(pattern.rstrip("/*"), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"the paths begin with {', '.join(sorted({path[0] for path in parts}))}"
