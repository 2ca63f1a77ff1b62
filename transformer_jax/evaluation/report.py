"""Translates and scores a whole test set."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from transformer_jax.config import SearchOptions
from transformer_jax.data.source_syntax import parse_spec
from transformer_jax.evaluation.analysis import Analysis, sentence_chrf
from transformer_jax.evaluation.checks import Checks, check
from transformer_jax.evaluation.metrics import LEAST_SENTENCES, Score, check_lines, metrics, paper_bleu, score, with_interval
from transformer_jax.evaluation.reliability import Reliability, reliability
from transformer_jax.evaluation.robustness import Robustness
from transformer_jax.evaluation.significance import Comparison
from transformer_jax.inference.alignment import pharaoh
from transformer_jax.inference.translation import Translation
from transformer_jax.inference.translator import OPTIONS, Translator
from transformer_jax.tokenization.text_arguments import check_options, list_of_texts

__all__ = ["Report", "evaluate", "in_words"]

_TOO_FEW = f"too few sentences for a confidence interval (at least {LEAST_SENTENCES})"


@dataclasses.dataclass
class Report:
    """The scores of one checkpoint on one test set, as `evaluate.py --report` writes them."""

    test: str  # its name
    checkpoint: str  # which one, in words
    search: str  # the search options, `in_words`
    sentences: int
    scores: list[Score]
    exact: float  # share of translations that equal their reference
    seconds: float  # of translating, compilation included
    source_tokens_per_second: float
    pronouns: dict[str, float] | None = None  # demo sets only: the share with the right gender, and baselines by guessing
    split: int = 0  # number of lines that were translated in pieces
    hypotheses: list[str] = dataclasses.field(default_factory=list, repr=False)
    alignments: list[str] | None = dataclasses.field(default=None, repr=False)  # as `alignment.pharaoh`, with `align`
    alignment_layer: int | None = None  # the decoder layer of the alignments, from 1
    comparison: Comparison | None = None  # with another system
    analysis: Analysis | None = dataclasses.field(default=None, repr=False)
    reliability: Reliability | None = dataclasses.field(default=None, repr=False)  # of the confidence, where a run has one
    no_interval: str | None = None  # why the scores have no confidence interval, where one was asked for
    checks: Checks | None = None  # what is copied, translations that loop, length ratio, short lines
    robustness: Robustness | None = None  # beside the scores of the same set without noise

    def __str__(self) -> str:
        return self.as_text()

    def as_text(self) -> str:
        """The report in some lines for a person (`print(report)`), without the analysis (`Analysis.as_text`), and with
        the checks where they are notable."""
        lines = [f"{self.test}: {self.sentences} sentences, {self.checkpoint}, {self.search}"]
        width = max(len(score.metric) for score in self.scores)
        for row in self.scores:
            lines.append(f"  {row.metric:{width}} {with_interval(row.value, row.interval)}   {row.signature}")
        if self.no_interval:
            lines.append(f"  {self.no_interval}")
        lines.append(f"  exactly right {self.exact:.1%} of sentences")
        if self.checks and self.checks.notable:
            lines.append(f"  {self.checks.as_text()}")
        if self.pronouns:
            guesses = ", ".join(f"{name} {share:.1%}" for name, share in self.pronouns.items() if name != "model")
            lines.append(f"  right gender {self.pronouns['model']:.1%} of pronouns (by guessing: {guesses})")
        if self.reliability:
            lines.append(f"  {self.reliability.as_text()}")
        if self.split:
            lines.append(f"  {self.split} lines were too long for the model and translated in pieces")
        also = "compilation" if self.alignments is None else "compilation and alignment"
        lines.append(f"  {self.seconds:.1f} s, {self.source_tokens_per_second:,.0f} source tokens/s, {also} included")
        if self.alignment_layer:
            lines.append(f"  words aligned by the attention of decoder layer {self.alignment_layer}")
        if self.comparison:
            lines.append(f"  compared with {self.comparison.other}:")
            for row in self.comparison.differences:
                values = f"{row.difference:+6.2f} (from {row.other_value:.2f}), p = {row.p_value:.4f}"
                lines.append(f"  {row.metric:{width}} {values}   {row.signature}")
        return "\n".join(lines)

    def as_line(self) -> str:
        """The scores in one line, to compare checkpoints."""
        shown = self.scores[:2] + [score for score in self.scores if score.metric.startswith("ROUGE")]
        scores = [f"{score.metric} {with_interval(score.value, score.interval).strip()}" for score in shown]
        if self.comparison:
            bleu = self.comparison.differences[0]
            scores.append(f"BLEU {bleu.difference:+.2f} (p = {bleu.p_value:.4f}) from {self.comparison.other}")
        if self.no_interval:
            scores.append(self.no_interval)
        return f"{self.checkpoint}, {self.test}: {', '.join(scores)}, exactly right {self.exact:.1%}"


def evaluate(
    translator: Translator,
    source: Sequence[str],
    references: Sequence[str],
    *,
    test: str = "test set",
    checkpoint: str = "these parameters",
    tokenize: str = "13a",
    lowercase: bool = False,
    papers_bleu_of: str = "",
    bootstrap: int = 0,
    rouge: bool = False,
    align: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **search: Any,
) -> Report:
    """Translates all of `source` and scores it. No line is filtered: an empty line scores as an empty translation.

    `test` and `checkpoint` are names for the report. For the demo's sets (`demo:test`, ..., whole and in their order) the
    report also has the share of right pronouns. `papers_bleu_of`, a target language, adds `paper_bleu`; `bootstrap` and `rouge`
    are those of `score`. With `align` the report has word alignments. `progress` is that of `Translator.translate`. Raises
    UserError as that and `score` do.
    """
    source, references = list_of_texts(source, "source"), list_of_texts(references, "references")
    check_lines(source, references, "source lines")
    check_options(search, OPTIONS, "evaluate")
    metrics(tokenize, lowercase, bootstrap, rouge)
    started = time.perf_counter()
    # Not where it is left out: other code's translators may not know it.
    shown = {"progress": progress} if progress else {}
    translations = translator.translate(source, align=align, **shown, **search)
    seconds = time.perf_counter() - started
    hypotheses = [translation.text for translation in translations]
    source_tokens = sum(len(row) for row in translator.tokenizer.encode_source(source))
    return Report(
        test=test,
        checkpoint=checkpoint,
        search=in_words(translator.search_config(**search)),
        sentences=len(hypotheses),
        scores=score(hypotheses, references, tokenize=tokenize, lowercase=lowercase, bootstrap=bootstrap, rouge=rouge)
        + (paper_bleu(hypotheses, references, papers_bleu_of, bootstrap) if papers_bleu_of else []),
        exact=sum(map(str.__eq__, hypotheses, references)) / len(hypotheses),
        seconds=seconds,
        source_tokens_per_second=source_tokens / seconds,
        pronouns=_pronouns(test, translations),
        no_interval=_TOO_FEW if bootstrap and len(hypotheses) < LEAST_SENTENCES else None,
        split=sum(translation.too_long for translation in translations),
        hypotheses=hypotheses,
        alignments=[pharaoh(translation.alignment) for translation in translations] if align else None,
        alignment_layer=translator.alignment_layer or None if align else None,
        checks=check(hypotheses, source, references, tokenize=tokenize, lowercase=lowercase),
        reliability=_reliability(translator, translations, references),
    )


def _reliability(translator: Translator, translations: Sequence[Translation], references: Sequence[str]) -> Reliability | None:
    """None where no translation has a confidence."""
    confidences = [translation.confidence for translation in translations]
    if all(confidence is None for confidence in confidences):
        return None
    chrf = [sentence_chrf(found.text, reference) / 100 for found, reference in zip(translations, references, strict=True)]
    return reliability(translator.calibration.feature, confidences, chrf)


def in_words(decode: SearchOptions) -> str:
    """The search options in words, for a report.

    >>> in_words(SearchOptions(beam=5, length_penalty=1.0)), in_words(SearchOptions(temperature=0.7, top_k=10))
    ('beam 5, length penalty 1.0', 'sampling, temperature 0.7, top 10, seed 0')
    >>> in_words(SearchOptions(length_penalty=1.0, length_normalization="power", word_reward=0.2))
    'beam 4, score log P / n^1.0 + 0.2 n'
    >>> in_words(SearchOptions(mbr=32))
    'minimum Bayes risk by chrf among 32 candidates of sampling, temperature 1, seed 0, epsilon 0.02'
    """
    if decode.mbr:
        return f"minimum Bayes risk by {decode.mbr_metric} among {decode.mbr} candidates of {in_words(decode.candidates())}"
    read = ", capitals restored" * (decode.capitals == "restore") + ", spelling corrected" * (decode.spelling == "correct")
    if decode.temperature:
        parts = f"temperature {decode.temperature:g}", f"top {decode.top_k}" * bool(decode.top_k), f"seed {decode.seed}"
        rest = f"top p {decode.top_p:g}" * (decode.top_p < 1), f"epsilon {decode.epsilon:g}" * (decode.epsilon > 0)
        return "sampling, " + ", ".join(filter(None, [*parts, *rest])) + read
    split = "" if decode.split_sentences == "long" else f", sentences split {decode.split_sentences}"
    return ("greedy" if decode.beam == 1 else f"beam {decode.beam}, {_score_in_words(decode)}") + split + read


def _score_in_words(decode: SearchOptions) -> str:
    power = decode.length_penalty
    if decode.length_normalization == "gnmt" and not decode.word_reward:
        return f"length penalty {power}"
    divisors = {"gnmt": f" / ((5 + n) / 6)^{power}", "power": f" / n^{power}", "none": ""}
    reward = f" + {decode.word_reward:g} n" * bool(decode.word_reward)
    return f"score log P{divisors[decode.length_normalization]}{reward}"


def _pronouns(test: str, translations: Sequence[Translation]) -> dict[str, float] | None:
    if not test.lstrip(' "').startswith("demo:") or parse_spec(test).swap:
        return None
    spec = parse_spec(test)
    if spec.noise:
        return None  # its sentences are not those of the examples
    split = spec.name.removeprefix("demo:")
    from transformer_jax.data import demo

    examples = demo.generate(split)
    right, total = demo.pronoun_accuracy(examples, [translation.text for translation in translations])
    return {"model": right / total} | demo.pronoun_baselines(examples) if total else None
