"""BLEU, chrF, TER and ROUGE by sacreBLEU, each with the signature from which the same figure can be computed again."""

import dataclasses
import importlib.metadata
import math
import os
import re
from collections.abc import Sequence

from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

from transformer_jax.errors import UserError
from transformer_jax.evaluation.rouge import Rouge
from transformer_jax.tokenization.text_arguments import list_of_texts, refuse_bare_text

__all__ = [
    "LEAST_SENTENCES",
    "TOKENIZERS",
    "Score",
    "check_lines",
    "make_metric",
    "metrics",
    "paper_bleu",
    "score",
    "score_with",
    "split_compounds",
    "with_interval",
]

TOKENIZERS = ("13a", "none", "intl", "char")  # how BLEU splits text into words
LEAST_SENTENCES = 5  # resamples of fewer are nearly all alike, and their interval would say nothing
_MAX_RESAMPLES = 100_000  # each keeps an index for each sentence in memory
_MIN_RESAMPLES = 40  # with fewer, a 95% interval would include all of them


@dataclasses.dataclass(frozen=True)
class Score:
    """One figure, and its signature."""

    metric: str  # BLEU | chrF2 | TER | ROUGE-1 | ROUGE-2 | ROUGE-L | BLEU, lower-cased | BLEU, Moses tokens, compounds split
    value: float  # percent; lower TER is better
    signature: str  # sacreBLEU's: the settings from which the same figure can be computed again
    details: str  # sacreBLEU's line: n-gram precisions, brevity penalty
    interval: tuple[float, float] | None = None  # 95% confidence, with `bootstrap` and `LEAST_SENTENCES` or more


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    bootstrap: int = 0,
    rouge: bool = False,
) -> list[Score]:
    """BLEU (Papineni et al. 2002), chrF (Popovic 2015) and TER (Snover et al. 2006), over the whole set.

    With `rouge` also ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), which measure rewriting and summaries (extra `rouge`).
    `tokenize` and `lowercase` apply to BLEU and are part of its signature. With `bootstrap` above 0 each score has a 95%
    confidence interval from that many resamples of the sentences (Koehn 2004), if there are `LEAST_SENTENCES` or more. Raises
    UserError if the numbers of lines differ (sacreBLEU would score as many as the shorter list has) or are zero.

    >>> [(s.metric, s.value) for s in score(["Ein Hund schläft heute ."], ["Ein Hund schläft heute ."])]
    [('BLEU', 100.00000000000004), ('chrF2', 100.0), ('TER', 0.0)]
    """
    hypotheses, references = list_of_texts(hypotheses, "hypotheses"), list_of_texts(references, "references")
    check_lines(hypotheses, references, "translations")
    return [score_with(metric, hypotheses, references, bootstrap) for metric in metrics(tokenize, lowercase, bootstrap, rouge)]


