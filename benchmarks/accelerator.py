"""What does a GPU or a TPU do with transformer_jax? The parts of `accelerator.sh` that no other script has, and its page.

    benchmarks/accelerator.sh runs/accelerator
    python benchmarks/accelerator.py equality

`devices` tells what is there; `equality` compares one training step and one search with the CPU's; `demo` trains the demo and
scores it; `deterministic` asks whether a training twice has the same bits, and what the XLA flag for it costs; `text` writes
the built-in corpus, some times over; `page` gathers what the parts have printed into one page and one JSON file.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from accelerator_page import write_page

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up
from transformer_jax.errors import UserError

PARTS = ["devices", "equality", "demo", "deterministic", "text", "page", "values", "updates"]
PACKAGES = [
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "flax",
    "optax",
    "numpy",
    "torch",
    "ctranslate2",
]
FLAG = "--xla_gpu_deterministic_ops=true"


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS, help="values and updates: what equality and deterministic start")
    parser.add_argument("--output", type=Path, help="of the parts that write files: their folder, which is there")
    parser.add_argument("--copies", type=int, default=1, help="text: how many times over, with other words")
    parser.add_argument("--pairs", type=int, help="text: so many of the corpus (default: all)")
    parser.add_argument("--model", default="base", help="deterministic: a model of train_speed.py")
    parser.add_argument("--data", default="random:800x32", help="deterministic: a batch, as for train_speed.py")
    parser.add_argument("--vocab_size", type=int, default=32000, help="deterministic: of these random batches")
    parser.add_argument("--steps", type=int, default=60, help="deterministic: updates of each training")
    flags, overrides = parser.parse_with_overrides()
    if flags.output is None and flags.part in ("demo", "text", "page", "values"):
        raise UserError(f"{flags.part} writes files: --output=FOLDER is missing")
    if min(flags.copies, flags.steps) < 1:
        parser.error("--copies and --steps should be at least 1")
    if flags.part == "page":
        write_page(flags.output)
    elif flags.part == "devices":
        tell_devices()
    elif flags.part == "equality":
        compare_with_cpu()
    elif flags.part == "values":
        from accelerator_equality import write_values

        write_values(flags.output)
    elif flags.part == "demo":
        train_demo(flags.output, overrides)
    elif flags.part == "text":
        write_text(flags.output, flags.pairs, flags.copies)
    elif flags.part == "updates":
        print(json.dumps(updates(flags.model, flags.data, flags.vocab_size, flags.steps, tuple(overrides))))
    else:
        names = "model", "data", "vocab_size", "steps"
        compare_bits([f"--{name}={getattr(flags, name)}" for name in names], overrides)


def tell_devices() -> None:
    """What another reader of the figures must know."""
    from decode_speed import machine, row

    set_up(trains=True)
    import jax
    from train_ours import Ours

    devices = jax.devices()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    lines: dict[str, Any] = {
        "devices": f"{len(devices)} {devices[0].device_kind} ({devices[0].platform})",
        "memory that JAX takes of one": f"{memory / 1e9:.1f} GB" if memory else "not told",
        "JAX's runtime": " ".join(devices[0].client.platform_version.split()),
        "driver": output_of_tool("nvidia-smi", "--query-gpu=driver_version,name,power.limit", "--format=csv,noheader"),
        "host": machine(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": platform.platform(),
        "commit": output_of_tool("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    for package in PACKAGES:
        try:
            lines[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    print(row(["what", "found"]) + row(["---", "---"]), end="")
    for name, value in lines.items():
        print(row([name, str(value).replace("|", "/") or "-"]), end="", flush=True)
    for precision, rate in Ours.peaks(None).items():  # it needs nothing of a training
        print(row([f"product of two large matrices, {precision}", f"{rate / 1e12:,.2f} TFLOP/s"]), end="", flush=True)


def output_of_tool(*command: str) -> str:
    """The first line that a command prints; "" if there is no such command, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def compare_with_cpu() -> None:
    import accelerator_equality

    with tempfile.TemporaryDirectory() as folder:
        if not accelerator_equality.run(Path(folder)):
            sys.exit("error: something is not within its tolerance")


def train_demo(folder: Path, overrides: list[str]) -> None:
    """The demo's whole way: text, tokenizer, compilation, training, evaluation, search; nothing prepared or compiled before."""
    from decode_speed import row
    from leaderboard import score, train

    workdir = folder / "demo"
    training = train("demo", workdir, overrides, goal=None)
    (bleu,) = score(workdir, ["demo:test"], ())
    columns = ["updates", "minutes", "BLEU on demo:test"]
    print(row(columns) + row(["---:"] * len(columns)), end="")
    print(row([f"{training.updates:,}", f"{training.minutes:.2f}", f"{bleu:.1f}"]), end="")


def write_text(folder: Path, pairs: int | None, copies: int) -> None:
    """text/train.en and text/train.de."""
    from transformer_jax.data import demo

    prefix = folder / "text" / "demo"
    prefix.parent.mkdir(exist_ok=True)
    examples = demo.generate("train", pairs)
    for language, side in (("en", "source"), ("de", "target")):
        text = "".join(f"{getattr(example, side)}\n" for example in examples)
        Path(f"{prefix}.{language}").write_text(text, encoding="utf-8")
    enlarge = Path(__file__).with_name("enlarge.py")
    done = subprocess.run([sys.executable, str(enlarge), str(prefix), str(copies), str(folder / "text" / "train")])
    sys.exit(done.returncode)


def updates(model: str, data: str, pieces: int, steps: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    """A short training: the kind of device, seconds of an update, and a digest of the parameters at its end."""
    set_up(trains=True)
    import jax
    from train_ours import Ours
    from train_work import Job

    training = Ours(Job(model, "bfloat16", data, pieces, 1.0, os.cpu_count() or 1, "", overrides))
    training.first()
    seconds = training.lap(steps)["seconds"] / steps
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(training.check()[0]):
        digest.update(leaf.tobytes())
    return {"backend": jax.default_backend(), "seconds": seconds, "digest": digest.hexdigest()}


def compare_bits(arguments: list[str], overrides: list[str]) -> None:
    """Two trainings without XLA's flag and, on a GPU, two with it, each a process of its own; those of a pair share a folder of
    compiled programs, as two trainings of a user do."""
    from decode_speed import row

    columns = ["XLA_FLAGS", "ms an update", "again", "the same bits"]
    print(row(columns) + row(["---", "---:", "---:", "---"]), end="", flush=True)
    given = os.environ.get("XLA_FLAGS", "")
    command = [sys.executable, __file__, "updates", *arguments, *(f"--config.{item}" for item in overrides)]
    pending = [given]
    for xla_flags in pending:
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"XLA_FLAGS": xla_flags, "JAX_COMPILATION_CACHE_DIR": cache}
            outputs = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        if any(output.returncode for output in outputs):
            sys.exit(f"error: a training ended with code {max(output.returncode for output in outputs)}")
        first, second = (json.loads(output.stdout) for output in outputs)
        times = [f"{1000 * each['seconds']:.1f}" for each in (first, second)]
        print(row([xla_flags or "-", *times, "yes" if first["digest"] == second["digest"] else "no"]), end="", flush=True)
        if first["backend"] == "gpu" and FLAG not in xla_flags:
            pending.append(f"{given} {FLAG}".strip())


if __name__ == "__main__":
    main(run)
