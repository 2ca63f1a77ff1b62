"""What a new run begins with where it does not begin from nothing: tokenizer and parameters of another (`train.init_from`)."""

import dataclasses
from typing import Any

from flax import linen as nn

from transformer_jax.config import Config
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["first_parameters", "first_tokenizer"]

# What may differ between the two models: no parameter depends on it.
_MAY_DIFFER = {"dropout", "attention_dropout", "activation_dropout", "compute_dtype"}
# ... and between the two tokenizers, which are the same one: how training text is segmented with it.
_OF_TRAINING = {"samples", "alpha"}


def first_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer of the run that `train.init_from` names, or None where it names none. Raises UserError if it cannot be
    read, or has another model or other settings of the tokenizer."""
    if not config.train.init_from:
        return None
    run = Run(split_run_name(config.train.init_from)[0])
    _require_same(run, config)
    return run.tokenizer()


def first_parameters(config: Config, model: nn.Module, tokenizer: Tokenizer) -> Any:
    """The parameters of the checkpoint that `train.init_from` names, a tree of NumPy arrays. Raises UserError as
    `first_tokenizer` does, and where `tokenizer` is not the other's."""
    workdir, checkpoint = split_run_name(config.train.init_from)
    run = Run(workdir)
    _require_same(run, config)
    with run.checkpoints() as checkpoints:
        return checkpoints.parameters(CheckpointName.parse(checkpoint), abstract_parameters(model), tokenizer)[0]


def _require_same(run: Run, config: Config) -> None:
    """Raises UserError where `config` has another model or tokenizer than `run`: the new run's config.json would say what is
    not so. What the user has not set cannot be told from what is set to its default, so that values are compared."""
    wrong, flags = [], []
    for part, may_differ in (("model", _MAY_DIFFER), ("tokenizer", _OF_TRAINING)):
        other, own = (getattr(each, part) for each in (run.config, config))
        for field in dataclasses.fields(own):
            value, expected = (getattr(each, field.name) for each in (own, other))
            if field.name not in may_differ and value != expected:
                wrong.append(f"{part}.{field.name}={value!r} should be {expected!r}")
                flags.append(f"--config.{part}.{field.name}={expected}")
    if wrong:
        raise UserError(
            f"config: {', '.join(wrong)}, as in train.init_from={config.train.init_from}; --config={run.config_file} has it "
            f"so, or give {' '.join(flags)}"
        )
