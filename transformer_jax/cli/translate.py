"""What translate.py does: lines of text to lines of translation, their alignments, and a picture of the first."""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import pharaoh
from transformer_jax.inference.terminology import Terminology, read_terms
from transformer_jax.inference.translation import Translation
from transformer_jax.inference.translator import Translator, load_others, load_translator
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.files import finite_or_null
from transformer_jax.storage.text_files import STANDARD, iter_lines, open_output, refuse_same_files, refuse_shared_stream
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.visualization.attention_maps import attention_maps, draw
from transformer_jax.visualization.attention_page import write_page

__all__ = ["COLUMNS", "FORMATS", "translate_lines"]

FORMATS = ("text", "tsv", "json")  # of the output, see `translate_lines`
COLUMNS = ("line", "rank", "score", "log_prob", "text")  # of tsv; lines and ranks from 1

Item = TypeVar("Item")


def translate_lines(
    workdir: str,
    text: Sequence[str] = (),
    *,
    checkpoint: str = "best",
    input: str | None = None,
    output: str | None = None,
    prefixes: str | None = None,
    complete_words: bool = False,
    phrases: str | None = None,
    terminology: str | None = None,
    phrase_ends: str | None = None,
    terminology_case: str = "start",
    ensemble: Sequence[str] = (),
    score: str | None = None,
    format: str = "text",
    errors: str = "strict",
    batch_size: int = 1000,
    attention: str | None = None,
    attention_kind: str = "cross",
    attention_layer: int = 0,
    attention_head: int = 0,
    attention_words: bool = False,
    alignments: str | None = None,
    alignment_layer: int | None = None,
    **search: Any,
) -> None:
    """What `translate.py` does: `text`, or the lines of `input`, or standard input -> `output`, or standard output.

    `format` is a translation a line (`text`), a line of tab-separated `COLUMNS` for each of the n best (`tsv`), or one of JSON
    for each line (`json`), with the pieces and their log-probabilities (null for one that is not finite). `prefixes` is a file
    with what each line's translation begins with (with `complete_words` the last word may be unfinished), `phrases` one with
    what must occur in each, separated by tabs, `phrase_ends` where these and terms may end (`Translator.translate`);
    `terminology` has terms and their translations (`read_terms`, with `terminology_case` as in `Terminology`). `ensemble` are
    further models, as `--ensemble` names them. `score` is a file with a translation of each line, which are scored instead
    (`Translator.score`; as `text`, `log_prob`).

    A file that is read is plain or gzip's, one that is written is compressed if its name ends in `.gz`. "-" is standard input
    or output, for one of those that are read and one of those that are written.

    Each `batch_size` lines are written before the next are read, so memory does not grow with the file. A line that had to be
    cut is told on standard error, and at the end how many terms never occurred. `attention` is the file of a picture (or, named
    `.html`, a page) of what the first line's translation looked at; kinds, layers and heads are those of `AttentionMap`.
    `alignments` is a file that gets a line for each line, its word alignment in Pharaoh's format. Input that is not UTF-8 is
    bad, or with `errors="replace"` has U+FFFD there. Raises UserError for bad input; the lines before a bad one are written.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size={batch_size} should be 1 or more")
    if format not in FORMATS:
        raise UserError(f"--format={format} should be one of {', '.join(FORMATS)}")
    if errors not in ("strict", "replace"):
        raise UserError(f"--errors={errors} should be strict or replace")
    if score and (attention or alignments or prefixes or phrases or terminology or search.get("nbest")):
        raise UserError(
            "--score goes with none of --nbest, --attention, --alignments, --prefixes, --phrases and --terminology: "
            "it does not translate"
        )
    if complete_words and not prefixes:
        raise UserError("--complete_words is about the last words of --prefixes, which are not given")
    if phrase_ends and not (phrases or terminology):
        raise UserError("--phrase_ends is about --phrases and --terminology, which are not given")
    if format == "text" and (search.get("nbest") or 1) > 1:
        raise UserError("--nbest needs --format=tsv or --format=json: as text, N lines in are N lines out")
    if terminology_case != "start" and not terminology:
        raise UserError(f"--terminology_case={terminology_case} needs --terminology")
    read = dict(input=input, score=score, prefixes=prefixes, phrases=phrases, terminology=terminology)
    _check_files(bool(text), read, dict(output=output, alignments=alignments, attention=attention))
    terms = read_terms(terminology, terminology_case) if terminology else None
    translator, _ = load_translator(Run(workdir), checkpoint)
    if ensemble:
        translator = translator.together_with(load_others(ensemble))
    if alignments is not None or alignment_layer is not None:
        translator.align_with(alignment_layer)
    lines = _arguments(text) if text else iter_lines(input, errors=errors)
    blocks = _blocks(_with_given(lines, score or prefixes, phrases), batch_size)
    first = next(blocks, [])  # before the output is opened: what cannot be read should not empty a file
    done = 0
    align = alignments is not None
    with open_output(output) as out, open_output(alignments) if align else contextlib.nullcontext() as links:
        for block in itertools.chain([first], blocks):
            sources, given, wanted = map(list, zip(*block, strict=True)) if block else ([], [], [])
            if score:
                penalties = {name: search.get(name) for name in ("length_penalty", "coverage_penalty")}
                found = translator.score(sources, given, **penalties)
            else:
                wanted = [[phrase for phrase in each.split("\t") if phrase.strip()] for each in wanted]
                more = dict(terminology=terms, align=align)
                more |= dict(complete_words=complete_words, phrase_ends=phrase_ends or "word")
                found = translator.translate(sources, prefixes=given, phrases=wanted, **more, **search)
            for number, (source, translation) in enumerate(zip(sources, found, strict=True), done + 1):
                if translation.too_long:
                    print(f"line {number}: too long for the model, translated in {translation.parts} pieces", file=sys.stderr)
                out.write(_record(number, source, translation, format, bool(score), translator.tokenizer))
                if align:
                    links.write(f"{pharaoh(translation.alignment)}\n")
            for file in (out, links) if align else (out,):
                file.flush()
            if attention and not done:
                _draw(translator, sources, found, attention, attention_kind, attention_layer, attention_head, attention_words)
            done += len(block)
    if terms:
        _tell_unmatched("standard input" if terminology == STANDARD else terminology, terms)


def _check_files(arguments: bool, read: dict[str, str | None], written: dict[str, str | None]) -> None:
    """Raises UserError if flags name files that one of them cannot have; with `arguments` there is text without `--input`."""
    if arguments and read["input"]:
        raise UserError("give either sentences or --input, not both")
    if written["attention"] == STANDARD:
        raise UserError("--attention=-: a picture or a page does not go to standard output; name a file")
    refuse_shared_stream("standard input", **read | ({} if arguments else {"input": read["input"] or STANDARD}))
    refuse_shared_stream("standard output", **written | {"output": written["output"] or STANDARD})
    refuse_same_files(**{name: read[name] for name in ("input", "score", "prefixes")})
    for name, path in read.items():
        refuse_same_files(**{name: path}, **written)


def _record(number: int, source: str, best: Translation, format: str, scored: bool, tokenizer: Tokenizer) -> str:
    """What the output has of a line."""
    if format == "text":
        return f"{best.log_prob:.6f}\n" if scored else f"{best.text}\n"
    every = [best, *best.others]
    if format == "tsv":
        return "".join(
            f"{number}\t{rank}\t{each.score:.6f}\t{each.log_prob:.6f}\t{each.text.replace(chr(9), ' ')}\n"
            for rank, each in enumerate(every, 1)
        )
    translations = [
        {
            "text": each.text,
            "score": each.score,
            "log_prob": each.log_prob,
            "pieces": tokenizer.pieces(each.tokens),
            "token_log_probs": each.token_log_probs,
        }
        for each in every
    ]
    record = finite_or_null({"line": number, "source": source, "translations": translations})
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _with_given(lines: Iterator[str], *paths: str | None) -> Iterator[tuple[str, ...]]:
    """Each line with the lines of the same number in these files; with empty ones where there is no file."""
    files = [iter_lines(path) if path else None for path in paths]
    for number in itertools.count(1):
        line = next(lines, None)
        given = [next(file, None) if file else "" for file in files]
        for path, each in zip(paths, given, strict=True):
            if path and (line is None) != (each is None):
                more, fewer = ("input", path) if each is None else (path, "input")
                raise UserError(f"{more} has more than the {number - 1} lines of {fewer}; expected a line for each line")
        if line is None:
            return
        yield line, *given


def _tell_unmatched(file: str, terms: Terminology) -> None:
    unmatched, shown = terms.unmatched(), 5
    if unmatched:
        names = ", ".join(unmatched[:shown]) + ", ..." * (len(unmatched) > shown)
        print(f"{file}: {len(unmatched)} of {len(terms.counts)} terms never occurred in the input: {names}", file=sys.stderr)


def _arguments(text: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"sentence {number} is not UTF-8; convert it, for example with iconv -t UTF-8") from None
        yield line.replace("\n", " ")


def _blocks(lines: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` lines, the last as long as it comes; what comes before an error is a block of its own."""
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


def _draw(
    translator: Translator, lines: list[str], found: list[Translation], file: str, kind: str, layer: int, head: int, words: bool
) -> None:
    if not found or found[0].parts != 1:
        raise UserError(f"--attention={file}: the first line is missing, blank or in pieces: too much for one picture")
    source, translation = lines[0], found[0]

    model = translator.model, translator.params, translator.tokenizer
    of_pieces, of_words = (attention_maps(*model, source, translation.tokens, words=words) for words in (False, True))
    if kind not in of_words:
        raise UserError(f"--attention_kind={kind}: this model has {', '.join(of_words) or 'no attention'}")
    chosen = (of_words if words else of_pieces)[kind]
    chosen.mean(layer, head)  # says so if there is no such layer or head
    if file.endswith((".html", ".html.gz")):
        write_page(file, of_pieces, of_words, source=source, translation=translation.text, layer=layer, head=head, kind=kind)
    else:
        draw(chosen, file, layer, head)
