"""How time and memory grow with corpus, tokenised store, sentence length, batch and devices: a table and a picture each.

    python benchmarks/growth.py --corpus=MIXED/train --output=benchmarks/pictures
    python benchmarks/growth.py --of length batch --output=benchmarks/pictures

Every measurement is a process of its own (growth_measure.py), one after the other, so that its memory is measured alone. The
slope is that of the logarithms, by least squares (1: linear, 2: quadratic), over all sizes and over their upper half, where a
constant part counts for less.

The corpus is repeated up to the largest size as in enlarge.py; smaller ones are its first lines. A store is made of random ids,
112 bytes a pair on disk (11 GB of 100 million), and deleted when it has been measured. Devices are virtual ones on the same
cores: they show the cost of splitting, not its gain. The results are in docs/benchmarks/growth.md.
"""

import itertools
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from decode_speed import machine
from outputs import make_folder, new_figure, output_of, require, save_figure, temporary_folder

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import iter_lines

HERE = Path(__file__).parent
SIZES = {
    "corpus": [10_000, 30_000, 100_000, 300_000, 1_000_000, 4_000_000],  # pairs
    "store": [1_000_000, 4_000_000, 16_000_000, 100_000_000],  # pairs
    "length": [16, 32, 64, 128, 256, 512],  # tokens of a sentence
    "batch": [512, 1024, 2048, 4096, 8192, 16_384],  # positions
    "devices": [1, 2, 4, 8],
}
BATCH = 4096  # positions of one batch, where it is not the batch that grows
LENGTH = 32  # tokens of a sentence, where it is not the length that grows
MODELS = ("Transformer", "LSTM + attention")
MODES = ("pmap", "sharded")
BATCHES = ("bucketed", "packed")
STEP = {"step, s": ".3f", "CPU, s": ".3f", "target tokens/s": ",.0f"}
MEMORY = "MB (workspace is the compiled step's own)"

Found = dict[str, float]


class Growth(NamedTuple):
    """One of the dimensions of growth."""

    size: str  # the dimension, with its unit
    sizes: Sequence[int]
    kinds: Sequence[str]  # models or ways to split that are compared; [""]: none
    columns: dict[str, str]  # of the table, and how their numbers are written
    panels: dict[str, list[str]]  # of the picture: the unit, and the columns that are drawn
    measure: Callable[[str, int], Found]  # of a kind and a size


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--of", nargs="+", choices=SIZES, default=list(SIZES), help="what is to grow (default: all)")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="two or more, of the one thing that is to grow")
    parser.add_argument("--corpus", help="PREFIX of a text to enlarge: PREFIX.en and PREFIX.de")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of the corpus's tokenizer")
    parser.add_argument("--output", required=True, type=Path, help="a folder for the pictures")
    flags = parser.parse_args()
    if "corpus" in flags.of and not flags.corpus:
        raise UserError("--of corpus needs --corpus=PREFIX, the text to enlarge")
    if flags.sizes:
        check_sizes(flags.of, flags.sizes)
    require("matplotlib")
    make_folder(flags.output)
    growths = {
        "corpus": lambda sizes, folder: of_corpus(sizes, flags.corpus, flags.vocab_size, folder),
        "store": of_store,
        "length": lambda sizes, _: of_length(sizes),
        "batch": lambda sizes, _: of_batch(sizes),
        "devices": lambda sizes, _: of_devices(sizes),
    }
    print(machine(os.cpu_count() or 1))
    for name in flags.of:
        sizes = flags.sizes or SIZES[name]
        with temporary_folder() as folder:
            growth = growths[name](sizes, Path(folder))
            print(f"\n{name}\n\n{table_row(['', growth.size, *growth.columns])}", end="")
            print(table_row(["---", *["---:"] * (1 + len(growth.columns))]), end="", flush=True)
            # The kinds take turns, so that other work on the machine affects all of them.
            found: dict[str, list[Found]] = {kind: [] for kind in growth.kinds}
            for size, kind in itertools.product(growth.sizes, growth.kinds):
                found[kind].append(growth.measure(kind, size))
                cells = [cell(found[kind][-1][column], form) for column, form in growth.columns.items()]
                print(table_row([kind, f"{size:,}", *cells]), end="", flush=True)
        print_slopes(growth, found)
        draw(growth, found, flags.output / f"growth_{name}.png")


