"""The time from `python translate.py "..."` to its line, and where it goes.

    python benchmarks/one_sentence.py --workdir=runs/mine

The command is run with an empty cache of compiled programs, and then `--repeats` times with what the first run left there. Then
the same work in steps, `--repeats` times, in a new process each; the medians of all. "The search" has four parts below it, and
what is left is that of its Python.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError

TRANSLATE = str(Path(__file__).parents[1] / "translate.py")
STEPS = """
import json, sys, time
started, workdir, text = float(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {"Python": time.time() - started}

def done(name, before):
    now = time.time()
    found[name] = now - before
    return now

at = time.time()
from transformer_jax import platform
from transformer_jax.cli import program
platform.import_jax()
at = done("JAX is imported", at)
program.set_up()
at = done("its devices are found", at)
import transformer_jax.cli.translate
from transformer_jax.inference.translator import Translator
at = done("the program's other modules are imported", at)
translator = Translator.load(workdir)
at = done("the checkpoint and the tokenizer are read", at)
import jax
names = {
    "/jax/core/compile/jaxpr_trace_duration": "... traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "... lowered",
    "/jax/core/compile/backend_compile_duration": "... compiled, or read from the cache",
}
parts = dict.fromkeys(names.values(), 0.0)

def listen(event, seconds, **_):
    if event in names:
        parts[names[event]] += seconds

jax.monitoring.register_event_duration_secs_listener(listen)
at = time.time()
translator.translate([text])
at = done("the search", at)
found |= parts
translator.translate([text])
done("... run", at)
found["until the end of the process"] = time.time()
print(json.dumps(found))
"""


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--text", default="The dog sleeps.", help="the sentence")
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    if flags.repeats < 1:
        parser.error("--repeats should be at least 1")
    command = [sys.executable, TRANSLATE, f"--workdir={flags.workdir}", flags.text]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        first, _ = timed(command)
        again = statistics.median(timed(command)[0] for _ in range(flags.repeats))
        print(f"translate.py: {first:.2f} s with an empty cache, {again:.2f} s with a full one\n", flush=True)
        steps = [in_steps(flags.workdir, flags.text) for _ in range(flags.repeats)]
    print("| step | ms |\n|---|---:|")
    for name in steps[0]:
        print(f"| {name} | {1000 * statistics.median(found[name] for found in steps):,.0f} |")


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds until the command has ended, and what it wrote. Raises UserError for what it calls bad input."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode == 2:
        raise UserError(done.stderr.splitlines()[-1].removeprefix("error: "))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr}")
    return seconds, done.stdout


def in_steps(workdir: str, text: str) -> dict[str, float]:
    """Seconds of each step of a process that translates the text."""
    _, written = timed([sys.executable, "-c", STEPS, str(time.time()), workdir, text])
    ended, found = time.time(), json.loads(written.splitlines()[-1])
    return found | {"until the end of the process": ended - found["until the end of the process"]}


if __name__ == "__main__":
    main(run)
