"""What several rooms' tests need: sentences as a store, tiny models, a tiny corpus, numbers that should be equal."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from transformer_jax.config import Config, ModelConfig, to_json
from transformer_jax.data.batching import Batch, Shape, bucketed_batch, packed_batch
from transformer_jax.data.store import Store
from transformer_jax.models.seq2seq import abstract_parameters
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.metrics import without_times

DATA = "TRANSFORMER_JAX_DATA"  # the environment variable that names a folder with multi30k/
PAD, EOS, START = 0, 1, 3
VOCAB = 23
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


# What every family must do is tested with these; `tiny_model(**FAMILIES[name])`.
FAMILIES = {
    "Transformer": dict(norm="pre"),
    "Transformer with SSRU": dict(norm="pre", autoregression="ssru", decoder_layers=2),
    "LSTM": dict(family="lstm", attention="none", direction="backward"),
    "LSTM with attention": dict(family="lstm", attention="general", num_layers=2),
    "LSTM with input feeding": dict(family="lstm", attention="additive", input_feeding=True),
}


def each_family(*values):
    """Parameters of a test: a value for each family (its name, where there are none). Those of the three middle families,
    between the Transformer and the most complicated LSTM, are tests that `make test-slow` runs."""
    middle = "Transformer with SSRU", "LSTM", "LSTM with attention"
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), id=name, marks=[pytest.mark.slow] * (name in middle))
        for name, value in zip(FAMILIES, values or FAMILIES, strict=True)
    ]


def needs_browser(test):
    """Marks a test that opens a page in a browser."""
    without = pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium or google-chrome on the PATH")
    return pytest.mark.browser(without(test))


def data_set(name: str) -> Path:
    """The folder of a data set that is not part of the repository. Skips the test where there is none."""
    if DATA not in os.environ:
        pytest.skip(f"needs {name}/ in the folder that {DATA} names, and {DATA} is not set")
    folder = Path(os.environ[DATA], name)
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, and there is no such folder ({DATA})")
    return folder


def tiny_model(**changes) -> ModelConfig:
    fields = dict(num_layers=1, width=16, dropout=0.0, compute_dtype="float32")
    own = {} if changes.get("family") == "lstm" else dict(feed_forward_width=24, heads=2)
    return ModelConfig(**fields | own | changes)


def sentences(source_lengths, target_lengths, seed=0) -> Store:
    """Random sentences of these lengths, EOS included."""
    random, arrays = np.random.default_rng(seed), []
    for lengths in (source_lengths, target_lengths):
        rows = [[*random.integers(4, VOCAB, length - 1), EOS] for length in lengths]
        arrays += [np.array(list(itertools.chain(*rows)), np.int32), np.cumsum([0, *lengths])]
    return Store(*arrays)


def rows_of(store: Store, pairs, rows: int, source_length: int, target_length: int) -> Batch:
    """One sentence a row."""
    return bucketed_batch(store, np.array(pairs), Shape(rows, source_length, target_length), PAD, START)


def packed_rows_of(store: Store, pairs, row_of, rows: int, source_length: int, target_length: int) -> Batch:
    return packed_batch(store, np.array(pairs), np.array(row_of), Shape(rows, source_length, target_length), PAD, START)


def random_parameters(model, seed=0):
    """Parameters without a 0 or a 1, so that no bias and no scale can be forgotten unnoticed; NumPy draws, nothing compiles."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        scale, shift = (0.2, 1.0 if name == "scale" else 0.0) if leaf.ndim == 1 else (leaf.shape[0] ** -0.5, 0.0)
        return (scale * random.standard_normal(leaf.shape) + shift).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_parameters(model))


def assert_trees_close(found, expected, **tolerance) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def assert_trees_equal(found, expected) -> None:
    """Bit for bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def letters(count: int, longest: int, seed=0) -> list[str]:
    """Lines of 1 to `longest` letters with spaces between, such as "c a b"."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(list("abcdefgh"), random.integers(1, longest + 1))) for _ in range(count)]


def write_tsv(path: Path, sources: list[str], targets: list[str]) -> str:
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(sources, targets, strict=True)), encoding="utf-8")
    return str(path)


def tiny_config(folder: Path, pairs: int = 200) -> Config:
    """A whole training in seconds: lines of letters to their reverse, a model of width 16."""
    config = Config()
    lines, dev = letters(pairs, 6), letters(10, 6, seed=1)
    config.data.train = write_tsv(folder / "train.tsv", lines, [line[::-1] for line in lines])
    config.data.dev = write_tsv(folder / "dev.tsv", dev, [line[::-1] for line in dev])
    config.tokenizer.vocab_size = 272
    config.batch.tokens, config.batch.shapes, config.batch.row_multiple, config.batch.max_length = 256, 1, 4, 16
    config.batch.packed_length = 16
    config.model = tiny_model(dropout=0.3, compute_dtype="auto")
    config.optimizer.warmup_steps = 4
    config.train.metric = "loss"
    config.train.samples = 0
    config.train.steps = 6
    config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 3
    return config


def quick_config(folder: Path) -> Config:
    """Of the model that compiles the fastest, for what does not depend on the model."""
    config = tiny_config(folder)
    config.model = tiny_model(dropout=0.3, **FAMILIES["LSTM"])
    return config


def metrics_of(workdir) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [without_times(line) for line in lines]


def write_config(path: Path, config: Config) -> None:
    """A config file with this config, for a program of its own."""
    call = f"from_json({to_json(config)!r})"
    path.write_text(f"from transformer_jax.config import from_json\n\n\ndef get_config():\n    return {call}\n")


def arrays_of(workdir, step: int):
    """Every array of a checkpoint as it is on disk, on however many devices it was saved, and its progress."""
    names = [
        name
        for name in ("params", "adapters", "optimizer", "ema")
        if (Path(workdir) / "checkpoints" / str(step) / name).is_dir()
    ]
    items = {name: ocp.StandardCheckpointHandler() for name in names}
    with ocp.CheckpointManager(Path(workdir).absolute() / "checkpoints", item_handlers=items) as manager:
        targets = {
            name: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), metadata.tree)
            for name, metadata in manager.item_metadata(step).items()
            if name in items
        }
        restore = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
        found = manager.restore(step, args=ocp.args.Composite(**restore))
    with Run(workdir).checkpoints() as checkpoints:
        return tuple(found[name] for name in names), checkpoints.progress(step)


def assert_same_runs(found, expected, step: int) -> None:
    assert metrics_of(found) == metrics_of(expected)
    (arrays, progress), (expected_arrays, expected_progress) = arrays_of(found, step), arrays_of(expected, step)
    assert_trees_equal(arrays, expected_arrays)
    timeless = [dataclasses.replace(each, unwritten=without_times(each.unwritten)) for each in (progress, expected_progress)]
    assert timeless[0] == timeless[1]
