"""The largest batch that fits the devices (`batch.tokens=0`), by what the compiled training step says of its memory.

The step is compiled for a few numbers of rows and not run. What evaluation needs, such as the cache of a search (whose size is
`decode.tokens`), is not counted.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence

import jax

from transformer_jax.config import BatchConfig, Config
from transformer_jax.data.batch_shapes import Shape, with_rows
from transformer_jax.data.batching import Batch
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.models.random_keys import key_of, seed_words
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step
from transformer_jax.training.summary import size_in_words
from transformer_jax.training.trainable import Trainable

__all__ = ["abstract_batch", "largest_count", "memory_limit", "token_finder"]

log = logging.getLogger(__name__)

_SHARE = 0.9  # of what a device says it has: the rest is for the next batch, and for what the allocator cannot use
_MOST_TOKENS = 1 << 24  # as `BatchConfig.tokens` may have
_GROWTH = 1024  # a line through two measured counts is followed up to so many times the larger
_FRACTION = 16  # a count is near enough where one more by this part of it would not fit


def token_finder(config: Config, parallel: Parallel) -> Callable[[Tokenizer, Sequence[Shape]], int]:
    """find(tokenizer, shapes) -> `batch.tokens`: the largest multiple of `batch.row_multiple` rows of the longest shape with
    which the step fits `memory_limit`, to within a sixteenth. Whatever the rows of `shapes`, their lengths stay.

    The longest shape is compiled for few rows and twice as many; a line through what they take gives the next number, until it
    fits and a larger would not. Then the shortest shape and the one of most target positions are compiled, which may take more
    by the padding of arrays: rows become fewer until they fit, too. All processes compile the same, and the largest memory and
    the smallest limit among them count.

    Raises UserError where the limit is unknown, where a program does not tell its memory, and, when it searches, where the
    smallest batch does not fit.
    """
    limit = memory_limit(config.batch)

    def find(tokenizer: Tokenizer, shapes: Sequence[Shape]) -> int:
        started = time.perf_counter()
        log.info(
            "batch.tokens=0: compiling the training step for batches of several sizes; at most %s%s for each",
            size_in_words(limit),
            " of each device" * (parallel.devices > 1),
        )
        sizes = _Sizes(config, parallel, tokenizer.vocab_size, shapes)
        count = _fewer(sizes, largest_count(sizes.longest, limit, sizes.most), limit)
        if not count:
            raise _too_large(sizes, limit)
        log.info(
            "batch.tokens=%d fits, with %s; found by %d compilations in %.0f s, and kept in config.json",
            count * sizes.unit,
            size_in_words(max(size for (of, _), size in sizes.measured.items() if of == count)),
            len(sizes.measured),
            time.perf_counter() - started,
        )
        return count * sizes.unit

    return find


def memory_limit(config: BatchConfig) -> int:
    """The bytes of each device that a training step may take: `config.memory`, or nine tenths of the memory that the smallest
    device of all processes says it has. Raises UserError where one does not say it, as CPUs do not."""
    own = math.ceil(config.memory * 1e9)
    if not own:
        own = _SHARE * min((device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices())
    smallest = min(collectives.gather(int(own)))
    if not smallest:
        raise UserError(
            f"config: batch.tokens=0 needs batch.memory, the gigabytes of each device that a step may take: this kind of "
            f"device ({jax.devices()[0].platform}) does not say how many it has; or set batch.tokens to a number"
        )
    return smallest


def largest_count(size: Callable[[int], float], limit: float, most: int) -> int:
    """The largest count from 1 to `most` with size(count) <= limit, to within a sixteenth of it where `size` grows along a line
    (and within a half, however it grows); 0 if there is none.

    `size` takes long: it is called for as few counts as possible, first for 1 and 2. It may be infinite.

    >>> asked = []
    >>> largest_count(lambda count: asked.append(count) or 10 + 3 * count, limit=100, most=1000), asked
    (30, [1, 2, 30])
    """
    fitting, over = [], (most + 1, None)
    count = 1
    while count:
        measured = size(count)
        if measured <= limit:
            fitting.append((count, measured))
        else:
            over = count, measured
        count = _next_count(fitting, over, limit) if fitting else 0
    return fitting[-1][0] if fitting else 0


def _next_count(fitting: list[tuple[int, float]], over: tuple[int, float | None], limit: float) -> int:
    """The count to try between the largest that fits and the smallest that does not, or is not allowed (None); 0 if there is
    none worth it."""
    (low, size), (high, too_large) = fitting[-1], over
    near = low + low // _FRACTION
    if high - 1 <= near:
        return 0
    if too_large is not None and math.isfinite(too_large):
        slope = (too_large - size) / (high - low)
    elif len(fitting) > 1:
        slope = (size - fitting[-2][1]) / (low - fitting[-2][0])
    else:
        return 2
    guess = low + math.floor((limit - size) / slope) if slope > 0 else high
    guess = min(guess, _GROWTH * low)
    if guess <= near:
        # Between counts far apart, the line may be far from what is measured.
        return min(2 * low, (low + high) // 2) if too_large is not None and high > 2 * low else 0
    if guess < high:
        return guess
    # Where a compiler refuses a program, it does not say by how much.
    return high - 1 if too_large is None else (low + high) // 2


class _Sizes:
    """What the step takes of each device in batches of `count` units of rows, in bytes; infinite where the compiler refuses to
    make a program so large. A unit is `batch.row_multiple` rows of the longest shape."""

    def __init__(self, config: Config, parallel: Parallel, pieces: int, shapes: Sequence[Shape]):
        model, optimizer = build_model(config.model, pieces), make_optimizer(config)
        trainable = Trainable(config.train, model)

        def first_state(key: jax.Array) -> TrainState:
            params = init_parameters(model, key)
            adapters = trainable.fresh_adapters(params, key)
            return TrainState.create(params, optimizer, config.train.ema_decay, trainable, adapters)

        self._parallel, self._batch, self._shapes = parallel, config.batch, shapes
        self._step = make_train_step(model, optimizer, config.train)
        self._key = jax.eval_shape(lambda: key_of(seed_words(config.train.seed)))
        self._state = jax.eval_shape(first_state, self._key)
        self.unit = config.batch.row_multiple * max(shapes[-1][1:])
        if self.unit > _MOST_TOKENS:
            raise UserError(
                f"config: batch.tokens=0: batch.row_multiple={config.batch.row_multiple} rows of {max(shapes[-1][1:])} tokens, "
                f"the corpus's longest, are more than {_MOST_TOKENS:,} tokens; lower batch.row_multiple or batch.max_length"
            )
        self.most = _MOST_TOKENS // self.unit
        self.measured: dict[tuple[int, Shape], float] = {}

    def shapes(self, count: int) -> list[Shape]:
        batch = BatchConfig(tokens=count * self.unit, row_multiple=self._batch.row_multiple)
        return with_rows(self._shapes, batch)

    def longest(self, count: int) -> float:
        return self.of(count, self.shapes(count)[-1])

    def of(self, count: int, shape: Shape) -> float:
        if (count, shape) not in self.measured:
            size = self.measured[count, shape] = max(collectives.gather(self._compile(shape)))
            of_words = size_in_words(size) if math.isfinite(size) else "more than the compiler allows"
            log.info("batch.tokens=0: a batch of %d x %d x %d takes %s", *shape, of_words)
        return self.measured[count, shape]

    def _compile(self, shape: Shape) -> float:
        try:
            size = self._parallel.planned_bytes(self._step, self._state, abstract_batch(shape), self._key)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return math.inf
        if size is None:
            raise UserError("config: batch.tokens=0: this kind of device does not tell what a program takes; set a number")
        return size


def _fewer(sizes: _Sizes, count: int, limit: float) -> int:
    """The count, or so many fewer that other shapes than the longest fit, too; 0 where that is none."""
    for choose in (_of_most_targets, _shortest):
        while count and (size := sizes.of(count, choose(sizes.shapes(count)))) > limit:
            at_one = sizes.longest(1)  # of which a part is there whatever the count
            part = (limit - at_one) / (size - at_one) if at_one < limit and math.isfinite(size) else 0.5
            count = min(count - 1, max(int(count * part), 1))
    return count


def _of_most_targets(shapes: Sequence[Shape]) -> Shape:
    return max(shapes, key=lambda shape: shape.rows * shape.target_length)


def _shortest(shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _too_large(sizes: _Sizes, limit: float) -> UserError:
    shape, size = max(
        ((shape, size) for (count, shape), size in sizes.measured.items() if count == 1), key=lambda each: each[1]
    )
    takes = f"takes {size_in_words(size)}" if math.isfinite(size) else "takes more than the compiler allows"
    return UserError(
        f"config: batch.tokens=0: the smallest batch, {' x '.join(map(str, shape))}, {takes}, more than the "
        f"{size_in_words(limit)} that a step may take; lower batch.row_multiple or batch.max_length, raise train.accumulation "
        "or set train.remat=layers"
    )


def abstract_batch(shape: Shape) -> Batch:
    """The types and shapes of the arrays of a batch."""
    source, target = (jax.ShapeDtypeStruct((shape.rows, length), "int32") for length in shape[1:])
    return Batch(*[source] * 3, *[target] * 4)
