"""What logging and checkpoints cost a training, at the intervals that its config names.

    python benchmarks/overhead.py --config=configs/demo.py --pairs=8

Alternates blocks of `train.checkpoint_every` updates with both (a line of metrics every `train.log_every`, TensorBoard, one
checkpoint, its checksums, its predecessor's deletion, waited for at the end) and without either, in one process on the same
batches, and prints the median of the pairs' ratios with the smallest and the largest. Evaluation is not in it.
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
from transformer_jax.command_line import Parser, load_config, main, set_up

set_up()

import jax

from transformer_jax.data.stream import prefetch
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.progress import Progress
from transformer_jax.run import MetricsWriter, Run
from transformer_jax.training.metrics import Meter
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.parallel import Parallel
from transformer_jax.training.prepare import prepare
from transformer_jax.training.step import TrainState, make_train_step


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--pairs", type=int, default=8)
    flags, overrides = parser.parse_with_overrides()
    config = load_config(flags.config, overrides)
    key = jax.random.key(0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.open_or_create(folder, config)
        tokenizer, stream = prepare(run)
        parallel, optimizer = Parallel(config), make_optimizer(config)
        model = build_model(config.model, tokenizer.vocab_size)
        step = parallel.step(make_train_step(model, optimizer, config.train))
        state = parallel.create(lambda key: TrainState.create(init_parameters(model, key), optimizer), key)
        number, seconds = itertools.count(1), {True: [], False: []}
        checkpoints = run.checkpoints(keep=config.train.keep_checkpoints)
        with prefetch(stream.batches()) as batches, checkpoints, MetricsWriter(run.workdir, 0) as writer:
            for pair in range(flags.pairs + 1):
                for told in random.Random(pair).sample([True, False], 2):
                    started, meter = time.perf_counter(), Meter()
                    for _ in range(config.train.checkpoint_every):
                        at = next(number)
                        state, sums = step(state, next(batches)[0], key)
                        if told:
                            meter.add(at, sums)
                            if at % config.train.log_every == 0:
                                writer.write(at, "train", dict(meter.take()))
                    if told:
                        checkpoints.save(state, Progress(step=at, unwritten=meter.unwritten()))
                        checkpoints.wait()
                    jax.block_until_ready(state)
                    if pair:  # the first compiles
                        seconds[told].append(time.perf_counter() - started)
    ratios = sorted(with_both / without for with_both, without in zip(seconds[True], seconds[False], strict=True))
    print(f"{config.train.checkpoint_every} updates: {statistics.median(seconds[False]):.2f} s without, ", end="")
    print(f"{statistics.median(seconds[True]):.2f} s with logging every {config.train.log_every} and a checkpoint")
    least, most = ratios[0] - 1, ratios[-1] - 1
    print(f"overhead: median {statistics.median(ratios) - 1:+.2%} of {flags.pairs} pairs ({least:+.2%} to {most:+.2%})")


if __name__ == "__main__":
    main(run)
