"""Confidence: features, isotonic regression and rank correlation by their definitions; what is kept and what is refused."""

import functools
import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from helpers import letters, random_parameters, tiny_model
from scipy import stats

from transformer_jax.cli.calibrate import calibrate_run
from transformer_jax.cli.calibration_job import CalibrationJob
from transformer_jax.cli.evaluate import evaluate_run
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.cli.parser import job_of
from transformer_jax.cli.translate import translate_lines
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.config import Config, SearchOptions, TokenizerConfig
from transformer_jax.data import demo
from transformer_jax.errors import UserError
from transformer_jax.evaluation.reliability import ReliabilityBin, reliability
from transformer_jax.inference import confidence as confidence_module
from transformer_jax.inference.confidence import best_feature, features_of, isotonic, spearman
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.calibration import FEATURES, Calibration, relevant_options
from transformer_jax.runs.lean import copy_run
from transformer_jax.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
RUN = Path(__file__).parent / "runs" / "9f7c919"
PAIRS = [(example.source, example.target) for example in demo.generate("train", 20)]
SHORT = sorted((source for source, _ in PAIRS), key=len)


@pytest.mark.parametrize("seed", range(4))
def test_the_regression_is_the_best_that_never_falls(seed):
    """By the min-max formula: the value at i is the largest, over starts a <= i, of the smallest mean from a to some b >= i."""
    chance = np.random.default_rng(seed)
    x = np.sort(chance.choice(1000, 25, replace=False)) / 10
    y = chance.random(25).round(1)
    expected = [max(min(y[a : b + 1].mean() for b in range(i, 25)) for a in range(i + 1)) for i in range(25)]
    at, values = isotonic(x, y)
    assert (np.diff(at) > 0).all() and (np.diff(values) > 0).all()
    blocks = [x[np.isclose(expected, value)] for value in values]
    assert sum(map(len, blocks)) == 25
    np.testing.assert_allclose(at, [block.mean() for block in blocks])
    shuffled = chance.permutation(25)
    np.testing.assert_allclose(isotonic(x[shuffled], y[shuffled]), (at, values))


def test_points_of_one_place_are_one():
    assert isotonic([1, 1, 2], [0.0, 0.5, 0.75]) == ((1.0, 2.0), (0.25, 0.75))
    assert isotonic([3, 3], [0.25, 0.75]) == ((3.0,), (0.5,))


def test_the_rank_correlation_is_scipys():
    chance = np.random.default_rng(0)
    x, y = chance.integers(6, size=(2, 40))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert spearman([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2], [3, 3]) is None


def test_the_calibration_error_by_hand():
    found = reliability("mean", [0.05, 0.15, None, 0.19, 1.0], [0.25, 0.5, 0.9, 0.1, 0.75])
    assert [(each.low, each.sentences) for each in found.bins] == [(0.0, 1), (0.1, 2), (0.9, 1)]
    assert found.bins[1] == ReliabilityBin(0.1, 2, pytest.approx(0.17), pytest.approx(0.3))
    assert found.calibration_error == pytest.approx((0.2 + 2 * 0.13 + 0.25) / 4)
    assert found.rank_correlation == pytest.approx(stats.spearmanr([0.05, 0.15, 0.19, 1.0], [0.25, 0.5, 0.1, 0.75]).statistic)
    assert found.confidences == [0.05, 0.15, None, 0.19, 1.0]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    config, folder = Config(), tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), folder)
    config.model = tiny_model()
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 2, 1.0, 3
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model, 0), tokenizer, config)


def test_features_are_of_tokens_and_of_words(translator):
    tokenizer = translator.tokenizer
    (ids,) = tokenizer.encode_target(["abc de"])
    (found,) = translator.score(["a"], [ids])
    log_probs, words = np.array(found.token_log_probs), tokenizer.words(ids)
    of_words = [log_probs[words == 0].sum(), log_probs[words == 1].sum(), log_probs[-1]]
    assert len(ids) > 3 and words[-1] == -1
    expected = dict(mean=log_probs.mean(), least=log_probs.min(), words=np.mean(of_words), least_word=min(of_words))
    assert features_of(found, tokenizer) == pytest.approx(expected) and list(expected) == list(FEATURES)
    (blank,) = translator.translate([" "])
    assert features_of(blank, tokenizer) is None


def test_the_feature_that_is_kept_correlates_best():
    chance = np.random.default_rng(1)
    quality = chance.random(50)
    features = [dict.fromkeys(FEATURES, 1.0) | {"least": 0.0, "words": value, "mean": chance.random()} for value in quality]
    best, correlations = best_feature(features, quality)
    assert best == "words" and correlations["words"] == pytest.approx(1) and correlations["least"] is None


