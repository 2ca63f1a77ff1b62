"""Translates sentences, or standard input line by line.

    transformer-jax translate --workdir=runs/demo "The dog sleeps."
    transformer-jax translate --workdir=runs/demo < english.txt > german.txt
    transformer-jax translate --workdir=runs/demo --input=english.txt --output=german.txt --resume

N lines in, N lines out, in their order; an empty line stays empty. A line is one sentence, or --split_sentences=always.
With --resume the same command goes on after SIGTERM or Ctrl-C (exit code 75), a kill or a crash.

    transformer-jax translate --workdir=runs/demo --markup=html < page.html > seite.html

With --markup all of the input is one text, whose elements stay around the words that theirs became.
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
    parser.add_processes()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Translates as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = vars(make_parser(prog).parse_args(arguments))
    processes = flags.pop("coordinator"), flags.pop("processes"), flags.pop("process")
    # Without --resume every task of a Slurm step translates by itself, as it always has, unless the flags say otherwise.
    together = flags["resume"] or any(value is not None for value in processes)
    program.set_up(processes if together else None)
    job = job_of(TranslationJob, flags)
    with program.told_compilations(job.verbose):
        if job.markup:
            from transformer_jax.cli.translate_markup import translate_documents

            translate_documents(job)
        else:
            from transformer_jax.cli.translate import translate_lines

            translate_lines(job)


if __name__ == "__main__":
    program.main(run)
