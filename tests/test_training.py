"""Objective, optimizer and the step: sums add up, and slices and devices change nothing but the order of addition."""

import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    EOS,
    FAMILIES,
    VOCAB,
    assert_trees_close,
    assert_trees_equal,
    each_family,
    random_parameters,
    rows_of,
    sentences,
    tiny_model,
)

from transformer_jax.config import Config, TrainConfig, validate
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import build_model
from transformer_jax.training import metrics
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.metrics import TIMES, Meter, loss_means, without_times
from transformer_jax.training.objective import LossSums, loss_sums
from transformer_jax.training.optimizer import learning_rate, make_optimizer
from transformer_jax.training.step import StepSums, TrainState, make_eval_step, make_train_step, moving_average

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Long sentences in the first half of the rows, short ones in the second: 32 and 9 target tokens.
BATCH = rows_of(sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3]), range(8), 8, 6, 8)
KEY = jax.random.key(5)
EMA_DECAY = 0.5


def part(batch, rows):
    return jax.tree.map(lambda x: x[rows], batch)


def make_step(model, *, accumulation=1, optimizer=None, label_smoothing=0.1):
    config = TrainConfig(accumulation=accumulation, label_smoothing=label_smoothing, ema_decay=EMA_DECAY)
    return make_train_step(model, optimizer or optax.sgd(1.0), config)


def fresh(params, optimizer=None) -> TrainState:
    return TrainState.create(jax.tree.map(jnp.array, params), optimizer or optax.sgd(1.0), EMA_DECAY)


# The objective


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_sums_are_plain_numpy(smoothing):
    random = np.random.default_rng(0)
    logits = random.standard_normal((3, 5, 7)).astype(np.float32) * 3
    target, segment = random.integers(0, 7, (3, 5)), random.integers(0, 3, (3, 5))
    expected = {name: np.zeros(3) for name in LossSums._fields}
    for b, t in zip(*np.nonzero(segment), strict=True):
        log_p = logits[b, t] - np.log(np.exp(logits[b, t]).sum())
        wanted = np.full(7, smoothing / 7)
        wanted[target[b, t]] += 1 - smoothing
        expected["loss"][b] -= (wanted * log_p).sum()
        expected["cross_entropy"][b] -= log_p[target[b, t]]
        expected["correct"][b] += log_p.argmax() == target[b, t]
        expected["tokens"][b] += 1
    found = loss_sums(jnp.asarray(logits), jnp.asarray(target), jnp.asarray(segment), smoothing)
    assert_trees_close(found, LossSums(**expected), rtol=1e-5)
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}

    garbage = np.where(segment[..., None] > 0, logits, 50.0)
    assert_trees_equal(loss_sums(garbage, np.where(segment > 0, target, 3), segment, smoothing), found)
    assert_trees_close(loss_sums(logits[1:2], target[1:2], segment[1:2], smoothing), LossSums(*(x[1:2] for x in found)))


def test_smoothed_loss_is_least_where_the_prediction_is_the_smoothed_target():
    smoothed = jnp.full((1, 1, 5), 0.1 / 5).at[0, 0, 2].add(0.9)

    def loss(logits):
        return loss_sums(logits, jnp.array([[2]]), jnp.array([[1]]), 0.1).loss[0]

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(smoothed)), 0, atol=1e-6)


def test_means_are_per_token_and_an_empty_or_hopeless_set_has_them_too():
    means = loss_means(LossSums(8.0, 6.0, 1.0, 4.0))
    assert means == {"loss": 2.0, "cross_entropy": 1.5, "perplexity": math.exp(1.5), "accuracy": 0.25}
    assert loss_means(LossSums(0.0, 0.0, 0.0, 0.0))["perplexity"] == 1
    assert loss_means(LossSums(1e6, 1e6, 0.0, 1.0))["perplexity"] == math.inf


# The optimizer


def optimizer_config(**changes) -> Config:
    config = Config()
    for name, value in changes.items():
        setattr(config.optimizer, name, value)
    return config


