"""A part of `accelerator.py`: one training step and one search on this machine's device beside the same on its CPU.

Two processes compute the same in float32: the first on the CPU, with parameters that it draws, the second on what JAX chooses,
with these parameters. The search is that of a run folder that is kept for tests, with 9,600 trained parameters.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from decode_speed import row

from transformer_jax.cli.program import set_up
from transformer_jax.config import Config
from transformer_jax.data import demo
from transformer_jax.data.batching import Batch
from transformer_jax.data.store import Store
from transformer_jax.data.stream import BatchStream
from transformer_jax.errors import UserError
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run

RUN = Path(__file__).parents[1] / "tests" / "runs" / "9f7c919"
FAMILIES: dict[str, dict[str, Any]] = {
    "Transformer": {},
    "LSTM": {"family": "lstm", "attention": "none", "direction": "backward"},
    "LSTM + attention": {"family": "lstm"},
}
Arrays = dict[str, np.ndarray]


class Comparison(NamedTuple):
    """A number on the CPU and on the device, or their distance, and how large that may be."""

    what: str
    measure: str
    found: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.found <= self.tolerance  # not of a number that is not finite


def run(folder: Path) -> bool:
    """Prints a row for each comparison; whether all of them hold."""
    command = [sys.executable, str(Path(__file__).with_name("accelerator.py")), "values", f"--output={folder}"]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    if done.returncode:
        raise UserError(f"the CPU's values could not be computed (code {done.returncode}); the lines above say why")
    set_up()
    expected = dict(np.load(folder / "cpu.npz"))
    print(row(["what", "measure", "at most", "found", "holds"]) + row(["---", "---", "---:", "---:", "---"]), end="")
    holds = True
    for each in compared(expected, values(expected)):
        holds = holds and each.holds
        cells = [each.what, each.measure, f"{each.tolerance:g}", f"{each.found:.1e}", "yes" if each.holds else "**no**"]
        print(row(cells), end="", flush=True)
    return holds


def write_values(folder: Path) -> None:
    """The first process's work: the file cpu.npz."""
    set_up()
    np.savez(folder / "cpu.npz", **values({}))


def compared(expected: Arrays, found: Arrays) -> Iterator[Comparison]:
    """Float32 is 24 bits, so that a sum of some hundred products agrees to about 1e-6; of TF32's 11 bits or bfloat16's 8
    it would be 1e-3 and 1e-2, which these tolerances refuse."""
    for family in FAMILIES:
        loss, gradient = ([arrays[f"{family}/{name}"] for arrays in (expected, found)] for name in ("loss", "gradient"))
        yield Comparison(f"{family}, one step", "loss, relative", float(abs(loss[1] / loss[0] - 1)), 1e-5)
        distance = np.linalg.norm(gradient[1] - gradient[0]) / np.linalg.norm(gradient[0])
        yield Comparison(f"{family}, one step", "gradient, ‖a - b‖ / ‖a‖", float(distance), 1e-4)
    for beam in (1, 4):
        tokens, scores = ([arrays[f"beam {beam}/{name}"] for arrays in (expected, found)] for name in ("tokens", "scores"))
        others = sum(a != b for a, b in zip(*map(np.ndarray.tolist, tokens), strict=True))
        what = f"search, beam {beam}"
        yield Comparison(what, f"translations with other tokens, of {len(tokens[0])}", others, 0)
        yield Comparison(what, "log-probability, absolute", float(np.abs(scores[1] - scores[0]).max()), 1e-3)


def values(given: Arrays) -> Arrays:
    """The loss and the gradient of one step of each family, and translations with their log-probabilities. Parameters are those
    that are `given`, or are drawn, and are among the values."""
    arrays: Arrays = {}
    tokenizer = Run(str(RUN)).tokenizer()
    examples = demo.generate("train", 64)
    store = Store.of(
        tokenizer.encode_source([example.source for example in examples]),
        tokenizer.encode_target([example.target for example in examples]),
    )
    for family, changes in FAMILIES.items():
        config = config_of(changes)
        batch, _ = next(BatchStream(store, config.batch, tokenizer, seed=0).batches())
        for name, array in step_values(config, tokenizer.vocab_size, batch, family, given).items():
            arrays[f"{family}/{name}"] = array
    return arrays | search_values()


def config_of(changes: dict[str, Any]) -> Config:
    config = Config()
    config.model.num_layers, config.model.width, config.model.compute_dtype = 2, 128, "float32"
    config.model.feed_forward_width, config.model.heads = 256, 4
    for name, value in changes.items():
        setattr(config.model, name, value)
    config.batch.kind, config.batch.tokens, config.batch.row_multiple = "packed", 768, 8
    config.batch.packed_length = config.batch.max_length = 96
    return config


def step_values(config: Config, pieces: int, batch: Batch, family: str, given: Arrays) -> Arrays:
    import jax
    import jax.numpy as jnp
    import optax

    from transformer_jax.models.seq2seq import abstract_parameters, build_model, init_parameters
    from transformer_jax.training.across_devices import Parallel
    from transformer_jax.training.optimizer import make_optimizer
    from transformer_jax.training.step import TrainState, make_train_step

    model, optimizer = build_model(config.model, pieces), make_optimizer(config)
    leaves, structure = jax.tree.flatten(abstract_parameters(model))
    names = [f"parameter {number}" for number in range(len(leaves))]
    if given:
        leaves = [jnp.array(given[f"{family}/{name}"]) for name in names]
    else:
        leaves = jax.tree.leaves(init_parameters(model, jax.random.key(0)))
    drawn = {name: np.array(leaf) for name, leaf in zip(names, leaves, strict=True)}
    parallel = Parallel(config, jax.local_devices()[:1])
    step = parallel.step(make_train_step(model, optimizer, config.train))
    state = TrainState.create(jax.tree.unflatten(structure, leaves), optimizer)
    state, sums = step(state, batch, jax.random.key(1))
    # After the first update Adam's mean of gradients is (1 - beta1) times the gradient.
    means = jax.tree.leaves(optax.tree.get(state.optimizer_state, "mu"))
    gradient = np.concatenate([np.ravel(leaf) for leaf in means]).astype(np.float64)
    return drawn | {"loss": np.array(sums.loss.loss / sums.loss.tokens, np.float64), "gradient": gradient}


def search_values() -> Arrays:
    from transformer_jax.inference.translator import load_translator

    translator, _ = load_translator(Run(str(RUN)), CheckpointName.parse("best"), "float32")
    lines = [example.source for example in demo.generate("test", 64)]
    arrays: Arrays = {}
    for beam in (1, 4):
        found = translator.translate(lines, beam=beam)
        arrays[f"beam {beam}/tokens"] = np.array([" ".join(map(str, each.tokens)) for each in found])
        arrays[f"beam {beam}/scores"] = np.array([each.log_prob for each in found])
    return arrays
