"""Our side of `train_speed.py`: the training step that `train.py` runs, with its batches and its thread that makes them."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from train_work import Job, config_of, our_batches

from transformer_jax.data.batching import Batch
from transformer_jax.data.prefetch import prefetch
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.metrics import Meter
from transformer_jax.training.objective import loss_sums
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step


class Ours:
    """One training, a lap at a time."""

    def __init__(self, job: Job):
        config = config_of(job)
        parallel, optimizer = Parallel(config), make_optimizer(config)
        model = build_model(config.model, job.vocab_size)
        train_step = make_train_step(model, optimizer, config.train)
        self._model, self._smoothing = model, config.train.label_smoothing
        self._step, self._key = parallel.step(train_step), jax.random.key(1)
        self._state = parallel.create(lambda key: TrainState.create(init_parameters(model, key), optimizer), jax.random.key(0))
        batches, self.steps, self._one_of_each = our_batches(job)
        self._products = {
            shapes(batch): products(jax.make_jaxpr(train_step)(self._state, batch, self._key).jaxpr)
            for batch in self._one_of_each
        }
        self._batches = prefetch(batches)

    def first(self) -> float:
        """Every shape once: seconds, nearly all of compilation. The largest twice more, until a step finds its memory."""
        started = time.perf_counter()
        for batch in self._one_of_each:
            self._warm_up(batch)
        seconds = time.perf_counter() - started
        for _ in range(2):
            self._warm_up(max(self._one_of_each, key=lambda batch: batch.source.size))
        return seconds

    def _warm_up(self, batch: Batch) -> None:
        self._state, _ = self._step(self._state, batch, self._key)
        jax.block_until_ready(self._state)

    def check(self) -> tuple[Any, Batch, float]:
        """The parameters as they are, a batch, and its loss without dropout."""
        batch, params = self._one_of_each[0], self._state.params
        logits = self._model.apply({"params": params}, batch, train=False)
        sums = jax.tree.map(jnp.sum, loss_sums(logits, batch.target_output, batch.target_segment, self._smoothing))
        return jax.device_get(params), batch, float(sums.loss / sums.tokens)

    def lap(self, steps: int) -> dict[str, float]:
        """The loop of `training.loop`, without log and checkpoints."""
        flops, meter = 0.0, Meter()
        started = time.perf_counter()
        for number in range(steps):
            with meter.waiting():
                batch = next(self._batches)
            self._state, sums = self._step(self._state, batch, self._key)
            meter.add(number, sums)
            flops += self._products[shapes(batch)] * fill(batch)
        numbers = meter.take()
        seconds = time.perf_counter() - started
        found = {"waited": numbers["input_wait"] * seconds, "tokens": numbers["target_tokens"], "loss": numbers["loss"]}
        return {"seconds": seconds, "flops": flops, **found}

    def memory(self) -> int:
        """The accelerator's peak memory in bytes; 0 on CPU, where that of the process counts."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    def peaks(self) -> dict[str, float]:
        """FLOP/s of a large product of two matrices in each precision; bfloat16's with float32 and bfloat16 results: the
        faster."""
        return {
            "float32": product_rate(jnp.float32, None),
            "bfloat16": max(product_rate(jnp.bfloat16, jnp.float32), product_rate(jnp.bfloat16, None)),
        }


def fill(batch: Batch) -> float:
    """The share of positions, of both sides, that are not padding."""
    real = [segment > 0 for segment in (batch.source_segment, batch.target_segment)]
    return sum(int(side.sum()) for side in real) / sum(side.size for side in real)


def shapes(batch: Batch) -> tuple[int, ...]:
    return batch.source.shape + batch.target_output.shape


def product_rate(dtype: Any, result: Any, seconds: float = 0.5) -> float:
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    multiply: Callable = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=result))
    jax.block_until_ready(multiply(a))
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        jax.block_until_ready([multiply(a) for _ in range(4)])
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * size**3 / best


def products(jaxpr: Any) -> float:
    """The FLOPs of all matrix products of a program: 2 M N K each, times the number of steps for those in a loop."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += turns * sum(map(products, inner(equation)))
    return total


def inner(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else [value]:
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each