def rates(config: Config, *numbers: int) -> list[float]:
    """The rates of updates number n = 1, 2, ..."""
    rate = learning_rate(config)
    return [float(rate(jnp.int32(n - 1))) for n in numbers]


def test_the_papers_schedule():
    numbers = [1, 2, 1000, 3999, 4000, 4001, 16_000, 100_000]
    expected = [512**-0.5 * min(n**-0.5, n * 4000**-1.5) for n in numbers]
    np.testing.assert_allclose(rates(Config(), *numbers), expected, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "constant"])
def test_schedules_rise_to_their_peak_over_the_warm_up(schedule):
    config = optimizer_config(schedule=schedule, learning_rate=0.01, warmup_steps=10)
    np.testing.assert_allclose(rates(config, *range(1, 11)), np.arange(1, 11) * 0.001, rtol=1e-5)
    after = rates(config, 11, 100, 1000, 50_000)
    assert (np.diff([0.01, *after]) <= 0).all()
    assert (after == rates(config, 10) * 4) is (schedule == "constant")
    for steps in (0, 1):
        without = optimizer_config(schedule=schedule, learning_rate=0.01, warmup_steps=steps)
        assert rates(without, 1) == pytest.approx([0.01])


def test_cosine_reaches_zero_at_its_last_step_and_stays_there():
    config = optimizer_config(schedule="cosine", learning_rate=0.01, warmup_steps=10, decay_steps=110)
    np.testing.assert_allclose(rates(config, 60, 110, 120, 10_000), [0.005, 0, 0, 0], atol=1e-8)
    config.optimizer.decay_steps, config.train.steps = 0, 110
    np.testing.assert_allclose(rates(config, 60, 110), [0.005, 0], atol=1e-8)


def updates_of(config: Config, params, gradients) -> list:
    optimizer, found = make_optimizer(config), []
    state = optimizer.init(params)
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, params)
        found.append(update)
    return found


def test_adam_is_plain_numpy():
    config, random = (
        optimizer_config(schedule="constant", learning_rate=0.1, warmup_steps=0, epsilon=1e-3),
        np.random.default_rng(0),
    )
    gradients, m, v = random.standard_normal((4, 3)).astype(np.float32), np.zeros(3), np.zeros(3)
    for n, (gradient, update) in enumerate(zip(gradients, updates_of(config, jnp.zeros(3), gradients), strict=True), 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        expected = -0.1 * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.98**n)) + 1e-3)
        np.testing.assert_allclose(update, expected, rtol=1e-4)


def test_clipping_scales_long_gradients_and_leaves_short_ones():
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    short = {"a": jnp.array([[0.1, 0.2], [0.0, 0.3]]), "b": jnp.array([0.1, -0.4])}
    long = {"a": jnp.array([[6.0, 0.0], [0.0, 0.0]]), "b": jnp.array([0.0, 8.0])}  # of norm 10
    fifth = jax.tree.map(lambda x: x / 5, long)
    rate = dict(schedule="constant", learning_rate=0.1, warmup_steps=0)
    unclipped, clipping = optimizer_config(**rate), optimizer_config(**rate, clip_norm=2.0)
    clipped = updates_of(clipping, params, [short, long, short])
    assert_trees_close(clipped, updates_of(unclipped, params, [short, fifth, short]), rtol=1e-5)
    assert np.abs(clipped[2]["b"][1] - updates_of(unclipped, params, [short, long, short])[2]["b"][1]) > 1e-3


def test_weight_decay_shrinks_matrices_only():
    """The bias of an attention has an axis for the heads, and is no matrix."""
    config = optimizer_config(weight_decay=0.1, schedule="constant", learning_rate=0.5, warmup_steps=0)
    params = {"kernel": jnp.ones((2, 3)), "table": jnp.full((4, 2), 2.0), "bias": jnp.ones(3), "scale": jnp.ones(2)}
    params["query_key_value"] = {"kernel": jnp.ones((4, 3, 2, 2)), "bias": jnp.ones((3, 2, 2))}
    (update,) = updates_of(config, params, [jax.tree.map(jnp.zeros_like, params)])
    expected = {"kernel": -0.05, "table": -0.1, "bias": 0.0, "scale": 0.0}
    fused = update.pop("query_key_value")
    for found, value in [
        *((update[name], value) for name, value in expected.items()),
        (fused["kernel"], -0.05),
        (fused["bias"], 0.0),
    ]:
        np.testing.assert_allclose(found, value, rtol=1e-6)