def calibration(translator, **changes):
    search = relevant_options(translator.search_config())
    values = dict(feature="mean", at=(-8.0, -4.0, 0.0), values=(0.0, 0.5, 1.0), correlations={"mean": 0.5, "least": None})
    rest = dict(sentences=30, dev="dev", checkpoint="step 3", steps=(3,), weights="raw", search=search)
    return Calibration(**values | rest | changes)


@pytest.mark.slow
def test_translations_of_a_calibrated_search_have_a_confidence(translator, caplog):
    lines = ["a b", "", "h g f e d c b a", "c. D e? A b."]
    plain = translator.translate(lines, nbest=2)
    assert all(each.confidence is None for each in plain)
    calibrated = translator.with_params(translator.params)
    calibrated.calibration, calibrated.origin = calibration(translator), ((3,), "raw")
    confidence_module._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = calibrated.translate(lines, nbest=2)
        for choice in (dict(temperature=1.0), dict(mbr=2)):
            assert all(each.confidence is None for each in calibrated.translate(lines, **choice))
        assert not caplog.messages
        calibrated.translate(lines, beam=3)
        calibrated.translate(lines, beam=3)
        assert len(caplog.messages) == 1 and "with beam=2, not 3" in caplog.messages[0]
    for each, without in zip(found, plain, strict=True):
        assert each._replace(confidence=None, others=()) == without._replace(others=())
        for one in (each, *each.others) if each.tokens else ():
            assert one.confidence == pytest.approx(np.interp(np.mean(one.token_log_probs), (-8, -4, 0), (0, 0.5, 1)))
    assert found[1].confidence is None
    for line, together in zip(lines, found, strict=True):
        (alone,) = calibrated.translate([line], nbest=2)
        assert alone.tokens == together.tokens and alone.confidence == pytest.approx(together.confidence, abs=1e-5)
    assert calibrated.together_with([translator]).calibration is None


def test_what_is_kept_comes_back(translator, tmp_path):
    folder, kept = epath.Path(tmp_path), calibration(translator)
    assert Calibration.read(folder) is None
    kept.write(folder)
    assert Calibration.read(folder) == kept
    assert kept.differences((3,), "raw", translator.search_config()) == ""
    told = kept.differences((4,), "raw", translator.search_config(length_penalty=1.0, tokens=8, nbest=2))
    assert told == "with step 3, not with the checkpoint here, with length_penalty=0.6, not 1.0"
    older = calibration(translator, search={})
    assert older.differences((3,), "raw", SearchOptions()) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"at": (0.0, -1.0, 1.0)},
        {"at": (0.0, 0.0, 1.0)},
        {"values": (0.5, 0.4, 1.0)},
        {"values": (0.0, 0.5, 1.5)},
        {"values": (0.0, 0.5)},
        {"at": (), "values": ()},
        {"at": (0.0, 1.0, float("nan"))},
        {"at": ("x", "y", "z")},
        {"feature": 3},
        {"feature": "other"},
        {"search": []},
        {"steps": 3},
    ],
    ids=str,
)
def test_a_file_that_nobody_wrote_is_refused(translator, tmp_path, changes):
    calibration(translator, **changes).write(epath.Path(tmp_path))
    with pytest.raises(UserError, match=r"confidence\.json: damaged; make it again"):
        Calibration.read(epath.Path(tmp_path))


def test_a_damaged_file_is_told(translator, tmp_path):
    calibration(translator).write(epath.Path(tmp_path))
    file = tmp_path / "confidence.json"
    content = file.read_text(encoding="utf-8")
    assert json.loads(content)["values"] == [0.0, 0.5, 1.0]
    for damaged in (content.replace("0.5", "0.6"), content[:-20], "[1]", '{"checksum": ""}', "[" * 100_000):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match="damaged"):
            Calibration.read(epath.Path(tmp_path))


