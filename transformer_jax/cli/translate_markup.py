"""What translate.py does with --markup: whole texts with elements to such texts in the other language."""

import sys
from collections.abc import Sequence

from transformer_jax.cli.progress_bar import is_terminal, lines_bar
from transformer_jax.cli.translate import arguments, load_for, report_unmatched
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.cli.translation_output import require_shared_input
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.inference.terminology import read_terms
from transformer_jax.storage.text_files import STANDARD, iter_lines, open_output

__all__ = ["translate_documents"]


def translate_documents(job: TranslationJob) -> None:
    """Translates each text of `job.text`, or all of the input as one text, and ends each with a line break. Of several
    processes all come here, with the same texts, and the first writes. Raises UserError for bad input; then nothing is
    written."""
    require_shared_input(job)
    terms = read_terms(job.terminology, job.terminology_case) if job.terminology else None
    texts = list(arguments(job.text)) or ["\n".join(iter_lines(job.input, errors=job.errors))]
    names = {name: _names(name, getattr(job, name)) for name in ("ignore_tags", "splitting_tags", "non_splitting_tags")}
    translator = load_for(job)
    shown = not (job.output in (None, STANDARD) and is_terminal(sys.stdout))
    with lines_bar("translating", None, shown=shown) as show:
        protection = dict(protect=job.protect, numbers=job.numbers)
        shared = dict(terminology=terms, progress=show) | protection | names
        found = translator.translate_markup(texts, job.markup, **shared, **job.search)
    if not collectives.is_first():
        return
    with open_output(job.output) as output:
        for translation in found:
            output.write(f"{translation.text}\n")
    for translation in found:
        for part in translation.parts:
            if part.too_long:
                print(f"{part.source[:40]!r}...: too long for the model, translated in {part.parts} pieces", file=sys.stderr)
    if terms:
        report_unmatched(job.terminology, terms)


def _names(flag: str, text: str | None) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")] if text else []
    if not all(names):
        raise UserError(f"--{flag}={text} should be names of elements with commas between, as in --{flag}=name,seg")
    return names
