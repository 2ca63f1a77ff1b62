"""Low-rank adapters (`train.lora_rank`): their formula, what trains, resumption, and adapters in a folder of their own."""

import json
import logging
import shutil

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

from transformer_jax.cli import program
from transformer_jax.cli.subcommands import run
from transformer_jax.config import Config, ModelConfig, TrainConfig, validate
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.models.adapters import Adapters
from transformer_jax.models.seq2seq import build_model, count_parameters
from transformer_jax.runs.lean import copy_run
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.loop import train
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step
from transformer_jax.training.trainable import Trainable

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = rows_of(sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3]), range(8), 8, 6, 8)
KEY = jax.random.key(5)
SETTINGS = dict(lora_rank=2, lora_alpha=6.0, init_from="runs/base")


@pytest.fixture(autouse=True)
def _no_set_up(monkeypatch):
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)


def leaves(tree) -> dict:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(jax.device_get(tree))
    }


def random_factors(adapters: Adapters, params, seed=1):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), adapters.abstract(params))


def merged_in_numpy(params, factors, scale: float) -> dict:
    """W + scale A B of every product, of a fused kernel each projection by itself."""
    of_factors, merged = leaves(factors), {}
    for path, leaf in leaves(params).items():
        if f"{path}/down" in of_factors:
            down, up = of_factors[f"{path}/down"].astype(np.float64), of_factors[f"{path}/up"].astype(np.float64)
            if leaf.ndim == 4:  # [D, n, H, K]
                added = np.stack([(down[n] @ up[n]).reshape(leaf.shape[0], *leaf.shape[2:]) for n in range(leaf.shape[1])], 1)
            else:
                added = (down @ up).reshape(leaf.shape)
            leaf = leaf + scale * added
        merged[path] = leaf
    return merged


@pytest.fixture(params=each_family())
def model_and_params(request):
    model = build_model(tiny_model(**FAMILIES[request.param]), VOCAB)
    return model, random_parameters(model)


def step_of(model, params, factors, optimizer, **settings):
    config = TrainConfig(**SETTINGS | settings)
    trainable = Trainable(config, model)
    state = TrainState.create(jax.tree.map(jnp.array, params), optimizer, config.ema_decay, trainable, factors)
    return jax.jit(make_train_step(model, optimizer, config))(state, BATCH, KEY)


def test_what_is_merged_is_the_formula_and_fresh_factors_add_nothing(model_and_params):
    _, params = model_and_params
    adapters = Adapters(rank=2, alpha=6.0, on="all")
    fresh = adapters.init(params, KEY)
    assert_trees_equal(jax.device_get(adapters.merge(params, fresh)), params)
    kernels = [path for path in leaves(params) if path.endswith(("kernel", "recurrent"))]
    assert sorted(adapters.shapes(params)) == sorted(kernels)
    factors = random_factors(adapters, params)
    assert_trees_equal(jax.tree.map(np.shape, fresh), jax.tree.map(np.shape, factors))
    found, expected = leaves(adapters.merge(params, factors)), merged_in_numpy(params, factors, 3.0)
    assert found.keys() == expected.keys()
    for path in found:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-5)


def test_a_step_moves_the_factors_by_the_gradient_of_the_product_and_nothing_else(model_and_params):
    """Where `up` is 0, its gradient is scale down^T G, and that of `down` is 0; G is the gradient of W."""
    model, params = model_and_params
    adapters = Adapters(2, 6.0, "all")
    factors = jax.device_get(adapters.init(params, KEY))
    plain = jax.jit(make_train_step(model, optax.sgd(1.0), TrainConfig()))
    after, _ = plain(TrainState.create(jax.tree.map(jnp.array, params), optax.sgd(1.0)), BATCH, KEY)
    gradient = {path: leaf - leaves(after.params)[path] for path, leaf in leaves(params).items()}
    state, sums = step_of(model, params, factors, optax.sgd(1.0))
    assert_trees_equal(jax.device_get(state.params), params)
    before, found, squares = leaves(factors), leaves(state.adapters), 0.0
    for path in adapters.shapes(params):
        down = before[f"{path}/down"]
        g = gradient[path].swapaxes(0, 1) if gradient[path].ndim == 4 else gradient[path]
        g = g.reshape(*down.shape[:-1], -1)
        expected = -3.0 * np.swapaxes(down, -1, -2) @ g
        np.testing.assert_array_equal(found[f"{path}/down"], down)
        np.testing.assert_allclose(found[f"{path}/up"], expected, rtol=2e-3, atol=2e-5)
        squares += np.square(expected, dtype=np.float64).sum()
    np.testing.assert_allclose(sums.gradient_norm, np.sqrt(squares), rtol=1e-3)


