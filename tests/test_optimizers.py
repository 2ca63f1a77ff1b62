"""The optimizers by name: each is the formula of its paper in NumPy, and devices, slices and skipped updates change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FAMILIES, VOCAB, assert_trees_close, assert_trees_equal, random_parameters, rows_of, sentences, tiny_model

from transformer_jax.config import Config, TrainConfig, validate
from transformer_jax.errors import UserError
from transformer_jax.models.layers import Projection
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.matrices import matrix_shape, on_matrices
from transformer_jax.training.optimizer import learning_rate, make_optimizer, optimizer_average
from transformer_jax.training.step import TrainState, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

OTHERS = "adafactor", "muon", "lion", "schedule_free"
KEY = jax.random.key(5)
BATCH = rows_of(sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3]), range(8), 8, 6, 8)


def config_of(name: str, **options) -> Config:
    config = Config()
    config.optimizer.name, config.optimizer.learning_rate, config.optimizer.warmup_steps = name, 0.1, 2
    config.optimizer.schedule = "constant" if name == "schedule_free" else "inverse_sqrt"
    for key, value in options.items():
        setattr(config.optimizer, key, value)
    return validate(config)


def updated(config: Config, params, gradients) -> tuple:
    """The optimizer's state and the parameters after these gradients, one after the other."""
    optimizer = make_optimizer(config)
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return state, params


def arrays(seed: int, **shapes) -> dict:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_the_default_is_the_chain_that_old_checkpoints_have():
    config = Config()
    config.optimizer.clip_norm, config.optimizer.weight_decay = 1.0, 0.1
    expected = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            learning_rate(config), 0.9, 0.98, 1e-9, weight_decay=0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
        ),
    )
    params, gradient = arrays(0, kernel=(3, 4), bias=4), arrays(1, kernel=(3, 4), bias=4)
    state = expected.init(params)
    found_state, found = updated(config, params, [gradient])
    assert jax.tree.structure(found_state) == jax.tree.structure(state)
    updates, state = expected.update(gradient, state, params)
    assert_trees_equal((found_state, found), (state, optax.apply_updates(params, updates)))


# Each by its formula


RATES = 0.05, 0.1, 0.1 * (2 / 3) ** 0.5  # of three updates with two of warm-up, inverse_sqrt
GRADIENTS = [arrays(seed, kernel=(3, 4), bias=4) for seed in (1, 2, 3)]
FIRST = arrays(0, kernel=(3, 4), bias=4)


def decayed(params, name, decay):
    return decay * params[name] if name == "kernel" else 0


def lion(params, gradients, decay):
    """Chen et al. 2023, algorithm 2."""
    mean = {name: 0 for name in params}
    for gradient, rate in zip(gradients, RATES, strict=True):
        for name, g in gradient.items():
            direction = np.sign(0.8 * mean[name] + 0.2 * g)
            mean[name] = 0.97 * mean[name] + 0.03 * g
            params[name] = params[name] - rate * (direction + decayed(params, name, decay))
    return params


def adafactor(params, gradients, decay):
    """Shazeer and Stern 2018, algorithm 5, with the parameter scale of algorithm 6."""
    square = {name: 0 for name in params}
    for step, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True), 1):
        for name, g in gradient.items():
            beta = 1 - step**-0.8
            square[name] = beta * square[name] + (1 - beta) * g * g
            update = g / np.sqrt(square[name])
            update = update / max(1, np.sqrt(np.mean(update**2))) * max(1e-3, np.sqrt(np.mean(params[name] ** 2)))
            params[name] = params[name] - rate * (update + decayed(params, name, decay))
    return params


def adam_direction(gradients):
    mean = square = 0
    for g in gradients:
        mean, square = 0.8 * mean + 0.2 * g, 0.97 * square + 0.03 * g * g
    count = len(gradients)
    return mean / (1 - 0.8**count) / (np.sqrt(square / (1 - 0.97**count)) + 1e-6)