# The command, and what others make of its file


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run, a copy that is calibrated on twenty sentences, the name of these and that of four."""
    folder = tmp_path_factory.mktemp("calibrated")
    names = SimpleNamespace(plain=folder / "plain", run=folder / "run", dev=str(folder / "dev"), few=str(folder / "few"))
    shutil.copytree(RUN, names.plain)
    config = json.loads((RUN / "config.json").read_text(encoding="utf-8"))
    config["decode"] |= {"beam": 2, "max_length_ratio": 0.5, "max_length_extra": 2}
    (names.plain / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copytree(names.plain, names.run)
    for prefix, pairs in ((names.dev, [*PAIRS, ("", "")]), (names.few, PAIRS[:4])):
        for side, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            Path(f"{prefix}.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    calibrate_run(CalibrationJob(workdir=str(names.run), dev=names.dev))
    return names


def translated(folder, text, **flags):
    translate_lines(job_of(TranslationJob, dict(text=text, output=str(folder / "translated")) | flags))
    return (folder / "translated").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.mark.slow
def test_a_calibrated_run_tells_its_confidence(calibrated, tmp_path, capfd):
    lines = [*SHORT[:3], "", SHORT[4]]
    run = dict(workdir=str(calibrated.run))
    plain = translated(tmp_path, lines, workdir=str(calibrated.plain))
    assert translated(tmp_path, lines, **run) == plain
    told = [json.loads(line) for line in translated(tmp_path, lines, **run, format="json")]
    confidences = [line["translations"][0].get("confidence") for line in told]
    assert confidences[3] is None and all(0 <= each <= 1 for each in confidences if each is not None)
    known = [each for each in confidences if each is not None]
    least = (min(known) + max(known)) / 2  # none is so close to it that another batch would move it across
    below = [each is not None and each < least for each in confidences]
    capfd.readouterr()
    found = translated(tmp_path, lines, **run, min_confidence=least, batch_size=2)
    assert found == ["" if is_below else text for text, is_below in zip(plain, below, strict=True)]
    assert capfd.readouterr().err == f"{sum(below)} of 5 lines below --min_confidence={least:g}: left empty\n"
    found = translated(tmp_path, lines, **run, min_confidence=1.0, below="source", format="json")
    for line, text, confidence in zip(map(json.loads, found), lines, confidences, strict=True):
        withheld = confidence is not None and confidence < 1
        assert line.get("below_min_confidence", False) == withheld
        assert line["translations"][0]["text"] == text or not withheld
    assert "lines below --min_confidence=1: the source is in their place" in capfd.readouterr().err


@pytest.mark.slow
def test_the_report_and_a_copy_have_it(calibrated, tmp_path, caplog):
    files = dict(report=str(tmp_path / "report.json"), html=str(tmp_path / "page.html"))
    (report,) = evaluate_run(EvaluationJob(workdir=str(calibrated.run), test=[calibrated.dev], bootstrap=0, **files))
    found = report.reliability
    assert len(found.confidences) == 21 and found.confidences[-1] is None
    assert sum(each.sentences for each in found.bins) == 20
    assert "rank correlation" in report.as_text() and not caplog.messages
    (told,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert told["reliability"]["calibration_error"] == found.calibration_error
    assert re.search(r'"reliability":\s*{"feature"', (tmp_path / "page.html").read_text(encoding="utf-8"))
    copy_run(str(calibrated.run), str(tmp_path / "copy"), ["best", "750"])
    assert Translator.load(tmp_path / "copy").calibration == Translator.load(calibrated.run).calibration
    best = Translator.load(calibrated.run).origin[0]
    other = next(step for step in (750, 1500) if (step,) != best)
    copy_run(str(calibrated.run), str(tmp_path / "other"), [str(other)])
    assert Translator.load(tmp_path / "other").calibration is None and "calibrate the copy anew" in caplog.text
    other = Translator.load(calibrated.run, str(other))
    other.translate(SHORT[:1])
    assert "not with the checkpoint here" in caplog.text


def test_what_cannot_be_calibrated_is_told(calibrated, tmp_path):
    job = functools.partial(CalibrationJob, workdir=str(calibrated.run), dev=calibrated.dev)
    for search, told in ((dict(temperature=1.0), "--temperature"), (dict(mbr=4), "--mbr")):
        with pytest.raises(UserError, match=f"calibrate is for translations that a search finds; .*{told}"):
            calibrate_run(job(search=search))
        with pytest.raises(UserError, match="--min_confidence is for translations that a search finds"):
            translated(tmp_path, ["a"], workdir=str(calibrated.run), min_confidence=0.5, **search)
    with pytest.raises(UserError, match="4 sentences that are not blank are too few"):
        calibrate_run(job(dev=calibrated.few))
    with pytest.raises(UserError, match="is not calibrated; first transformer-jax calibrate --workdir="):
        translated(tmp_path, ["a"], workdir=str(calibrated.plain), min_confidence=0.5)
    with pytest.raises(UserError, match="--feature=max should be one of mean, least"):
        job(feature="max")
    (calibrated.run / "confidence.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="damaged; make it again"):
        translated(tmp_path, ["a"], workdir=str(calibrated.run))
    calibrate_run(job(feature="least_word"))  # as the message says
    assert Translator.load(calibrated.run).calibration.feature == "least_word"
