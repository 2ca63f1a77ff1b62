"""Scores that can be compared: sacreBLEU on detokenised text, its signature beside every figure, the whole set or an error."""

import contextlib
import dataclasses
import importlib.metadata
import json
import re
import time
from collections.abc import Sequence
from typing import TextIO, Unpack

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric

from transformer_jax import hosts
from transformer_jax.config import DecodeConfig
from transformer_jax.data.corpus import read_pairs
from transformer_jax.data.lines import open_output
from transformer_jax.data.sources import fetch
from transformer_jax.errors import UserError
from transformer_jax.run import Run
from transformer_jax.translator import SearchOptions, Translation, Translator, load_translator

__all__ = ["TOKENIZERS", "Report", "Score", "evaluate", "evaluate_run", "paper_bleu", "score", "split_compounds"]

TOKENIZERS = ("13a", "none", "intl", "char")  # of BLEU: how text is cut into words before they are counted


@dataclasses.dataclass(frozen=True)
class Score:
    metric: str  # BLEU | chrF2 | TER | BLEU, lower-cased | BLEU, Moses tokens, compounds split
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

    def as_text(self) -> str:
        lines = [f"{self.test}: {self.sentences} sentences, {self.checkpoint}, {self.search}"]
        width = max(len(score.metric) for score in self.scores)
        lines += [f"  {score.metric:{width}} {score.value:6.2f}   {score.signature}" for score in self.scores]
        lines.append(f"  exactly right {self.exact:.1%} of sentences")
        if self.pronouns:
            guesses = ", ".join(f"{name} {share:.1%}" for name, share in self.pronouns.items() if name != "model")
            lines.append(f"  right gender {self.pronouns['model']:.1%} of pronouns (by guessing: {guesses})")
        if self.split:
            lines.append(f"  {self.split} lines were too long for the model and translated in pieces")
        lines.append(f"  {self.seconds:.1f} s, {self.source_tokens_per_second:,.0f} source tokens/s, compilation included")
        return "\n".join(lines)