def test_which_products_have_adapters():
    params = random_parameters(build_model(tiny_model(), VOCAB))

    def on(words: str) -> set[str]:
        return set(Adapters(2, 2.0, words).shapes(params))

    attention = {
        f"{part}/{kernel}/kernel"
        for part in ("encoder_0/attention", "decoder_0/attention")
        for kernel in ("output", "query_key_value")
    }
    attention |= {f"decoder_0/cross_attention/{kernel}/kernel" for kernel in ("output", "query", "key_value")}
    assert on("attention") == attention
    assert on("attention, feed_forward") == on("all") == on("*")
    assert on("feed_forward") == on("all") - attention
    assert on("encoder_0") == {path for path in on("all") if path.startswith("encoder_0/")}
    with pytest.raises(UserError, match=r"train\.lora_on: target_embedding names no parameter"):
        on("target_embedding")  # a table is no product
    with pytest.raises(
        UserError, match=r"train\.lora_rank=17 should be at most 16, the smaller side of decoder_0/attention/output"
    ):
        Adapters(17, 2.0, "all").shapes(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "schedule_free"])
def test_devices_and_slices_change_nothing_and_the_state_is_that_of_the_factors(name):
    model = build_model(tiny_model(), VOCAB)
    params = random_parameters(model)
    factors = random_factors(Adapters(2, 6.0, "all"), params)

    def after(mode, devices, accumulation):
        config = Config(train=TrainConfig(**SETTINGS, accumulation=accumulation))
        config.optimizer.name, config.optimizer.schedule, config.optimizer.weight_decay = name, "constant", 0.1
        config.optimizer.learning_rate, config.optimizer.warmup_steps, config.batch.row_multiple = 0.01, 1, 8
        config.parallel.mode, config.parallel.min_sharded_size = mode, 16
        parallel, optimizer = Parallel(config, jax.devices()[:devices]), make_optimizer(config)
        step, trainable = parallel.step(make_train_step(model, optimizer, config.train)), Trainable(config.train, model)
        state = parallel.create(lambda both: TrainState.create(both[0], optimizer, 0.0, trainable, both[1]), (params, factors))
        for _ in range(2):
            state, _ = step(state, BATCH, KEY)
        assert_trees_equal(jax.device_get(parallel.gather_params(state.params)), params)
        assert 0 <= count_parameters(state.optimizer_state) - 2 * count_parameters(factors) < 9  # counts of updates
        return jax.device_get(trainable.inference_params(state, parallel.gather_params))

    expected = after("pmap", 1, 1)
    for mode, devices, accumulation in (("pmap", 2, 1), ("sharded", 2, 1), ("pmap", 1, 2), ("sharded", 2, 2)):
        found = after(mode, devices, accumulation)
        # Adam moves an element whose gradient is nearly 0 by its rounding error.
        assert_trees_close(found, expected, rtol=1e-3, atol=0.02)
        close = [np.isclose(a, b, atol=1e-4).mean() for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True)]
        assert np.mean(close) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("kind", each_family("packed", "packed", "bucketed", "bucketed", "bucketed"))
def test_a_run_with_adapters_resumes_exactly_and_is_read_merged(kind, request, tmp_path, caplog):
    config = tiny_config(tmp_path)
    config.model = tiny_model(dropout=0.3, **FAMILIES[request.node.callspec.id])
    config.batch.kind = kind
    train(config, tmp_path / "base")
    config.train.init_from, config.train.lora_rank, config.train.lora_alpha = f"{tmp_path}/base:6", 2, 6.0
    config.train.ema_decay = 0.5
    with caplog.at_level(logging.INFO):
        train(config, tmp_path / "straight")
    config.train.steps = 3
    train(config, tmp_path / "resumed")
    config.train.steps = 6
    train(config, tmp_path / "resumed")
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)
    (base, factors, _, average), _ = arrays_of(tmp_path / "straight", 6)
    assert_trees_equal(base, Translator.load(tmp_path / "base", "6").params)
    for which, of_which in (("6:raw", factors), ("6", average)):
        found = leaves(Translator.load(tmp_path / "straight", which).params)
        for path, leaf in merged_in_numpy(base, of_which, 3.0).items():
            np.testing.assert_allclose(found[path], leaf, rtol=1e-5, atol=1e-5)
    assert f"{count_parameters(factors):,} parameters of adapters train, rank 2, alpha 6, on" in caplog.text


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    config = quick_config(folder)
    config.train.steps = 3
    train(config, folder / "base")
    config.train.init_from, config.train.lora_rank, config.optimizer.learning_rate = f"{folder}/base", 2, 0.1
    config.train.steps = 6
    train(config, folder / "tuned")
    return folder