def orthogonal(matrix):
    """Five steps of Newton and Schulz towards U V^T of the singular value decomposition (Jordan et al. 2024)."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def muon(params, gradients, decay):
    mean = 0
    for step, rate in enumerate(RATES, 1):
        gradient = gradients[step - 1]["kernel"]
        mean = 0.95 * mean + 0.05 * gradient
        ahead = 0.95 * mean / (1 - 0.95 ** (step + 1)) + 0.05 * gradient / (1 - 0.95**step)  # Nesterov's momentum
        update = {
            "kernel": 0.2 * 4**0.5 * orthogonal(ahead),
            "bias": adam_direction([each["bias"] for each in gradients[:step]]),
        }
        params = {name: params[name] - rate * (update[name] + decayed(params, name, decay)) for name in params}
    return params


def schedule_free(params, gradients, decay):
    """Defazio et al. 2024, algorithm 1: the average x after these updates, of gradients that do not depend on y."""
    z, x, weights = dict(params), dict(params), 0
    square = {name: 0 for name in params}
    for step, (gradient, rate) in enumerate(zip(gradients, (0.05, 0.1, 0.1), strict=True), 1):
        weights += rate**2
        for name, g in gradient.items():
            y = 0.2 * z[name] + 0.8 * x[name]
            square[name] = 0.97 * square[name] + 0.03 * g * g
            direction = g / (np.sqrt(square[name] / (1 - 0.97**step)) + 1e-6)
            z[name] = z[name] - rate * (direction + decayed({name: y}, name, decay))
            c = rate**2 / weights
            x[name] = (1 - c) * x[name] + c * z[name]
    return x


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (lion, dict(beta1=0.8, beta2=0.97)),
        (adafactor, {}),
        (muon, dict(beta1=0.8, beta2=0.97, epsilon=1e-6)),
        (schedule_free, dict(beta1=0.8, beta2=0.97, epsilon=1e-6)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_is_plain_numpy(rule, options, decay):
    state, params = updated(config_of(rule.__name__, weight_decay=decay, **options), FIRST, GRADIENTS)
    average = optimizer_average(state, params)
    assert (average is None) == (rule is not schedule_free)
    found = params if average is None else average
    assert_trees_close(found, rule(dict(FIRST), GRADIENTS, decay), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found["bias"], FIRST["bias"], atol=1e-2)


def test_muon_makes_every_matrix_of_a_layer_orthogonal_alone():
    """Of a fused kernel [D, n, H, K] each of the n, of an output [H, K, D] all heads together; the embedding is Adam's."""
    tree = arrays(0, kernel=(6, 3, 2, 4), table=(7, 6))
    params = {"attention": {"query_key_value": {"kernel": tree["kernel"]}, "output": {"kernel": arrays(1, k=(2, 4, 6))["k"]}}}
    params["embedding"] = {"table": tree["table"]}
    gradient = jax.tree.map(lambda x: (10 * x).astype(np.float32), params)
    _, after = updated(config_of("muon", warmup_steps=1), params, [gradient])
    moved = jax.tree.map(lambda old, new: (old - np.asarray(new)) / 0.1, params, after)
    kernel, output = moved["attention"]["query_key_value"]["kernel"], moved["attention"]["output"]["kernel"]
    fused = gradient["attention"]["query_key_value"]["kernel"]
    for number in range(3):
        expected = 0.2 * 8**0.5 * orthogonal(fused[:, number].reshape(6, 8))
        np.testing.assert_allclose(kernel[:, number].reshape(6, 8), expected, rtol=1e-3, atol=1e-4)
    expected = 0.2 * 8**0.5 * orthogonal(gradient["attention"]["output"]["kernel"].reshape(8, 6))
    np.testing.assert_allclose(output.reshape(8, 6), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved["embedding"]["table"], np.sign(params["embedding"]["table"]), rtol=1e-3)


# Parameters as matrices


@pytest.mark.parametrize("changes", [*FAMILIES.values(), dict(value_width=6, attention_bias=True, positions="learned")])
def test_the_matrices_of_a_model_are_all_but_its_tables_biases_and_norms(changes):
    params = abstract_parameters(build_model(tiny_model(**changes), VOCAB))
    for path, leaf in jax.tree.leaves_with_path(params):
        names, shape = [entry.key for entry in path], matrix_shape(path, leaf.shape)
        assert (shape is not None) == (names[-1] in ("kernel", "recurrent")), names
        assert shape is None or np.prod(shape) == np.prod(leaf.shape)


