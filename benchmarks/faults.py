"""Does a training that is killed many times end with the same result as an uninterrupted one?

    python benchmarks/faults.py --kills=100
    python benchmarks/faults.py --kills=20 --signal=TERM --config.model.family=lstm --config.model.attention=general

Trains a small model once without interruption, then again, killing the process at random moments (often while it writes a
checkpoint: it writes one every few steps) and starting it again, until the number of kills is reached; a training that ends
before is followed by another. After each, every array of every checkpoint, its progress, every line of metrics and the steps of
which checkpoints are kept are compared bit for bit, except `training.metrics.TIMES`. A table goes to standard output; the exit
code is 1 if anything differs.
"""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402 (as train.py does it: set up before JAX is imported)
from outputs import make_folder, set_up_or_end

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import Config, ModelConfig, override, to_json, validate
from transformer_jax.errors import UserError

set_up_or_end(trains=True)

import jax
import numpy as np
import orbax.checkpoint as ocp

from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.metrics import without_times

SMALL = {
    "data.dev": "demo:dev",
    "tokenizer.vocab_size": 1000,
    "batch.tokens": 512,
    "batch.row_multiple": 8,
    "batch.shapes": 2,
    "model.num_layers": 1,
    "model.width": 32,
    "train.steps": 400,
    "train.log_every": 7,
    "train.checkpoint_every": 5,
    "train.evaluate_every": 40,
    "train.metric": "loss",
    "train.keep_checkpoints": 3,
}


def run() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=Path("runs/faults"), help="a folder for the runs (emptied)")
    flags, overrides = parser.parse_with_overrides()
    if flags.kills < 1:
        parser.error("--kills should be at least 1")
    config = small_config(overrides)
    flags.output = flags.output.absolute()
    make_folder(flags.output)
    if any(flags.output.iterdir()) and not (flags.output / "straight.log").exists():
        raise UserError(f"{flags.output}: is there and not of this benchmark; name another --output")
    shutil.rmtree(flags.output)
    make_folder(flags.output)
    file = flags.output / "config.json"
    file.write_text(to_json(config), encoding="utf-8")
    command = [sys.executable, str(ROOT / "train.py"), f"--config={file}"]

    started = time.perf_counter()
    # The first fills the compilation cache; the second takes as long as the interrupted ones, and must be equal too.
    for name in ("straight", "control"):
        code, seconds, _ = attempt(command, flags.output / name)
        if code:
            raise UserError(f"the undisturbed training ended with code {code}; see {flags.output / name}.log")
        print(f"undisturbed ({name}): {seconds:.0f} s", flush=True)
    control = differences(flags.output / "straight", flags.output / "control")
    if control:
        raise UserError(f"two undisturbed trainings differ ({control[0]}): nothing can be said of disturbed ones here")
    moments, rounds = random.Random(flags.seed), []
    while sum(len(hits) for hits, _ in rounds) < flags.kills:
        workdir = flags.output / f"disturbed-{len(rounds)}"
        hits = disturb(command, workdir, moments, flags.kills - sum(len(hits) for hits, _ in rounds), flags.signal, seconds)
        rounds.append((hits, differences(flags.output / "straight", workdir)))
        print(f"{workdir.name}: {len(hits)} times, {len(rounds[-1][1])} differences", flush=True)
    report(rounds, flags.signal, time.perf_counter() - started)
    return 1 if any(found for _, found in rounds) else 0


def small_config(overrides: list[str]) -> Config:
    """The demo's config with `SMALL`, then `overrides`; for an LSTM without the Transformer's fields and packed rows."""
    config = load_config(str(ROOT / "configs" / "demo.py"))
    if "model.family=lstm" in overrides:
        config.model, config.batch.kind = ModelConfig(family="lstm"), "bucketed"
    for item in [*(f"{key}={value}" for key, value in SMALL.items()), *overrides]:
        override(config, *item.split("=", 1))
    return validate(config)


def attempt(command: list[str], workdir: Path, after: float = 0, kind: str = "") -> tuple[int, float, float]:
    """Runs the training, ended by `kind` `after` seconds: (exit code, seconds it ran, seconds from the signal to the end)."""
    started = time.perf_counter()
    with workdir.with_suffix(".log").open("a") as log:
        process = subprocess.Popen([*command, f"--workdir={workdir}"], stdout=log, stderr=log)
        try:
            process.wait(timeout=after or None)
            hit = 0.0
        except subprocess.TimeoutExpired:
            hit = time.perf_counter()
            process.send_signal(getattr(signal, f"SIG{kind}"))
            process.wait()
    ended = time.perf_counter()
    return process.returncode, ended - started, ended - hit if hit else 0.0


