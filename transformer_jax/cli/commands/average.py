"""Averages the parameters of a run's latest checkpoints, in a copy of the run without optimizer state.

    transformer-jax average runs/base runs/base_average
    transformer-jax average runs/base runs/base_lean --checkpoint average:3 best

The copy has about a third of the run's bytes; it translates, is scored and exported like the run. It has the checkpoints that
are named: averages, and others as they are. A training that begins with its parameters is a run of its own
(--config.train.init_from=runs/base_average).
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_argument("workdir", metavar="RUN", help="a run folder")
    parser.add_argument("output", metavar="OUT", help="the folder to write, new or empty")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=["average:5"],
        help="one or more of average:N, latest, best, a step, each also with :raw (default: average:5)",
    )
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Writes the copy that the arguments describe, by default those of the process. Raises UserError for bad input."""
    flags = make_parser(prog).parse_args(arguments)
    program.set_up()
    from transformer_jax.cli.lean import copy

    copy(flags.workdir, flags.output, flags.checkpoint)


if __name__ == "__main__":
    program.main(run)
