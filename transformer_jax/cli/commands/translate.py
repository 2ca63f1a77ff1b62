"""Translates sentences, or standard input line by line.

    transformer-jax translate --workdir=runs/demo "The dog sleeps."
    transformer-jax translate --workdir=runs/demo < english.txt > german.txt

N lines in, N lines out, in their order; an empty line stays empty. A line is one sentence, or --split_sentences=always.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser, job_of
from transformer_jax.cli.translation_job import TranslationJob

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_job(TranslationJob)
    parser.add_ensemble()
    parser.add_search()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Translates as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = vars(make_parser(prog).parse_args(arguments))
    program.set_up()
    from transformer_jax.cli.translate import translate_lines

    translate_lines(job_of(TranslationJob, flags))


if __name__ == "__main__":
    program.main(run)
