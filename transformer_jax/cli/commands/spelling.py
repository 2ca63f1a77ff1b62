"""Keeps with a run which words its training text's sources have, for --spelling=correct.

    transformer-jax spelling --workdir=runs/opus --train=data/train --dev=data/dev

Writes RUN/source_words.npz, as a training with decode.spelling=correct does itself. From then on translate.py, evaluate.py and
serve.py take --spelling=correct: a word that the text does not have is read as one that it has, if that is a typing error away.
What would be read so of the dev set is printed.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    from transformer_jax.cli.spelling_job import SpellingJob

    parser = Parser(__doc__, prog)
    parser.add_job(SpellingJob)
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Counts the words as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = vars(make_parser(prog).parse_args(arguments))
    program.set_up()
    from transformer_jax.cli.spelling import keep_spelling
    from transformer_jax.cli.spelling_job import SpellingJob

    keep_spelling(SpellingJob(**flags))


if __name__ == "__main__":
    program.main(run)
