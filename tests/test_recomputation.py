"""What `train.remat` keeps and computes again: the gradient stays what it is, and less is kept for it."""

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest
from helpers import FAMILIES, VOCAB, packed_rows_of, random_parameters, rows_of, sentences, tiny_model

from transformer_jax.config import Config, TrainConfig, validate
from transformer_jax.config.resuming import differences
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import build_model
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.step import TrainState, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(5)
STORE = sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3])
BUCKETED = rows_of(STORE, range(8), 8, 6, 8)
TRANSFORMER = dict(num_layers=2, norm="pre", attention_dropout=0.2, activation_dropout=0.2, value_width=6)
FEEDING = FAMILIES["LSTM with input feeding"] | dict(num_layers=2)
DEEP_LSTM = FAMILIES["LSTM"] | dict(num_layers=3)
CASES = {
    "Transformer": (dict(num_layers=1), "layers"),
    "LSTM with input feeding": (FAMILIES["LSTM with input feeding"], "layers"),
    "Transformer, all dropouts": (TRANSFORMER, "layers"),
    "Transformer, products": (TRANSFORMER, "products"),
    "rotary": (dict(num_layers=1, positions="rotary"), "layers"),
    "LSTM, three layers": (DEEP_LSTM, "layers"),
    "LSTM with attention": (FAMILIES["LSTM with attention"], "layers"),
    "input feeding, two layers": (FEEDING, "layers"),
}
QUICK = list(CASES)[:2]


def changes(model: dict, batch, remat: str, devices: int = 1, mode: str = "pmap", **train):
    """What one step with dropout adds to the parameters by SGD at rate 1, and the sum of the loss."""
    config = Config()
    config.train = TrainConfig(remat=remat, **train)
    config.parallel.mode, config.parallel.min_sharded_size = mode, 1
    module = build_model(tiny_model(**model | dict(dropout=0.3)), VOCAB)
    params, optimizer = random_parameters(module), optax.sgd(1.0)
    config.batch.row_multiple = devices * config.train.accumulation
    parallel = Parallel(config, jax.devices()[:devices])
    step = parallel.step(make_train_step(module, optimizer, config.train))
    state, sums = step(parallel.create(lambda params: TrainState.create(params, optimizer), params), batch, KEY)
    change = jax.tree.map(np.subtract, jax.device_get(parallel.gather_params(state.params)), params)
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(change)]), float(sums.loss.loss)


def assert_same(model: dict, batch, remat: str, **how) -> None:
    found, expected = changes(model, batch, remat, **how), changes(model, batch, "none", **how)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-6 * np.abs(expected[0]).max())
    assert found[1] == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES])
def test_the_gradient_and_the_dropout_are_those_of_a_step_that_keeps_everything(name):
    model, remat = CASES[name]
    assert_same(model, BUCKETED, remat)


@pytest.mark.slow
@pytest.mark.parametrize("how", [dict(accumulation=2), dict(devices=2), dict(devices=2, mode="sharded")], ids=str)
@pytest.mark.parametrize("name", ["Transformer, all dropouts", "Transformer, products", "input feeding, two layers"])
def test_they_are_the_same_however_the_step_is_split(name, how):
    model, remat = CASES[name]
    assert_same(model, BUCKETED, remat, **how)


@pytest.mark.slow
@pytest.mark.parametrize("train", [dict(consistency="rdrop"), dict(consistency="simcut", cut=0.3)], ids=str)
def test_they_are_the_same_in_two_passes(train):
    assert_same(TRANSFORMER, BUCKETED, "layers", **train)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["layers", "products"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_the_same_for_packed_rows(remat, dtype):
    batch = packed_rows_of(STORE, range(8), [0, 0, 1, 1, 2, 2, 3, 3], 4, 11, 16)
    assert_same(TRANSFORMER | dict(compute_dtype=dtype), batch, remat)


def kept_bytes(model: dict, remat: str) -> int:
    """Of what the backward pass is given by the forward pass."""
    module = build_model(tiny_model(**model | dict(dropout=0.3)), VOCAB).clone(remat=remat)

    def backward(params):
        return jax.vjp(lambda params: module.apply({"params": params}, BUCKETED, train=True, rngs={"dropout": KEY}), params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, random_parameters(module)))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)


def test_less_is_kept_for_the_backward_pass():
    layers, products, everything = (kept_bytes(dict(num_layers=2), remat) for remat in ("layers", "products", "none"))
    assert layers < 0.7 * products and products < 0.9 * everything


@pytest.mark.slow
def test_less_is_kept_for_the_backward_pass_of_an_lstm():
    assert kept_bytes(FEEDING, "layers") < 0.6 * kept_bytes(FEEDING, "none")
    # A layer keeps its input and not its gates.
    assert kept_bytes(DEEP_LSTM, "layers") < 0.8 * kept_bytes(DEEP_LSTM, "none")


def test_nothing_is_computed_again_where_there_is_no_backward_pass():
    module = build_model(tiny_model(), VOCAB)
    params = random_parameters(module)

    def program(module) -> str:
        return str(jax.make_jaxpr(lambda params: module.apply({"params": params}, BUCKETED, train=False))(params))

    assert program(module.clone(remat="layers")) == program(module)


def test_what_has_no_use_is_refused_and_a_run_may_change_it():
    config = Config(model=tiny_model(**FAMILIES["LSTM"]), train=TrainConfig(remat="products"))
    with pytest.raises(UserError, match=r"train\.remat='products' should be none or layers with model\.family=lstm"):
        validate(config)
    changed = dataclasses.replace(config, train=TrainConfig(remat="layers"))
    assert differences(config, validate(changed)) == ([], ["train.remat: 'products' -> 'layers'"])
