"""Training on more chips than one host has, on paper: the step's time by computation and by collectives, and the efficiency.

    python benchmarks/scaling.py

Arithmetic, not a measurement: nothing runs and nothing is compiled. Cycles and bytes are those that the TPU's compiler gave
(tpu_lowering.py), bandwidths are the published ones, and a collective takes as long as a ring of the chips does that is always
busy, without overlap and without latency. The results are in docs/benchmarks/tpu_lowering.md.
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError


class Chip(NamedTuple):
    """Published figures: docs.cloud.google.com/tpu/docs/v5e and /v5p, as they were in 2026."""

    peak: float  # bfloat16 FLOP/s
    units: int  # arrays of 128 x 128 multiply-accumulate units
    memory: float  # bytes/s
    interconnect: float  # bytes/s of all ports, both directions together
    ports: int
    data_center: float  # bytes/s to other slices, the chip's share

    @property
    def clock(self) -> float:
        """Hz: the peak by what the units do in a cycle."""
        return self.peak / (self.units * 128 * 128 * 2)

    @property
    def ring(self) -> float:
        """Bytes/s that a chip sends in a ring, to its two neighbours; it may have more ports than two."""
        return self.interconnect / 2 / self.ports * 2


CHIPS = {
    "v5e": Chip(197e12, units=4, memory=819e9, interconnect=400e9, ports=4, data_center=6.4e12 / 8 / 256),
    "v5p": Chip(459e12, units=8, memory=2765e9, interconnect=1200e9, ports=6, data_center=50e9 / 8),
}


class Step(NamedTuple):
    """A training step as compiled for eight v5e, each with `ROWS` rows of 24 and 25 tokens; 37,000 pieces."""

    cycles: float
    state: float  # bytes of a chip: parameters and the optimizer's averages
    reduced: float  # bytes of the results of all-reduces
    moved: float = 0  # bytes of whole arrays, gathered from their parts or scattered to them; 0: each chip has all


ROWS, CHIPS_COMPILED = 128, 8
# The table of docs/benchmarks/tpu_lowering.md.
STEPS = {
    ("base", "pmap"): Step(28.9e6, 757e6, 252.2e6),
    ("base", "sharded"): Step(27.3e6, 124e6, 94.8e6, 425.9e6 + 233.8e6),
    ("big", "pmap"): Step(73.9e6, 2570e6, 856.7e6),
    ("big", "sharded"): Step(61.8e6, 323e6, 151.9e6, 1254.4e6 + 859.8e6),
}


def collective_seconds(step: Step, chip: Chip, chips: int, slices: int = 1) -> float:
    """A ring of n chips moves 2 (n - 1) / n of the bytes through each for an all-reduce, half of that for an all-gather or a
    reduce-scatter. With several slices each chip reduces its part over the ring of its slice, then that part with its peers in
    the other slices over the data centre's network, then gathers.

    >>> step, chip = Step(cycles=0, state=0, reduced=100e9), Chip(1, 1, 1, interconnect=400e9, ports=4, data_center=1e9)
    >>> collective_seconds(step, chip, 1), collective_seconds(step, chip, 2), collective_seconds(step, chip, 4, slices=2)
    (0.0, 1.0, 51.0)
    """
    own, data = chips // slices, 2 * step.reduced + step.moved
    return (own - 1) / own * data / chip.ring + (slices - 1) / slices * data / own / chip.data_center


class Compute(NamedTuple):
    """Seconds of a chip, in two parts: `fixed + rows * by_row`."""

    fixed: float  # the state is read and written however few rows there are
    by_row: float

    @classmethod
    def of(cls, step: Step, chip: Chip, chips: int) -> "Compute":
        """Another chip than v5e is taken to have the same share of its peak."""
        whole = step.cycles / CHIPS["v5e"].clock * CHIPS["v5e"].peak / chip.peak
        state = 2 * step.state / chip.memory
        return cls(state * CHIPS_COMPILED / chips if step.moved else state, (whole - state) / ROWS)

    def seconds(self, rows: float) -> float:
        return self.fixed + rows * self.by_row

    def efficiency(self, rows: float, exchange: float) -> float:
        """The chip's tokens/s by those that it has at `ROWS` rows without collectives."""
        return self.seconds(ROWS) * rows / ROWS / (self.seconds(rows) + exchange)

    def rows_for(self, efficiency: float, exchange: float) -> float:
        """The rows at which a chip has this efficiency."""
        return efficiency * (self.fixed + exchange) / (self.seconds(ROWS) / ROWS - efficiency * self.by_row)


def cells(step: Step, chip: Chip, chips: int, slices: int, batch: int) -> list[str]:
    """Of a row of the table: collectives, then `ROWS` rows a chip, then `batch` rows of all chips, then where it breaks."""
    exchange, compute = collective_seconds(step, chip, chips, slices), Compute.of(step, chip, chips)
    found = [f"{exchange * 1e3:.1f}"]
    for rows in (ROWS, batch / chips):
        found += [f"{compute.seconds(rows) * 1e3:.1f}", f"{compute.efficiency(rows, exchange):.0%}"]
    return [*found, f"{compute.rows_for(0.5, exchange):,.0f}", f"{compute.rows_for(0.8, exchange):,.0f}"]


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--chips", nargs="+", default=["8", "64", "256", "64/8", "512/2"], metavar="CHIPS[/SLICES]")
    parser.add_argument("--kinds", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--modes", nargs="+", choices=["pmap", "sharded"], default=["pmap", "sharded"])
    parser.add_argument("--batch", type=int, default=1024, help="rows of all chips together, where the batch is constant")
    flags = parser.parse_args()
    if flags.batch < 1:
        parser.error("--batch should be at least 1")
    sizes = [size_named(size) for size in flags.chips]
    for name in flags.kinds:
        clock, *speeds = CHIPS[name].clock / 1e9, CHIPS[name].ring / 1e9, CHIPS[name].data_center / 1e9
        print("{}: {:.2f} GHz, {:.0f} GB/s in a ring, {:.1f} GB/s to other slices".format(name, clock, *speeds))
    head = ["chip", "model", "mode", "chips", "slices", "collectives, ms", f"compute at {ROWS} rows, ms", "efficiency"]
    head += [f"compute at {flags.batch:,} / chips, ms", "efficiency", "rows for 50%", "for 80%"]
    print(f"\n| {' | '.join(head)} |\n|---|---|---|{'---:|' * (len(head) - 3)}")
    for name in flags.kinds:
        for (model, mode), step in STEPS.items():
            for chips, slices in sizes if mode in flags.modes else ():
                row = [name, model, mode, f"{chips:,}", str(slices), *cells(step, CHIPS[name], chips, slices, flags.batch)]
                print(f"| {' | '.join(row)} |")


def size_named(name: str) -> tuple[int, int]:
    """How many chips, and in how many slices. Raises UserError.

    >>> size_named("64"), size_named("512/2")
    ((64, 1), (512, 2))
    """
    chips, _, slices = name.partition("/")
    slices = slices or "1"
    if not (chips.isdecimal() and slices.isdecimal() and int(slices) and int(chips) and int(chips) % int(slices) == 0):
        raise UserError(f"--chips {name}: expected CHIPS, or CHIPS/SLICES where the slices divide the chips, such as 64/8")
    return int(chips), int(slices)


if __name__ == "__main__":
    main(run)