# The step


@pytest.fixture(scope="module", params=each_family(*FAMILIES.values()))
def plain(request):
    """One step without dropout on one device in one slice: what all other ways must equal. With SGD at rate 1 the change of the
    parameters is the gradient."""
    model = build_model(tiny_model(**request.param), VOCAB)
    params = random_parameters(model)
    step = jax.jit(make_step(model))
    state, sums = step(fresh(params), BATCH, KEY)
    return SimpleNamespace(model=model, params=params, step=step, state=state, sums=sums)


def assert_same_step(found, plain) -> None:
    state, sums = found
    assert_trees_close(state, plain.state, rtol=1e-4, atol=1e-6)
    assert_trees_close(sums, plain.sums, rtol=1e-5)


@pytest.mark.accelerator
def test_the_gradient_is_that_of_the_mean_over_all_tokens(plain):
    def mean(params):
        logits = plain.model.apply({"params": params}, BATCH, train=False)
        sums = loss_sums(logits, BATCH.target_output, BATCH.target_segment, 0.1)
        return sums.loss.sum() / sums.tokens.sum()

    gradient = jax.jit(jax.grad(mean))(plain.params)
    assert_trees_close(plain.state.params, jax.tree.map(np.subtract, plain.params, gradient), rtol=1e-4, atol=1e-6)
    assert float(plain.sums.gradient_norm) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    assert int(plain.state.step) == 1 and plain.sums.finite == plain.sums.steps == 1
    assert plain.sums.loss.tokens == 41 and plain.sums.source_tokens == 29
    assert float(plain.sums.loss.cross_entropy) == pytest.approx(
        float(jax.jit(make_eval_step(plain.model, EOS))(plain.params, BATCH)[0].cross_entropy.sum()), rel=1e-5
    )


@pytest.mark.parametrize("slices", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.accelerator
def test_accumulation_changes_nothing(slices, plain):
    assert_same_step(jax.jit(make_step(plain.model, accumulation=slices))(fresh(plain.params), BATCH, KEY), plain)


def parallel_config(slices: int, mode: str = "pmap", row_multiple: int = 8) -> Config:
    config = Config()
    config.batch.row_multiple, config.train.accumulation = row_multiple, slices
    config.parallel.mode, config.parallel.min_sharded_size = mode, 1
    return config


@pytest.mark.parametrize(
    ("mode", "devices", "slices"),
    [
        pytest.param("pmap", 2, 1, marks=pytest.mark.slow),
        ("pmap", 2, 2),
        pytest.param("sharded", 1, 2, marks=pytest.mark.slow),
        ("sharded", 2, 2),
    ],
)
def test_many_devices_are_one_even_where_one_has_most_of_the_tokens(mode, devices, slices, plain):
    parallel = Parallel(parallel_config(slices, mode), jax.devices()[:devices])
    step = parallel.step(make_step(plain.model, accumulation=slices))
    state = parallel.create(lambda _: fresh(plain.params), KEY)
    memory = step.memory(state, BATCH, KEY)  # and the state is still there
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.total > memory.state >= whole / devices and (memory.state == whole) == (mode == "pmap" or devices == 1)
    assert memory.devices == devices
    state, sums = step(state, BATCH, KEY)
    assert_same_step((state, sums), plain)
    # The state has no device axis, and goes in again as it came out.
    again, _ = step(state, BATCH, KEY)
    assert_same_step((again, plain.sums), SimpleNamespace(state=plain.step(plain.state, BATCH, KEY)[0], sums=plain.sums))
    assert_trees_close(parallel.gather_params(again.params), again.params)


@pytest.mark.parametrize("slices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_gradients_added_up_in_bfloat16_are_rounded_and_losses_and_counts_are_not(slices, plain):
    config = parallel_config(slices)
    config.parallel.reduce_dtype = "bfloat16"
    state, sums = Parallel(config).step(make_step(plain.model, accumulation=slices))(fresh(plain.params), BATCH, KEY)
    assert_trees_close((sums.loss, sums.source_tokens), (plain.sums.loss, plain.sums.source_tokens), rtol=1e-5)
    # With SGD at rate 1 the change of the parameters is the gradient. Of two summands, each rounded to 8 bits, and their sum.
    exact, rounded = (jax.tree.map(np.subtract, plain.params, new.params) for new in (plain.state, state))
    error = jax.tree.map(np.subtract, rounded, exact)
    assert 2**-12 < float(optax.tree.norm(error)) / float(optax.tree.norm(exact)) < 2**-7
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))


