"""The contract of every model, four functions, and the letters of all shapes.

    B  batch rows           D  model width            H  heads           V  vocabulary
    S  source length        F  feed-forward width     K  head width      L  layers
    T  target length        N  hypotheses: B times beams, those of one sentence side by side

A batch has the fields of `data.batching.Batch`; ids are int32, and a segment of 0 is padding. The contract:

    model.apply(params, batch, train=..., rngs={"dropout": key})                           -> logits float32 [B, T, V]
    model.apply(params, source, segment, position, method="encode")                        -> memory, leaves [B, ...]
    model.apply(params, memory, beams, length, method="init_cache")                        -> cache, leaves [N, ...]
    model.apply(params, token [N], index, memory, cache, start, method="decode_step")      -> logits float32 [N, V], cache

Attention weights are sown as intermediates and cost nothing unless asked for; `attention_weights.attention_of` reads them.

`encode`, `init_cache` and `decode_step` take rows of one sentence. The memory is shared by the hypotheses of a sentence and
never reordered; the cache is an argument and a result, and has space for `length` tokens. `index` counts the steps from 0; a
hypothesis that began at step `start` int32 [N] (0 where it is left out) has its token at position index - start of the target.
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax import platform
from transformer_jax.config import ModelConfig
from transformer_jax.models.lstm import LSTM
from transformer_jax.models.transformer import Transformer

__all__ = ["abstract_parameters", "build_model", "count_parameters", "init_parameters", "parameter_paths"]


def build_model(config: ModelConfig, vocab_size: int) -> nn.Module:
    """The linen module that `config` describes, for ids below `vocab_size`: a `Transformer` or an `LSTM`, which computes in
    `config.compute_dtype`. `config` must be valid (`validate`).

    >>> build_model(ModelConfig(family="lstm", width=64), vocab_size=8000).vocab_size
    8000
    """
    family = {"transformer": Transformer, "lstm": LSTM}[config.family]
    return family(config, vocab_size, dtype=_dtype(config.compute_dtype))


def init_parameters(model: nn.Module, key: jax.Array) -> Any:
    """Fresh float32 parameters, a function of the key: the tree that `model.apply` takes as {"params": ...}."""
    return jax.jit(lambda key: _init(model, key))(key)


def abstract_parameters(model: nn.Module) -> Any:
    """The tree of the parameters' shapes and types (`jax.ShapeDtypeStruct`), without the numbers."""
    return jax.eval_shape(lambda: _init(model, jax.random.key(0)))


def count_parameters(params: Any) -> int:
    """The number of elements in a tree of arrays or of `abstract_parameters`.

    >>> count_parameters({"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)})
    10
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def parameter_paths(params: Any) -> list[str]:
    """The path of every array in a tree of parameters or of `abstract_parameters`, sorted.

    >>> parameter_paths(abstract_parameters(build_model(ModelConfig(family="lstm", attention="none", num_layers=1), 8)))[:3]
    ['decoder_0/input/bias', 'decoder_0/input/kernel', 'decoder_0/recurrent']
    """
    return sorted(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params))


def _init(model: nn.Module, key: jax.Array) -> Any:
    row = jnp.zeros((1, 2), jnp.int32)
    fields = "source", "source_segment", "source_position", "target_input", "target_output", "target_segment", "target_position"
    return model.init(key, SimpleNamespace(**dict.fromkeys(fields, row)), train=False)["params"]


def _dtype(name: str) -> jnp.dtype:
    return jnp.dtype(platform.default_compute_dtype() if name == "auto" else name)
