"""The time from `python train.py` to the end of the first update.

    python benchmarks/startup.py --config=configs/transformer_base.py --config.data.train=MULTI30K/train ...

The same command in a new run folder each time: first with empty caches, then `--repeats` times with the tokenised text and the
compiled programs of the first. Seconds count from the start of the process to its lines of output; the last column is a second
update of the same program, which compiles nothing.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError

STAGES = {"text read, tokenised": " parameters: ", "one update": "step 1/", "two updates": "step 2/"}


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    flags, overrides = parser.parse_with_overrides()
    if load_config(flags.config, overrides).train.steps < len(STAGES) - 1:
        raise UserError("config.train.steps should be at least 2: two updates are timed")
    if flags.repeats < 0:
        parser.error("--repeats should be at least 0")
    print(f"| seconds to | {' | '.join(STAGES)} |\n|---|{'---:|' * len(STAGES)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_CACHE_HOME": f"{folder}/cache", "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache/compiled"}
        for number in range(1 + flags.repeats):
            seconds = start(flags.config, overrides, f"{folder}/run{number}")
            print(
                f"| {'with what is kept' if number else 'at first'} | {' | '.join(f'{x:.1f}' for x in seconds)} |", flush=True
            )


def start(config: str, overrides: list[str], workdir: str) -> list[float]:
    """Seconds to each of the stages; the training is ended at the last."""
    command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.{item}" for item in [*overrides, "train.log_every=1"]]
    started, found, said = time.perf_counter(), [], []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as training:
        for line in training.stderr:
            said.append(line)
            if list(STAGES.values())[len(found)] in line:
                found.append(time.perf_counter() - started)
            if len(found) == len(STAGES):
                training.kill()
                return found
    if training.returncode == 2:  # bad input, which its last line names
        raise UserError(said[-1].strip().removeprefix("error: "))
    raise RuntimeError(f"{' '.join(command)} ended too soon, with code {training.returncode}:\n{''.join(said)}")


if __name__ == "__main__":
    main(run)