def check_sizes(names: list[str], sizes: list[int]) -> None:
    """Raises UserError unless `sizes` are two or more, ascending, of one thing, and such that nothing else changes with it."""
    if len(names) > 1:
        raise UserError("--sizes are of one thing: name it with --of")
    if len(sizes) < 2 or sizes[0] < 1 or any(size >= larger for size, larger in itertools.pairwise(sizes)):
        raise UserError(f"--sizes={' '.join(map(str, sizes))} should be two or more, ascending: a slope needs two")
    rows = BATCH // LENGTH
    wrong = {
        "corpus": [],
        "store": [],
        "length": [(size, f"divide {BATCH:,}") for size in sizes if BATCH % size],
        "batch": [(size, f"be a multiple of {LENGTH}") for size in sizes if size % LENGTH],
        "devices": [(size, f"divide {rows}") for size in sizes if rows % size],
    }
    for size, expected in wrong[names[0]]:
        raise UserError(f"--sizes: {size} should {expected}")


def of_corpus(sizes: Sequence[int], corpus: str, vocab_size: int, folder: Path) -> Growth:
    copies = math.ceil(sizes[-1] / sum(1 for _ in iter_lines(f"{corpus}.en", expected=True)))
    output_of([str(HERE / "enlarge.py"), corpus, str(copies), str(folder / "big")], dict(os.environ))

    def measure(_: str, pairs: int) -> Found:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            for name, count in (("train", pairs), ("dev", 1000)):
                first_lines(folder / "big", count, Path(own) / name)
            arguments = f"{own}/train", own, vocab_size
            return child("new_text", *arguments) | child("prepared_text", *arguments)

    new, parts = ["new text, s", "CPU, s"], ["of it read", "tokenizer", "tokenise"]
    prepared = ["first batch, s", "bucketed epoch, CPU s", "packed epoch, CPU s"]
    memory = ["memory, new", "memory, prepared", "store"]
    columns = dict.fromkeys([*new, *parts, *prepared], ".2f") | dict.fromkeys(memory, ",.0f")
    panels = {"seconds": [new[0], *parts, *prepared], "MB": memory}
    return Growth("pairs", sizes, [""], columns, panels, measure)


def of_store(sizes: Sequence[int], folder: Path) -> Growth:
    def measure(kind: str, pairs: int) -> Found:
        store = folder / str(pairs)
        if not store.exists():
            for smaller in folder.iterdir():
                shutil.rmtree(smaller)
            child("new_store", store, pairs)
        return child("prepared_store", store, kind)

    columns = {"first batch, s": ".2f", "CPU, s": ".2f", "private memory": ",.0f", "bytes a pair": ".1f", "pairs/s": ",.0f"}
    panels = {"seconds": ["first batch, s", "CPU, s"], "MB": ["private memory"]}
    return Growth("pairs", sizes, BATCHES, columns, panels, measure)


