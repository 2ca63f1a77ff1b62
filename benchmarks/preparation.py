"""Time and memory from the start of a training to its first batch, for new text and for text that is in the caches.

    python benchmarks/preparation.py --config=configs/transformer_base.py --config.data.train=BIG/train --config.data.dev=DEV

Three processes, one after the other, do what `train.py` does up to the first batch, with a cache of their own: the first has
new text (it reads, cleans, trains the tokenizer, tokenises), the second finds everything in the cache, the third resumes at
nine tenths of an epoch. Seconds count from the start of the process, imports included; memory is the peak of the process and
the largest peak of its tokenisation processes. The results are in docs/benchmarks/start.md.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

STARTED = time.perf_counter()
sys.path.insert(0, str(Path(__file__).parents[1]))

# ruff: noqa: E402 (as train.py does it: set up before JAX is imported)
from outputs import output_of, temporary_folder

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up

STAGES = {"new text": [], "prepared": [], "going on late in an epoch": ["--late"]}


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--workdir", help="of one process (the others are started without)")
    parser.add_argument("--late", action="store_true")
    flags, overrides = parser.parse_with_overrides()
    if flags.workdir:
        one_start(load_config(flags.config, overrides), Path(flags.workdir), flags.late)
        return
    print("| | to the first batch, s | imports, s | its memory, GB | the largest of its processes, GB |")
    print("|---|---:|---:|---:|---:|")
    with temporary_folder() as folder:
        for name, more in STAGES.items():
            command = [__file__, *sys.argv[1:], f"--workdir={folder}/run", *more]
            numbers = output_of(command, os.environ | {"XDG_CACHE_HOME": folder})
            seconds, imports, own, others = json.loads(numbers)
            print(f"| {name} | {seconds:.1f} | {imports:.1f} | {own:.2f} | {others:.2f} |", flush=True)


def one_start(config, folder: Path, late: bool) -> None:
    set_up(trains=True)
    from transformer_jax.data.prefetch import prefetch
    from transformer_jax.data.stream import StreamPosition
    from transformer_jax.training.across_devices import Parallel
    from transformer_jax.training.prepare import open_run, prepare

    place = folder.with_name("late.json")
    parallel = Parallel(config)  # starts JAX
    imports = time.perf_counter() - STARTED
    _, stream, _ = prepare(open_run(folder, config))
    start = StreamPosition(*json.loads(place.read_text())) if late else StreamPosition()
    with prefetch(stream.batches(start, *parallel.process_shard)) as batches:
        next(batches)
        seconds = time.perf_counter() - STARTED
    memory = [resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps([seconds, imports, *memory]))
    if not place.exists():
        place.write_text(json.dumps(late_in_the_epoch(stream)))


def late_in_the_epoch(stream):
    """Where a training stands after nine tenths of the first epoch, or after as many of its batches as come before its end."""
    from transformer_jax.data.stream import StreamPosition

    late = StreamPosition()
    for _, position in stream.batches():
        if position.epoch or late.offset > 0.9 * stream.pairs:
            return late
        late = position


if __name__ == "__main__":
    main(run)
