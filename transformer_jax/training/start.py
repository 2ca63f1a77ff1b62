"""What a new run begins with where it does not begin from nothing: tokenizer and parameters of another (`train.init_from`)."""

import dataclasses
from typing import Any

from flax import linen as nn

from transformer_jax.config import Config, ModelConfig
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters
from transformer_jax.run import Run, split_run_name

__all__ = ["first_parameters", "first_tokenizer"]

# What may differ between the two models: no parameter depends on it.
_MAY_DIFFER = {"dropout", "attention_dropout", "activation_dropout", "compute_dtype"}


def first_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer of the run that `train.init_from` names, or None where it names none. Raises UserError if it cannot be
    read, or has another model."""
    if not config.train.init_from:
        return None
    run = Run(split_run_name(config.train.init_from)[0])
    _require_same_model(run.config.model, config.model, config.train.init_from)
    return run.tokenizer()


def first_parameters(config: Config, model: nn.Module, tokenizer: Tokenizer) -> Any:
    """The parameters of the checkpoint that `train.init_from` names, a tree of NumPy arrays. Raises UserError as
    `first_tokenizer` does, and where `tokenizer` is not the other's."""
    workdir, checkpoint = split_run_name(config.train.init_from)
    run = Run(workdir)
    _require_same_model(run.config.model, config.model, config.train.init_from)
    with run.checkpoints() as checkpoints:
        return checkpoints.parameters(checkpoint, abstract_parameters(model), tokenizer)[0]


def _require_same_model(other: ModelConfig, own: ModelConfig, name: str) -> None:
    fields = [field.name for field in dataclasses.fields(own) if field.name not in _MAY_DIFFER]
    wrong = [
        f"model.{field}={getattr(own, field)!r} should be {getattr(other, field)!r}"
        for field in fields
        if getattr(own, field) != getattr(other, field)
    ]
    if wrong:
        raise UserError(f"config: {', '.join(wrong)}, as in train.init_from={name}; --config={name}/config.json has it so")
