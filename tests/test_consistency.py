"""SimCut and R-Drop: the objective against formulas, what is cut, and slices, devices and resuming, which change nothing."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    EOS,
    FAMILIES,
    PAD,
    START,
    VOCAB,
    assert_same_runs,
    assert_trees_close,
    each_family,
    metrics_of,
    packed_rows_of,
    quick_config,
    random_parameters,
    rows_of,
    sentences,
    tiny_model,
)

from transformer_jax.config import Config, TrainConfig, from_json, to_json, validate
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.models.layers import CUT
from transformer_jax.models.seq2seq import build_model
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.consistency import consistency_sums, divergence, draw_cut, symmetric_divergence
from transformer_jax.training.loop import train
from transformer_jax.training.preemption import Preemption
from transformer_jax.training.step import TrainState, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

STORE = sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3])
BATCH = rows_of(STORE, range(8), 8, 6, 8)
PACKED = packed_rows_of(STORE, range(8), [0, 0, 1, 1, 2, 2, 3, 3], 4, 16, 16)
KEY = jax.random.key(5)
WHOLE = 1 - 1e-12  # as `cut`: everything that may be cut is, whatever is drawn


class Table:
    """A model whose logits are `first` in the first pass and `second` in the next; they are its parameters."""

    def __init__(self):
        self.passes, self.keys, self.cuts = itertools.cycle(("first", "second")), [], []

    def apply(self, variables, batch, *, train, rngs):
        assert train
        self.keys.append(rngs["dropout"])
        self.cuts.append(variables.get(CUT))
        return variables["params"][next(self.passes)]


def random_logits(batch):
    random = np.random.default_rng(1)
    shape = (*batch.target_output.shape, VOCAB)
    return {name: (3 * random.standard_normal(shape)).astype(np.float32) for name in ("first", "second")}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def by_hand(batch, logits, kind, alpha, smoothing):
    """The objective and the divergence of each row, in NumPy's float64, position by position."""
    log_p, log_q = log_softmax(logits["first"]), log_softmax(logits["second"])
    loss, apart = np.zeros(len(batch.target_output)), np.zeros(len(batch.target_output))
    for row, position in zip(*np.nonzero(batch.target_segment), strict=True):
        right = batch.target_output[row, position]
        p, q = log_p[row, position], log_q[row, position]
        forward, backward = np.sum(np.exp(p) * (p - q)), np.sum(np.exp(q) * (q - p))
        between = forward if kind == "simcut" else (forward + backward) / 2
        apart[row] += between
        for log in [p] if kind == "simcut" else [p, q]:
            loss[row] -= (1 - smoothing) * log[right] + smoothing * log.mean()
        loss[row] += alpha * between
    return loss, apart


def config_of(kind, **fields):
    return TrainConfig(consistency=kind, **fields)


# The objective


