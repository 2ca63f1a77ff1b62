"""Parallel against sequential on a TPU that is not there: target tokens/s by sentence length, in training and in decoding.

    pip install 'jax[tpu]'
    python benchmarks/parallel_sequential.py --output=benchmarks/pictures/parallel_sequential.png --kept=parallel.json

An LSTM, an LSTM with attention and a Transformer of one width are compiled for one v5e chip, the training step and the
greedy search, with as many rows as fit into a constant number of positions. Tokens/s are those of the compiler's estimate of
cycles, a loop's times its turns, at the chip's clock: nothing runs. A point takes up to a minute to compile; with --kept those
of earlier calls are read from that file. --yardsticks compares the cycles of two simple operations with the published figures.
What the figures are and what they cannot know is in docs/benchmarks/families.md.
"""

import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from outputs import new_figure, require, save_figure
from tpu_cycles import estimated_cycles
from tpu_lowering import devices_of, training_step  # sets the environment that JAX reads when it is imported

# isort: split
import jax
from jax.sharding import SingleDeviceSharding

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import Config, SearchOptions, override
from transformer_jax.data.batching import Shape
from transformer_jax.errors import UserError
from transformer_jax.inference.model_search import BankShape, ModelBank
from transformer_jax.inference.search_rows import SearchRows
from transformer_jax.models.seq2seq import abstract_parameters, build_model, count_parameters
from transformer_jax.tokenization.special_ids import SpecialIds

# One layer of the same width each; the Transformer has most parameters. Without dropout, whose random numbers take as long to
# compile as much of the rest.
COMMON = ["model.num_layers=1", "model.width=256", "model.dropout=0"]
MODELS = {
    "LSTM": ["model.family=lstm", "model.attention=none", "model.direction=backward"],
    "LSTM + attention": ["model.family=lstm", "model.attention=general", "model.direction=both"],
    "Transformer": ["model.feed_forward_width=1024", "model.heads=4"],
}
TASKS = "training", "decoding"
# Of docs.cloud.google.com/tpu/docs/v5e. The peak, by what four arrays of 128 x 128 multiply-accumulate units do in a cycle, is
# the 1.5 GHz of jax-ml.github.io/scaling-book/tpus.
PEAK, MEMORY = 197e12, 819e9  # FLOP/s in bfloat16, bytes/s
CLOCK = PEAK / (4 * 128 * 128 * 2)
PIECES = 8000
CHIP = "v5e:1x1"
IDS = SpecialIds(start=3, eos=1, pad=0)


