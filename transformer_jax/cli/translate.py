"""What translate.py does: lines of text to lines of translation, their alignments, and a picture of the first."""

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from transformer_jax.cli.confidence_gate import ConfidenceGate
from transformer_jax.cli.continuation import CountedLines
from transformer_jax.cli.progress_bar import count_lines, is_terminal, lines_bar
from transformer_jax.cli.translation_formats import WRITERS, TranslatedLine, as_log_prob
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.cli.translation_output import begun_files, open_files, require_shared_input
from transformer_jax.distributed import collectives
from transformer_jax.distributed.log_of_first import first_speaks
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import pharaoh
from transformer_jax.inference.terminology import Terminology, read_terms
from transformer_jax.inference.translation import Translation
from transformer_jax.inference.translator import Translator, load_others, load_translator
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.growing_files import LinesDone
from transformer_jax.storage.text_files import STANDARD, iter_lines
from transformer_jax.training.preemption import Preemption
from transformer_jax.visualization.attention_maps import draw
from transformer_jax.visualization.attention_page import write_page

__all__ = ["arguments", "load_for", "report_unmatched", "translate_lines"]


class _Line(NamedTuple):
    """A line to translate or to score, with the lines of the same number in the files of flags; "" where there is no file."""

    source: str
    companion: str  # of --score or of --prefixes
    phrases: str


