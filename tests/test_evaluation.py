"""Scores are sacreBLEU's own, over every line, or there is an error."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from transformer_jax.config import DecodeConfig
from transformer_jax.data import demo
from transformer_jax.errors import UserError
from transformer_jax.evaluation.metrics import TOKENIZERS, Score, paper_bleu, score, split_compounds
from transformer_jax.evaluation.report import Report, evaluate
from transformer_jax.inference.translator import Translation

REFERENCES = [
    "Der Hund schl\u00e4ft heute im Garten.",
    "Die Katze, die er sah, war m\u00fcde!",
    "Ja.",
    "Ein Haus steht am See .",
    "Wir lesen ein Buch.",
]
HYPOTHESES = [
    "Der Hund schl\u00e4ft heute im garten.",
    "Die Katze die er sah war sehr m\u00fcde!",
    "",
    "Ein Haus stand am See.",
    "Wir lasen ein Buch.",
]


class Dictionary:
    """A translator that looks lines up, so that a score is known beforehand."""

    config = DecodeConfig(beam=4, length_penalty=0.6)
    alignment_layer = 2

    def __init__(self, translations: dict[str, str]):
        self.translations = translations
        self.tokenizer = self
        self.asked = []

    def encode_source(self, lines):
        return [np.zeros(len(line.split()) + 1, np.int32) for line in lines]

    def search_config(self, **search):
        return dataclasses.replace(self.config, **{name: value for name, value in search.items() if value is not None})

    def translate(self, lines, align=False, **search):
        self.asked.append((list(lines), search))
        links = ((0, 0), (1, 0)) if align else None
        return [self._translation(line, len(line) > 20)._replace(alignment=links) for line in lines]

    def _translation(self, line, too_long):
        return Translation(self.translations[line], -1.0, -1.0, (), 1 + too_long, too_long=too_long)


def run(source, references, hypotheses, test="x", **arguments):
    translator = Dictionary(dict(zip(source, hypotheses, strict=True)))
    return evaluate(translator, source, references, test=test, checkpoint="step 1", **arguments)


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_scores_are_sacrebleus(tokenize, lowercase):
    bleu, chrf, ter = score(HYPOTHESES, REFERENCES, tokenize=tokenize, lowercase=lowercase)
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], tokenize=tokenize, lowercase=lowercase, force=True)
    assert bleu.value == expected.score
    assert chrf.value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert ter.value == sacrebleu.corpus_ter(HYPOTHESES, [REFERENCES]).score
    assert [each.metric for each in (bleu, chrf, ter)] == ["BLEU", "chrF2", "TER"]
    assert f"tok:{tokenize}|" in bleu.signature
    assert f"case:{'lc' if lowercase else 'mixed'}|" in bleu.signature
    assert all(each.signature.endswith(f"version:{sacrebleu.__version__}") for each in (bleu, chrf, ter))


def test_intervals_are_sacrebleus_and_leave_the_scores_as_they_are():
    found, without = (score(HYPOTHESES, REFERENCES, bootstrap=number) for number in (100, 0))
    metric = sacrebleu.BLEU(force=True)
    expected = metric.corpus_score(HYPOTHESES, [REFERENCES], n_bootstrap=100)  # the interval has no public name there
    assert found[0].interval == pytest.approx((expected._mean - expected._ci, expected._mean + expected._ci))
    assert found[0].signature == str(metric.get_signature()) and all("bs:100|seed:" in each.signature for each in found)
    assert [each.value for each in found] == [each.value for each in without]
    assert all(each.interval is None and "bs:" not in each.signature for each in without)
    assert all(each.interval for each in paper_bleu(HYPOTHESES, REFERENCES, "de", bootstrap=100))
    # A set of which some resamples have no BLEU: sacreBLEU's own interval fails.
    found = score(["a b c d e", *"xxxx"], ["a b c d e", *"yyyy"], bootstrap=100)[0]
    assert 0 <= found.interval[0] < found.value < found.interval[1] <= 100 and "bs:100|" in found.signature
    # Around 99.9, half of a symmetric interval would be above 100.
    nearly = score([*["Ein Hund ist hier im Haus."] * 30, "Ja"], [*["Ein Hund ist hier im Haus."] * 30, "Nein"], bootstrap=100)
    assert all(0 <= low <= high for low, high in (each.interval for each in nearly))
    assert nearly[0].interval[1] <= 100 and nearly[1].interval[1] <= 100


def test_fewer_than_five_sentences_have_no_interval_and_a_report_says_so_once():
    reports = [run(list("abcde")[:count], list("vwxyz")[:count], list("vwxyz")[:count], bootstrap=40) for count in (4, 5)]
    assert [each.scores[0].interval is None for each in reports] == [True, False]
    few, enough = (each.as_text() + each.as_line() for each in reports)
    assert few.count("too few sentences for a confidence interval") == 2 and "bs:40" not in few and "too few" not in enough
    assert json.loads(json.dumps(dataclasses.asdict(reports[0])))["no_interval"].startswith("too few sentences")
    assert run(["a"], ["b"], ["b"]).no_interval is None  # none was asked for


@pytest.mark.parametrize("bootstrap", [-1, 1, 39])
def test_too_few_resamples_are_refused(bootstrap):
    with pytest.raises(UserError, match=f"bootstrap={bootstrap} .* at least 40"):
        score(HYPOTHESES, REFERENCES, bootstrap=bootstrap)


def test_a_seed_in_the_environment_that_is_none_of_sacrebleus_is_refused(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "today")
    assert score(HYPOTHESES, REFERENCES)
    with pytest.raises(UserError, match=r"SACREBLEU_SEED='today' .* whole number"):
        score(HYPOTHESES, REFERENCES, bootstrap=100)


def test_text_that_is_tokenised_already_is_taken_as_it_is():
    """Only with `none` does the space before the full stop count."""
    values = {name: score(["Ein Haus steht hier ."], ["Ein Haus steht hier."], tokenize=name)[0].value for name in TOKENIZERS}
    assert values["13a"] == pytest.approx(100) and values["none"] < 60


@pytest.mark.parametrize(
    ("line", "split"),
    [
        # The example of the project that brought the notation up (nlp.stanford.edu/projects/nmt).
        ("rich-text format", "rich ##AT##-##AT## text format"),
        ("Aix-en-Provence", "Aix ##AT##-##AT## en ##AT##-##AT## Provence"),
        # s{(\\S)-(\\S)}{$1 ##AT##-##AT## $2}g: both neighbours are characters, and of one match alone.
        ("- a - b -c d-", "- a - b -c d-"),
        ("a--b", "a ##AT##-##AT## -b"),
        ("3-4-5", "3 ##AT##-##AT## 4-5"),
        ("Ost\u2013West", "Ost\u2013West"),
        ("", ""),
    ],
)
def test_compounds_are_split_as_published(line, split):
    assert split_compounds(line) == split


def test_bleu_as_papers_count_it():
    """Lower-cased forgives the j; on Moses tokens a compound's halves count for themselves, and nothing is smoothed."""
    references = ["Der Rad-Weg f\u00fchrt durch den Garten.", "Ja."]
    hypotheses = ["Der Rad-Steg f\u00fchrt durch den Garten.", "ja."]
    (plain, *_), (lower, paper) = score(hypotheses, references), paper_bleu(hypotheses, references, "de")
    assert lower.value == sacrebleu.corpus_bleu(hypotheses, [references], lowercase=True).score > plain.value
    # Der Rad ##AT##-##AT## Steg* f\u00fchrt durch den Garten . / ja* . : words, pairs, threes and fours without a wrong word.
    assert paper.value == pytest.approx(100 * (9 / 11 * 6 / 9 * 4 / 7 * 2 / 6) ** 0.25)
    assert "case:lc" in lower.signature and "compounds" in paper.signature and "smooth:none" in paper.signature
    assert paper_bleu(["a b c"], ["a b d"], "de")[1].value == 0