def test_a_sharded_training_has_no_other_type_for_its_sums():
    config = parallel_config(1, "sharded")
    validate(config)
    config.parallel.reduce_dtype = "bfloat16"
    with pytest.raises(UserError, match=r"reduce_dtype='bfloat16' should be float32 with parallel\.mode=sharded"):
        validate(config)


def test_sharded_each_device_has_a_part_of_what_is_large(plain):
    config = parallel_config(1, "sharded")
    config.parallel.min_sharded_size = 100
    parallel = Parallel(config)
    step = parallel.step(make_step(plain.model, optimizer=optax.adam(1e-3)))
    state = parallel.create(lambda _: fresh(plain.params, optax.adam(1e-3)), KEY)

    def assert_in_parts(state):
        for leaf in jax.tree.leaves(state):
            large = leaf.size >= 100 and any(size % 2 == 0 for size in leaf.shape)
            assert leaf.addressable_shards[0].data.size == (leaf.size // 2 if large else leaf.size)
        for part_of_state in (state.optimizer_state, state.ema):
            assert any(leaf.size > leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(part_of_state))

    assert_in_parts(state)
    assert_in_parts(step(state, BATCH, KEY)[0])


@pytest.mark.slow
def test_sharded_draws_the_same_masks_on_any_number_of_devices():
    """pmap cannot: it has a key for each device."""
    model = build_model(tiny_model(dropout=0.3), VOCAB)
    params = random_parameters(model)
    states = []
    for devices in (1, 2):
        parallel = Parallel(parallel_config(2, "sharded"), jax.devices()[:devices])
        step = parallel.step(make_step(model, accumulation=2))
        states.append(step(parallel.create(lambda _: fresh(params), KEY), BATCH, KEY))
    assert_trees_close(*states, rtol=1e-4, atol=1e-6)
    other = step(parallel.create(lambda _: fresh(params), KEY), BATCH, jax.random.key(6))[1]
    assert float(other.loss.loss) != pytest.approx(float(states[0][1].loss.loss), rel=1e-4)


def test_a_mean_of_the_halves_means_is_another_thing(plain):
    """Else the tests above would not notice it."""
    halves = [plain.step(fresh(plain.params), part(BATCH, rows), KEY)[0].params for rows in (slice(4), slice(4, 8))]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), mean, plain.state.params)
    assert max(jax.tree.leaves(difference)) > 1e-2


def test_rows_that_do_not_divide_by_the_devices_are_an_error():
    with pytest.raises(UserError, match=r"row_multiple=6 should be a multiple of 2 devices times .*=2; the nearest is 8"):
        Parallel(parallel_config(2, row_multiple=6))