def paper_bleu(hypotheses: Sequence[str], references: Sequence[str], language: str, bootstrap: int = 0) -> list[Score]:
    """Two other kinds of BLEU, for comparison with papers: lower-cased BLEU, and the BLEU that papers reported up to 2017.

    The second (Vaswani et al. 2017 and the systems in its tables) is multi-bleu.perl on Moses tokens of both sides after
    `split_compounds`: unsmoothed, with case, about half a point above sacreBLEU's on English to German.

    `bootstrap` and errors are those of `score`. `language` is the target's, such as `de`.
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)

    def as_tokens(line: str) -> str:
        line = normalizer.replace_unicode_punct(line)
        return split_compounds(tokenizer.tokenize(line, return_str=True, escape=False))

    check_lines(hypotheses, references, "translations")
    lower_cased = score_with(BLEU(lowercase=True, force=True), hypotheses, references, bootstrap)
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    paper = score_with(metric, list(map(as_tokens, hypotheses)), list(map(as_tokens, references)), bootstrap)
    tokens = f"tok:sacremoses-{importlib.metadata.version('sacremoses')}-{language}-compounds"
    return [
        dataclasses.replace(lower_cased, metric="BLEU, lower-cased"),
        dataclasses.replace(
            paper, metric="BLEU, Moses tokens, compounds split", signature=paper.signature.replace("tok:none", tokens)
        ),
    ]


def split_compounds(line: str) -> str:
    """Three tokens for each hyphen between two characters, in the notation of the Stanford NMT project's data.

    >>> split_compounds("rich-text format -- a well-to-do x-y-z")
    'rich ##AT##-##AT## text format -- a well ##AT##-##AT## to ##AT##-##AT## do x ##AT##-##AT## y-z'
    """
    # As in their Perl pattern, a character belongs to one match only, so that "y-z" stays.
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def score_with(metric: Metric, hypotheses: Sequence[str], references: Sequence[str], bootstrap: int = 0) -> Score:
    """One metric over the whole set, as `score`. The caller checks the numbers of lines (`check_lines`)."""
    lines = list(hypotheses), [list(references)]
    bootstrap = bootstrap if len(lines[0]) >= LEAST_SENTENCES else 0
    try:
        result = metric.corpus_score(*lines, n_bootstrap=bootstrap)
        mean, half = result._mean, result._ci
    except TypeError:
        # sacreBLEU up to 2.6 fails where only some of the resamples have a score of 0. PairedTest of one system computes the
        # same interval.
        result = metric.corpus_score(*lines)
        (estimate,) = PairedTest([("this", lines[0])], {result.name: metric}, lines[1], "bs", bootstrap)()[1][result.name]
        mean, half = estimate.mean, estimate.ci
    # Mean plus or minus half the width may lie outside the range of the metric.
    limit = math.inf if result.name == "TER" else 100.0
    interval = (max(0.0, float(mean - half)), min(limit, float(mean + half))) if bootstrap else None
    return Score(result.name, result.score, str(metric.get_signature()), str(result), interval)


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """A figure for a report, to two decimals.

    >>> with_interval(38.061, (36.78, 39.4)), with_interval(7.0, None)
    (' 38.06 (95%: 36.78 to 39.40)', '  7.00')
    """
    return f"{value:6.2f} (95%: {interval[0]:.2f} to {interval[1]:.2f})" if interval else f"{value:6.2f}"


def metrics(tokenize: str = "13a", lowercase: bool = False, bootstrap: int = 0, rouge: bool = False) -> list[Metric]:
    """BLEU, chrF and TER, with `rouge` also ROUGE-1, -2 and -L. Raises UserError for values that they cannot take."""
    if tokenize not in TOKENIZERS:
        raise UserError(f"tokenize={tokenize!r} should be one of {', '.join(TOKENIZERS)}")
    if bootstrap and bootstrap < _MIN_RESAMPLES:
        raise UserError(f"bootstrap={bootstrap} should be 0 (no interval) or at least {_MIN_RESAMPLES} resamples")
    if bootstrap > _MAX_RESAMPLES:
        raise UserError(f"bootstrap={bootstrap} should be at most {_MAX_RESAMPLES:,} resamples; 1,000 are usual")
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    if bootstrap and not seed.isdecimal() and seed.lower() != "none":
        raise UserError(f"SACREBLEU_SEED={seed!r} in the environment should be a whole number, or none for another each time")
    names = ["bleu", "chrf", "ter", *(["rouge1", "rouge2", "rougeL"] if rouge else [])]
    return [make_metric(name, tokenize, lowercase) for name in names]


def make_metric(name: str, tokenize: str = "13a", lowercase: bool = False) -> Metric:
    """One of bleu, chrf, ter, rouge1, rouge2 and rougeL. Raises UserError for a ROUGE where rouge-score is not installed."""
    if name.startswith("rouge"):
        return Rouge(name)
    # `force` suppresses the warning that the text looks tokenised: sometimes the references are.
    return {"bleu": lambda: BLEU(tokenize=tokenize, lowercase=lowercase, force=True), "chrf": CHRF, "ter": TER}[name]()


def check_lines(lines: Sequence[str], references: Sequence[str], what: str) -> None:
    """Raises UserError unless there is one line for each reference and at least one; TypeError for a string alone."""
    refuse_bare_text(lines, what)
    refuse_bare_text(references, "references")
    if len(lines) != len(references):
        raise UserError(f"{len(lines)} {what} and {len(references)} references: expected one for each")
    if not references:
        raise UserError("the test set is empty, expected at least one line")
