"""What exports share: a model's parameters by their names, all there and of the right shapes, and a note about text."""

import dataclasses
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.config import Config, ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters, build_model

__all__ = ["completed", "expected_parameters", "flat_parameters", "text_notes"]


def text_notes(config: Config, normalizes: bool, theirs: str) -> list[str]:
    """What happens to a line before the model of this config sees it, and does not in `theirs`, in words for the user.
    `normalizes` is that of the tokenizer."""
    notes = []
    if normalizes:
        way_out = "put lines through transformer_jax.tokenization.normalization.normalize first"
        notes.append(f"tokenizer.normalize: {theirs} takes text as it is; {way_out}")
    if config.decode.capitals == "restore":
        notes.append(f"decode.capitals=restore: {theirs} takes LINES IN CAPITALS as they are")
    if config.decode.spelling == "correct":
        notes.append(f"decode.spelling=correct: {theirs} takes words as they are spelled")
    return notes


def expected_parameters(config: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """The shape and type of every parameter of a model: {"target_embedding/table": ShapeDtypeStruct, ...}."""
    return flatten_dict(abstract_parameters(build_model(config, vocab_size)), sep="/")


def flat_parameters(params: Any, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """The tree `params` by names. Raises UserError naming every parameter that is missing, is not the model's, or has another
    shape than the model's."""
    flat, expected = flatten_dict(params, sep="/"), expected_parameters(config, vocab_size)
    wrong = [f"{name} is missing" for name in expected if name not in flat]
    wrong += [f"{name} is not the model's" for name in flat if name not in expected]
    wrong += [
        f"{name} has shape {tuple(flat[name].shape)} instead of {tuple(leaf.shape)}"
        for name, leaf in expected.items()
        if name in flat and tuple(flat[name].shape) != tuple(leaf.shape)
    ]
    if wrong:
        raise UserError(f"these parameters are not those of the config's model: {'; '.join(wrong)}; take them from its run")
    return flat


def completed(params: Any, config: ModelConfig, vocab_size: int) -> tuple[Any, ModelConfig]:
    """Adds the biases that Marian has and the model lacks, as zeros, which changes no output; also returns the config with
    them.

    Raises UserError if `params` are not those of the model that `config` describes."""
    complete = dataclasses.replace(config, attention_bias=True, output_bias=True)
    flat = flat_parameters(params, config, vocab_size)
    zeros = {
        name: np.zeros(leaf.shape, leaf.dtype)
        for name, leaf in expected_parameters(complete, vocab_size).items()
        if name not in flat
    }
    return unflatten_dict(flat | zeros, sep="/"), complete