@pytest.mark.parametrize("batch", [BATCH, PACKED], ids=["bucketed", "packed"])
@pytest.mark.parametrize(("kind", "weight", "alpha"), [("simcut", 0.0, 3), ("rdrop", 0.0, 5), ("simcut", 0.7, 0.7)])
def test_the_objective_is_plain_numpy(kind, weight, alpha, batch):
    logits = random_logits(batch)
    sums, apart = consistency_sums(Table(), logits, batch, KEY, config_of(kind, consistency_weight=weight))
    loss, expected = by_hand(batch, logits, kind, alpha, smoothing=0.1)
    np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(apart, expected, rtol=1e-5)
    # The rest is of the first pass, and tokens are counted once.
    log_p, mask = log_softmax(logits["first"]), batch.target_segment > 0
    right = np.take_along_axis(log_p, batch.target_output[..., None], -1)[..., 0]
    np.testing.assert_allclose(sums.cross_entropy, -(right * mask).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(sums.correct, ((log_p.argmax(-1) == batch.target_output) & mask).sum(1))
    np.testing.assert_array_equal(sums.tokens, mask.sum(1))


def test_the_divergences_are_0_only_for_equal_predictions():
    one = jnp.asarray(random_logits(BATCH)["first"])
    for between in (divergence, symmetric_divergence):
        np.testing.assert_allclose(between(one, one + 7.0), 0, atol=1e-5)  # the same probabilities
        assert np.all(between(one, jnp.roll(one, 1, axis=-1)) > 0.1)
        assert np.all(np.isfinite(between(one, one.at[..., 0].set(-1e4))))


@pytest.mark.parametrize("kind", ["simcut", "rdrop"])
def test_the_gradient_flows_through_both_passes(kind):
    logits, config = random_logits(BATCH), config_of(kind)

    def loss(logits):
        return consistency_sums(Table(), logits, BATCH, KEY, config)[0].loss.sum()

    gradient = jax.grad(loss)(logits)
    for name in ("first", "second"):
        for index in [(0, 0, 4), (0, 7, BATCH.target_output[0, 7]), (4, 1, 0)]:
            moved = []
            for change in (1e-4, -1e-4):
                other = {key: value.astype(np.float64) for key, value in logits.items()}
                other[name][index] += change
                moved.append(by_hand(BATCH, other, kind, 3 if kind == "simcut" else 5, 0.1)[0].sum())
            expected = (moved[0] - moved[1]) / 2e-4
            assert abs(expected) > 1e-5 and float(gradient[name][index]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert not np.any(gradient[name][np.asarray(BATCH.target_segment) == 0])


def test_the_two_passes_have_other_masks_and_only_simcuts_second_is_cut():
    for kind in ("simcut", "rdrop"):
        table = Table()
        consistency_sums(table, random_logits(BATCH), BATCH, KEY, config_of(kind))
        first, second = map(jax.random.key_data, table.keys)
        assert np.any(first != second)
        assert table.cuts[0] is None and (table.cuts[1] is None) == (kind == "rdrop")


# What is cut


@pytest.mark.parametrize("batch", [BATCH, PACKED], ids=["bucketed", "packed"])
def test_no_eos_no_decoder_start_and_no_padding_is_cut(batch):
    cut = draw_cut(KEY, batch, WHOLE)
    np.testing.assert_array_equal(cut["source"], ~np.isin(batch.source, [EOS, PAD]))
    np.testing.assert_array_equal(cut["target"], ~np.isin(batch.target_input, [START, PAD]))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_share_of_tokens_that_is_cut(share):
    many = jax.tree.map(lambda x: np.tile(x, (2000, 1)), BATCH)
    cut, all_of_them = draw_cut(KEY, many, share), draw_cut(KEY, many, WHOLE)
    for side in ("source", "target"):
        found = cut[side].sum() / all_of_them[side].sum()
        assert found == pytest.approx(share, rel=0.05)
    assert share == 0 or np.any(cut["source"][:, :5] != cut["target"][:, 1:6])
    assert share == 0 or np.any(draw_cut(jax.random.key(6), many, share)["source"] != cut["source"])


@pytest.mark.parametrize("family", each_family())
@pytest.mark.parametrize("side", ["source", "target"])
def test_what_is_cut_has_no_part_in_the_logits(side, family):
    """Another id at a cut place gives the same logits, for the model sees its position alone."""
    model = build_model(tiny_model(**FAMILIES[family]), VOCAB)
    params = random_parameters(model)
    apply = jax.jit(lambda batch, cut: model.apply({"params": params, CUT: cut}, batch, train=False)[:4])
    nothing = {"source": np.zeros(BATCH.source.shape, bool), "target": np.zeros(BATCH.target_input.shape, bool)}
    cut = jax.tree.map(np.copy, nothing)
    cut[side][:, 2] = True

    def with_another_id_at(place):
        name = {"source": "source", "target": "target_input"}[side]
        ids = np.array(getattr(BATCH, name))
        ids[:, place] = 4 + (ids[:, place] + 1) % (VOCAB - 4)
        return BATCH._replace(**{name: ids})

    expected = apply(BATCH, cut)
    np.testing.assert_array_equal(apply(with_another_id_at(2), cut), expected)
    assert np.abs(apply(with_another_id_at(1), cut) - expected).max() > 1e-3
    assert np.abs(apply(BATCH, nothing) - expected).max() > 1e-3


# The step


def make_step(model, kind, accumulation=1, optimizer=None, cut=WHOLE):
    fields = {"cut": cut} if kind == "simcut" else {}
    return make_train_step(model, optimizer or optax.sgd(1.0), config_of(kind, accumulation=accumulation, **fields))


def fresh(params, optimizer=None):
    return TrainState.create(jax.tree.map(jnp.array, params), optimizer or optax.sgd(1.0))


@pytest.fixture(scope="module", params=each_family(*FAMILIES.values()))
def plain(request):
    """A step of SimCut on one device in one slice, without dropout and with all tokens cut: nothing is drawn, and the gradient
    is the change of the parameters."""
    model = build_model(tiny_model(**request.param), VOCAB)
    params = random_parameters(model)
    state, sums = jax.jit(make_step(model, "simcut"))(fresh(params), BATCH, KEY)
    return SimpleNamespace(model=model, params=params, state=state, sums=sums)


def test_the_step_is_the_gradient_of_the_mean_objective(plain):
    def mean(params):
        cut = {"source": BATCH.source_segment > 0, "target": BATCH.target_segment > 0}
        cut["source"] &= BATCH.source != EOS
        cut["target"] &= BATCH.target_input != START
        p = jax.nn.log_softmax(plain.model.apply({"params": params}, BATCH, train=False))
        q = jax.nn.log_softmax(plain.model.apply({"params": params, CUT: cut}, BATCH, train=False))
        right = jnp.take_along_axis(p, BATCH.target_output[..., None], axis=-1)[..., 0]
        loss = -0.9 * right - 0.1 * p.mean(-1) + 3 * jnp.sum(jnp.exp(p) * (p - q), axis=-1)
        return jnp.sum(loss * (BATCH.target_segment > 0)) / jnp.sum(BATCH.target_segment > 0)

    gradient = jax.jit(jax.grad(mean))(plain.params)
    assert_trees_close(plain.state.params, jax.tree.map(np.subtract, plain.params, gradient), rtol=1e-3, atol=1e-5)
    assert plain.sums.loss.tokens == 41 and plain.sums.divergence > 0.1


@pytest.mark.parametrize(
    ("mode", "devices", "slices"), [pytest.param("pmap", 1, 2, marks=pytest.mark.slow), ("pmap", 2, 2), ("sharded", 2, 1)]
)
def test_slices_and_devices_change_nothing(mode, devices, slices, plain):
    config = Config()
    config.batch.row_multiple, config.train.accumulation = 8, slices
    config.parallel.mode, config.parallel.min_sharded_size = mode, 1
    parallel = Parallel(config, jax.devices()[:devices])
    step = parallel.step(make_step(plain.model, "simcut", slices))
    state, sums = step(parallel.create(lambda _: fresh(plain.params), KEY), BATCH, KEY)
    assert_trees_close(state, plain.state, rtol=1e-3, atol=1e-5)
    assert_trees_close(sums, plain.sums, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["simcut", "rdrop"])
def test_sharded_draws_the_same_masks_and_cuts_on_any_number_of_devices(kind):
    model = build_model(tiny_model(dropout=0.3), VOCAB)
    params, results = random_parameters(model), []
    for devices in (1, 2):
        config = Config()
        config.batch.row_multiple, config.train.accumulation = 8, 2
        config.parallel.mode, config.parallel.min_sharded_size = "sharded", 1
        parallel = Parallel(config, jax.devices()[:devices])
        step = parallel.step(make_step(model, kind, 2, cut=0.3))
        results.append(step(parallel.create(lambda _: fresh(params), KEY), BATCH, KEY))
    assert_trees_close(*results, rtol=1e-3, atol=1e-5)
    assert results[0][1].divergence > 0.1


def test_rdrop_without_dropout_has_twice_the_usual_loss(plain):
    _, once = jax.jit(make_step(plain.model, "none"))(fresh(plain.params), BATCH, KEY)
    _, twice = jax.jit(make_step(plain.model, "rdrop"))(fresh(plain.params), BATCH, KEY)
    assert float(twice.divergence) == pytest.approx(0, abs=1e-4) and once.divergence is None
    assert_trees_close(twice.loss, once.loss._replace(loss=2 * once.loss.loss), rtol=1e-5)
    assert float(twice.gradient_norm) == pytest.approx(2 * float(once.gradient_norm), rel=1e-4)


@pytest.mark.parametrize("kind", ["simcut", pytest.param("rdrop", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", [*each_family(), pytest.param("packed", marks=pytest.mark.slow)])
def test_it_learns_with_every_family_and_both_batchings(family, kind):
    family, batch = ("Transformer", PACKED) if family == "packed" else (family, BATCH)
    model, optimizer = build_model(tiny_model(dropout=0.1, **FAMILIES[family]), VOCAB), optax.adam(1e-2)
    step = jax.jit(make_step(model, kind, optimizer=optimizer, cut=0.05))
    state, losses = fresh(random_parameters(model), optimizer), []
    for _ in range(40):
        state, sums = step(state, batch, KEY)
        losses.append(float(sums.loss.loss))
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]


# A whole training


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["simcut", "rdrop"])
def test_a_training_that_was_stopped_goes_on_exactly(kind, tmp_path, monkeypatch):
    config = quick_config(tmp_path)
    config.train.consistency = kind
    train(config, str(tmp_path / "straight"), verbose=False)
    lines = [line for line in metrics_of(tmp_path / "straight") if line["split"] == "train"]
    assert len(lines) == 2 and all(line["divergence"] > 0 for line in lines)
    alpha = {"simcut": 3, "rdrop": 5}[kind]
    assert all(line["loss"] > line["cross_entropy"] / 2 + alpha * line["divergence"] for line in lines)

    checks = itertools.count(1)

    def stop_at_the_fifth(_):
        if next(checks) == 5:
            raise ToBeContinued("stopped by the test")

    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "check", stop_at_the_fifth)
        with pytest.raises(ToBeContinued):
            train(config, str(tmp_path / "stopped"), verbose=False)
    assert len(metrics_of(tmp_path / "stopped")) < len(metrics_of(tmp_path / "straight"))
    train(config, str(tmp_path / "stopped"), verbose=False)
    assert_same_runs(tmp_path / "stopped", tmp_path / "straight", 6)


def test_without_consistency_no_line_has_a_divergence_and_old_configs_have_none(tmp_path):
    config = quick_config(tmp_path)
    config.train.steps = config.train.evaluate_every = 3
    train(config, str(tmp_path / "run"), verbose=False)
    assert not [line for line in metrics_of(tmp_path / "run") if "divergence" in line]
    data = to_json(config)
    old = [
        line
        for line in data.splitlines()
        if not any(f'"{key}"' in line for key in ("consistency", "consistency_weight", "cut"))
    ]
    assert len(old) == len(data.splitlines()) - 3
    assert from_json("\n".join(old)) == config


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        (
            dict(consistency="simcat"),
            {},
            "train.consistency='simcat' should be one of none, simcut, rdrop (did you mean simcut?)",
        ),
        (
            dict(consistency_weight=3.0),
            {},
            "train.consistency_weight=3.0 should be left out: train.consistency=none has no use for it",
        ),
        (dict(cut=0.1), {}, "train.cut=0.1 should be left out: train.consistency=none has no use for it"),
        (dict(consistency="rdrop", cut=0.1), {}, "train.cut=0.1 should be left out: train.consistency=rdrop has no use for it"),
        (dict(consistency="simcut", cut=1.0), {}, "train.cut=1.0 should be at least 0 and below 1"),
        (
            dict(consistency="rdrop"),
            dict(dropout=0.0),
            "train.consistency='rdrop' should be none where model.dropout and all others are 0: both passes would be the same; "
            "set model.dropout",
        ),
        (dict(consistency="simcut", cut=0.0), dict(dropout=0.0), "train.cut=0.0 should be more than 0 where no dropout is on"),
    ],
)
def test_settings_without_effect_are_refused(fields, model, message):
    config = Config()
    config.train, config.model = dataclasses.replace(config.train, **fields), dataclasses.replace(config.model, **model)
    with pytest.raises(UserError) as error:
        validate(config)
    assert str(error.value) == f"config: {message}"


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        (dict(consistency="simcut"), dict(dropout=0.0)),
        (dict(consistency="simcut", cut=0.0), {}),
        (dict(consistency="rdrop", consistency_weight=2.0), dict(dropout=0.0, attention_dropout=0.1)),
    ],
)
def test_settings_that_have_an_effect_are_allowed(fields, model):
    config = Config()
    config.train, config.model = dataclasses.replace(config.train, **fields), dataclasses.replace(config.model, **model)
    assert validate(config) is config
