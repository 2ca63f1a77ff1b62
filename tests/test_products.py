"""Products of rounded operands: what they are, and what a step in bfloat16 is beside one in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FAMILIES, VOCAB, each_family, packed_rows_of, random_parameters, rows_of, sentences, tiny_model

from transformer_jax.config import Config, TrainConfig
from transformer_jax.models.matmul import activation_dtype, product, product_precision
from transformer_jax.models.seq2seq import build_model
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.step import TrainState, make_eval_step, make_train_step

KEY = jax.random.key(5)
ROWS = [(), (1,), (5,), (4, 3), (1, 6), (6, 1), (1, 1), (2, 3, 4), (64, 32)]


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """In double precision, so that sums are as good as exact."""
    return np.asarray(jnp.asarray(x, dtype).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_gradients_are_those_of_the_rounded_operands(dtype, transposed, rows):
    x, weight, gradient = drawn(*rows, 32), drawn(32, 48, seed=1), drawn(*rows, 48, seed=2)
    given = weight.T if transposed else weight

    @jax.jit
    def both(x, given, gradient):
        out, pull = jax.vjp(lambda x, given: product(x, given, jnp.dtype(dtype), transposed=transposed), x, given)
        return out, pull(gradient)

    out, (of_x, of_given) = both(x, given, gradient)
    of_weight = of_given.T if transposed else of_given
    x, weight, gradient = (rounded(array, dtype) for array in (x, weight, gradient))
    assert out.dtype == of_x.dtype == of_given.dtype == jnp.float32
    np.testing.assert_allclose(out, x @ weight, atol=1e-4)
    np.testing.assert_allclose(of_x, gradient @ weight.T, atol=1e-4)
    np.testing.assert_allclose(of_weight, x.reshape(-1, 32).T @ gradient.reshape(-1, 48), atol=2e-3, rtol=1e-4)


def test_rows_may_be_mapped_and_each_have_a_matrix_of_their_own():
    x, weight = drawn(3, 4, 5, 8), drawn(3, 8, 6, seed=1)

    def loss(x, weight):
        return jnp.sum(product(x, weight, jnp.bfloat16) ** 2)

    found = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(x, weight)
    for row in range(3):
        expected = jax.jit(jax.grad(loss, argnums=(0, 1)))(x[row], weight[row])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a[row], b, rtol=1e-5, atol=1e-5)


def test_elsewhere_than_on_cpu_activations_have_the_type_of_the_operands(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert activation_dtype(jnp.bfloat16) == jnp.bfloat16
    x, weight = jnp.asarray(drawn(4, 3, 8), jnp.bfloat16), drawn(8, 6, seed=1)
    out, pull = jax.vjp(lambda x, weight: product(x, weight, jnp.bfloat16), x, weight)
    of_x, of_weight = pull(out)
    assert (out.dtype, of_x.dtype, of_weight.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert product(x, weight, jnp.bfloat16, result=jnp.float32).dtype == jnp.float32


# A whole step

STORE = sentences([6, 5, 6, 4, 2, 3, 1, 2], [8, 8, 8, 8, 2, 3, 1, 3])
BUCKETED = rows_of(STORE, range(8), 8, 6, 8)


def gradient(dtype: str, family: dict, batch, devices: int = 1, slices: int = 1, mode: str = "pmap"):
    """What one step adds to the parameters by SGD at rate 1, of either sign, and the loss."""
    config = Config()
    config.batch.row_multiple, config.train.accumulation = devices * slices, slices
    config.parallel.mode, config.parallel.min_sharded_size = mode, 1
    model = build_model(tiny_model(compute_dtype=dtype, **family), VOCAB)
    params, optimizer = random_parameters(model), optax.sgd(1.0)
    parallel = Parallel(config, jax.devices()[:devices])
    step = parallel.step(make_train_step(model, optimizer, TrainConfig(accumulation=slices)))
    state = parallel.create(lambda params: TrainState.create(params, optimizer), params)
    state, sums = step(state, batch, KEY)
    change = jax.tree.map(np.subtract, jax.device_get(parallel.gather_params(state.params)), params)
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(change)]), float(sums.loss.loss / sums.loss.tokens)


def products_of(family: dict, dtype: str) -> list[str]:
    """The lines of the products in the programs of a training step, an evaluation and a step of a search."""
    model = build_model(tiny_model(compute_dtype=dtype, **family), VOCAB)
    params, optimizer = random_parameters(model), optax.sgd(1.0)

    def search(params, batch):
        memory = model.apply({"params": params}, batch.source, batch.source_segment, batch.source_position, method="encode")
        cache = model.apply({"params": params}, memory, 2, 5, method="init_cache")
        token, index = jnp.zeros(16, jnp.int32), jnp.int32(0)
        return model.apply({"params": params}, token, index, memory, cache, method="decode_step")

    step = jax.jit(make_train_step(model, optimizer, TrainConfig())).lower(TrainState.create(params, optimizer), BUCKETED, KEY)
    others = [jax.jit(function).lower(params, BUCKETED) for function in (make_eval_step(model, 2), search)]
    return [line for program in (step, *others) for line in program.as_text().splitlines() if "dot_general" in line]


@pytest.mark.parametrize("family", each_family(*FAMILIES.values()))
def test_float32_is_float32_in_every_product_on_every_kind_of_device(family, monkeypatch):
    on_cpu, in_bfloat16 = products_of(family, "float32"), products_of(family, "bfloat16")
    assert not [line for line in on_cpu + in_bfloat16 if "HIGHEST" in line]  # CPU's programs are what they were
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    exact = products_of(family, "float32")
    assert len(exact) == len(on_cpu) and all("[HIGHEST, HIGHEST]" in line for line in exact)
    assert not [line for line in products_of(family, "bfloat16") if "HIGHEST" in line]


def test_a_precision_that_is_set_goes_before(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert product_precision(jnp.float32) == jax.lax.Precision.HIGHEST
    with jax.default_matmul_precision("tensorfloat32"):
        assert product_precision(jnp.float32) is None


def assert_near(found, exact, far: float) -> None:
    assert np.linalg.norm(found[0] - exact[0]) < far * np.linalg.norm(exact[0])
    assert found[1] == pytest.approx(exact[1], rel=far)


# Eight steps are compiled for each family.
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_in_bfloat16_is_near_one_in_float32_however_it_is_split(family):
    exact = gradient("float32", FAMILIES[family], BUCKETED)
    for split in (dict(), dict(slices=2), dict(devices=2), dict(devices=2, mode="sharded")):
        rough = gradient("bfloat16", FAMILIES[family], BUCKETED, **split)
        # An operand is rounded by at most 2^-9 of itself, and few of these errors add up.
        assert_near(rough, exact, 0.02)
        assert np.linalg.norm(rough[0] - exact[0]) > 1e-4 * np.linalg.norm(exact[0])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 6), (8, 1), (1, 1)], ids=str)
@pytest.mark.slow
def test_a_step_in_bfloat16_takes_one_row_and_one_token(shape):
    rows, length = shape
    batch = rows_of(sentences([length] * rows, [length] * rows), range(rows), rows, length, length)
    assert_near(*(gradient(dtype, FAMILIES["Transformer"], batch) for dtype in ("bfloat16", "float32")), 0.03)


def test_a_step_in_bfloat16_takes_packed_rows():
    batch = packed_rows_of(STORE, range(8), [0, 0, 1, 1, 2, 2, 3, 3], 4, 11, 16)
    assert_near(*(gradient(dtype, FAMILIES["Transformer"], batch) for dtype in ("bfloat16", "float32")), 0.02)