class Noise:
    """A model whose logits are nothing but its random key's."""

    def apply(self, variables, batch, *, train, rngs):
        assert train
        noise = jax.random.normal(rngs["dropout"], (*batch.target_output.shape, VOCAB))
        return noise * variables["params"]


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
def test_slices_and_devices_and_steps_draw_different_masks(slices, devices):
    """Rows that are alike in each part: with equal masks the parts' losses were equal, and so their gradients."""
    rows = 4 // (slices * devices)
    # Two devices have the first and the last rows, two slices every other row.
    alike = part(BATCH, np.tile(np.repeat(np.arange(rows), slices), devices))
    parallel = Parallel(parallel_config(slices, row_multiple=4), jax.devices()[:devices])
    step = parallel.step(make_step(Noise(), accumulation=slices))
    losses = []
    for number in range(2):
        _, sums = step(fresh(jnp.ones(()))._replace(step=jnp.int32(number)), alike, KEY)
        losses.append(float(sums.loss.cross_entropy) / (slices * devices))
    # What one part alone would have with any of the keys that it could share with the others.
    keys = [KEY, jax.random.fold_in(KEY, 0)]
    keys += [jax.random.fold_in(key, i) for key in keys for i in (0, 1)]
    keys += [jax.random.fold_in(key, i) for key in keys for i in (0, 1)]
    one = part(alike, slice(rows))
    shared = [
        float(
            loss_sums(
                jax.random.normal(key, (*one.target_output.shape, VOCAB)), one.target_output, one.target_segment, 0.0
            ).cross_entropy.sum()
        )
        for key in keys
    ]
    assert losses[0] != losses[1]
    if slices * devices > 1:
        assert np.abs(np.array(shared) - losses[0]).min() > 1e-3


@pytest.mark.parametrize("family", each_family())
@pytest.mark.accelerator
def test_the_same_state_and_key_give_the_same_bits_with_dropout(family):
    model = build_model(tiny_model(dropout=0.3, **FAMILIES[family]), VOCAB)
    params = random_parameters(model)
    config = parallel_config(2)
    optimizer = make_optimizer(config)
    step = Parallel(config).step(make_step(model, accumulation=2, optimizer=optimizer))

    def run(number, key):
        return jax.device_get(step(fresh(params, optimizer)._replace(step=jnp.int32(number)), BATCH, key))

    expected = run(3, KEY)
    assert_trees_equal(run(3, KEY), expected)
    assert expected[0].step == 4
    for number, key in ((4, KEY), (3, jax.random.key(6))):
        assert run(number, key)[1].loss.loss != expected[1].loss.loss


def test_numbers_that_are_not_finite_are_told_of_the_step_that_made_them():
    def finite_after(params, rate):
        step = jax.jit(make_step(Scaled(), optimizer=optax.sgd(rate)))
        return float(step(fresh(params, optax.sgd(rate)), part(BATCH, slice(2)), KEY)[1].finite)

    assert finite_after(jnp.ones(VOCAB), 1.0) == 1
    assert finite_after(jnp.full(VOCAB, jnp.nan), 1.0) == 0
    assert finite_after(jnp.full(VOCAB, jnp.inf), 0.0) == 0
    # Loss and gradient are finite, the parameters that would be saved are not.
    assert finite_after(jnp.ones(VOCAB), 3e38) == 0


def test_one_broken_parameter_makes_a_step_not_finite(plain):
    broken = jax.tree.map(np.array, plain.params)
    jax.tree.leaves(broken["decoder_0"])[0].flat[0] = np.nan
    assert plain.step(fresh(broken), BATCH, KEY)[1].finite == 0


def test_a_step_that_is_not_finite_may_change_nothing_but_the_step():
    config = TrainConfig(max_skipped=3, ema_decay=EMA_DECAY)
    optimizer = optax.adam(1.0)
    step = jax.jit(make_train_step(Scaled(), optimizer, config))
    for broken in (jnp.full(VOCAB, jnp.nan), jnp.full(VOCAB, jnp.inf)):
        state = fresh(broken, optimizer)._replace(ema=jnp.ones(VOCAB))
        after, sums = step(state, part(BATCH, slice(2)), KEY)
        assert_trees_equal(after, state._replace(step=np.int32(1), skipped=np.int32(1)))
        assert_trees_equal(sums, jax.tree.map(np.float32, StepSums(LossSums(0, 0, 0, 0), 0, 0, 0, 1)))
    good = fresh(jnp.ones(VOCAB), optimizer)
    plain = jax.jit(make_train_step(Scaled(), optimizer, TrainConfig(ema_decay=EMA_DECAY)))
    assert_trees_equal(step(good, part(BATCH, slice(2)), KEY), plain(good, part(BATCH, slice(2)), KEY))