def of_length(sizes: Sequence[int]) -> Growth:
    columns = STEP | {"GFLOP": ".1f", "workspace": ",.0f", "peak - start": ",.0f"}
    panels = {"seconds of a step": ["step, s", "CPU, s"], MEMORY: ["workspace", "peak - start"]}

    def measure(model: str, length: int) -> Found:
        return child("training_step", model, BATCH // length, length, "pmap")

    return Growth(f"tokens of a sentence ({BATCH:,} in a batch)", sizes, MODELS, columns, panels, measure)


def of_batch(sizes: Sequence[int]) -> Growth:
    columns = STEP | {"workspace": ",.0f", "peak - start": ",.0f"}
    panels = {"seconds of a step": ["step, s", "CPU, s"], MEMORY: ["workspace", "peak - start"]}

    def measure(model: str, positions: int) -> Found:
        return child("training_step", model, positions // LENGTH, LENGTH, "pmap")

    return Growth(f"positions of a batch (sentences of {LENGTH})", sizes, MODELS, columns, panels, measure)


def of_devices(sizes: Sequence[int]) -> Growth:
    columns = STEP | {"workspace": ",.1f", "state": ",.2f", "peak - start": ",.0f", "exchanges": ".0f"}
    panels = {"seconds of a step": ["step, s", "CPU, s"], "MB of each device": ["workspace", "state"]}

    def measure(mode: str, devices: int) -> Found:
        # One device is requested explicitly too, so that it has the same threads as several have.
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        return child("training_step", MODELS[0], BATCH // LENGTH, LENGTH, mode, XLA_FLAGS=flags)

    return Growth(f"devices ({BATCH:,} positions of all, the same cores)", sizes, MODES, columns, panels, measure)


def child(name: str, *arguments: object, **environment: str) -> Found:
    """The results of growth_measure.py, without a compilation cache: the memory of a process depends on whether it compiled."""
    fixed = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    command = [str(HERE / "growth_measure.py"), name, *map(str, arguments)]
    return json.loads(output_of(command, os.environ | fixed | environment))


def first_lines(corpus: Path, count: int, output: Path) -> None:
    for language in ("en", "de"):
        # Only "\n" ends a line: the text has other characters that Python takes for line ends.
        with (
            open(f"{corpus}.{language}", encoding="utf-8", newline="\n") as lines,
            open(f"{output}.{language}", "w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(itertools.islice(lines, count))


def upper_half(sizes: Sequence[int]) -> slice:
    """The upper half of the sizes, at least two, where a constant part counts for less."""
    return slice(min(len(sizes) // 2, len(sizes) - 2), None)


def slopes(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Of log(value) over log(size), by least squares: over all sizes, and over the upper half of them.

    >>> over_all, of_upper = slopes([1, 2, 4, 8], [1.0, 1.0, 4.0, 16.0])
    >>> round(over_all, 3), round(of_upper, 3)
    (1.4, 2.0)
    """
    if min(values) <= 0:
        return math.nan, math.nan
    x, y = np.log([sizes, values])
    upper = upper_half(sizes)
    return float(np.polyfit(x, y, 1)[0]), float(np.polyfit(x[upper], y[upper], 1)[0])


def print_slopes(growth: Growth, found: dict[str, list[Found]]) -> None:
    for kind, points in found.items():
        pairs = [slopes(growth.sizes, [point[column] for point in points]) for column in growth.columns]
        for name, numbers in zip(("slope", "slope, upper half"), zip(*pairs, strict=True), strict=True):
            print(table_row([kind, name, *(cell(number, ".2f") for number in numbers)]), end="", flush=True)


def draw(growth: Growth, found: dict[str, list[Found]], file: Path) -> None:
    """A panel for each unit, both axes logarithmic; dotted, the line that fits the upper half of the sizes."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(7 * len(growth.panels), 6.5, dpi=110)
    for axes, (unit, columns) in zip(figure.subplots(1, len(growth.panels)), growth.panels.items(), strict=True):
        for number, (kind, column) in enumerate(itertools.product(found, columns)):
            values = [point[column] for point in found[kind]]
            over_all, of_upper = slopes(growth.sizes, values)
            name = ", ".join(filter(None, [kind, column]))
            label = f"{name}: slope {over_all:.2f}, upper half {of_upper:.2f}"
            look = {"marker": "osD^vP*X"[number], "color": f"C{number}"}
            axes.plot(growth.sizes, values, linewidth=0.8, alpha=0.8, label=label, **look)
            axes.plot(growth.sizes, fitted(growth.sizes, values), linestyle=":", linewidth=1.5, color=look["color"])
        axes.set(xscale="log", yscale="log", xlabel=growth.size, ylabel=unit)
        axes.set_xticks(growth.sizes, [short(size) for size in growth.sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.get_ylim()
        more = max(1.0, 20 * low / high) ** 0.5  # a nearly constant value should look constant
        axes.set_ylim(low / more, high * more)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high * more < 2000 * low / more else (1,)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        # Below the picture: no place among the lines is free in all four panels.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), frameon=False, fontsize="small")
    save_figure(figure, file)


def fitted(sizes: Sequence[int], values: Sequence[float]) -> np.ndarray:
    """The values on the line fitted to the upper half of the sizes; NaN more than one size below it."""
    x, y = np.log([sizes, values])
    upper = upper_half(sizes)
    line = np.exp(np.polyval(np.polyfit(x[upper], y[upper], 1), x))
    line[: max(upper.start - 1, 0)] = np.nan
    return line


def short(size: int) -> str:
    """
    >>> short(4_000_000), short(30_000), short(16_384)
    ('4M', '30k', '16384')
    """
    for unit, letter in ((1_000_000, "M"), (1000, "k")):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def cell(value: float, form: str) -> str:
    return "" if math.isnan(value) or value == 0 else format(value, form)


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main(run)
