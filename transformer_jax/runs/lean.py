"""A copy of a run without what only training needs: about a third of the bytes. It translates, is scored, exported and shown.

    python -m transformer_jax.runs.lean runs/demo demo_lean
    python -m transformer_jax.runs.lean runs/base base_lean --checkpoint average:5 best:raw

The copy has the config, the tokenizer, the hashes of the training text's words, and of each checkpoint that is named the
parameters (their moving averages, if the run has some; with adapters merged) and the progress, with checksums; and the
calibration of the run's confidence, if its checkpoint is among these. It has no optimizer state: a training that begins with
its parameters is a run of its own, with `--config.train.init_from=demo_lean`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from types import SimpleNamespace

from etils import epath

from transformer_jax.config import Config, TrainConfig, to_json
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.calibration import CONFIDENCE, Calibration
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.files import write_whole
from transformer_jax.storage.output_folders import require_possible_output, written_whole

__all__ = ["copy_run", "merged"]

log = logging.getLogger(__name__)


def copy_run(workdir: str, output: str, which: Sequence[str] = ("best",)) -> list[str]:
    """Writes a lean copy of the run folder `workdir` to `output`, a folder that is new or empty.

    `which` are names of checkpoints; an average becomes the checkpoint of the last of its steps. The copy's best checkpoint is
    the run's if it is copied, else the first of `which`. Returns in words which checkpoints were copied. Raises UserError if
    one does not exist or is damaged, if two that differ are of the same step, and if `output` cannot be written.
    """
    require_possible_output(output)
    run = Run(workdir)
    tokenizer, copied = run.tokenizer(), []
    abstract = abstract_parameters(build_model(run.config.model, tokenizer.vocab_size))
    with run.checkpoints() as checkpoints, written_whole(output) as unfinished:
        names = _by_step(checkpoints, [CheckpointName.parse(name) for name in which])
        latest = checkpoints.resolve(CheckpointName("latest"))[0]
        best_step = checkpoints.progress(latest).best_step
        best_step = best_step if best_step in names else next(iter(names))
        changes = {"best_step": best_step, "best_score": checkpoints.progress(best_step).score, "unwritten": {}}
        unfinished.mkdir(parents=True)
        write_whole(epath.Path(unfinished) / "config.json", to_json(merged(run.config)))
        copy = Run(unfinished)
        tokenizer.copy_to(copy.tokenizer_folder)
        run.copy_words_to(copy)
        with copy.checkpoint_writer(keep=len(names)) as writer:
            for step, name in sorted(names.items()):
                params, described = checkpoints.parameters(name, abstract, tokenizer)
                averaged = checkpoints.weights(name) == "ema"
                state = SimpleNamespace(
                    params=None if averaged else params, optimizer_state=None, ema=params if averaged else None
                )
                writer.save(state, dataclasses.replace(checkpoints.progress(step), **changes))
                copied.append(described)
        _copy_calibration(
            run, copy, {(tuple(checkpoints.resolve(x)), checkpoints.weights(x)): step for step, x in names.items()}
        )
    return copied


def merged(config: Config) -> Config:
    """The config of a copy, whose parameters have the adapters merged into them: there are none beside them.

    >>> train = TrainConfig(init_from="runs/base", lora_rank=8)
    >>> merged(Config(train=train)).train.lora_rank
    0
    """
    default = TrainConfig()
    without = {name: getattr(default, name) for name in ("lora_rank", "lora_alpha", "lora_on")}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **without))


def _copy_calibration(run: Run, copy: Run, steps: dict[tuple[tuple[int, ...], str], int]) -> None:
    """Copies `confidence.json` if the checkpoint that it is of, by steps and weights, was copied, with its step in the copy."""
    calibration = Calibration.read(run.workdir)
    if calibration is None:
        return
    step = steps.get((calibration.steps, calibration.weights))
    if step is None:
        log.warning("%s: is of %s, which is not copied: calibrate the copy anew", CONFIDENCE, calibration.checkpoint)
    else:
        dataclasses.replace(calibration, steps=(step,)).write(copy.workdir)


def _by_step(checkpoints: CheckpointReader, which: Sequence[CheckpointName]) -> dict[int, CheckpointName]:
    """The checkpoints' names by their steps, in the order of `which`."""
    names: dict[int, CheckpointName] = {}
    contents: dict[int, tuple[int, str]] = {}  # how many checkpoints the parameters are the mean of, and which weights
    for name in which:
        step = checkpoints.resolve(name)[-1]
        content = name.number if name.kind == "average" else 1, checkpoints.weights(name)
        if contents.setdefault(step, content) != content:
            raise UserError(f"--checkpoint: {names[step]} and {name} are both of step {step}; copy each to a folder of its own")
        names.setdefault(step, name)
    return names


if __name__ == "__main__":
    from transformer_jax.cli.lean import run
    from transformer_jax.cli.program import main

    main(run)
