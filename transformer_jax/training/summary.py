"""What a training reports first and last: devices, model and data; then its result, and the command that comes next."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from transformer_jax import platform
from transformer_jax.config import BatchConfig, Config
from transformer_jax.data.batch_shapes import Shape
from transformer_jax.models.seq2seq import count_parameters
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.training.across_devices import StepMemory
from transformer_jax.version import __version__

__all__ = [
    "describe_best",
    "describe_end",
    "describe_epochs",
    "describe_memory",
    "describe_parameters",
    "describe_start",
    "next_command",
    "parameters_by_part",
    "size_in_words",
    "unused_positions",
]

_MANY_EPOCHS = 100  # from here on a text is probably too small for so many steps
_SMALL_PART = 0.9  # of `batch.tokens`: a packed batch with fewer positions is worth a warning


def describe_start(name: str, workdir: Any, dtype: Any) -> list[str]:
    """The version, the name of the config if it has one, and the run folder; then the devices, and the type that products are
    computed in."""
    devices = platform.describe_devices(jax.devices(), jax.process_count())
    config = f", config {name}" * bool(name)
    return [f"transformer_jax {__version__}{config}, run folder {workdir}", f"{devices}: {dtype}"]


def parameters_by_part(params: Mapping[str, Any]) -> dict[str, int]:
    """The number of parameters of the embeddings, the encoder, the decoder (what attends to the source included) and the
    output, of a model's tree of parameters. A table that is both embedding and output counts as embedding.

    >>> import numpy as np
    >>> parameters_by_part({"target_embedding": np.ones(6), "encoder_0": np.ones(2), "attention": np.ones(3)})
    {'embeddings': 6, 'encoder': 2, 'decoder': 3, 'output': 0}
    """
    parts = dict.fromkeys(("embeddings", "encoder", "decoder", "output"), 0)
    for name, of_name in params.items():
        if name in ("output_embedding", "bias"):
            part = "output"
        elif name.endswith(("_embedding", "_positions")):
            part = "embeddings"
        else:
            part = "encoder" if name.startswith("encoder") else "decoder"
        parts[part] += count_parameters(of_name)
    return parts


def describe_parameters(params: Mapping[str, Any], tied: bool) -> str:
    """The number of parameters in all and by part; `tied` says that the output has the table of an embedding.

    >>> import numpy as np
    >>> describe_parameters({"target_embedding": np.ones(6000), "encoder_0": np.ones(2000)}, tied=True)
    '8,000 parameters: embeddings 6,000 (also the output), encoder 2,000, decoder 0'
    """
    parts = parameters_by_part(params)
    named = [f"{part} {count:,}" for part, count in parts.items() if count or part != "output"]
    named[0] += " (also the output)" * tied
    return f"{sum(parts.values()):,} parameters: {', '.join(named)}"


def describe_memory(memory: StepMemory) -> str:
    """What a step takes of the memory of each device.

    >>> describe_memory(StepMemory(state=80_000_000, total=1_250_000_000, devices=1))
    'memory of a step: 1.25 GB, of which parameters and optimizer state are 80.0 MB'
    >>> describe_memory(StepMemory(state=80_000_000, total=None, devices=8))
    'memory of parameters and optimizer state: 80.0 MB on each device (what a step takes beside them is not known here)'
    """
    state, each = size_in_words(memory.state), " on each device" * (memory.devices > 1)
    if memory.total is None:
        return f"memory of parameters and optimizer state: {state}{each} (what a step takes beside them is not known here)"
    return f"memory of a step: {size_in_words(memory.total)}{each}, of which parameters and optimizer state are {state}"


def size_in_words(count: float) -> str:
    """A number of bytes.

    >>> size_in_words(2_345), size_in_words(23_456_789), size_in_words(234_567_890_123)
    ('2.3 kB', '23.5 MB', '235 GB')
    """
    unit, name = next(((10**power, name) for power, name in ((9, "GB"), (6, "MB")) if count >= 10**power), (1000, "kB"))
    value = count / unit
    return f"{value:.{2 if unit == 10**9 and value < 10 else 1 if value < 100 else 0}f} {name}"


def describe_epochs(config: Config, batches_per_epoch: float, pairs: int) -> tuple[str, str]:
    """How many epochs `train.steps` are, and a warning if they are hundreds (else "").

    >>> config = Config()
    >>> config.train.steps = 3000
    >>> describe_epochs(config, batches_per_epoch=1200.0, pairs=90_000)
    ('3,000 steps are about 2.5 epochs of 90,000 pairs', '')
    """
    steps, epochs = config.train.steps, config.train.steps / batches_per_epoch
    shown = f"{epochs:.1f}" if epochs < 10 else f"{epochs:,.0f}"
    line = f"{steps:,} steps are about {shown} epochs of {pairs:,} pairs"
    if epochs < _MANY_EPOCHS:
        return line, ""
    ends = f"train.patience={config.train.patience} may end it earlier" if config.train.patience else "set train.patience"
    fewer = max(round(30 * batches_per_epoch, -2 if batches_per_epoch > 10 else 0), 1)
    return line, (
        f"train.steps={steps} passes over the text {shown} times, after which a model mostly repeats it: more text helps, or "
        f"fewer steps (train.steps={fewer:.0f} is about {fewer / batches_per_epoch:.0f} epochs); {ends}"
    )


def unused_positions(config: BatchConfig, shapes: Sequence[Shape]) -> str:
    """A warning that packed batches have far fewer positions than `batch.tokens`, because their rows come in multiples of
    `batch.row_multiple`; "" where they do not."""
    rows, longer = shapes[0].rows, max(shapes[0][1:])
    if config.kind != "packed" or rows * longer >= _SMALL_PART * config.tokens:
        return ""
    more = (rows + config.row_multiple) * longer
    return (
        f"batch.tokens={config.tokens:,}, but a packed batch has {rows} x {longer} = {rows * longer:,} positions: its rows are "
        f"a multiple of batch.row_multiple={config.row_multiple}; set batch.tokens={more} or {rows * longer}, or a smaller "
        "batch.row_multiple"
    )


def describe_best(config: Config, progress: TrainProgress) -> str:
    """The best score on the dev set and its step, or "" before the first evaluation.

    >>> describe_best(Config(), TrainProgress(best_score=31.46, best_step=1500))
    'best bleu 31.46 at step 1,500'
    """
    if progress.best_score is None:
        return ""
    # Of loss and TER, where lower is better, the progress has the negative.
    metric, lower = config.train.metric, config.train.metric in ("loss", "ter")
    name, value = "cross_entropy" if metric == "loss" else metric, -progress.best_score if lower else progress.best_score
    return f"best {name} {value:.4g} at step {progress.best_step:,}"


def describe_end(config: Config, progress: TrainProgress, steps: int, seconds: float, workdir: Any) -> list[str]:
    """The last lines of a training: what it did in this process (`steps` in `seconds`), its best score, and what comes next."""
    done = f"trained to step {progress.step:,}, {steps:,} steps in {seconds / 60:.1f} minutes"
    test = "demo:test" if config.data.dev.startswith("demo:") else "TEST_SET"
    parts = [done if steps else "", describe_best(config, progress), f"run folder {workdir}"]
    return ["; ".join(filter(None, parts)), f"next: {next_command(str(workdir), test, sys.argv[0])}"]


def next_command(workdir: str, test: str, program: str) -> str:
    """How the best checkpoint is scored on `test`: the command beside `program` (`sys.argv[0]`), which trained it, or a line of
    Python if it was none of this package's.

    >>> next_command("runs/demo", "demo:test", "/opt/bin/transformer-jax")
    'transformer-jax evaluate --workdir=runs/demo --test demo:test'
    """
    path = Path(program)
    flags = f"--workdir={shlex.quote(workdir)} --test {test}"
    if path.stem == "transformer-jax":
        return f"{path.name} evaluate {flags}"
    if path.parts[-2:] == ("transformer_jax", "__main__.py"):
        return f"{_interpreter()} -m transformer_jax evaluate {flags}"
    if path.name == "train.py" and path.with_name("evaluate.py").exists():
        return f"{_interpreter()} {shlex.quote(_as_seen_from_here(path.with_name('evaluate.py')))} {flags}"
    return f"transformer_jax.Translator.load({workdir!r})"


def _interpreter() -> str:
    """This Python, as a command would name it."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and os.path.abspath(found) == os.path.abspath(sys.executable):
            return name
    return shlex.quote(_as_seen_from_here(Path(sys.executable)))


def _as_seen_from_here(path: Path) -> str:
    """Relative to the working directory where it is in it."""
    absolute = Path(os.path.abspath(path))  # links are not followed: a virtual environment's Python is one
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