def test_an_empty_line_counts():
    """Dropping a line that could not be translated would raise the score."""
    whole = score(HYPOTHESES, REFERENCES)[0].value
    without = [i for i, line in enumerate(HYPOTHESES) if line]
    dropped = score([HYPOTHESES[i] for i in without], [REFERENCES[i] for i in without])[0].value
    assert whole < dropped
    report = run(["a", "b", "", "d", "e"], REFERENCES, HYPOTHESES)
    assert report.sentences == 5 and report.hypotheses == HYPOTHESES
    assert report.scores == score(HYPOTHESES, REFERENCES)


@pytest.mark.parametrize("hypotheses, references", [(["a"], ["a", "b"]), (["a", "b"], ["a"]), ([], ["a"]), ([], [])])
def test_lines_that_are_not_paired_are_refused(hypotheses, references):
    with pytest.raises(UserError, match="expected"):
        score(hypotheses, references)
    translator = Dictionary({line: line for line in hypotheses})
    with pytest.raises(UserError, match="expected"):
        evaluate(translator, hypotheses, references)
    assert not translator.asked  # nobody should wait for a translation that cannot be scored


def test_an_unknown_tokenize_is_refused():
    with pytest.raises(UserError, match="13a"):
        score(["a"], ["a"], tokenize="14a")


