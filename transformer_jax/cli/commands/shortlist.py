"""Makes a run's lexical table: of each source piece, the target pieces that it becomes in the training text.

    transformer-jax shortlist --workdir=runs/demo
    transformer-jax shortlist --workdir=runs/opus --train=data/train --dev=data/dev

Writes RUN/tokenizer/shortlist.npz. From then on translate.py, evaluate.py and serve.py take --shortlist=N: each sentence's
translation is chosen among N pieces for each of its own and the most frequent ones, which with a beam is faster than among all.
What share of the dev set's references can be written so is printed for several N.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    from transformer_jax.cli.shortlist_job import ShortlistJob

    parser = Parser(__doc__, prog)
    parser.add_job(ShortlistJob)
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Makes the table as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = vars(make_parser(prog).parse_args(arguments))
    program.set_up()
    from transformer_jax.cli.shortlist import make_shortlist
    from transformer_jax.cli.shortlist_job import ShortlistJob

    make_shortlist(ShortlistJob(**flags))


if __name__ == "__main__":
    program.main(run)
