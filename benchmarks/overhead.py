"""The cost of logging and checkpoints in a training, at the intervals of its config.

    python benchmarks/overhead.py --config=configs/demo.py --rounds=8

Alternates blocks of the same `train.log_every` batches in one process, without and with a checkpoint. The checkpoint is saved
at the start of the block and written during it, checksums and the deletion of its predecessor included, and waited for at the
end; its cost is the difference of the medians. Logging (fetching the sums of all updates, a line of metrics, TensorBoard) is
timed alone while the device is idle, so that no part of it overlaps with an update. Evaluation is not included.
"""

import itertools
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

# ruff: noqa: E402 (as train.py does it: set up before JAX is imported)
from outputs import set_up_or_end

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main

set_up_or_end(trains=True)

import jax

from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.metrics import Meter
from transformer_jax.training.metrics_writer import MetricsWriter
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.prepare import prepare
from transformer_jax.training.step import TrainState, make_train_step


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--rounds", type=int, default=8)
    flags, overrides = parser.parse_with_overrides()
    if flags.rounds < 1:
        parser.error("--rounds should be at least 1")
    config = load_config(flags.config, overrides)
    key = jax.random.key(0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.open_or_create(folder, config)
        tokenizer, stream, _ = prepare(run)
        parallel, optimizer = Parallel(config), make_optimizer(config)
        model = build_model(config.model, tokenizer.vocab_size)
        step = parallel.step(make_train_step(model, optimizer, config.train))
        state = parallel.create(
            lambda key: TrainState.create(init_parameters(model, key), optimizer, config.train.ema_decay), key
        )
        seconds, logging, meter = {"plain": [], "checkpoint": []}, [], Meter()
        checkpoints = run.checkpoint_writer()
        batches = [batch for batch, _ in itertools.islice(stream.batches(), config.train.log_every)]
        with checkpoints, MetricsWriter(run.workdir, 0) as writer:
            for round in range(flags.rounds + 1):
                for kind in random.Random(round).sample(list(seconds), len(seconds)):
                    started = time.perf_counter()
                    if kind == "checkpoint":
                        checkpoints.save(state, TrainProgress(step=round + 1))
                    for number, batch in enumerate(batches):
                        state, sums = step(state, batch, key)
                        meter.add(number, sums)
                    checkpoints.wait()
                    jax.block_until_ready(state)
                    ended = time.perf_counter()
                    writer.write(round + 1, "train", dict(meter.take()))
                    if round:  # the first compiles
                        seconds[kind].append(ended - started)
                        logging.append(time.perf_counter() - ended)
    updates, every = config.train.log_every, config.train.checkpoint_every
    print(f"seconds of {flags.rounds} blocks of {updates} updates (fastest, median, slowest)")
    for kind, blocks in (*seconds.items(), ("logging alone", logging)):
        print(f"{kind}: {min(blocks):.3f}, {statistics.median(blocks):.3f}, {max(blocks):.3f}")
    plain, with_one = statistics.median(seconds["plain"]), statistics.median(seconds["checkpoint"])
    logged, saved = statistics.median(logging) / plain, (with_one / plain - 1) * updates / every
    print(f"logging every {updates}: {logged:+.2%}, a checkpoint every {every}: {saved:+.2%}, both: {logged + saved:+.2%}")


if __name__ == "__main__":
    main(run)
