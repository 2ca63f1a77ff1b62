"""Training speed of transformer_jax ("ours") and PyTorch for the same model and data, and the machine's peak FLOP/s.

    pip install torch
    python benchmarks/train_speed.py --models tiny base --data random:64x32 MULTI30K/train MIXED/train:0.05

A corpus is `PREFIX`, or `PREFIX:SHARE` for a share of an epoch's batches, evenly spread; `random:ROWSxLENGTH` repeats one batch
without padding, which times the model's step alone. Ours runs as in `train.py`: batches by length in few shapes, made by a
thread (`--config.batch.KEY=VALUE` changes them). PyTorch (eager, and `torch.compile`) has sentences sorted by length in batches
padded to their longest sentence, made by a thread too. It has the same layers, widths, dropout and label smoothing, and fused
Adam; before the measurement it loads our parameters, and both report the loss of one batch.

Each training is a process of its own on the same cores; they take turns lap by lap. Rates are those of all laps together, the
ratio is the median over the laps. Target tokens are those without padding. "First" is the time of one step of each shape (in
PyTorch of three batches), compilation included. FLOPs are those of all matrix products of our step, forward and backward,
counted in its program, times the share of positions that are not padding. The peak is the fastest product of two large
matrices by either library in the same run, in that precision, before the first lap or before the last.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from decode_speed import machine, row
from train_work import MODELS, Job

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up
from transformer_jax.errors import UserError

SYSTEMS = ("ours", "PyTorch", "PyTorch compiled")
COLUMNS = "data model precision system first step tokens/s ours waiting memory GFLOP/s peak loss".split()


class Training:
    """A process that trains a lap on request."""

    def __init__(self, system: str, job: Job):
        self.system, self.laps = system, []
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, system, job), daemon=True)
        self._process.start()
        theirs.close()
        self.steps = self._receive()

    def ask(self, what: str, *arguments: Any) -> Any:
        self._pipe.send((what, arguments))
        return self._receive()

    def _receive(self) -> Any:
        found = self._pipe.recv()
        if isinstance(found, UserError):
            raise found
        return found

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()


def serve(pipe: Connection, system: str, job: Job) -> None:
    """The main function of one training's process: sends its number of steps, then the answer to each request."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch is on the same device
    try:
        if system == "ours":
            set_up(trains=True)
            from train_ours import Ours

            training = Ours(job)
        else:
            from train_torch import Torch

            training = Torch(job, compiled=system.endswith("compiled"))
    except (UserError, ImportError) as error:
        pipe.send(error if isinstance(error, UserError) else UserError(f"{system}: {error}; leave it out with --systems"))
        return
    pipe.send(training.steps)
    while (request := pipe.recv()) is not None:
        what, arguments = request
        found = getattr(training, what)(*arguments)
        if what == "memory":
            found = found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send(found)


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny", "base"])
    parser.add_argument("--data", nargs="+", default=["random:64x32"], metavar="PREFIX[:SHARE] or random:ROWSxLENGTH")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--vocab_size", type=int, default=8000)
    parser.add_argument("--laps", type=int, default=8, help="in which each system's steps are done, in turns")
    parser.add_argument("--steps", type=int, default=1, help="of a lap of random batches")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    flags, overrides = parser.parse_with_overrides()
    if min(flags.laps, flags.steps, flags.threads) < 1:
        parser.error("--laps, --steps and --threads should be at least 1")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{cache}/compiled"
        print(f"\n{machine(flags.threads)}\n\n{row(COLUMNS)}{row(['---'] * 4 + ['---:'] * 9)}", end="", flush=True)
        notes = []
        for data in flags.data:
            prefix, share = split_share(data)
            for model in flags.models:
                for precision in flags.precision:
                    rest = flags.vocab_size, share, flags.threads, cache, tuple(overrides)
                    job = Job(model, precision, prefix, *rest)
                    systems = [name for name in flags.systems if "lstm" not in model or name != "PyTorch compiled"]
                    notes.append(compare(job, systems, flags.laps, flags.steps))
    print("\n" + "\n".join(filter(None, notes)))


def split_share(data: str) -> tuple[str, float]:
    """
    >>> split_share("data/train:0.05"), split_share("data/train"), split_share("random:64x32")
    (('data/train', 0.05), ('data/train', 1.0), ('random:64x32', 1.0))
    """
    prefix, _, share = data.rpartition(":")
    try:
        return (prefix, float(share)) if prefix and 0 < float(share) <= 1 else (data, 1.0)
    except ValueError:
        return data, 1.0


def compare(job: Job, systems: list[str], laps: int, steps: int) -> str:
    """Prints the rows of one model, precision and corpus; returns the notes below the table."""
    trainings = [Training(system, job) for system in systems]
    note = agreement(job, trainings)
    firsts = [training.ask("first") for training in trainings]
    peak = 0.0
    for lap in range(laps):
        turn = lap % len(trainings)
        for training in trainings[turn:] + trainings[:turn]:
            if lap in (0, laps - 1):
                peak = max(peak, training.ask("peaks")[job.precision])
            count = training.steps // laps + (lap < training.steps % laps) if training.steps else steps
            training.laps.append(training.ask("lap", count) | {"steps": count})
    flops_a_token = 0.0
    for training, first in zip(trainings, firsts, strict=True):
        total = {key: sum(lap[key] for lap in training.laps) for key in ("seconds", "waited", "tokens", "flops", "steps")}
        # The FLOPs for a token are those of ours for both: work on padding is no merit.
        flops_a_token = flops_a_token or total["flops"] / total["tokens"]
        rate = total["tokens"] / total["seconds"]
        waited, speed = total["waited"] / total["seconds"], flops_a_token * rate
        memory, milliseconds = training.ask("memory") / 1e9, 1000 * total["seconds"] / total["steps"]
        cells = [short(job), job.model, job.precision, training.system, f"{first:.1f} s", f"{milliseconds:,.0f} ms"]
        cells += [f"{rate:,.0f}", "-" if training is trainings[0] else ratio(trainings[0], training), f"{waited:.1%}"]
        cells += [f"{memory:.1f} GB", f"{speed / 1e9:,.0f}", f"{speed / peak:.0%}"]
        print(row([*cells, f"{training.laps[-1]['loss']:.3f}"]), end="", flush=True)
        training.stop()
    return note


def short(job: Job) -> str:
    return job.data if job.data.startswith("random:") else "/".join(Path(job.data).parts[-2:])


def ratio(ours: Training, other: Training) -> str:
    """The speed of ours over that of the other, in the median lap."""
    pairs = zip(ours.laps, other.laps, strict=True)
    return f"{statistics.median(a['tokens'] / a['seconds'] / (b['tokens'] / b['seconds']) for a, b in pairs):.2f} times"


def agreement(job: Job, trainings: list[Training]) -> str:
    """Loads our parameters into PyTorch, and reports both losses of one batch."""
    if "ours" not in (training.system for training in trainings) or len(trainings) == 1 or "lstm" in job.model:
        return ""
    params, batch, loss = next(training for training in trainings if training.system == "ours").ask("check")
    theirs = [training.ask("check", params, batch) for training in trainings if training.system != "ours"]
    found = ", ".join(f"{loss:.6f}" for loss in theirs)
    where = f"{short(job)}, {job.model}, {job.precision}"
    return f"* {where}: the loss of one batch with our parameters is {loss:.6f}, PyTorch's {found}"


if __name__ == "__main__":
    main(run)