@pytest.mark.slow
def test_adapters_alone_make_the_run_again(tuned, tmp_path, capsys):
    run(["adapter", f"{tuned}/tuned", f"{tmp_path}/alone", "--checkpoint=6"])
    run(["adapter", f"{tuned}/base", f"{tmp_path}/merged", f"--merge={tmp_path}/alone"])
    found, expected = Translator.load(tmp_path / "merged"), Translator.load(tuned / "tuned", "6")
    assert_trees_equal(found.params, expected.params)
    base = leaves(Translator.load(tuned / "base").params)
    assert any((leaves(expected.params)[path] != leaf).any() for path, leaf in base.items())
    assert found.tokenizer.fingerprint == expected.tokenizer.fingerprint
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("alone", "merged")
    ]
    assert sizes[0] < sizes[1]
    copy_run(str(tuned / "tuned"), str(tmp_path / "lean"), ["6"])
    assert_trees_equal(Translator.load(tmp_path / "lean").params, expected.params)
    assert json.loads((tmp_path / "lean" / "config.json").read_text())["train"]["lora_rank"] == 0
    assert "the adapters of" in capsys.readouterr().out


def test_adapters_that_do_not_belong_or_are_damaged_are_refused(tuned, tmp_path):
    run(["adapter", f"{tuned}/tuned", f"{tmp_path}/alone"])
    cases = {
        (f"{tuned}/tuned", f"{tmp_path}/alone"): r"belongs to other parameters than .*/tuned has: .*/base'",
        (f"{tuned}/base", f"{tmp_path}/none"): r"holds no adapters, there is no adapter\.json",
        (f"{tuned}/none", f"{tmp_path}/alone"): "no such run folder",
    }
    for (base, adapter), told in cases.items():
        with pytest.raises(UserError, match=told):
            run(["adapter", base, f"{tmp_path}/out", f"--merge={adapter}"])
    file = tmp_path / "alone" / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"adapter\.safetensors is damaged"):
        run(["adapter", f"{tuned}/base", f"{tmp_path}/out", f"--merge={tmp_path}/alone"])
    for which, told in (("average:2", "the mean of several checkpoints has no adapters"), ("7", "no checkpoint of step 7")):
        with pytest.raises(UserError, match=told):
            run(["adapter", f"{tuned}/tuned", f"{tmp_path}/out", f"--checkpoint={which}"])
    with pytest.raises(UserError, match=r"has no adapters: it was trained without train\.lora_rank"):
        run(["adapter", f"{tuned}/base", f"{tmp_path}/out"])
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_is_a_damaged_checkpoint(tuned, tmp_path):
    shutil.copytree(tuned / "tuned", tmp_path / "run")
    expected = Translator.load(tmp_path / "run", "3").params
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6" / "adapters")
    assert_trees_equal(Translator.load(tmp_path / "run", "latest").params, expected)
    with pytest.raises(UserError, match="choose another with --checkpoint"):
        Translator.load(tmp_path / "run", "6")


def test_what_cannot_be_together_is_refused():
    for changes, told in {
        (("lora_alpha", 2.0),): r"train\.lora_alpha=2\.0 should be left out without train\.lora_rank",
        (("lora_on", "attention"),): r"train\.lora_on='attention' should be left out without",
        (("lora_rank", 2),): r"train\.lora_rank=2 should be 0 without train\.init_from",
        (("lora_rank", 2), ("init_from", "a"), ("freeze", "x")): r"train\.freeze='x' should be left out with train\.lora_rank",
        (("lora_rank", 2), ("init_from", "a"), ("init_model", "partial")): r"train\.init_model='partial' should be same with",
        (("lora_rank", 2), ("init_from", "a"), ("init_tokenizer", "own")): r"train\.init_tokenizer='own' should be same with",
    }.items():
        config = Config(model=ModelConfig())
        for name, value in changes:
            setattr(config.train, name, value)
        with pytest.raises(UserError, match=told):
            validate(config)
