"""A run folder to a smaller copy of it: `transformer-jax average`, and `python -m transformer_jax.runs.lean`."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser
from transformer_jax.runs import lean


def run() -> None:
    parser = Parser(lean.__doc__.splitlines()[0])
    parser.add_argument("workdir", metavar="RUN", help="a run folder")
    parser.add_argument("output", metavar="OUT", help="the folder to write, new or empty")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=["best"],
        help="one or more of latest, best, a step, average:N, each also with :raw (default: best)",
    )
    flags = parser.parse_args()
    program.set_up()
    copy(flags.workdir, flags.output, flags.checkpoint)


def copy(workdir: str, output: str, which: Sequence[str]) -> None:
    """As `runs.lean.copy_run`, and prints what was written."""
    for described in lean.copy_run(workdir, output, which):
        print(f"{output}: {described} of {workdir}, without optimizer state")
    size = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:,.1f} MB")
