"""The tokenizer and the parameters that a new run takes from another (`train.init_from`)."""

import logging
from typing import Any

from flax import linen as nn

from transformer_jax.config import Config
from transformer_jax.config.fields import MayDiffer, annotations, record
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["first_parameters", "first_tokenizer"]

log = logging.getLogger(__name__)


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
    `first_tokenizer` does, and where `tokenizer` is not that of the other run."""
    workdir, checkpoint = split_run_name(config.train.init_from)
    run = Run(workdir)
    _require_same(run, config)
    with run.checkpoints() as checkpoints:
        name = CheckpointName.parse(checkpoint)
        params, described = checkpoints.parameters(name, abstract_parameters(model), tokenizer)
    log.info("the first parameters are those of %s, checkpoint %s: %s", workdir, checkpoint, described)
    return params


def _require_same(run: Run, config: Config) -> None:
    """Raises UserError where `config` has another model or tokenizer than `run`: the config.json of the new run would not
    describe its parameters. A field that the user has set to its default cannot be told from one that is not set, so that
    values are compared."""
    wrong, flags = [], []
    for section in ("model", "tokenizer"):
        other, own = getattr(run.config, section), getattr(config, section)
        for name, annotation in annotations(type(own)).items():
            value, expected = getattr(own, name), getattr(other, name)
            may_differ = record(annotation, MayDiffer)
            fits = may_differ is not None and may_differ.unless not in (value, expected)
            if value != expected and not fits:
                wrong.append(f"{section}.{name}={value!r} should be {expected!r}")
                flags.append(f"--config.{section}.{name}={expected}")
    if wrong:
        raise UserError(
            f"config: {', '.join(wrong)}, as in train.init_from={config.train.init_from}; --config={run.config_file} has it "
            f"so, or give {' '.join(flags)}"
        )
