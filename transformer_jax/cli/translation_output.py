"""Where the lines of translate.py go: files that are written from the start, or with --resume files that grow in blocks."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from transformer_jax.cli.continuation import model_digest
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.config import SearchOptions
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.inference.terminology import Terminology
from transformer_jax.inference.translator import Translator
from transformer_jax.storage.growing_files import GrowingFiles, LinesDone
from transformer_jax.storage.text_files import STANDARD, open_output

__all__ = ["Write", "begun_files", "open_files", "require_shared_input"]

Write = Callable[[str, str, LinesDone], None]  # takes the translations and the alignments of a block, and how far it goes

# Flags that name files or models, whose content is compared instead, and those on which no translation depends.
_COMPARED_BY_CONTENT = ("workdir", "checkpoint", "input", "output", "score", "prefixes", "phrases", "terminology", "alignments")
_FREE = ("text", "errors", "search", "nbest", "resume")  # `search` and `nbest` are compared as the search has them


def begun_files(job: TranslationJob, translator: Translator, terms: Terminology | None) -> GrowingFiles | None:
    """The files of `--resume`, as far as they are; None without it, and in all but the first of several processes. Raises
    UserError where they were begun with another model, or with flags that lead to other translations."""
    if not job.resume:
        return None
    if job.alignments and not translator.alignment_layer:
        raise UserError(
            "--alignments with --resume: it is not known which layer aligns best; name one with --alignment_layer, else the "
            "first block after each start would choose anew"
        )
    if not collectives.is_first():
        return None
    return GrowingFiles(list(filter(None, (job.output, job.alignments))), _settings(job, translator, terms))


@contextlib.contextmanager
def open_files(job: TranslationJob, growing: GrowingFiles | None) -> Iterator[Write]:
    """Opens the output, and the file of the alignments if they are asked for. Of several processes the first writes."""
    if not collectives.is_first():
        yield lambda *_: None
    elif growing:
        with growing.open():
            yield lambda text, links, done: growing.append((text, links)[: 2 if job.alignments else 1], done)
    else:
        second = open_output(job.alignments) if job.alignments is not None else contextlib.nullcontext()
        with open_output(job.output) as output, second as alignments:

            def write(text: str, links: str, _: LinesDone) -> None:
                for file, content in ((output, text), (alignments, links)):
                    if file:
                        file.write(content)
                        file.flush()

            yield write


def require_shared_input(job: TranslationJob) -> None:
    """Raises UserError where several processes would have to read one's standard input."""
    read = dict(input=job.input or STANDARD, score=job.score, prefixes=job.prefixes, phrases=job.phrases)
    for name, path in (read | {"terminology": job.terminology}).items():
        if path == STANDARD and not (name == "input" and job.text) and jax.process_count() > 1:
            raise UserError(f"--{name}: of several processes each reads the text; name a file that all of them can read")


def _settings(job: TranslationJob, translator: Translator, terms: Terminology | None) -> dict[str, Any]:
    """All that the translations of a given input depend on, but for what has its default."""
    search, usual = translator.search_config(**job.search, nbest=job.nbest), SearchOptions()
    options = {field.name for field in dataclasses.fields(SearchOptions)} - {"tokens"}  # a matter of memory
    settings = {name: getattr(search, name) for name in options if getattr(search, name) != getattr(usual, name)}
    for field in dataclasses.fields(job):
        value, name = getattr(job, field.name), field.name
        if name in _COMPARED_BY_CONTENT and name in ("score", "prefixes", "phrases"):
            settings |= {name: True} if value else {}
        elif name not in (*_COMPARED_BY_CONTENT, *_FREE) and value not in (field.default, ()):
            settings[name] = list(value) if isinstance(value, tuple) else value
    settings["batch_size"] = job.batch_size
    if terms:
        settings["terminology"] = terms.fingerprint
    if job.alignments:
        settings["alignment_layer"] = translator.alignment_layer
    return settings | {"parameters": model_digest(translator)}
