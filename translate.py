"""Translates: python translate.py --workdir=runs/demo "The dog sleeps."     or     ... < english.txt > german.txt

N lines in, N lines out, in their order; an empty line stays empty. A line is one sentence, or --split_sentences=always.
"""

from transformer_jax.cli.parser import Parser, job_of
from transformer_jax.cli.program import main, set_up
from transformer_jax.cli.translation_job import TranslationJob


def run() -> None:
    parser = Parser(__doc__)
    parser.add_job(TranslationJob)
    parser.add_ensemble()
    parser.add_search()
    flags = vars(parser.parse_args())
    set_up()
    from transformer_jax.cli.translate import translate_lines

    translate_lines(job_of(TranslationJob, flags))


if __name__ == "__main__":
    main(run)