def test_what_is_skipped_leaves_the_optimizer_and_the_average_as_if_it_had_not_been():
    """Rate, moments and the average's decay follow the updates that were applied."""
    config = optimizer_config(learning_rate=0.1, warmup_steps=4)
    config.train.max_skipped, config.train.ema_decay = 3, 0.999  # the decay rises with each of the first updates
    optimizer = make_optimizer(config)
    step = jax.jit(make_train_step(Scaled(), optimizer, config.train))
    batch = part(BATCH, slice(2))

    def run(broken_at):
        state = TrainState.create(jnp.ones(VOCAB), optimizer, config.train.ema_decay)
        for number in range(5):
            if number in broken_at:  # the parameters come back as they were, by the test's hand
                kept = state
                state = step(state._replace(params=jnp.full(VOCAB, jnp.nan)), batch, KEY)[0]._replace(params=kept.params)
            else:
                state = step(state, batch, KEY)[0]
        return state

    found, expected = run({0, 3}), run(())
    straight = TrainState.create(jnp.ones(VOCAB), optimizer, config.train.ema_decay)
    for _ in range(3):
        straight = step(straight, batch, KEY)[0]
    assert (found.step, found.skipped, expected.skipped) == (5, 2, 0)
    assert_trees_equal(found, straight._replace(step=found.step, skipped=found.skipped))
    assert not np.allclose(found.ema, expected.ema)


class Scaled:
    """Its logits are its parameters, times 100."""

    def apply(self, variables, batch, **_):
        return jnp.broadcast_to(100 * variables["params"][None, None], (*batch.target_output.shape, VOCAB))


# The moving average


@pytest.mark.parametrize("decay", [0.25, 0.999])
def test_the_moving_average_is_plain_numpy(decay):
    random = np.random.default_rng(0)
    ema = expected = random.standard_normal(3).astype(np.float32)
    for step in (1, 2, 3, 4, 5, 1_000_000):
        params = random.standard_normal(3).astype(np.float32)
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * params
        ema = moving_average(ema, params, jnp.int32(step), decay)
        np.testing.assert_allclose(ema, expected, rtol=1e-5, atol=1e-7)


def test_each_step_moves_the_average_from_the_initial_parameters_towards_the_new(plain):
    again, _ = plain.step(plain.state, BATCH, KEY)
    first = moving_average(plain.params, plain.state.params, jnp.int32(1), EMA_DECAY)
    assert_trees_close(plain.state.ema, first, rtol=1e-5, atol=1e-7)
    assert_trees_close(again.ema, moving_average(first, again.params, jnp.int32(2), EMA_DECAY), rtol=1e-5, atol=1e-7)


def test_without_it_the_state_is_no_larger_and_steps_the_same():
    with_average, optimizer = fresh(jnp.ones(VOCAB)), optax.sgd(1.0)
    without = TrainState.create(jnp.ones(VOCAB), optimizer)
    assert without.ema is None and without.inference_params is without.params
    step = jax.jit(make_train_step(Scaled(), optimizer, TrainConfig()))
    after, _ = step(without, part(BATCH, slice(2)), KEY)
    assert jax.tree.structure(after) == jax.tree.structure(without)
    expected, _ = jax.jit(make_step(Scaled()))(with_average, part(BATCH, slice(2)), KEY)
    assert_trees_close(after, expected._replace(ema=None), rtol=1e-6)


# The meter


def step_sums(loss=2.0, tokens=4.0, finite=1.0) -> StepSums:
    return StepSums(LossSums(loss, loss / 2, 1.0, tokens), 3.0, 7.0, finite, 1.0)


def test_the_meter_divides_the_sums_of_all_steps_once():
    meter = Meter()
    for step, (loss, tokens) in enumerate([(2.0, 1.0), (10.0, 11.0)], 1):
        meter.add(step, step_sums(loss, tokens))
    numbers = meter.take()
    assert (numbers["loss"], numbers["cross_entropy"], numbers["target_tokens"]) == (1.0, 0.5, 12.0)
    assert numbers["gradient_norm"] == 7 and numbers["perplexity"] == math.exp(0.5)
    assert numbers["steps_per_second"] * 12 == pytest.approx(2 * numbers["target_tokens_per_second"])
    meter.add(3, step_sums(3.0, 1.0))
    assert meter.take()["loss"] == 3.0


