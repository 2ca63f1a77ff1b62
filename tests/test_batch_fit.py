"""`batch.tokens=0`: the largest batch whose compiled step fits the memory that it may take; the run keeps it."""

import dataclasses
import json
import math
from types import SimpleNamespace

import jax
import pytest
from helpers import FAMILIES, assert_same_runs, quick_config, tiny_model

from transformer_jax.config import BatchConfig, Config, override, validate
from transformer_jax.data.batch_shapes import Shape, with_rows
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run
from transformer_jax.training import batch_fit
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.loop import train

TOKENIZER = SimpleNamespace(vocab_size=23)
# What a step takes for a count of rows.
SIZES = {
    "along a line": lambda count: 40 + 7 * count,
    "a start that hides the slope": lambda count: max(500, 9 * count),
    "more with each": lambda count: 10 + count + count**2 / 20,
    "less with each": lambda count: 20 * count**0.7,
    "by steps": lambda count: 100 * math.ceil(count / 10),
    "refused": lambda count: 10 + count if count <= 100 else math.inf,
    "refused from two on": lambda count: 10 if count < 2 else math.inf,
}


@pytest.mark.parametrize("name", SIZES)
def test_the_largest_count_is_found_by_few_measurements(name):
    size, asked = SIZES[name], []
    count = batch_fit.largest_count(lambda count: asked.append(count) or size(count), 1000, most=10_000)
    assert size(count) <= 1000 < size(2 * count)
    assert name == "by steps" or size(count + count // 16 + 1) > 1000
    assert asked[:2] == [1, 2] and len(asked) == len(set(asked)) <= (3 if name == "along a line" else 12)


def test_there_may_be_no_such_count_and_none_is_larger_than_allowed():
    assert batch_fit.largest_count(lambda count: 1001, 1000, most=9) == 0
    asked = []
    assert batch_fit.largest_count(lambda count: asked.append(count) or count, 1000, most=9) == max(asked) == 9
    assert batch_fit.largest_count(lambda count: count, 1000, most=1) == 1


def fitting_config(**changes) -> Config:
    config = Config(model=tiny_model(**FAMILIES["LSTM"]))
    config.batch = BatchConfig(tokens=0, memory=0.001, row_multiple=4, max_length=16, **changes)
    return config


def find(config: Config, shapes: list[Shape]) -> int:
    return batch_fit.token_finder(validate(config), Parallel(config, jax.devices()[:1]))(TOKENIZER, shapes)


@pytest.fixture
def planned(monkeypatch):
    """Sets what a step takes for a batch of (rows, source length, target length), in place of a compilation; gives the list of
    batches that it was asked for."""

    def set_to(size):
        asked = []

        def planned_bytes(_parallel, _step, _state, batch, _key):
            shape = Shape(*batch.source.shape, batch.target_input.shape[1])
            asked.append(shape)
            return size(shape)

        monkeypatch.setattr(Parallel, "planned_bytes", planned_bytes)
        return asked

    return set_to


SHAPES = [Shape(0, 2, 3), Shape(0, 5, 4), Shape(0, 8, 10)]


def test_the_longest_shape_decides_and_the_others_are_seen_to_fit(planned):
    asked = planned(lambda shape: 100_000 + 90 * shape.rows * shape.target_length)
    tokens = find(fitting_config(), SHAPES)
    assert tokens == 10_000 == 40 * 250  # 900,000 bytes for 10,000 target positions, in multiples of 4 rows of 10
    assert asked == [Shape(4, 8, 10), Shape(8, 8, 10), Shape(1000, 8, 10), Shape(3332, 2, 3)]


def test_rows_become_fewer_where_another_shape_takes_more(planned):
    def padded(shape: Shape) -> int:  # each sentence to eight positions, as a TPU's arrays are
        return 100_000 + 90 * shape.rows * max(shape.target_length, 8)

    asked = planned(padded)
    config = fitting_config()
    tokens = find(config, SHAPES)
    shapes = with_rows(SHAPES, dataclasses.replace(config.batch, tokens=tokens))
    assert max(map(padded, shapes)) <= 1_000_000 < 1.1 * max(map(padded, shapes)) and len(asked) <= 6


def test_what_does_not_fit_or_is_not_told_ends_with_a_line(planned):
    planned(lambda shape: 2_000_000)
    expected = (
        r"the smallest batch, 4 x 8 x 10, takes 2\.0 MB, more than the 1\.0 MB that a step may take; lower batch\.row_mul"
    )
    with pytest.raises(UserError, match=expected):
        find(fitting_config(), SHAPES)
    planned(lambda shape: None)
    with pytest.raises(UserError, match="does not tell what a program takes; set a number"):
        find(fitting_config(), SHAPES)
    planned(lambda shape: 2_000_000 if shape.target_length == 3 else 1)
    with pytest.raises(UserError, match=r"the smallest batch, 12 x 2 x 3, takes 2\.0 MB"):
        find(fitting_config(), SHAPES)
    with pytest.raises(UserError, match=r"row_multiple=4 rows of 5000000 tokens.* are more than 16,777,216"):
        find(fitting_config(), [Shape(0, 9, 5_000_000)])


def test_the_limit_is_a_share_of_the_smallest_device_or_what_is_set(monkeypatch):
    with pytest.raises(UserError, match=r"batch\.tokens=0 needs batch\.memory, .* this kind of device \(cpu\) does not say"):
        batch_fit.memory_limit(BatchConfig(tokens=0))
    devices = [SimpleNamespace(memory_stats=lambda size=size: {"bytes_limit": size}) for size in (16_000, 15_000)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert batch_fit.memory_limit(BatchConfig(tokens=0)) == 13_500
    assert batch_fit.memory_limit(BatchConfig(tokens=0, memory=2.5)) == 2_500_000_000


def test_where_no_training_begins_it_has_to_be_a_number():
    with pytest.raises(UserError, match=r"batch\.tokens=0 is found where a training begins"):
        with_rows(SHAPES, BatchConfig(tokens=0))
    with pytest.raises(UserError, match=r"batch\.memory=2\.0 should be left out unless batch\.tokens is 0"):
        validate(Config(batch=BatchConfig(memory=2.0)))
    validate(Config(batch=BatchConfig(kind="packed", tokens=0, memory=2.0)))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("changes", [{}, {"batch.kind": "packed"}, {"parallel.mode": "sharded"}], ids=str)
def test_the_compiled_step_fits_and_that_of_twice_the_batch_does_not(changes):
    config = fitting_config(packed_length=16)
    if "batch.kind" in changes:
        config.model = tiny_model()
    for key, value in changes.items():
        override(config, key, value)
    shapes = [Shape(0, 14, 16)]
    tokens = find(config, shapes)
    sizes = batch_fit._Sizes(config, Parallel(config, jax.devices()[:1]), TOKENIZER.vocab_size, shapes)
    count = tokens // sizes.unit
    assert sizes.longest(count) <= 1_000_000 < sizes.longest(2 * count)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_keeps_the_number_and_is_that_of_a_config_that_names_it(tmp_path, caplog):
    config = quick_config(tmp_path)
    config.batch.tokens, config.batch.memory, config.batch.shapes = 0, 0.001, 2
    config.train.steps = 3
    train(config, tmp_path / "run")
    tokens = Run(tmp_path / "run").config.batch.tokens
    assert tokens >= 64 and json.loads((tmp_path / "run" / "config.json").read_text())["batch"]["memory"] == 0
    assert config.batch.tokens == 0  # the config that was given is still the recipe
    config.train.steps, config.batch.memory = 6, 0.1  # another machine
    with caplog.at_level("INFO", "transformer_jax"):
        train(config, tmp_path / "run")
    assert f"batch.tokens={tokens}, with which the run was begun" in caplog.text and "compiling the training" not in caplog.text
    config.batch.tokens, config.batch.memory = tokens, 0.0
    train(config, tmp_path / "named")
    assert_same_runs(tmp_path / "run", tmp_path / "named", step=6)
    config.batch.tokens += 64
    with pytest.raises(UserError, match=rf"batch\.tokens: {tokens} -> {tokens + 64}"):
        train(config, tmp_path / "run")


def test_what_cannot_be_known_is_refused_before_any_text_is_read(tmp_path, caplog):
    config = quick_config(tmp_path)
    config.batch.tokens = 0
    with pytest.raises(UserError, match=r"needs batch\.memory"), caplog.at_level("INFO", "transformer_jax"):
        train(config, tmp_path / "run")
    assert "training text" not in caplog.text
