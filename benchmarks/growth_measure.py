"""One measurement of growth.py, in a process of its own: `growth_measure.py NAME ARGUMENT...` prints what it found as JSON.

The names are those of the functions in `MEASUREMENTS`; their results are named as in the tables. Memory is the peak of
the process, in MB; private memory is what of it is mapped from no file (RssAnon in /proc/self/status).
"""

import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

# ruff: noqa: E402 (as train.py does it: set up before JAX is imported)
from outputs import cpu_seconds, set_up_or_end

from transformer_jax.cli.program import main

set_up_or_end(trains=True)

import jax
import numpy as np

from transformer_jax.config import BatchConfig, Config, DataConfig, ModelConfig, ParallelConfig, TokenizerConfig
from transformer_jax.data.batching import Shape, bucketed_batch
from transformer_jax.data.prefetch import prefetch
from transformer_jax.data.store import Store, load_store
from transformer_jax.data.stream import BatchStream
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.storage.checksums import write_manifest
from transformer_jax.training import prepare as preparation
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step

VOCABULARY = 2000  # small, so that the cost that grows with the length dominates
MODELS = {
    "Transformer": ModelConfig(num_layers=2, width=128, feed_forward_width=256, heads=4, norm="pre"),
    "LSTM + attention": ModelConfig(family="lstm", num_layers=2, width=128),
}
REPEATS = 5  # of a step, the fastest of which counts
EPOCHS = 2  # of bucketed batches, likewise
BLOCK = 1 << 16  # pairs of a store that are drawn together
RATED = 200_000  # pairs of its epoch whose batches are timed


def new_text(prefix: str, folder: str, vocab_size: str) -> dict[str, float]:
    """New text becomes a stream of batches; its three parts by CPU time of all cores together."""
    seconds: dict[str, float] = {}
    config = corpus_config(prefix, folder, vocab_size)
    time_calls(preparation, "read_sources", seconds)
    time_calls(preparation.Tokenizer, "train", seconds)
    time_calls(preparation, "open_store", seconds)
    wall, cpu = time.perf_counter(), cpu_seconds()
    preparation.prepare(preparation.open_run(f"{folder}/run", config))
    return {
        "new text, s": time.perf_counter() - wall,
        "CPU, s": cpu_seconds() - cpu,
        "of it read": seconds["read_sources"],
        "tokenizer": seconds["train"],
        "tokenise": seconds["open_store"],
        "memory, new": memory(),
        "store": sum(file.stat().st_size for file in Path(folder).rglob("*.npy")) / 1e6,
    }


def prepared_text(prefix: str, folder: str, vocab_size: str) -> dict[str, float]:
    """From the caches that `new_text` filled to the first batch; then whole epochs of both kinds, by CPU time."""
    config = corpus_config(prefix, folder, vocab_size)
    started = time.perf_counter()
    _, stream, _ = preparation.prepare(preparation.open_run(f"{folder}/run", config))
    with prefetch(stream.batches()) as batches:
        next(batches)
        first = time.perf_counter() - started
    bucketed = min(epoch_seconds(stream) for _ in range(EPOCHS))
    most = memory()
    config.batch.kind = "packed"
    _, stream, _ = preparation.prepare(preparation.open_run(f"{folder}/run", config))
    return {
        "first batch, s": first,
        "bucketed epoch, CPU s": bucketed,
        "packed epoch, CPU s": epoch_seconds(stream),
        "memory, prepared": most,
    }


def new_store(folder: str, pairs: str) -> dict[str, float]:
    """Writes a store of random ids, whose sides have lengths as those of sentences: about 24 tokens, 300 at most."""
    random, count = np.random.default_rng(0), int(pairs)
    Path(folder).mkdir(parents=True)
    arrays = {
        side: np.lib.format.open_memmap(f"{folder}/{side}_offsets.npy", "w+", np.int64, (count + 1,))
        for side in ("source", "target")
    }
    for start in range(0, count, BLOCK):
        long = random.normal(3.05, 0.5, min(BLOCK, count - start))
        for offsets in arrays.values():
            lengths = np.clip(np.exp(random.normal(long, 0.2)), 2, 300).astype(np.int64)
            offsets[start + 1 : start + 1 + len(lengths)] = offsets[start] + np.cumsum(lengths)
    for side, offsets in arrays.items():
        ids = np.lib.format.open_memmap(f"{folder}/{side}_ids.npy", "w+", np.uint16, (int(offsets[-1]),))
        for start in range(0, len(ids), BLOCK):
            part = ids[start : start + BLOCK]
            part[:] = random.integers(4, 32_000, len(part), np.uint16)
        ids.flush()
        offsets.flush()
    write_manifest(folder)
    return {}


