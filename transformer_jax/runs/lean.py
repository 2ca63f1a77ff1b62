"""A copy of a run without what only training needs: about a third of the bytes. It translates, is scored, exported and shown.

    python -m transformer_jax.runs.lean runs/demo demo_lean
    python -m transformer_jax.runs.lean runs/base base_lean --checkpoint average:5 best:raw

The copy has the config, the tokenizer, the hashes of the training text's words, and of each checkpoint that is named the
parameters (their moving average, where the run has one) and where training stood, with checksums. It has no optimizer state:
training goes on from it in a run of its own, with `--config.train.init_from=demo_lean`.
"""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

from etils import epath

from transformer_jax.config import to_json
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.checkpoints import Checkpoints, parse_checkpoint
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.files import write_whole
from transformer_jax.storage.output_folders import require_possible_output, written_whole

__all__ = ["copy_run"]


def copy_run(workdir: str, output: str, which: Sequence[str] = ("best",)) -> list[str]:
    """Writes a lean copy of the run folder `workdir` to `output`, a folder that is new or empty.

    `which` are checkpoints: latest, best, a step, or `average:N` (one set of parameters, as the checkpoint of the last of its
    steps), each also with :raw or :ema after it. `best` of the copy is that of the run where it is copied, else the first of
    `which`. Returns in words which they are. Raises UserError where one is not there or damaged, where two that differ are of
    one step, and where `output` cannot be written.
    """
    require_possible_output(output)
    run = Run(workdir)
    tokenizer, words, copied = run.tokenizer(), run.words(), []
    abstract = abstract_parameters(build_model(run.config.model, tokenizer.vocab_size))
    with run.checkpoints() as checkpoints, written_whole(output) as unfinished:
        names = _by_step(checkpoints, which)
        best_step = checkpoints.progress(checkpoints.resolve("latest")[0]).best_step
        best_step = best_step if best_step in names else next(iter(names))
        standing = {"best_step": best_step, "best_score": checkpoints.progress(best_step).score, "unwritten": {}}
        unfinished.mkdir(parents=True)
        write_whole(epath.Path(unfinished) / "config.json", to_json(run.config))
        copy = Run(unfinished)
        tokenizer.copy_to(copy.tokenizer_folder)
        if words is not None:
            copy.keep_words(words)
        with copy.checkpoints(keep=len(names)) as writing:
            for step, name in sorted(names.items()):
                params, described = checkpoints.parameters(name, abstract, tokenizer)
                averaged = checkpoints.weights(name) == "ema"
                state = SimpleNamespace(
                    params=None if averaged else params, optimizer_state=None, ema=params if averaged else None
                )
                writing.save(state, dataclasses.replace(checkpoints.progress(step), **standing))
                copied.append(described)
    return copied


def _by_step(checkpoints: Checkpoints, which: Sequence[str]) -> dict[int, str]:
    """{step: the checkpoint's name}, in the order of `which`."""
    names: dict[int, str] = {}
    contents: dict[int, tuple[int, str]] = {}
    for name in which:
        kind, number, _ = parse_checkpoint(name)
        step, content = checkpoints.resolve(name)[-1], (number if kind == "average" else 1, checkpoints.weights(name))
        if contents.setdefault(step, content) != content:
            raise UserError(f"--checkpoint: {names[step]} and {name} are both of step {step}; copy each to a folder of its own")
        names.setdefault(step, name)
    return names


if __name__ == "__main__":
    from transformer_jax.cli.lean import run
    from transformer_jax.cli.program import main

    main(run)
