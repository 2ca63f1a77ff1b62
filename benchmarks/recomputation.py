"""What recomputation in the backward pass (`train.remat`) saves of the memory of a training step, and what it costs in time.

    python benchmarks/recomputation.py --config=configs/multi30k.py --rows=64 --length=32

Random sentences without padding, `--length` tokens on each side. Memory is that of the compiled program: parameters and
optimizer state, and what it has beside them. The steps with each value of `train.remat` take turns; time is the fastest of
`--repeats`.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

# ruff: noqa: E402 (memory and the compilation cache are set up before JAX is imported)
from outputs import set_up_or_end

set_up_or_end(trains=True)

import jax
import numpy as np

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import Config
from transformer_jax.data.batching import Batch, Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step


def training_of(config: Config, pieces: int) -> SimpleNamespace:
    """The step of this config and its first state."""
    model, optimizer, parallel = build_model(config.model, pieces), make_optimizer(config), Parallel(config)
    state = parallel.create(lambda key: TrainState.create(init_parameters(model, key), optimizer), jax.random.key(0))
    return SimpleNamespace(step=parallel.step(make_train_step(model, optimizer, config.train)), state=state, seconds=[])


def batch_of(rows: int, length: int, pieces: int) -> Batch:
    ids = np.random.default_rng(0).integers(4, pieces, (rows, length), np.int32)
    return bucketed_batch(Store.of(ids, ids), np.arange(rows), Shape(rows, length, length), pad_id=0, decoder_start_id=3)


def run_once(training: SimpleNamespace, batch: Batch, key: Any) -> None:
    started = time.perf_counter()
    training.state, _ = jax.block_until_ready(training.step(training.state, batch, key))
    training.seconds.append(time.perf_counter() - started)


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", default="configs/multi30k.py")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--pieces", type=int, default=8000, help="the size of the vocabulary")
    parser.add_argument("--remat", nargs="+", default=["none", "layers"], choices=["none", "layers", "products"])
    parser.add_argument("--repeats", type=int, default=5)
    flags, overrides = parser.parse_with_overrides()
    if min(flags.rows, flags.length - 1, flags.pieces - 4, flags.repeats) < 1:
        parser.error("--rows and --repeats should be at least 1, --length 2, --pieces 5")
    batch, key = batch_of(flags.rows, flags.length, flags.pieces), jax.random.key(1)
    configs = {remat: load_config(flags.config, [*overrides, f"train.remat={remat}"]) for remat in flags.remat}
    trainings = {remat: training_of(config, flags.pieces) for remat, config in configs.items()}
    memories = {remat: training.step.memory(training.state, batch, key) for remat, training in trainings.items()}
    for _ in range(1 + flags.repeats):  # the first is not counted
        for training in trainings.values():
            run_once(training, batch, key)
    where = f"{flags.rows} x {flags.length} tokens, {jax.devices()[0].device_kind}"
    print(f"{Path(flags.config).stem}, {where}", *overrides, sep=", ")
    print("| train.remat | state | beside it | step |\n|---|---:|---:|---:|")
    for remat, training in trainings.items():
        memory = memories[remat]
        beside = "not told" if memory.total is None else f"{(memory.total - memory.state) / 1e6:,.0f} MB"
        print(f"| {remat} | {memory.state / 1e6:,.0f} MB | {beside} | {1000 * min(training.seconds[1:]):,.0f} ms |")


if __name__ == "__main__":
    main(run)