def prepared_store(folder: str, kind: str) -> dict[str, float]:
    """From a store on disk to the first batch, and how fast more come: CPU seconds are of the thread that makes them."""
    before = most = private_memory()
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.005):  # seconds
            most = max(most, private_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    wall, cpu = time.perf_counter(), time.thread_time()
    store = load_store(Path(folder))
    ids = SimpleNamespace(pad_id=0, decoder_start_id=3)
    stream = BatchStream(store, BatchConfig(kind=kind, row_multiple=8), ids, seed=0)
    batches = stream.batches()
    _, first = next(batches)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    started, done = time.thread_time(), first.offset
    for _, position in batches:
        if position.epoch or position.offset > RATED:
            break
        done = position.offset
    seconds = time.thread_time() - started
    ended.set()
    watching.join()
    return {
        "first batch, s": wall,
        "CPU, s": cpu,
        "private memory": (most - before) / 1e6,
        "bytes a pair": (most - before) / len(store),
        "pairs/s": (done - first.offset) / seconds,
    }


def training_step(model: str, rows: str, length: str, mode: str) -> dict[str, float]:
    """The training step alone on random sentences without padding, [rows, length] on each side, over all devices."""
    shape = Shape(int(rows), int(length), int(length))
    config = Config(model=MODELS[model], batch=BatchConfig(row_multiple=8))
    # By default arrays of this model's size are not sharded.
    config.parallel = ParallelConfig(mode, min_sharded_size=4096)
    before, parallel = memory(), Parallel(config)
    module, optimizer = build_model(config.model, VOCABULARY), make_optimizer(config)
    step = parallel.step(make_train_step(module, optimizer, config.train))
    key = jax.random.key(0)
    state = parallel.create(lambda key: TrainState.create(init_parameters(module, key), optimizer), key)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    ids = np.random.default_rng(0).integers(4, VOCABULARY, shape[:2], np.int32)
    batch = bucketed_batch(Store.of(ids, ids), np.arange(shape.rows), shape, pad_id=0, decoder_start_id=3)
    walls, cpus = [], []
    for _ in range(1 + REPEATS):  # the first compiles
        wall, cpu = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(step(state, batch, key))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    # `Parallel.step` does not expose its program, which is the largest of all.
    programs = jax.devices()[0].client.live_executables()
    program = max(programs, key=lambda each: each.get_compiled_memory_stats().argument_size_in_bytes)
    text = program.hlo_modules()[0].to_string()
    return {
        "step, s": min(walls[1:]),
        "CPU, s": min(cpus[1:]),
        "target tokens/s": shape.rows * shape.target_length / min(walls[1:]),
        # XLA counts the operations of a loop body once, whatever its number of steps: useless for an LSTM.
        "GFLOP": program.cost_analysis()["flops"] / 1e9 if config.model.family == "transformer" else 0.0,
        "workspace": program.get_compiled_memory_stats().temp_size_in_bytes / 1e6,
        "state": held / 1e6,
        "peak - start": memory() - before,
        "exchanges": sum(text.count(f" {kind}(") for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")),
    }


def corpus_config(prefix: str, folder: str, vocab_size: str) -> Config:
    return Config(
        data=DataConfig(train=prefix, dev=f"{folder}/dev", cache_dir=f"{folder}/cache"),
        tokenizer=TokenizerConfig(vocab_size=int(vocab_size), sample_lines=500_000),
        batch=BatchConfig(row_multiple=8),
    )


def time_calls(owner: Any, name: str, seconds: dict[str, float]) -> None:
    """Makes `owner`'s function add the CPU time of its calls to `seconds[name]`."""
    function: Callable = getattr(owner, name)

    def timed(*arguments: Any) -> Any:
        started = cpu_seconds()
        result = function(*arguments)
        seconds[name] = seconds.get(name, 0.0) + cpu_seconds() - started
        return result

    setattr(owner, name, timed)


def epoch_seconds(stream: BatchStream) -> float:
    started = time.process_time()
    for _, position in stream.batches():
        if position.epoch:
            return time.process_time() - started
    raise AssertionError("the stream is endless")


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def private_memory() -> int:
    """Bytes of this process that are mapped from no file."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


MEASUREMENTS = {function.__name__: function for function in (new_text, prepared_text, new_store, prepared_store, training_step)}

if __name__ == "__main__":
    main(lambda: print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:]))))