def test_on_cpu_no_step_is_left_under_way():
    """Each would have a workspace of its own."""
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda _, x: jnp.tanh(x @ x), x).sum())(jnp.ones((512, 512)))
    sums = step_sums()._replace(steps=slow)
    Meter().add(1, sums)
    assert slow.is_ready()


def test_a_meter_goes_on_where_another_was():
    straight, first = Meter(), Meter()
    sums = [step_sums(np.float32(0.1) * i, 3.0) for i in range(5)]
    for value in sums:
        straight.add(0, value)
    for value in sums[:3]:
        first.add(0, value)
    second = Meter(first.unwritten())
    for value in sums[3:]:
        second.add(0, value)
    resumed, expected = second.take(), straight.take()
    assert without_times(resumed) == without_times(expected)


def test_what_another_version_has_not_written_is_left_out():
    meter = Meter(Meter().unwritten() | {"a sum of another version": 3.0, "loss.tokens": 8.0})
    meter.add(1, step_sums(2.0, 4.0))
    assert meter.take()["loss"] == 0.5


def test_the_meter_counts_a_wait_for_input_if_the_device_is_idle_when_it_ends(monkeypatch):
    class Steps(float):
        ready = True

        def is_ready(self):
            return self.ready

    now = itertools.count()  # a second passes between any two looks at the clock
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: float(next(now)))
    meter, sums = Meter(), step_sums()._replace(steps=Steps(1.0))  # 0
    for step, idle in enumerate([True, True, False], 1):
        with meter.waiting():  # from 1 to 2, from 3 to 4; of the third only its start, at 5, is looked at
            Steps.ready = idle
        meter.add(step, sums)
    second = Meter(meter.unwritten())  # at 6, which is 7 for the second
    assert second.take()["input_wait"] == 2 / 7  # at 8
    assert second.take()["input_wait"] == 0


def test_every_number_of_the_meter_that_a_slower_machine_changes_is_named_as_a_time(monkeypatch):
    """A new time must be among `TIMES`, or no two trainings are the same any more."""

    def numbers_at(seconds: float) -> tuple[dict, dict]:
        now = itertools.count(0.0, seconds)
        monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
        meter = Meter()
        with meter.waiting():
            pass
        meter.add(1, step_sums())
        return meter.unwritten(), dict(meter.take())

    for fast, slow in zip(numbers_at(1.0), numbers_at(1.5), strict=True):
        changed = {name for name in fast if fast[name] != slow[name]}
        assert changed and changed <= TIMES
        assert TIMES & fast.keys() - changed <= {"input_wait"}  # a share of the same clock


def test_the_meter_names_the_first_step_that_was_not_finite():
    for ask in (Meter.take, Meter.check_finite, Meter.unwritten, lambda meter: meter.pause().__enter__()):
        meter = Meter()
        for step in range(5, 10):
            meter.add(step, step_sums(finite=float(step < 7)))
        with pytest.raises(UserError, match="step 7: the loss"):
            ask(meter)


def test_the_meter_counts_skipped_steps_over_a_restart_and_gives_up_beyond_the_limit():
    zeros = StepSums(LossSums(0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0, 1.0)
    meter = Meter(max_skipped=2)
    for step, sums in enumerate([step_sums(), zeros, step_sums()], 1):
        meter.add(step, sums)
    numbers = meter.take()
    assert (numbers["loss"], numbers["gradient_norm"], numbers["skipped_steps"]) == (0.5, 7.0, 1)
    meter = Meter(meter.unwritten(), meter.skipped, max_skipped=2)
    meter.add(4, zeros)
    assert meter.take()["skipped_steps"] == 2
    meter.add(5, zeros)
    with pytest.raises(UserError, match=r"step 5: .* train.max_skipped=2 others were left out already"):
        meter.take()
