"""Parameters that do not change (`train.freeze`): which they are, what the others do, and that such a run resumes exactly."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FAMILIES,
    VOCAB,
    arrays_of,
    assert_same_runs,
    assert_trees_close,
    assert_trees_equal,
    each_family,
    quick_config,
    random_parameters,
    rows_of,
    sentences,
    tiny_config,
    tiny_model,
)

from transformer_jax import Translator
from transformer_jax.config import Config, TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.models.parameter_patterns import matching_paths
from transformer_jax.models.seq2seq import build_model, count_parameters, parameter_paths
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.loop import train
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step
from transformer_jax.training.trainable import Trainable

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = rows_of(sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3]), range(8), 8, 6, 8)
KEY = jax.random.key(5)
FREEZE = "encoder_*, *embedding"  # in every family


def leaves(tree) -> dict:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(jax.device_get(tree))
    }


@pytest.fixture(params=each_family())
def model_and_params(request):
    model = build_model(tiny_model(**FAMILIES[request.param]), VOCAB)
    return model, random_parameters(model)


def one_step(model, params, optimizer=None, **settings):
    config, optimizer = TrainConfig(**settings), optimizer or optax.sgd(1.0)
    trainable = Trainable(config, model)
    state = TrainState.create(jax.tree.map(jnp.array, params), optimizer, config.ema_decay, trainable)
    return jax.jit(make_train_step(model, optimizer, config))(state, BATCH, KEY)


def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves_as_without(model_and_params):
    model, params = model_and_params
    expected, _ = one_step(model, params)
    found, sums = one_step(model, params, freeze=FREEZE, ema_decay=0.5)
    before, after, wanted, average = map(leaves, (params, found.params, expected.params, found.ema))
    squares = 0.0
    for path, leaf in before.items():
        if path.startswith("encoder_") or "embedding" in path:
            assert after[path].tobytes() == average[path].tobytes() == leaf.tobytes()
        else:
            np.testing.assert_allclose(after[path], wanted[path], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(average[path], (2 * leaf + 9 * after[path]) / 11, rtol=1e-4, atol=1e-6)
            assert (after[path] != leaf).any()
            squares += np.square(leaf - wanted[path], dtype=np.float64).sum()
    # Of the parameters that train alone.
    np.testing.assert_allclose(sums.gradient_norm, np.sqrt(squares), rtol=1e-4)


def test_clipping_takes_the_norm_of_what_trains():
    model = build_model(tiny_model(), VOCAB)
    params = random_parameters(model)
    plain, sums = one_step(model, params, freeze=FREEZE)
    norm = float(sums.gradient_norm)
    clipped, _ = one_step(model, params, optax.chain(optax.clip_by_global_norm(norm / 2), optax.sgd(1.0)), freeze=FREEZE)
    half = jax.tree.map(lambda a, b: a + 0.5 * (b - a), params, jax.device_get(plain.params))
    assert_trees_close(jax.device_get(clipped.params), half, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "schedule_free", "adafactor", "muon", "lion"])
def test_no_optimizer_keeps_a_state_for_them_or_lets_them_decay(name):
    config = Config()
    config.optimizer.name, config.optimizer.weight_decay, config.optimizer.schedule = name, 0.1, "constant"
    config.train.freeze = FREEZE
    model, optimizer = build_model(tiny_model(), VOCAB), make_optimizer(config)
    params, trainable = random_parameters(model), Trainable(config.train, model)
    trained, frozen = map(count_parameters, trainable.split(params))
    of_all = count_parameters(optimizer.init(params))
    state, _ = one_step(model, params, optimizer, freeze=FREEZE)
    assert count_parameters(state.optimizer_state) == count_parameters(optimizer.init(trainable.split(params)[0])) < of_all
    if name == "adam":
        assert trained + frozen == count_parameters(params)
        assert of_all - count_parameters(state.optimizer_state) == 2 * frozen
    assert_trees_equal(jax.device_get(trainable.split(state.params)[1]), trainable.split(params)[1])
    if name == "schedule_free":
        assert_trees_equal(jax.device_get(trainable.split(state.ema)[1]), trainable.split(params)[1])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Transformer", "LSTM with input feeding"])
def test_devices_and_slices_change_nothing(family):
    model = build_model(tiny_model(**FAMILIES[family]), VOCAB)
    params = random_parameters(model)

    def run(mode, devices, accumulation):
        config = Config()
        config.train.freeze, config.train.accumulation, config.train.ema_decay = FREEZE, accumulation, 0.9
        config.optimizer.learning_rate, config.optimizer.warmup_steps, config.batch.row_multiple = 0.01, 1, 8
        config.optimizer.weight_decay, config.optimizer.clip_norm = 0.1, 1.0
        config.parallel.mode, config.parallel.min_sharded_size = mode, 16
        parallel, optimizer = Parallel(config, jax.devices()[:devices]), make_optimizer(config)
        step, trainable = parallel.step(make_train_step(model, optimizer, config.train)), Trainable(config.train, model)
        state = parallel.create(lambda params: TrainState.create(params, optimizer, 0.9, trainable), params)
        for _ in range(2):
            state, _ = step(state, BATCH, KEY)
        return jax.device_get((parallel.gather_params(state.params), parallel.gather_params(state.ema)))

    expected = run("pmap", 1, 1)
    frozen = Trainable(TrainConfig(freeze=FREEZE), model).split(params)[1]
    for mode, devices, accumulation in (("pmap", 2, 1), ("sharded", 2, 1), ("pmap", 1, 2), ("sharded", 2, 2)):
        found = run(mode, devices, accumulation)
        assert_trees_close(found, expected, rtol=1e-3, atol=2e-4)
        for tree in found:
            assert_trees_equal(Trainable(TrainConfig(freeze=FREEZE), model).split(tree)[1], frozen)


@pytest.mark.slow
@pytest.mark.parametrize("case", each_family("packed", "packed", "bucketed", "bucketed", "bucketed"))
def test_a_run_with_frozen_parameters_resumes_exactly(case, request, tmp_path, caplog):
    family = request.node.callspec.id
    config = tiny_config(tmp_path)
    config.model = tiny_model(dropout=0.3, **FAMILIES[family])
    config.batch.kind, config.train.ema_decay, config.optimizer.weight_decay = case, 0.9, 0.1
    train(config, tmp_path / "base")
    config.train.init_from, config.train.freeze = f"{tmp_path}/base:6", FREEZE
    with caplog.at_level(logging.INFO):
        train(config, tmp_path / "straight")
    config.train.steps = 3
    train(config, tmp_path / "resumed")
    config.train.steps = 6
    train(config, tmp_path / "resumed")
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)
    (params, _, ema), _ = arrays_of(tmp_path / "straight", 6)
    begun = leaves(Translator.load(tmp_path / "base", "6").params)
    kept = {path for path in begun if path.startswith("encoder_") or "embedding" in path}
    for tree in map(leaves, (params, ema)):
        assert {path for path in begun if tree[path].tobytes() == begun[path].tobytes()} == kept
    counts = [sum(begun[path].size for path in paths) for paths in (begun.keys() - kept, kept)]
    line = f"{counts[0]:,} parameters train; train.freeze leaves {counts[1]:,} in {len(kept)} arrays as they are"
    assert line in caplog.messages


def test_what_is_frozen_stays_what_it_is_when_a_run_goes_on(tmp_path):
    config = quick_config(tmp_path)
    config.train.freeze, config.train.steps = "encoder_*", 3
    train(config, tmp_path / "run")
    config.train.freeze, config.train.steps = "encoder_*, decoder_0", 6
    with pytest.raises(UserError, match=r"train\.freeze: 'encoder_\*' -> 'encoder_\*, decoder_0'"):
        train(config, tmp_path / "run")


def test_a_pattern_that_names_nothing_or_everything_is_refused_before_text_is_read(tmp_path):
    config = quick_config(tmp_path)
    config.data.train = str(tmp_path / "missing.tsv")
    for freeze, told in {
        "encoder/*": r"train\.freeze: encoder/\* names no parameter \(did you mean encoder_0_0",
        "decoder_0, decoder_0/inputs": r"decoder_0/inputs names no parameter \(did you mean decoder_0/input",
        "zzz": r"zzz names no parameter \(the paths begin with decoder_0, encoder_0_0, target_embedding\)",
        " , ": "should be patterns of parameters' paths",
        "*": r"train\.freeze='\*' names all parameters: nothing would train",
    }.items():
        config.train.freeze = freeze
        with pytest.raises(UserError, match=told):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patterns_name_paths_and_their_beginnings():
    paths = parameter_paths(random_parameters(build_model(tiny_model(), VOCAB)))
    bias = {path for path in paths if path.endswith("/bias")}
    assert matching_paths("k", "*/bias", paths) == bias
    assert matching_paths("k", "encoder_0", paths) == {path for path in paths if path.startswith("encoder_0/")}
    assert matching_paths("k", "decoder_?/feed_forward,*table", paths) == {
        path for path in paths if path.startswith("decoder_0/feed_forward/") or path == "target_embedding/table"
    }


def test_a_config_without_the_key_freezes_nothing():
    assert TrainConfig().freeze == "" and not Trainable(TrainConfig(), None).frozen
    model = build_model(tiny_model(), VOCAB)
    params = random_parameters(model)
    assert Trainable(TrainConfig(), model).split(params)[0] is params
    assert dataclasses.asdict(TrainConfig())["freeze"] == ""
