"""A run folder that an earlier commit wrote translates, evaluates and goes on training as it did then (runs/README.md)."""

import json
import shutil
from pathlib import Path

import pytest

import transformer_jax
from transformer_jax.inference.alignment import pharaoh
from transformer_jax.runs.run_folder import Run

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")

RUN = Path(__file__).parent / "runs" / "9f7c919"
EXPECTED = json.loads(RUN.with_suffix(".json").read_text(encoding="utf-8"))


def check(translations, expected) -> None:
    assert [translation.text for translation in translations] == [line["text"] for line in expected]
    scores = [line["score"] for line in expected]
    assert [translation.score for translation in translations] == pytest.approx(scores, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("beam", [1, 4])
def test_translates_to_the_same_lines(beam):
    translator = transformer_jax.Translator.load(RUN)
    translations = translator.translate(EXPECTED["lines"], beam=beam, align=True)
    expected = EXPECTED[f"beam {beam}"]
    check(translations, expected)
    assert [pharaoh(translation.alignment) for translation in translations] == [line["alignment"] for line in expected]


def test_averages_the_same_checkpoints():
    translator = transformer_jax.Translator.load(RUN, "average:2")
    check(translator.translate(EXPECTED["lines"], beam=1), EXPECTED["average:2"])


def test_evaluates_to_the_same_scores():
    pairs = transformer_jax.read_pairs("demo:dev", "en", "de")
    source, references = (lines[:50] for lines in pairs)
    translator = transformer_jax.Translator.load(RUN)
    report = transformer_jax.evaluate(translator, source, references, test="dev", checkpoint="latest", beam=1)
    assert {score.metric: score.value for score in report.scores} == pytest.approx(EXPECTED["dev[:50]"])


def test_goes_on_training_with_the_same_losses(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(RUN, folder)
    before = (folder / "metrics.jsonl").read_text().splitlines()
    config = Run(folder).config
    config.train.steps, config.train.log_every = 1510, 5
    transformer_jax.train(config, str(folder))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before
    for line, numbers in zip(map(json.loads, lines[len(before) :]), EXPECTED["steps 1501 to 1510"], strict=True):
        assert line["split"] == numbers["split"]
        names = numbers.keys() - {"split"}
        assert [line[name] for name in names] == pytest.approx([numbers[name] for name in names], rel=1e-4)