def score(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> list[Score]:
    """BLEU (Papineni et al. 2002), chrF (Popovic 2015) and TER (Snover et al. 2006), over the whole set.

    `tokenize` and `lowercase` are BLEU's; the signature tells them. Raises UserError if the numbers of lines differ (sacreBLEU
    would cut the longer list and score the rest) or are zero.

    >>> [(s.metric, s.value) for s in score(["Ein Hund schläft heute ."], ["Ein Hund schläft heute ."])]
    [('BLEU', 100.00000000000004), ('chrF2', 100.0), ('TER', 0.0)]
    """
    _check_lines(hypotheses, references, "translations")
    scores = []
    for metric in _metrics(tokenize, lowercase):
        result = metric.corpus_score(list(hypotheses), [list(references)])
        scores.append(Score(result.name, result.score, str(metric.get_signature()), str(result)))
    return scores


def paper_bleu(hypotheses: Sequence[str], references: Sequence[str], language: str) -> list[Score]:
    """BLEU in two other ways, for comparison with papers: without regard to case, and as it was counted up to 2017.

    The latter (Vaswani et al. 2017 and those they compare with) is multi-bleu.perl on Moses tokens of both sides after
    `split_compounds`: unsmoothed, with case, some half a point above sacreBLEU's on English to German.
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)

    def as_tokens(line: str) -> str:
        line = normalizer.replace_unicode_punct(line)
        return split_compounds(tokenizer.tokenize(line, return_str=True, escape=False))

    (lower_cased,) = [each for each in score(hypotheses, references, lowercase=True) if each.metric == "BLEU"]
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    result = metric.corpus_score([as_tokens(line) for line in hypotheses], [[as_tokens(line) for line in references]])
    tokens = f"tok:sacremoses-{importlib.metadata.version('sacremoses')}-{language}-compounds"
    signature = str(metric.get_signature()).replace("tok:none", tokens)
    return [
        dataclasses.replace(lower_cased, metric="BLEU, lower-cased"),
        Score("BLEU, Moses tokens, compounds split", result.score, signature, str(result)),
    ]


def split_compounds(line: str) -> str:
    """Three tokens for each hyphen between two characters, in the notation of the Stanford NMT project's data.

    >>> split_compounds("rich-text format -- a well-to-do x-y-z")
    'rich ##AT##-##AT## text format -- a well ##AT##-##AT## to ##AT##-##AT## do x ##AT##-##AT## y-z'
    """
    # As their Perl pattern has it, a character is part of one match only: hence "y-z".
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def evaluate(
    translator: Translator,
    source: Sequence[str],
    references: Sequence[str],
    *,
    test: str,
    checkpoint: str,
    tokenize: str = "13a",
    lowercase: bool = False,
    papers_bleu_of: str = "",
    **search: Unpack[SearchOptions],
) -> Report:
    """Translates all of `source` and scores it. Nothing is filtered: an empty line scores as an empty translation.

    `test` and `checkpoint` name in the report what is scored; of the demo's sets (`demo:test`, ..., whole and in their order)
    it also tells the share of right pronouns. `papers_bleu_of` a language adds `paper_bleu`. Raises UserError as `score` and
    `Translator.translate` do.
    """
    _check_lines(source, references, "source lines")
    started = time.perf_counter()
    translations = translator.translate(source, **search)
    seconds = time.perf_counter() - started
    hypotheses = [translation.text for translation in translations]
    source_tokens = sum(len(row) for row in translator.tokenizer.encode_source(source))
    decode = translator.search_config(**search)
    return Report(
        test=test,
        checkpoint=checkpoint,
        search=_in_words(decode),
        sentences=len(hypotheses),
        scores=score(hypotheses, references, tokenize=tokenize, lowercase=lowercase)
        + (paper_bleu(hypotheses, references, papers_bleu_of) if papers_bleu_of else []),
        exact=sum(map(str.__eq__, hypotheses, references)) / len(hypotheses),
        seconds=seconds,
        source_tokens_per_second=source_tokens / seconds,
        pronouns=_pronouns(test, translations),
        split=sum(translation.parts > 1 for translation in translations),
        hypotheses=hypotheses,
    )


def evaluate_run(
    workdir: str,
    test: Sequence[str],
    checkpoint: str = "best",
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    paper_bleu: bool = False,
    output: str | None = None,
    report: str | None = None,
    **search: Unpack[SearchOptions],
) -> list[Report]:
    """What `evaluate.py` does: scores a run's checkpoint on each test set, and writes translations and scores to files.

    Raises UserError for bad input; all of it is read before the first sentence is translated.
    """
    _metrics(tokenize, lowercase)
    run = Run(workdir)
    data = run.config.data
    with hosts.first_before_others("test sets"):
        fetch(test)
    sets = [(name, read_pairs(name, data.source_language, data.target_language)) for name in test]
    translator, found = load_translator(run, checkpoint)
    with _writable(output) as hypotheses_file, _writable(report) as report_file:
        reports = [
            evaluate(
                translator,
                *pairs,
                test=name,
                checkpoint=found,
                tokenize=tokenize,
                lowercase=lowercase,
                papers_bleu_of=data.target_language if paper_bleu else "",
                **search,
            )
            for name, pairs in sets
        ]
        if hypotheses_file:
            hypotheses_file.writelines(f"{line}\n" for each in reports for line in each.hypotheses)
        if report_file:
            report_file.write(json.dumps([dataclasses.asdict(each) for each in reports], indent=2, ensure_ascii=False) + "\n")
    return reports


def _in_words(decode: DecodeConfig) -> str:
    if decode.temperature:
        parts = f"temperature {decode.temperature:g}", f"top {decode.top_k}" * bool(decode.top_k), f"seed {decode.seed}"
        return "sampling, " + ", ".join(filter(None, [*parts, f"top p {decode.top_p:g}" * (decode.top_p < 1)]))
    return "greedy" if decode.beam == 1 else f"beam {decode.beam}, length penalty {decode.length_penalty}"


def _check_lines(lines: Sequence[str], references: Sequence[str], what: str) -> None:
    if len(lines) != len(references):
        raise UserError(f"{len(lines)} {what} and {len(references)} references: expected one for each")
    if not references:
        raise UserError("the test set is empty, expected at least one line")


def _metrics(tokenize: str, lowercase: bool) -> tuple[Metric, ...]:
    if tokenize not in TOKENIZERS:
        raise UserError(f"tokenize={tokenize!r} should be one of {', '.join(TOKENIZERS)}")
    # `force`: no warning that the text looks tokenised, when it is the reference that is.
    return BLEU(tokenize=tokenize, lowercase=lowercase, force=True), CHRF(), TER()


def _writable(path: str | None) -> contextlib.AbstractContextManager[TextIO | None]:
    """The file, opened before anything is translated: a wrong path should not cost a translation of the test set."""
    return open_output(path) if path is not None and hosts.is_first() else contextlib.nullcontext()


def _pronouns(test: str, translations: Sequence[Translation]) -> dict[str, float] | None:
    kind, _, split = test.partition(":")
    if kind != "demo":
        return None
    from transformer_jax.data import demo

    examples = demo.generate(split)
    right, total = demo.pronoun_accuracy(examples, [translation.text for translation in translations])
    return {"model": right / total} | demo.pronoun_baselines(examples) if total else None