def translate_lines(job: TranslationJob) -> None:
    """Translates, or with `job.score` scores, every line of the input.

    `job.batch_size` lines are written before the next are read, so that memory does not grow with the file. Standard error
    reports lines that were too long for the model, and at the end the terms that never occurred; on a terminal it has a bar,
    unless the translations go there. Where standard input is a terminal and nothing else is named, each line is asked for by a
    prompt, and answered before the next.

    With `job.resume` the output grows in blocks of `job.batch_size` lines beside a note (`storage.growing_files`), and a call
    with the same job goes on after the last of them; SIGTERM, SIGHUP and Ctrl-C raise ToBeContinued. The blocks are those of an
    uninterrupted call, and so is the result: what is drawn is a function of the seed and the line. Of several processes all
    come here, with the same job and input; they share the lines of a block, and the first writes.

    Raises UserError for bad input (the lines before a bad one are written, with `job.resume` whole blocks of them), and where
    an output cannot be gone on with.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(first_speaks())
        between = stack.enter_context(Preemption()).check if job.resume else None
        _translate_blocks(job, between)


def _translate_blocks(job: TranslationJob, between: Callable[[], None] | None) -> None:
    require_shared_input(job)
    terms = read_terms(job.terminology, job.terminology_case) if job.terminology else None
    translator = load_for(job)
    growing = begun_files(job, translator, terms)
    before = LinesDone(*collectives.from_first(lambda: growing.done if growing else LinesDone()))
    asks = not job.text and job.input is None and is_terminal(sys.stdin)
    lines = CountedLines(_lines_of(job, asks))
    lines.skip(before, f"{job.input}: its first {before.lines:,} lines are not those whose translations {job.output} has")
    blocks = _blocks(lines, 1 if asks else job.batch_size, job.resume)
    gate = ConfidenceGate.of(job, translator)
    first = next(blocks, [])  # before the output is opened: input that cannot be read should not empty a file
    if before.complete and not first:
        _tell(f"{job.output}: has the translations of all {before.lines:,} lines, nothing to do")
        return
    write = as_log_prob if job.score and job.format == "text" else WRITERS[job.format]
    bar = lines_bar("translating", _count_lines(job), shown=not (asks or _writes_to_terminal(job)))
    with open_files(job, growing) as append, bar as show:
        for block in itertools.chain([first], blocks):
            _require_the_same(lines.done())
            done = lines.count - len(block)
            progress = show and functools.partial(_show, show, done)
            shared = terms, progress, between
            translations = _score(job, translator, block) if job.score else _translate(job, translator, block, *shared)
            written, links = [], []
            for number, (line, translation) in enumerate(zip(block, translations, strict=True), done + 1):
                if translation.too_long:
                    _tell(f"line {number}: too long for the model, translated in {translation.parts} pieces")
                translation, below = gate.let_through(translation)
                written.append(write(TranslatedLine(number, line.source, translation, translator.tokenizer.pieces, below)))
                links += [f"{pharaoh(translation.alignment)}\n"] if job.alignments else []
            append("".join(written), "".join(links), lines.done())
            if job.attention and block is first and collectives.is_first():
                _draw_first(job, translator, block, translations)
            if show:
                show(lines.count)
        append("", "", lines.done()._replace(complete=True))
    gate.report()
    if terms:
        report_unmatched(job.terminology, terms, before.lines)


def _require_the_same(done: LinesDone) -> None:
    """Raises UserError where another process has read other lines."""
    if len({tuple(each) for each in collectives.gather(done)}) > 1:
        raise UserError(f"--input: the processes have read different lines up to {done.lines:,}; give all the same file")


def load_for(job: TranslationJob) -> Translator:
    """The translator that a job names, with its ensemble and its layer for alignments. Raises UserError as
    `Translator.load` does."""
    translator, _ = load_translator(Run(job.workdir), CheckpointName.parse(job.checkpoint), job.compute_dtype)
    if job.ensemble:
        translator = translator.together_with(load_others(job.ensemble, job.compute_dtype), job.ensemble_weights or None)
    if job.alignments is not None or job.alignment_layer is not None:
        translator.align_with(job.alignment_layer)
    return translator


def _score(job: TranslationJob, translator: Translator, block: Sequence[_Line]) -> list[Translation]:
    names = "length_penalty", "length_normalization", "word_reward", "coverage_penalty"
    penalties = {name: job.search.get(name) for name in names}
    return translator.score([line.source for line in block], [line.companion for line in block], **penalties)


def _translate(
    job: TranslationJob,
    translator: Translator,
    block: Sequence[_Line],
    terms: Terminology | None,
    progress: Callable[[int, int], None] | None,
    between: Callable[[], None] | None,
) -> list[Translation]:
    return translator.translate(
        [line.source for line in block],
        prefixes=[line.companion for line in block],
        complete_words=job.complete_words,
        phrases=[[phrase for phrase in line.phrases.split("\t") if phrase.strip()] for line in block],
        phrase_ends=job.phrase_ends or "word",
        terminology=terms,
        protect=job.protect,
        numbers=job.numbers,
        align=job.alignments is not None,
        nbest=job.nbest,
        between=between,
        progress=progress,
        **job.search,
    )


def _lines_of(job: TranslationJob, asks: bool) -> Iterator[_Line]:
    lines = (
        (line.replace("\n", " ") for line in arguments(job.text))
        if job.text
        else _typed()
        if asks
        else iter_lines(job.input, errors=job.errors)
    )
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


def arguments(text: Sequence[str]) -> Iterator[str]:
    """The texts that are arguments. Raises UserError for one that is not UTF-8."""
    for number, line in enumerate(text, 1):
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"sentence {number} is not UTF-8; convert it, for example with iconv -t UTF-8") from None
        yield line


def _typed() -> Iterator[str]:
    """The lines that are typed at a prompt. It goes to standard error where standard output has something else to hold."""
    if is_terminal(sys.stdout):
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  gives `input` editing and a history
    _tell("A sentence a line; Ctrl-D ends.")
    for number in itertools.count(1):
        try:
            if is_terminal(sys.stdout):
                yield input("> ")
            else:
                print("> ", end="", file=sys.stderr, flush=True)
                yield input()
        except EOFError:
            _tell("")
            return
        except UnicodeDecodeError:
            raise UserError(f"standard input: line {number} is not UTF-8; set the terminal to it") from None


def _count_lines(job: TranslationJob) -> int | None:
    return len(job.text) if job.text else count_lines(None if job.input == STANDARD else job.input)


def _writes_to_terminal(job: TranslationJob) -> bool:
    return any(path == STANDARD for path in (job.output or STANDARD, job.alignments)) and is_terminal(sys.stdout)


def _show(show: Callable[[int], None], before: int, done: int, _: int) -> None:
    """Shows the lines that are done of a block and all `before` it."""
    show(before + done)


def _tell(message: str) -> None:
    """Prints a line on standard error, above the bar if there is one; of several processes the first does."""
    if collectives.is_first():
        tqdm.write(message, file=sys.stderr)


def _blocks(lines: Iterator[_Line], size: int, whole: bool = False) -> Iterator[list[_Line]]:
    """Lists of `size` lines, the last perhaps shorter. The lines before a UserError come as a list before it is raised; where
    blocks must be `whole` they do not."""
    block = []
    try:
        for line in lines:
            block.append(line)
            if len(block) == size:
                yield block
                block = []
    except UserError:
        if block and not whole:
            yield block
        raise
    if block:
        yield block


def report_unmatched(file: str, terms: Terminology, before: int = 0) -> None:
    """Says on standard error which terms of a file never occurred in the input. `before` is how many lines an earlier call has
    translated, whose terms are not known."""
    file = "standard input" if file == STANDARD else file
    unmatched, shown = terms.unmatched(), 5
    if unmatched:
        names = ", ".join(unmatched[:shown]) + ", ..." * (len(unmatched) > shown)
        where = f"the input after line {before}" if before else "the input"
        _tell(f"{file}: {len(unmatched)} of {len(terms.counts)} terms never occurred in {where}: {names}")


def _draw_first(
    job: TranslationJob, translator: Translator, block: Sequence[_Line], translations: Sequence[Translation]
) -> None:
    """Writes the file of `--attention`, about the first line."""
    if not translations or translations[0].parts != 1:
        raise UserError(f"--attention={job.attention}: the first line is missing, blank or in pieces: too much for one picture")
    attention = translator.attention(block[0].source, translations[0])
    of_pieces, of_words = attention.pieces, attention.words
    kind, layer, head = job.attention_kind, job.attention_layer, job.attention_head
    if kind not in of_words:
        raise UserError(f"--attention_kind={kind}: this model has {', '.join(of_words) or 'no attention'}")
    chosen = (of_words if job.attention_words else of_pieces)[kind]
    chosen.mean(layer, head)  # raises UserError for a layer or head that does not exist
    if job.attention.endswith((".html", ".html.gz")):
        texts = dict(source=attention.source, translation=attention.translation)
        write_page(job.attention, of_pieces, of_words, **texts, layer=layer, head=head, kind=kind)
    else:
        draw(chosen, job.attention, layer, head)


if __name__ == "__main__":
    from transformer_jax.cli.commands.translate import run
    from transformer_jax.cli.program import main

    main(run)
