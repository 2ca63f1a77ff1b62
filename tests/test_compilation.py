"""The compiled step: once for each shape, one reduction of the gradients, and nothing that asks the host."""

import json
import math
import re
from collections import Counter

import jax
import optax
import pytest
from helpers import VOCAB, rows_of, sentences, tiny_config, tiny_model

from transformer_jax.config import Config, TrainConfig
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.compilations import Compilations
from transformer_jax.training.loop import train
from transformer_jax.training.prepare import prepare
from transformer_jax.training.step import TrainState, make_train_step

# Compilations


@pytest.mark.parametrize(
    ("mode", "step"), [("pmap", "_fun"), pytest.param("sharded", "train_step", marks=pytest.mark.slow)]
)  # as JAX calls the compiled ones
def test_a_step_is_compiled_once_for_each_shape_and_in_the_end_nothing_is(mode, step, tmp_path, quick_compilation):
    config = tiny_config(tmp_path)
    config.parallel.mode, config.parallel.min_sharded_size = mode, 100
    config.batch.shapes, config.train.metric, config.train.samples = 3, "bleu", 2
    config.train.steps, config.train.log_every = 40, 1
    config.train.evaluate_every = config.train.checkpoint_every = 10
    compilations = Compilations()
    train(config, tmp_path / "run")
    of_function = Counter(each.function for each in compilations.take())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shapes = len(prepare(Run(tmp_path / "run"))[1].shapes)
    assert shapes == 3 and lines[-2]["epoch"] >= 4
    assert of_function[f"jit({step})"] == shapes
    evaluations = [line["compilations"] for line in lines if line["split"] == "dev"]
    assert evaluations[0] > 0 and evaluations[1:] == [0, 0, 0]
    # The first checkpoint is written in the first epoch too, before the line of step 11.
    assert all(line["compilations"] == line["compile_seconds"] == 0 for line in lines if line["step"] > 11)
    assert lines[0]["compilations"] > 0 < lines[0]["compile_seconds"]


def test_a_program_that_is_read_from_the_disk_counts_too(compiled_once):
    compilations = Compilations()
    for _ in range(2):
        jax.clear_caches()
        jax.jit(lambda x: x + 41)(1.0)
    assert len(compilations.take()) == 2
    assert compilations.take_numbers() == {"compilations": 0, "compile_seconds": 0}


def test_in_words_it_is_told_which_programs_were_read(compiled_once):
    jax.jit(lambda x: x * 43)(1.0)
    jax.clear_caches()
    compilations = Compilations()
    jax.jit(lambda x: x * 43)(1.0)
    jax.jit(lambda x: x * 44)(1.0)
    assert re.fullmatch(r"programs: 1 read from the cache, 1 compiled; \d+\.\d s", compilations.take_words())
    assert compilations.take_words() == "programs: 0 read from the cache, 0 compiled; 0.0 s"


# What the step's devices tell one another

COLLECTIVE = re.compile(r" = (.*) (all-[a-z]+|reduce-scatter|collective-[a-z]+|send|recv|infeed|outfeed)(?:-start)?\(")
LEAST = 100  # numbers of a parameter that is split


def collectives(mode: str, slices: int) -> dict[str, list[list[tuple[int, ...]]]]:
    """Of the program for two devices, which asks the host for nothing: of each kind, the shapes that each operation gives."""
    config = Config()
    config.batch.row_multiple, config.parallel.mode, config.parallel.min_sharded_size = 8, mode, LEAST
    step = make_train_step(MODEL, optax.adam(1e-3), TrainConfig(accumulation=slices))
    state = jax.eval_shape(lambda params: TrainState.create(params, optax.adam(1e-3)), PARAMS)
    batch = rows_of(sentences([5] * 8, [7] * 8), range(8), 8, 6, 8)
    text = Parallel(config).lower(step, state, batch, jax.random.key(0)).compile().as_text()
    assert "callback" not in text
    found = {}
    for result, kind in COLLECTIVE.findall(text):
        arrays = re.findall(r"\w+\[([\d,]*)\]", result)
        found.setdefault(kind, []).append([tuple(int(size) for size in array.split(",") if size) for array in arrays])
    return found


MODEL = build_model(tiny_model(dropout=0.1), VOCAB)
PARAMS = abstract_parameters(MODEL)
SHAPES = [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
NUMBERS = sum(map(math.prod, SHAPES))


@pytest.mark.parametrize("slices", [1, 2])
def test_pmap_adds_all_gradients_up_at_once_after_the_last_slice(slices):
    found = collectives("pmap", slices)
    assert list(found) == ["all-reduce"]
    (arrays,) = found["all-reduce"]
    # With them the four sums of the loss, and the source tokens.
    assert len(arrays) == len(SHAPES) + 5 and sum(map(math.prod, arrays)) == NUMBERS + 5


@pytest.mark.parametrize("slices", [1, 2])
def test_sharded_gathers_parameters_and_adds_gradients_up_and_sends_no_activations(slices):
    found = collectives("sharded", slices)
    assert set(found) == {"all-gather", "all-reduce"}
    split = [shape for shape in SHAPES if math.prod(shape) >= LEAST]
    gathered = [array for arrays in found["all-gather"] for array in arrays]
    assert sorted(map(sorted, gathered)) == sorted(map(sorted, split))
    of_gradients = [arrays for arrays in found["all-reduce"] if any(array != () for array in arrays)]
    assert len(of_gradients) == 1
    # The table is used in three places, whose gradients XLA adds up one by one on CPU (not on TPU); and there are the sums.
    assert NUMBERS <= sum(map(math.prod, of_gradients[0])) <= NUMBERS + 2 * VOCAB * MODEL.config.width + 5
