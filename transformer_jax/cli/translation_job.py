"""What `translate.py` can be asked to do: its flags, their help, and which of them exclude each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformer_jax.cli.parser import check_compute_dtype, check_ensemble, flag
from transformer_jax.cli.protection_flags import check_protection, numbers_flag, protect_flag
from transformer_jax.cli.translation_formats import WRITERS
from transformer_jax.errors import UserError
from transformer_jax.inference.markup.tree import MARKUPS
from transformer_jax.storage.text_files import STANDARD, refuse_same_files, refuse_shared_stream

__all__ = ["TranslationJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationJob:
    """A call of `translate.py`: each field is the flag of its name, `search` holds fields of `SearchOptions` that were given.

    Files that are read may be plain or gzip's; a file that is written is compressed if its name ends in `.gz`. "-" is standard
    input for one of the files that are read, and standard output for one of those that are written. Raises UserError for flags
    that do not go together.
    """

    text: Sequence[str] = flag("sentences, a translation each (default: the lines of --input)", (), positional=True, nargs="*")
    workdir: str = flag("the run folder that train.py made")
    checkpoint: str = flag("latest, best, a step, or average:N, each also with :raw (default: best)", "best")
    compute_dtype: str | None = flag(
        "of products: float32, bfloat16, auto (default: the run's); in bfloat16 the lines beside one may change it",
        None,
    )
    input: str | None = flag(
        "a file to translate, plain or .gz (default: -, standard input, or a prompt on a terminal)", None, metavar="FILE"
    )
    output: str | None = flag("where the translations go, also .gz (default: -, standard output)", None, metavar="FILE")
    errors: str = flag("input that is not UTF-8: strict (an error), or replace by U+FFFD", "strict")
    format: str = flag("of the output: text, tsv, or json (an object a line)", "text")
    nbest: int | None = flag("the N best of each line, or N that are drawn (tsv and json)", None, metavar="N")
    prefixes: str | None = flag("what each line's translation begins with, in whole words", None, metavar="FILE")
    complete_words: bool = flag("the last word of --prefixes may be unfinished", False)
    phrases: str | None = flag(
        "what must occur in each line's translation, separated by tabs; where it does not by itself, the beam is wider than "
        "the phrases have tokens (or 128)",
        None,
        metavar="FILE",
    )
    phrase_ends: str | None = flag("of phrases and terms: word (default), or anywhere (letters may follow)", None)
    terminology: str | None = flag("lines of a term, a tab and what must translate it, as it is", None, metavar="FILE")
    terminology_case: str = flag("of terms: exact, start (or capital at a sentence's start), ignore", "start")
    protect: Sequence[str] | None = protect_flag()
    numbers: str = numbers_flag()
    markup: str | None = flag("html or xml: the text has elements, and each file or argument is one text", None)
    ignore_tags: str | None = flag("elements of --markup whose text stays as it is, separated by commas", None, metavar="NAMES")
    splitting_tags: str | None = flag("elements of XML that separate sentences", None, metavar="NAMES")
    non_splitting_tags: str | None = flag("elements of XML that belong to the sentence around them", None, metavar="NAMES")
    score: str | None = flag("translate nothing, but score the translations in FILE, a line each", None, metavar="FILE")
    resume: bool = flag(
        "write --output in whole blocks of --batch_size lines, so that after a stop or a kill the same command goes on", False
    )
    min_confidence: float | None = flag(
        "below it (0 to 1) a line's translation is not given; the run must be calibrated", None, metavar="X"
    )
    below: str = flag("instead of what is below --min_confidence: empty (an empty line), or source", "empty")
    batch_size: int = flag("lines read before they are translated together (default: 1000)", 1000)
    attention: str | None = flag(
        "a picture (.png, .pdf, .svg) or page (.html) of the attention for the first line", None, metavar="FILE"
    )
    attention_kind: str = flag("cross, or a Transformer's encoder, decoder (default: cross)", "cross")
    attention_layer: int = flag("from 1 (default: the mean of all)", 0, metavar="N")
    attention_head: int = flag("from 1 (default: the mean of all)", 0, metavar="N")
    attention_words: bool = flag("a picture of words, not of the tokenizer's pieces", False)
    alignments: str | None = flag("which word became which: a line like 0-0 1-2 for each line", None, metavar="FILE")
    alignment_layer: int | None = flag("from 1 (default: the best on the dev set, or here)", None, metavar="N")
    verbose: bool = flag("say how many programs were compiled, or read from the cache", False)
    ensemble: Sequence[str] = ()
    ensemble_weights: Sequence[float] = ()  # --workdir's first; (): alike
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_ensemble(self.ensemble, self.ensemble_weights)
        check_compute_dtype(self.compute_dtype)
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size} should be 1 or more")
        if self.format not in WRITERS:
            raise UserError(f"--format={self.format} should be one of {', '.join(WRITERS)}")
        if self.errors not in ("strict", "replace"):
            raise UserError(f"--errors={self.errors} should be strict or replace")
        of_translation = self.attention, self.alignments, self.prefixes, self.phrases, self.terminology, self.nbest
        if self.score and any(of_translation):
            raise UserError(
                "--score goes with none of --nbest, --attention, --alignments, --prefixes, --phrases and --terminology: "
                "it does not translate"
            )
        if self.score and self.search.get("mbr"):
            raise UserError("--score does not go with --mbr: it does not translate")
        if self.complete_words and not self.prefixes:
            raise UserError("--complete_words is about the last words of --prefixes, which are not given")
        if self.phrase_ends and not (self.phrases or self.terminology):
            raise UserError("--phrase_ends is about --phrases and --terminology, which are not given")
        if self.format == "text" and (self.nbest or 1) > 1:
            raise UserError("--nbest needs --format=tsv or --format=json: as text, N lines in are N lines out")
        if self.terminology_case != "start" and not self.terminology:
            raise UserError(f"--terminology_case={self.terminology_case} needs --terminology")
        if self.resume:
            self._check_resume()
        self._check_protection()
        self._check_markup()
        self._check_confidence()
        self._check_files()

    def _check_resume(self) -> None:
        """Raises UserError where `--resume` could not go on."""
        if not self.input or self.output in (None, STANDARD) or self.alignments == STANDARD:
            raise UserError("--resume needs --input and --output=FILE: what goes to standard output is not there to go on with")
        if self.attention:
            raise UserError("--attention is about the first line; draw it without --resume")

    def _check_protection(self) -> None:
        """Raises UserError for patterns that cannot be read, and where nothing is translated that could be protected."""
        check_protection(self.protect, self.numbers)
        for name, is_given in (("protect", self.protect), ("numbers", self.numbers != "keep")):
            if is_given and self.score:
                raise UserError(f"--{name} does not go with --score: it does not translate")
            if is_given and self.attention:
                raise UserError(
                    f"--attention shows what the model sees, placeholders instead of spans: draw it without --{name}"
                )

    def _check_markup(self) -> None:
        """Raises UserError for flags that have no meaning for whole texts, or none without --markup."""
        if not self.markup:
            for name in ("ignore_tags", "splitting_tags", "non_splitting_tags"):
                if getattr(self, name):
                    raise UserError(f"--{name} is about elements: it needs --markup=html or --markup=xml")
            return
        if self.markup not in MARKUPS:
            raise UserError(f"--markup={self.markup} should be one of {', '.join(MARKUPS)}")
        of_lines = dict(score=self.score, prefixes=self.prefixes, phrases=self.phrases, nbest=self.nbest)
        of_lines["min_confidence"] = self.min_confidence is not None
        for name, value in (of_lines | dict(alignments=self.alignments, attention=self.attention, resume=self.resume)).items():
            if value:
                raise UserError(f"--{name} is about lines, and with --markup each file or argument is one text; leave it out")
        if self.format != "text":
            raise UserError(f"--format={self.format} is about lines; with --markup leave it at text")

    def _check_confidence(self) -> None:
        if self.below not in ("empty", "source"):
            raise UserError(f"--below={self.below} should be empty or source")
        if self.min_confidence is None:
            if self.below != "empty":
                raise UserError(f"--below={self.below} needs --min_confidence")
            return
        if not 0 <= self.min_confidence <= 1:
            raise UserError(f"--min_confidence={self.min_confidence:g} should be from 0 to 1")
        if self.score or self.ensemble or (self.nbest or 1) > 1:
            raise UserError(
                "--min_confidence goes with none of --score, --ensemble and --nbest: one run's best translations have one"
            )

    def _check_files(self) -> None:
        """Raises UserError if two flags name one file or standard stream, or one names a stream that it cannot use."""
        if self.text and self.input:
            raise UserError("give either sentences or --input, not both")
        if self.attention == STANDARD:
            raise UserError("--attention=-: a picture or a page does not go to standard output; name a file")
        source = None if self.text else self.input or STANDARD
        others = dict(score=self.score, prefixes=self.prefixes, phrases=self.phrases, terminology=self.terminology)
        written = dict(output=self.output, alignments=self.alignments, attention=self.attention)
        refuse_shared_stream("standard input", input=source, **others)
        refuse_shared_stream("standard output", **written | {"output": self.output or STANDARD})
        refuse_same_files(input=self.input, score=self.score, prefixes=self.prefixes)
        for name, path in {"input": self.input, **others}.items():
            refuse_same_files(**{name: path}, **written)
