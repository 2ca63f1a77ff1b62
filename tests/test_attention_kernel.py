"""Attention by JAX's kernel for TPUs, interpreted on CPU: what plain products give, and only where training asks for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FAMILIES, VOCAB, packed_rows_of, quick_config, random_parameters, sentences, tiny_model

from transformer_jax.config import Config, override, validate
from transformer_jax.config.resuming import differences
from transformer_jax.errors import UserError
from transformer_jax.models.attention import attend, attention_weights, causal_mask, segment_mask
from transformer_jax.models.attention_kernel import Segments, splash_attention
from transformer_jax.models.seq2seq import build_model
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.loop import train
from transformer_jax.training.step import TrainState, make_train_step

KEY = jax.random.key(5)
STORE = sentences([6, 5, 6, 4], [8, 7, 6, 8])
PACKED = packed_rows_of(STORE, range(4), [0, 0, 1, 1], 2, 12, 18)


def segments(length: int, rows: int = 2) -> np.ndarray:
    """Three sentences a row, then padding."""
    ids = np.zeros((rows, length), np.int32)
    for row in range(rows):
        filled = length - 9 * row - 4
        ids[row, :filled] = 1 + 3 * np.arange(filled) // filled
    return ids


def outputs_and_gradients(attention, arrays, query_segment, weights):
    """Of the tokens that are no padding."""

    def weighted(query, key, value):
        out = jnp.where(query_segment[:, :, None, None] > 0, attention(query, key, value), 0)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    (_, out), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(each, np.float32) for each in (out, *gradients)]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("lengths", "widths", "causal"),
    [((130, 130), (64, 64), True), ((40, 130), (64, 32), False), ((20, 20), (8, 8), True), ((128, 128), (128, 128), False)],
)
def test_the_kernel_gives_what_plain_products_give(lengths, widths, causal):
    random, (length, keys), heads = np.random.default_rng(0), lengths, 2
    query_segment, key_segment = segments(length), segments(keys)
    mask = causal_mask(query_segment) if causal else segment_mask(query_segment, key_segment)
    shapes = [(2, length, heads, widths[0]), (2, heads, widths[0], keys), (2, heads, keys, widths[1])]
    weights = random.standard_normal((2, length, heads, widths[1]), np.float32)

    def by_products(query, key, value):
        return attend(attention_weights(query, key, mask), value)

    def by_kernel(query, key, value):
        return splash_attention(query, key, value, Segments(jnp.asarray(query_segment), jnp.asarray(key_segment), causal))

    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 1e-3)):
        arrays = [jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes]
        found, expected = (outputs_and_gradients(f, arrays, query_segment, weights) for f in (by_kernel, by_products))
        for a, b in zip(found, expected, strict=True):
            assert np.abs(a - b).mean() <= tolerance * max(np.sqrt((b**2).mean()), 1)
            assert np.abs(a - b).max() <= 50 * tolerance * max(np.sqrt((b**2).mean()), 1)


def step_of(kernel: str, remat: str = "none", devices: int = 1, **model):
    """What one step changes, by SGD, and its loss."""
    config = Config()
    config.batch.row_multiple, config.train.remat = devices, remat
    module = build_model(tiny_model(attention_kernel=kernel, **model), VOCAB)
    params, optimizer = random_parameters(module), optax.sgd(1.0)
    parallel = Parallel(config, jax.devices()[:devices])
    step = parallel.step(make_train_step(module, optimizer, config.train))
    state, sums = step(parallel.create(lambda params: TrainState.create(params, optimizer), params), PACKED, KEY)
    change = jax.tree.map(np.subtract, jax.device_get(state.params), params)
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(change)]), float(sums.loss.loss)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "how", [dict(positions="rotary", value_width=6), dict(devices=2, remat="layers", dropout=0.3)], ids=str
)
def test_a_training_step_of_packed_rows_is_the_same(how):
    found, expected = step_of("splash", **how), step_of("plain", **how)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5 * np.abs(expected[0]).max())
    assert found[1] == pytest.approx(expected[1], rel=1e-6)


def test_only_training_without_attention_weights_has_the_kernel():
    model = build_model(tiny_model(attention_kernel="splash"), VOCAB)
    params = random_parameters(model)

    def program(train: bool, mutable: list[str]) -> str:
        def call(params):
            return model.apply({"params": params}, PACKED, train=train, mutable=mutable, rngs={"dropout": KEY})

        return str(jax.make_jaxpr(call)(params))

    assert program(True, []).count("pallas_call") >= 2  # causal and not; what is called twice is written once
    plain = [program(*how) for how in ((False, []), (True, ["intermediates"]), (False, ["intermediates"]))]
    assert not any("pallas_call" in text for text in plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.attention_dropout": "0.1"}, r"attention_dropout=0\.1 should be 0 with model\.attention_kernel=splash"),
        ({"model.compute_dtype": "float32"}, "compute_dtype='float32' should be auto or bfloat16 with"),
        ({"parallel.mode": "sharded"}, "parallel.mode='sharded' should be pmap with model.attention_kernel=splash"),
    ],
)
def test_what_the_kernel_does_not_have_is_refused(changes, message):
    config = Config()
    config.model.attention_kernel = "splash"
    validate(config)
    for key, value in changes.items():
        override(config, key, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_another_family_and_another_device_have_no_kernel_and_a_run_may_change_it(tmp_path):
    with pytest.raises(UserError, match=r"attention_kernel='splash' should be left out: model\.family=lstm has no"):
        validate(Config(model=tiny_model(attention_kernel="splash", **FAMILIES["LSTM"])))
    config = quick_config(tmp_path)
    config.model = tiny_model(attention_kernel="splash", compute_dtype="auto")
    with pytest.raises(UserError, match=r"'splash' should be plain here: it is for TPUs, and this is a cpu"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, attention_kernel="plain"))
    assert differences(config, plain) == ([], ["model.attention_kernel: 'splash' -> 'plain'"])
