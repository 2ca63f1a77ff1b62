"""The tokenizer and the parameters that a new run takes from another (`train.init_from`)."""

import logging
from collections.abc import Collection
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.config import Config
from transformer_jax.config.fields import MayDiffer, annotations, record
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters, build_model, count_parameters, init_parameters
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.tokenization.piece_mapping import map_pieces, mapped_rows
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["first_parameters", "first_tokenizer"]

log = logging.getLogger(__name__)

# The parameters that have a row for each piece, and the side whose pieces those are; of a table that is both, the target's.
_OF_PIECES = {
    "source_embedding/table": "source",
    "target_embedding/table": "target",
    "output_embedding/table": "target",
    "bias": "target",
}


def first_tokenizer(config: Config) -> Tokenizer | None:
    """The tokenizer of the run that `train.init_from` names, or None where it names none, or where the new run trains its own
    (`train.init_tokenizer`). Raises UserError if it cannot be read, or has another model or other settings of the tokenizer
    than `train.init_model` and `train.init_tokenizer` allow."""
    if not config.train.init_from:
        return None
    run = Run(split_run_name(config.train.init_from)[0])
    _require_same(run, config)
    return None if config.train.init_tokenizer == "own" else run.tokenizer()


def first_parameters(config: Config, model: nn.Module, tokenizer: Tokenizer, key: jax.Array | None = None) -> Any:
    """The parameters that a run begins with which `train.init_from` names another for, a tree of NumPy arrays: those of that
    checkpoint; with `train.init_tokenizer=own` those of pieces are for the pieces of `tokenizer`; with
    `train.init_model=partial` those that only `model` has are fresh, as `init_parameters(model, key)` has them.

    Raises UserError as `first_tokenizer` does, where `tokenizer` should be that of the other run and is not, and where no
    parameter of the checkpoint fits."""
    workdir, checkpoint = split_run_name(config.train.init_from)
    run = Run(workdir)
    _require_same(run, config)
    own_pieces, partial = config.train.init_tokenizer == "own", config.train.init_model == "partial"
    other = run.tokenizer() if own_pieces else tokenizer
    other_model = build_model(run.config.model, other.vocab_size) if own_pieces or partial else model
    with run.checkpoints() as checkpoints:
        name = CheckpointName.parse(checkpoint)
        params, described = checkpoints.parameters(name, abstract_parameters(other_model), other)
    log.info("the first parameters are those of %s, checkpoint %s: %s", workdir, checkpoint, described)
    if own_pieces:
        params = _for_pieces(params, tokenizer, other)
    return _completed(params, model, key, config) if partial else params


def _for_pieces(params: Any, tokenizer: Tokenizer, other: Tokenizer) -> Any:
    flat = flatten_dict(params, sep="/")
    mappings = {side: map_pieces(tokenizer, other, side) for side in dict.fromkeys(_OF_PIECES.values())}
    flat |= {path: mapped_rows(flat[path], mappings[side]) for path, side in _OF_PIECES.items() if path in flat}
    mapping = mappings["target"]
    log.info(
        "of %s pieces %s are taken, %s begin with the mean of their parts, and %s, of which no part is known, with that of all",
        *(f"{count:,}" for count in (tokenizer.vocab_size, mapping.taken, mapping.made, mapping.fresh)),
    )
    return unflatten_dict(flat, sep="/")


def _completed(params: Any, model: nn.Module, key: jax.Array | None, config: Config) -> Any:
    """The parameters of `model`: those of `params` that have the path and the shape, and fresh ones."""
    old, new = flatten_dict(params, sep="/"), flatten_dict(abstract_parameters(model), sep="/")
    taken = {path for path, leaf in new.items() if path in old and old[path].shape == leaf.shape}
    fresh, left = new.keys() - taken, old.keys() - taken
    if not taken:
        raise UserError(f"config: no parameter of train.init_from={config.train.init_from} has the name and shape of one here")
    counts = (count_parameters({path: new[path] for path in paths}) for paths in (taken, fresh))
    log.info("%s parameters are taken, %s are fresh: %s", *(f"{count:,}" for count in counts), _named(fresh, new) or "none")
    if left:
        log.info("not taken, because the new model has none of this name and shape: %s", _named(left, old))
    key = jax.random.key(config.train.seed) if key is None else key

    def make(key: jax.Array) -> dict[str, jax.Array]:  # only these: the compiler leaves out the others
        return {path: leaf for path, leaf in flatten_dict(init_parameters(model, key), sep="/").items() if path in fresh}

    return unflatten_dict({path: old[path] for path in taken} | jax.device_get(jax.jit(make)(key)), sep="/")


def _named(paths: Collection[str], of_all: Collection[str]) -> str:
    """These paths in words; the beginning alone where all are meant that begin so.

    >>> _named(["a/b", "a/c", "d/e"], ["a/b", "a/c", "d/e", "d/f"])
    'a, d/e'
    """
    others = {path.split("/")[0] for path in of_all if path not in paths}
    heads = (path if path.split("/")[0] in others else path.split("/")[0] for path in sorted(paths))
    return ", ".join(dict.fromkeys(heads))


def _require_same(run: Run, config: Config) -> None:
    """Raises UserError where `config` has another model or tokenizer than `run` and does not ask for it: the config.json of the
    new run would not describe its parameters. A field that the user has set to its default cannot be told from one that is not
    set, so that values are compared."""
    wrong, flags = [], []
    asked = {"model": config.train.init_model == "partial", "tokenizer": config.train.init_tokenizer == "own"}
    for section in (section for section in asked if not asked[section]):
        other, own = getattr(run.config, section), getattr(config, section)
        for name, annotation in annotations(type(own)).items():
            value, expected = getattr(own, name), getattr(other, name)
            may_differ = record(annotation, MayDiffer)
            fits = may_differ is not None and may_differ.unless not in (value, expected)
            # The vocabulary of a tokenizer that is trained here is one, whatever the other run's was.
            fits |= name == "source_vocab_size" and asked["tokenizer"]
            if value != expected and not fits:
                wrong.append(f"{section}.{name}={value!r} should be {expected!r}")
                flags.append(f"--config.{section}.{name}={expected}")
    if wrong:
        raise UserError(
            f"config: {', '.join(wrong)}, as in train.init_from={config.train.init_from}; --config={run.config_file} has it "
            f"so, or give {' '.join(flags)}"
        )
