"""Attention weights beside the logits: the names under which models sow them, and the function that reads them.

Every layer sows its weights into the collection `intermediates`, under a name of its kind of attention and its number from 0,
such as `cross_attention_0`. This costs nothing unless `apply(..., mutable=["intermediates"])` asks for the collection.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["attention_name", "attention_of"]

_KINDS = ("decoder", "cross", "encoder")


def attention_name(kind: str, layer: int) -> str:
    """The name under which layer `layer` (from 0) sows its weights of one kind: cross, encoder or decoder (`attention_of`).

    >>> attention_name("cross", 0)
    'cross_attention_0'
    """
    return f"{kind}_attention_{layer}"


def attention_of(intermediates: Any) -> dict[str, jax.Array]:
    """The weights that a pass has sown, for each kind of attention that the model has, float32: `cross`, the target's to the
    source, [L, B, H, T, S]; `encoder`, the source's to itself, [L, B, H, S, S]; `decoder`, the target's, [L, B, H, T, T].

    `intermediates` is the collection that `apply` returns. Where in the model a layer stands does not matter.

    >>> sown = {f"decoder_{layer}": {attention_name("cross", layer): (jnp.ones((1, 8, 5, 4)),)} for layer in range(2)}
    >>> {kind: weights.shape for kind, weights in attention_of(sown).items()}
    {'cross': (2, 1, 8, 5, 4)}
    """
    # A path ends in the name and the number of the call: each layer is called once in a pass.
    by_name = {path[-2].key: weights for path, weights in jax.tree_util.tree_leaves_with_path(intermediates)}
    stacks = {}
    for kind in _KINDS:
        names = (attention_name(kind, layer) for layer in itertools.count())
        layers = [by_name[name] for name in itertools.takewhile(by_name.__contains__, names)]
        if layers:
            stacks[kind] = jnp.stack(layers)
    return stacks
