"""Adapters (`train.lora_rank`) in a folder of their own: written from a run, and merged into a copy of the run they belong to.

FOLDER/adapter.json          rank, alpha, on, and what the adapters belong to: the checksum of the parameters beside them
FOLDER/adapter.safetensors   their factors by name, float32
FOLDER/manifest.json         checksums of both
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from transformer_jax.config import to_json
from transformer_jax.errors import UserError
from transformer_jax.interop.safetensors import read_safetensors, write_safetensors
from transformer_jax.models.adapters import Adapters
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.lean import merged
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.storage.checksums import find_damage, write_manifest
from transformer_jax.storage.files import read_plain, write_whole
from transformer_jax.storage.output_folders import require_possible_output, written_whole

__all__ = ["merge_adapter", "save_adapter"]

_DESCRIPTION, _FACTORS = "adapter.json", "adapter.safetensors"
_LARGEST = 1 << 20  # bytes of a description
_FORMAT = 1


def save_adapter(workdir: str, output: str, which: str = "best") -> str:
    """Writes the adapters of a run's checkpoint to `output`, a folder that is new or empty. Returns in words which they are.
    Raises UserError for a run without adapters, for an average of checkpoints, whose mean is of no low rank, if the checkpoint
    does not exist or is damaged, and if `output` cannot be written."""
    require_possible_output(output)
    run, name = Run(workdir), CheckpointName.parse(which)
    adapters = Adapters.of(run.config.train)
    if adapters is None:
        raise UserError(f"{workdir}: has no adapters: it was trained without train.lora_rank")
    if name.kind == "average":
        raise UserError(f"--checkpoint={which}: the mean of several checkpoints has no adapters of this rank; name one of them")
    tokenizer = run.tokenizer()
    abstract = abstract_parameters(build_model(run.config.model, tokenizer.vocab_size))
    with run.checkpoints() as checkpoints:
        params, factors, described = checkpoints.adapters(name, abstract, tokenizer)
    description = {
        "format": _FORMAT,
        **adapters._asdict(),
        "base": _checksum(params),
        "base_run": run.config.train.init_from,
        "tokenizer": tokenizer.fingerprint,
    }
    with written_whole(output) as unfinished:
        unfinished.mkdir(parents=True)
        write_safetensors(unfinished / _FACTORS, flatten_dict(factors, sep="/"))
        (unfinished / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        write_manifest(unfinished)
    return described


def merge_adapter(base: str, adapter: str, output: str) -> str:
    """Writes to `output`, a folder that is new or empty, a copy of the run `base` (RUN or RUN:CHECKPOINT) without optimizer
    state, with the adapters of the folder `adapter` merged into its parameters: W + (alpha / r) down up. Returns in words which
    parameters these were. Raises UserError if the adapters are damaged or belong to other parameters, and as `save_adapter`
    does."""
    require_possible_output(output)
    adapters, factors, description = _read(Path(adapter))
    workdir, which = split_run_name(base)
    run, name = Run(workdir), CheckpointName.parse(which)
    tokenizer = run.tokenizer()
    abstract = abstract_parameters(build_model(run.config.model, tokenizer.vocab_size))
    with run.checkpoints() as checkpoints:
        params, described = checkpoints.parameters(name, abstract, tokenizer)
        progress = checkpoints.progress(checkpoints.resolve(name)[-1])
    if (description["base"], description["tokenizer"]) != (_checksum(params), tokenizer.fingerprint):
        made_for = f"those of {description['base_run']!r:.200} when they were trained"
        raise UserError(f"{adapter}: belongs to other parameters than {base} has: to {made_for}; name that run")
    _require_shapes(Path(adapter), factors, adapters.abstract(abstract))
    params = jax.device_get(jax.jit(adapters.merge)(params, factors))
    changes = {"best_step": progress.step, "best_score": None, "score": None, "unwritten": {}}
    with written_whole(output) as unfinished:
        unfinished.mkdir(parents=True)
        write_whole(epath.Path(unfinished) / "config.json", to_json(merged(run.config)))
        copy = Run(unfinished)
        tokenizer.copy_to(copy.tokenizer_folder)
        run.copy_words_to(copy)
        with copy.checkpoint_writer() as writer:
            state = SimpleNamespace(params=params, optimizer_state=None, ema=None)
            writer.save(state, dataclasses.replace(progress, **changes))
    return described


def _read(folder: Path) -> tuple[Adapters, Any, dict[str, Any]]:
    if not (folder / _DESCRIPTION).is_file():
        raise UserError(
            f"{folder}: holds no adapters, there is no {_DESCRIPTION}; `transformer-jax adapter RUN OUT` writes them"
        )
    if damage := find_damage(folder):
        raise UserError(f"{folder}: {damage}; take the folder from its maker again")
    try:
        description = json.loads(read_plain(epath.Path(folder / _DESCRIPTION), _LARGEST))
        kinds = {"format": int, "rank": int, "alpha": float, "on": str, "base": str, "base_run": str, "tokenizer": str}
        wrong = [key for key, kind in kinds.items() if type(description[key]) is not kind]
        if wrong or description["rank"] < 1:
            raise ValueError(f"{(wrong or ['rank'])[0]} is wrong")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / _DESCRIPTION}: not the description of adapters ({error})") from None
    if description["format"] > _FORMAT:
        raise UserError(f"{folder / _DESCRIPTION}: format {description['format']} is of a newer version; expected {_FORMAT}")
    factors = read_safetensors(folder / _FACTORS)
    return Adapters(*(description[key] for key in Adapters._fields)), factors, description


def _require_shapes(folder: Path, factors: dict[str, np.ndarray], expected: Any) -> None:
    shapes = {path: leaf.shape for path, leaf in flatten_dict(expected, sep="/").items()}
    found = {path: leaf.shape for path, leaf in factors.items()}
    if found != shapes:
        wrong = sorted(path for path in found.keys() | shapes.keys() if found.get(path) != shapes.get(path))
        raise UserError(f"{folder / _FACTORS}: {wrong[0]} is {found.get(wrong[0])}, not {shapes.get(wrong[0])}")


def _checksum(params: Any) -> str:
    """SHA-256, in hex, of all parameters with their paths and shapes."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(params, sep="/").items()):
        digest.update(f"{path} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()