class Point(NamedTuple):
    """One compiled program."""

    task: str
    model: str
    length: int  # tokens of each sentence, source and target
    rows: int
    cycles: int
    in_loops: int

    @property
    def rate(self) -> float:
        """Target tokens/s of the chip."""
        return self.rows * self.length / (self.cycles / CLOCK)


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256, 512], metavar="N", help="tokens")
    parser.add_argument("--positions", type=int, default=16_384, help="target positions of a batch, rows times length")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--kept", type=Path, metavar="FILE", help="a JSON file of points, which is read and added to")
    parser.add_argument(
        "--yardsticks", action="store_true", help="first print the cycles of a product and of reading and writing"
    )
    parser.add_argument("--output", required=True, type=Path, help="the picture")
    flags, overrides = parser.parse_with_overrides()
    for length in flags.lengths:
        if length < 1 or flags.positions % length:
            raise UserError(f"--lengths: {length} should divide --positions={flags.positions}")
    require("libtpu", "matplotlib")
    points, device = kept_points(flags.kept), devices_of(CHIP)[0]
    if flags.yardsticks:
        print_yardsticks(device)
    configs = {model: config_of(model, overrides) for model in flags.models}
    for model, config in configs.items():
        print(f"{model}: {count_parameters(abstract_parameters(build_model(config.model, PIECES))):,} parameters")
    print(
        "\n| | model | tokens | rows | Mcycles | in loops | target tokens/s |\n|---|---|---:|---:|---:|---:|---:|", flush=True
    )
    chosen = []
    for length, task, model in itertools.product(flags.lengths, flags.tasks, flags.models):
        key = " ".join([task, model, str(length), str(flags.positions), *overrides])
        if key not in points:
            started = time.perf_counter()
            points[key] = measured(task, model, configs[model], Shape(flags.positions // length, length, length), device)
            print(f"compiled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            if flags.kept:
                flags.kept.write_text(json.dumps({name: point._asdict() for name, point in points.items()}, indent=1))
        chosen.append(points[key])
        print(table_row(points[key]), flush=True)
    draw(chosen, flags.output)


def config_of(model: str, overrides: list[str]) -> Config:
    config = Config()
    for item in [*COMMON, *MODELS[model], *overrides]:
        override(config, *item.split("=", 1))
    return config


def kept_points(file: Path | None) -> dict[str, Point]:
    """The points of earlier calls, by what they are of. Raises UserError for a file of another form."""
    if not file or not file.is_file():
        return {}
    try:
        return {name: Point(**point) for name, point in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--kept={file}: not a file of points that this script wrote ({error}); name another") from None


def measured(task: str, model: str, config: Config, shape: Shape, device: Any) -> Point:
    """One program, compiled for the device."""
    step, *arguments = (training_step if task == "training" else greedy_search)(config, PIECES, shape)
    text = compiled_for(device, step, arguments, donated=(0,) if task == "training" else ())
    # The loop of a search ends with its sentences: here each has all tokens that fit, so that there are as many steps.
    cycles = estimated_cycles(text, None if task == "training" else shape.target_length)
    return Point(task, model, shape.target_length, shape.rows, cycles.total, cycles.in_loops)


def compiled_for(device: Any, function: Callable, arguments: Sequence[Any], donated: tuple[int, ...] = ()) -> str:
    """The text of the program for one device and arguments of these shapes."""
    place = SingleDeviceSharding(device)
    on_chip = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), arguments)
    return jax.jit(function, donate_argnums=donated).lower(*on_chip).compile().as_text()


def print_yardsticks(device: Any) -> None:
    """A product that the matrix units limit, a doubling that the memory limits, and one that is small: by the compiler, and at
    the published speeds."""
    for name, shape, operation, seconds in (
        ("the product of two matrices", (4096, 4096), lambda x: x @ x, 2 * 4096**3 / PEAK),
        ("twice a large matrix", (8192, 8192), lambda x: 2 * x, 2 * 2 * 8192**2 / MEMORY),
        ("twice a small matrix", (128, 256), lambda x: 2 * x, 2 * 2 * 128 * 256 / MEMORY),
    ):
        cycles = estimated_cycles(compiled_for(device, operation, [jax.ShapeDtypeStruct(shape, "bfloat16")])).total
        print(f"{name}, {shape}: {cycles:,} cycles by the compiler, {seconds * CLOCK:,.0f} at the published speed")


def greedy_search(config: Config, pieces: int, shape: Shape) -> tuple[Callable, Any, SearchRows]:
    """The search of all rows, each with the most tokens, and the shapes of its arguments: parameters and sources."""
    rows, length = shape.rows, shape.target_length
    # Of the tokenizer only its ids are looked at, as no row has a prefix or phrases.
    tokenizer: Any = SimpleNamespace(special_ids=IDS)
    model = build_model(config.model, pieces)
    bank = ModelBank(model, tokenizer, SearchOptions(beam=1), BankShape(rows, shape.source_length, length, length, rows))

    def search(params: Any, sources: SearchRows) -> Any:
        slots, wanted = jax.numpy.arange(rows), jax.numpy.ones(rows, "int32")
        begun = bank.admit(params, bank.empty(params, sources), sources, slots)
        return bank.run(params, begun, sources, wanted, length, rows)[1]

    array = functools.partial(jax.ShapeDtypeStruct, dtype="int32")
    source = array((rows, shape.source_length))
    sources = SearchRows(source, source, array((rows,)), array((rows,)), None, None, None)
    return search, abstract_parameters(model), sources


def table_row(point: Point) -> str:
    share = f"{point.in_loops / point.cycles:.0%}"
    numbers = [str(point.length), f"{point.rows:,}", f"{point.cycles / 1e6:.1f}", share, f"{point.rate:,.0f}"]
    return f"| {' | '.join([point.task, point.model, *numbers])} |"


def draw(points: list[Point], file: Path) -> None:
    """A panel for training and one for decoding, both axes logarithmic, with one scale for both."""
    from matplotlib.ticker import LogLocator, NullLocator

    tasks = [task for task in TASKS if any(point.task == task for point in points)]
    figure = new_figure(6 * len(tasks), 4.6)
    rates = [point.rate for point in points]
    lengths = sorted({point.length for point in points})
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        for number, model in enumerate(MODELS):
            line = sorted((point.length, point.rate) for point in points if (point.task, point.model) == (task, model))
            if line:
                axes.plot(*zip(*line, strict=True), marker="os^"[number], linewidth=0.8, color=f"C{number}", label=model)
        axes.set(xscale="log", yscale="log", xlabel="tokens of a sentence", title=f"{task}, one TPU v5e, by its compiler")
        axes.set_ylim(min(rates) / 2, max(rates) * 2)
        axes.set_xticks(lengths, map(str, lengths))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        axes.set_ylabel("target tokens/s, estimated" if task == tasks[0] else "")
    save_figure(figure, file)


if __name__ == "__main__":
    main(run)