def test_the_report_tells_the_protocol():
    source = ["short", "a line that is longer than twenty letters"]
    translator = Dictionary(dict(zip(source, ["eins", "zwei"], strict=True)))
    report = evaluate(translator, source, ["eins", "drei"], test="x", checkpoint="step 7", beam=3, length_penalty=1.0)
    assert translator.asked == [(source, {"beam": 3, "length_penalty": 1.0})]
    assert (report.exact, report.split, report.search) == (0.5, 1, "beam 3, length penalty 1.0")
    text = report.as_text()
    for part in ("x: 2 sentences, step 7, beam 3", "exactly right 50.0%", "1 lines were too long", *_signatures(report)):
        assert part in text
    assert "pronoun" not in text
    assert json.loads(json.dumps(dataclasses.asdict(report)))["scores"][0]["signature"] == report.scores[0].signature
    assert run(["a"], ["b"], ["b"], beam=1).search == "greedy"
    aligned = run(["a b"], ["c"], ["c"], align=True)
    assert aligned.alignments == ["0-0 1-0"] and "alignment included" in aligned.as_text() and report.alignments is None
    assert (aligned.alignment_layer, report.alignment_layer) == (2, None)
    assert run(["a"], ["b"], ["b"]).search == "beam 4, length penalty 0.6"


def _signatures(report) -> list[str]:
    return [each.signature for each in report.scores]


@pytest.mark.slow
def test_pronouns_are_counted_on_the_demos_sets_alone():
    examples = demo.generate("dev")
    source, references = [e.source for e in examples], [e.target for e in examples]
    report = run(source, references, references, test="demo:dev")
    assert report.pronouns == {"model": 1.0} | demo.pronoun_baselines(examples)
    assert report.exact == 1.0 and report.scores[0].value == pytest.approx(100)
    assert "right gender 100.0% of pronouns" in report.as_text()
    for name in ("demo:dev (tag=<x>)", " demo:dev ", '"demo:dev" (tag=<x>)'):
        assert run(source, references, references, test=name).pronouns == report.pronouns
    assert run(source, references, references, test="data/dev").pronouns is None


def test_rouge_is_rouge_scores():
    """Of English text the words are those that rouge-score has without being told; the mean of the sentences' F1."""
    hypotheses = ["The old dog sleeps, today.", "a cat", "nothing in common", "", "the same line"]
    references = ["Today the old dog slept.", "A cat sat on the mat.", "Ja", "x", "the same line"]
    *_, one, two, longest = score(hypotheses, references, rouge=True, bootstrap=40)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    expected = [scorer.score(*pair) for pair in zip(references, hypotheses, strict=True)]
    for found, kind in ((one, "rouge1"), (two, "rouge2"), (longest, "rougeL")):
        assert found.value == pytest.approx(100 * np.mean([each[kind].fmeasure for each in expected]))
        assert found.interval[0] < found.value < found.interval[1]
        assert "case:lc|tok:words|stem:no|" in found.signature and "bs:40|seed:" in found.signature
    assert [one.metric, two.metric, longest.metric] == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]


def test_rouge_of_german_does_not_cut_at_umlauts():
    *_, found = score(["Öl über Bär"], ["Öl für Bär"], rouge=True)
    assert found.value == pytest.approx(100 * 2 / 3)


def test_rouge_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"-m pip install rouge-score, or set train\.metric=chrf"):
        score(["a"], ["a"], rouge=True)


def test_a_report_prints_as_text():
    report = Report("demo:dev", "step 5", "greedy", 2, [Score("BLEU", 12.5, "tok:13a", "")], 0.5, 1.0, 20.0)
    assert str(report) == report.as_text() and str(report).startswith("demo:dev: 2 sentences, step 5, greedy\n  BLEU")
