"""Scores that can be compared: sacreBLEU on detokenised text, the signature beside every figure, the whole test set or an error."""

import dataclasses
import difflib
import time
from collections.abc import Sequence

from sacrebleu.metrics import BLEU, CHRF, TER

from transformer_jax.errors import UserError
from transformer_jax.translator import Translation, Translator

__all__ = ["TOKENIZERS", "Report", "Score", "evaluate", "report_lines", "score"]

TOKENIZERS = ("13a", "none", "intl", "char")  # of BLEU: how text is cut into words before they are counted


@dataclasses.dataclass(frozen=True)
class Score:
    metric: str  # BLEU | chrF2 | TER
    value: float  # percent; of TER less is better
    signature: str  # sacreBLEU's: with it anybody can compute the same figure
    details: str  # sacreBLEU's line: n-gram precisions, brevity penalty


@dataclasses.dataclass
class Report:
    """The scores of one checkpoint on one test set, as `evaluate.py --report` writes them."""

    test: str
    checkpoint: str
    search: str
    sentences: int
    scores: list[Score]
    exact: float  # share of sentences that equal their reference
    seconds: float
    source_tokens_per_second: float
    pronouns: dict[str, float] | None = None  # demo sets only: the share with the right gender, and what guessing reaches
    split: int = 0  # lines that were translated in pieces
    hypotheses: list[str] = dataclasses.field(default_factory=list, repr=False)


def score(hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False) -> list[Score]:
    """BLEU (Papineni et al. 2002), chrF (Popovic 2015) and TER (Snover et al. 2006), over the whole set.

    `tokenize` and `lowercase` are BLEU's; the signature tells them. Raises UserError if the numbers of lines differ (sacreBLEU
    would cut the longer list and score the rest) or are zero.

    >>> [(s.metric, s.value) for s in score(["Ein Hund schläft heute ."], ["Ein Hund schläft heute ."])]
    [('BLEU', 100.00000000000004), ('chrF2', 100.0), ('TER', 0.0)]
    """
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} translations and {len(references)} references: expected one for each")
    if not references:
        raise UserError("the test set is empty, expected at least one line")
    if tokenize not in TOKENIZERS:
        near = difflib.get_close_matches(tokenize, TOKENIZERS, n=1)
        raise UserError(f"tokenize={tokenize!r} should be one of {', '.join(TOKENIZERS)}" + (f" ({near[0]}?)" if near else ""))
    # `force`: no warning that the text looks tokenised, when it is the reference that is.
    bleu = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    scores = []
    for metric in (bleu, CHRF(), TER()):
        result = metric.corpus_score(list(hypotheses), [list(references)])
        scores.append(Score(result.name, result.score, str(metric.get_signature()), str(result)))
    return scores


def evaluate(
    translator: Translator,
    source: Sequence[str],
    references: Sequence[str],
    *,
    test: str,
    checkpoint: str,
    beam: int | None = None,
    length_penalty: float | None = None,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> Report:
    """Translates all of `source` and scores it. Nothing is filtered: an empty line scores as an empty translation."""
    started = time.perf_counter()
    translations = translator.translate(source, beam=beam, length_penalty=length_penalty)
    seconds = time.perf_counter() - started
    hypotheses = [translation.text for translation in translations]
    tokens = sum(len(row) for row in translator.tokenizer.encode_source(source))
    beam = translator.config.beam if beam is None else beam
    penalty = translator.config.length_penalty if length_penalty is None else length_penalty
    return Report(
        test=test,
        checkpoint=checkpoint,
        search="greedy" if beam == 1 else f"beam {beam}, length penalty {penalty}",
        sentences=len(hypotheses),
        scores=score(hypotheses, references, tokenize=tokenize, lowercase=lowercase),
        exact=sum(map(str.__eq__, hypotheses, references)) / len(hypotheses),
        seconds=seconds,
        source_tokens_per_second=tokens / seconds,
        pronouns=_pronouns(test, translations),
        split=sum(translation.parts > 1 for translation in translations),
        hypotheses=hypotheses,
    )


def report_lines(report: Report) -> list[str]:
    """A report as text, for people."""
    lines = [f"{report.test}: {report.sentences} sentences, {report.checkpoint}, {report.search}"]
    for value in report.scores:
        lines += [f"  {value.metric:5} {value.value:6.2f}   {value.signature}"]
    lines.append(f"  exactly right {report.exact:.1%} of sentences")
    if report.pronouns:
        guesses = ", ".join(f"{name} {share:.1%}" for name, share in report.pronouns.items() if name != "model")
        lines.append(f"  right gender {report.pronouns['model']:.1%} of pronouns (by guessing: {guesses})")
    if report.split:
        lines.append(f"  {report.split} lines were too long for the model and translated in pieces")
    lines.append(f"  {report.seconds:.1f} s, {report.source_tokens_per_second:,.0f} source tokens/s with compilation")
    return lines


def _pronouns(test: str, translations: Sequence[Translation]) -> dict[str, float] | None:
    kind, _, split = test.partition(":")
    if kind != "demo":
        return None
    from transformer_jax.data import demo

    examples = demo.generate(split)
    right, total = demo.pronoun_accuracy(examples, [translation.text for translation in translations])
    return {"model": right / total} | demo.pronoun_baselines(examples) if total else None