@pytest.mark.parametrize(
    ("name", "features", "axes"),
    [("query", (2, 4), 1), ("query_key_value", (3, 2, 4), 1), ("output", (6,), 2), ("inner", (8,), 1)],
)
def test_a_projection_multiplies_by_its_matrices(name, features, axes):
    x = arrays(0, x=(5, 2, 4) if axes == 2 else (5, 6))["x"]
    layer = Projection(features, jnp.float32, axes)
    variables = layer.init(jax.random.key(0), x)
    seen = []
    inner = optax.stateless(lambda updates, _: seen.append(updates) or updates)
    tree = {name: variables["params"]}
    back, _ = on_matrices(inner).update(tree, inner.init(tree))
    assert_trees_equal(back, tree)
    (matrix,) = jax.tree.leaves(seen[0])
    expected = x.reshape(5, -1) @ np.asarray(matrix)  # of a fused kernel [n, 5, H K]
    found = np.asarray(layer.apply(variables, x))
    found = found.swapaxes(0, 1).reshape(3, 5, 8) if len(features) == 3 else found.reshape(5, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_adafactor_factors_the_matrix_of_an_attention():
    tree = {"query": {"kernel": jnp.ones((128, 4, 32))}}
    sizes = {leaf.size for leaf in jax.tree.leaves(make_optimizer(config_of("adafactor")).init(tree))}
    assert sizes == {1, 128}


# The step


@pytest.fixture(scope="module", params=["Transformer", "LSTM with input feeding"])
def model_and_params(request):
    model = build_model(tiny_model(**FAMILIES[request.param]), VOCAB)
    return model, random_parameters(model)


def parallel_config(name: str, mode: str = "pmap", accumulation: int = 1) -> Config:
    config = config_of(name, warmup_steps=1, learning_rate=0.01)
    config.parallel.mode, config.parallel.min_sharded_size = mode, 16
    config.batch.row_multiple, config.train.accumulation = 8, accumulation
    return config


# schedule_free, whose state has parameters of its own, for every run; the others among the slow tests.
@pytest.mark.parametrize(
    "name", [name if name == "schedule_free" else pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
)
@pytest.mark.slow
def test_devices_and_slices_change_nothing(name, model_and_params):
    model, params = model_and_params

    def run(config, devices):
        parallel, optimizer = Parallel(config, jax.devices()[:devices]), make_optimizer(config)
        step = parallel.step(make_train_step(model, optimizer, config.train))
        state = parallel.create(lambda params: TrainState.create(params, optimizer), params)
        for _ in range(2):
            state, _ = step(state, BATCH, KEY)
        return jax.device_get((parallel.gather_params(state.inference_params), parallel.gather_params(state.params)))

    expected = run(parallel_config(name), 1)
    for mode, devices, accumulation in (("pmap", 2, 1), ("sharded", 2, 1), ("pmap", 1, 2)):
        found = run(parallel_config(name, mode, accumulation), devices)
        # Lion moves an element whose gradient is nearly 0 by the sign of its rounding error.
        assert_trees_close(found, expected, rtol=1e-3, atol=0.021 if name == "lion" else 2e-4)
        close = [np.isclose(a, b, atol=1e-5).mean() for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True)]
        assert np.mean(close) > 0.98


class Scaled:
    """Its logits are one of its parameters, times 100."""

    def apply(self, variables, batch, **_):
        return jnp.broadcast_to(100 * variables["params"]["bias"][None, None], (*batch.target_output.shape, VOCAB))


@pytest.mark.parametrize("name", OTHERS)
def test_a_skipped_update_leaves_the_state_as_it_was(name):
    optimizer = make_optimizer(config_of(name))
    step = jax.jit(make_train_step(Scaled(), optimizer, TrainConfig(max_skipped=3)))
    params = {"bias": jnp.ones(VOCAB), "kernel": jnp.ones((4, 3))}
    good = step(TrainState.create(params, optimizer), BATCH, KEY)[0]
    broken = good._replace(params=good.params | {"bias": jnp.full(VOCAB, jnp.nan)})
    after, _ = step(broken, BATCH, KEY)
    assert_trees_equal(after, broken._replace(step=np.int32(2), skipped=np.int32(1)))
    plain = jax.jit(make_train_step(Scaled(), optimizer, TrainConfig()))
    assert_trees_close(step(good, BATCH, KEY), plain(good, BATCH, KEY), rtol=1e-5, atol=1e-7)


def test_the_average_of_schedule_free_is_what_is_evaluated():
    optimizer = make_optimizer(config_of("schedule_free"))
    step = jax.jit(make_train_step(Scaled(), optimizer, TrainConfig()), donate_argnums=0)
    params = {"bias": jnp.ones(VOCAB), "kernel": jnp.ones((4, 3))}
    state = TrainState.create(params, optimizer)
    assert_trees_equal(state.inference_params, params)
    for _ in range(3):
        state, _ = step(state, BATCH, KEY)
    assert_trees_close(state.inference_params, optimizer_average(state.optimizer_state, state.params), rtol=1e-6)
    assert not np.allclose(state.inference_params["bias"], state.params["bias"], atol=1e-4)


# The config


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adafactor", dict(beta1=0.5), r"optimizer.beta1=0.5 should be left out: optimizer.name=adafactor has no use for it"),
        ("lion", dict(epsilon=1e-8), r"optimizer.epsilon=1e-08 should be left out: optimizer.name=lion has no use for it"),
        (
            "schedule_free",
            dict(schedule="cosine"),
            r"optimizer.schedule='cosine' should be constant with optimizer.name=schedule",
        ),
        ("schedule_free", dict(beta1=0.0), r"optimizer.beta1=0.0 should be more than 0 with optimizer.name=schedule_free"),
        ("adamw", {}, r"optimizer.name='adamw' should be one of adam, adafactor, muon, lion, schedule_free"),
    ],
)
def test_what_an_optimizer_has_no_use_for_is_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        config_of(name, **options)


def test_schedule_free_has_no_second_average():
    config = config_of("schedule_free")
    config.train.ema_decay = 0.9
    with pytest.raises(UserError, match=r"train.ema_decay=0.9 should be 0 with optimizer.name=schedule_free, which has an"):
        validate(config)