def disturb(
    command: list[str], workdir: Path, moments: random.Random, most: int, kind: str, seconds: float
) -> list[tuple[str, float]]:
    """One training to its end; for each time it was hit, in the middle of what, and how long it took to leave."""
    hits = []
    while True:
        last = len(hits) == most
        # Half of the starts are hit in what comes before the first step, which takes most of so short a training's time.
        after = 0 if last else moments.uniform(1, seconds)
        code, _, leaving = attempt(command, workdir, after, kind)
        if code == 0:
            return hits
        if leaving == 0 or code != {"KILL": -signal.SIGKILL, "TERM": 75}[kind]:
            if not (kind == "TERM" and leaving and code == -signal.SIGTERM):  # before Python had a signal handler
                raise UserError(f"{workdir}: ended with code {code}; see {workdir.with_suffix('.log')}")
        hits.append((moment(workdir), leaving))


def moment(workdir: Path) -> str:
    """At which moment the process was killed, by the files in the folder."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any("tmp" in name for name in names):
        return "while a checkpoint was written"
    if any(not (folder / name / "manifest.json").exists() for name in names if name.isdecimal()):
        return "between a checkpoint and its checksums, or while an old one was deleted"
    return "elsewhere" if names else "before the first checkpoint"


def differences(expected: Path, found: Path) -> list[str]:
    """The differences between two runs in metrics, kept steps, arrays and progress, without times."""
    wrong = []
    lines = [[without_times(json.loads(line)) for line in (run / "metrics.jsonl").open()] for run in (found, expected)]
    for number, (line, expected_line) in enumerate(zip(*lines, strict=False), 1):
        wrong += [f"metrics line {number}: {name}" for name in names_of_different(line, expected_line)]
    if len(lines[0]) != len(lines[1]):
        wrong.append(f"{len(lines[0])} metrics lines, not {len(lines[1])}")
    with Run(found).checkpoints() as checkpoints, Run(expected).checkpoints() as others:
        if checkpoints.steps() != others.steps():
            return [*wrong, f"checkpoints {checkpoints.steps()}, not {others.steps()}"]
        for step in checkpoints.steps():
            different = names_of_different(saved_at(checkpoints, step), saved_at(others, step))
            wrong += [f"step {step}: {name}" for name in different]
    return wrong


def saved_at(checkpoints: CheckpointReader, step: int) -> dict[str, Any]:
    """The content of a checkpoint by name, without times; of each array its type, shape and bytes."""
    items = [name for name in ("params", "optimizer", "ema") if (checkpoints.folder / str(step) / name).is_dir()]
    restored = checkpoints._restore(step, **{name: ocp.args.StandardRestore() for name in items})
    arrays = jax.tree.leaves_with_path({name: jax.tree.map(np.asarray, restored[name]) for name in items})
    saved = {jax.tree_util.keystr(path): (leaf.dtype, leaf.shape, leaf.tobytes()) for path, leaf in arrays}
    progress = dataclasses.asdict(checkpoints.progress(step))
    unwritten = without_times(progress.pop("unwritten"))
    saved |= {f"progress.{name}": value for name, value in progress.items()}
    return saved | {f"progress.unwritten.{name}": value for name, value in unwritten.items()}


def names_of_different(numbers: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names that only one of the two has, or whose values differ."""
    names = dict.fromkeys([*numbers, *expected])
    return [name for name in names if name not in numbers or name not in expected or numbers[name] != expected[name]]


def report(rounds: list, kind: str, seconds: float) -> None:
    hits = Counter(where for found, _ in rounds for where, _ in found)
    print(f"\n| SIG{kind} came | times |\n|---|---:|")
    for where, count in hits.most_common():
        print(f"| {where} | {count} |")
    leaving = [left for found, _ in rounds for _, left in found]
    wrong = [line for _, found in rounds for line in found]
    print(f"\n{sum(hits.values())} times in {len(rounds)} trainings, {len(wrong)} differences, {seconds:.0f} s in all")
    if kind == "TERM":
        print(f"from signal to end: median {np.median(leaving):.1f} s, longest {max(leaving):.1f} s")
    for line in wrong[:20]:
        print(line)


if __name__ == "__main__":
    main(lambda: sys.exit(run()))
