"""What translate.py does: lines of text to lines of translation, their alignments, and a picture of the first."""

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformer_jax.cli.translation_formats import WRITERS, TranslatedLine, as_log_prob
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import pharaoh
from transformer_jax.inference.terminology import Terminology, read_terms
from transformer_jax.inference.translation import Translation
from transformer_jax.inference.translator import Translator, load_others, load_translator
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.text_files import STANDARD, iter_lines, open_output
from transformer_jax.visualization.attention_maps import attention_maps, draw
from transformer_jax.visualization.attention_page import write_page

__all__ = ["translate_lines"]


class _Line(NamedTuple):
    """A line to translate or to score, with the lines of the same number in the files of flags; "" where there is no file."""

    source: str
    companion: str  # of --score or of --prefixes
    phrases: str


def translate_lines(job: TranslationJob) -> None:
    """Translates, or with `job.score` scores, every line of the input.

    `job.batch_size` lines are written before the next are read, so that memory does not grow with the file. Standard error
    reports lines that were too long for the model, and at the end the terms that never occurred. Raises UserError for bad
    input; the lines before a bad one are written.
    """
    terms = read_terms(job.terminology, job.terminology_case) if job.terminology else None
    translator = _load(job)
    blocks = _blocks(_lines_of(job), job.batch_size)
    first = next(blocks, [])  # before the output is opened: input that cannot be read should not empty a file
    write = as_log_prob if job.score and job.format == "text" else WRITERS[job.format]
    done = 0
    with open_output(job.output) as output, _open_alignments(job) as alignments:
        for block in itertools.chain([first], blocks):
            translations = _score(job, translator, block) if job.score else _translate(job, translator, block, terms)
            for number, (line, translation) in enumerate(zip(block, translations, strict=True), done + 1):
                if translation.too_long:
                    print(f"line {number}: too long for the model, translated in {translation.parts} pieces", file=sys.stderr)
                output.write(write(TranslatedLine(number, line.source, translation, translator.tokenizer.pieces)))
                if alignments:
                    alignments.write(f"{pharaoh(translation.alignment)}\n")
            for file in filter(None, (output, alignments)):
                file.flush()
            if job.attention and block is first:
                _draw_first(job, translator, block, translations)
            done += len(block)
    if terms:
        _report_unmatched("standard input" if job.terminology == STANDARD else job.terminology, terms)


def _load(job: TranslationJob) -> Translator:
    translator, _ = load_translator(Run(job.workdir), CheckpointName.parse(job.checkpoint))
    if job.ensemble:
        translator = translator.together_with(load_others(job.ensemble))
    if job.alignments is not None or job.alignment_layer is not None:
        translator.align_with(job.alignment_layer)
    return translator


def _open_alignments(job: TranslationJob) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if job.alignments is None else open_output(job.alignments)


def _score(job: TranslationJob, translator: Translator, block: Sequence[_Line]) -> list[Translation]:
    penalties = {name: job.search.get(name) for name in ("length_penalty", "coverage_penalty")}
    return translator.score([line.source for line in block], [line.companion for line in block], **penalties)


def _translate(
    job: TranslationJob, translator: Translator, block: Sequence[_Line], terms: Terminology | None
) -> list[Translation]:
    return translator.translate(
        [line.source for line in block],
        prefixes=[line.companion for line in block],
        complete_words=job.complete_words,
        phrases=[[phrase for phrase in line.phrases.split("\t") if phrase.strip()] for line in block],
        phrase_ends=job.phrase_ends or "word",
        terminology=terms,
        align=job.alignments is not None,
        nbest=job.nbest,
        **job.search,
    )


def _lines_of(job: TranslationJob) -> Iterator[_Line]:
    """The lines of the input, each with those of the other files. Raises UserError when one file ends before another."""
    lines = _arguments(job.text) if job.text else iter_lines(job.input, errors=job.errors)
    paths = job.score or job.prefixes, job.phrases
    files = [iter_lines(path) if path else None for path in paths]
    for number in itertools.count(1):
        line = next(lines, None)
        companions = [next(file, None) if file else "" for file in files]
        for path, companion in zip(paths, companions, strict=True):
            if path and (line is None) != (companion is None):
                more, fewer = ("input", path) if companion is None else (path, "input")
                raise UserError(f"{more} has more than the {number - 1} lines of {fewer}; expected a line for each line")
        if line is None:
            return
        yield _Line(line, *companions)


def _arguments(text: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"sentence {number} is not UTF-8; convert it, for example with iconv -t UTF-8") from None
        yield line.replace("\n", " ")


def _blocks(lines: Iterator[_Line], size: int) -> Iterator[list[_Line]]:
    """Lists of `size` lines, the last perhaps shorter. The lines before a UserError come as a list before it is raised."""
    block = []
    try:
        for line in lines:
            block.append(line)
            if len(block) == size:
                yield block
                block = []
    except UserError:
        if block:
            yield block
        raise
    if block:
        yield block


def _report_unmatched(file: str, terms: Terminology) -> None:
    unmatched, shown = terms.unmatched(), 5
    if unmatched:
        names = ", ".join(unmatched[:shown]) + ", ..." * (len(unmatched) > shown)
        print(f"{file}: {len(unmatched)} of {len(terms.counts)} terms never occurred in the input: {names}", file=sys.stderr)


def _draw_first(
    job: TranslationJob, translator: Translator, block: Sequence[_Line], translations: Sequence[Translation]
) -> None:
    """Writes the file of `--attention`, about the first line."""
    if not translations or translations[0].parts != 1:
        raise UserError(f"--attention={job.attention}: the first line is missing, blank or in pieces: too much for one picture")
    source, translation = block[0].source, translations[0]
    model = translator.model, translator.params, translator.tokenizer
    of_pieces, of_words = (attention_maps(*model, source, translation.tokens, words=words) for words in (False, True))
    kind, layer, head = job.attention_kind, job.attention_layer, job.attention_head
    if kind not in of_words:
        raise UserError(f"--attention_kind={kind}: this model has {', '.join(of_words) or 'no attention'}")
    chosen = (of_words if job.attention_words else of_pieces)[kind]
    chosen.mean(layer, head)  # raises UserError for a layer or head that does not exist
    if job.attention.endswith((".html", ".html.gz")):
        texts = dict(source=source, translation=translation.text)
        write_page(job.attention, of_pieces, of_words, **texts, layer=layer, head=head, kind=kind)
    else:
        draw(chosen, job.attention, layer, head)


if __name__ == "__main__":
    from transformer_jax.cli.commands.translate import run
    from transformer_jax.cli.program import main

    main(run)
