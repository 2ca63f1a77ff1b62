"""The examples do what they say, on the public API alone, each on a page."""

import ast
import math
import re
import runpy
from pathlib import Path

import pytest

import transformer_jax

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))

pytestmark = pytest.mark.usefixtures("quick_compilation")


def load(name: str) -> dict:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")


def test_there_are_examples():
    assert len(FILES) == 6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_are_short_and_use_public_names_alone(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = {(node.module, alias.name) for node in imports for alias in node.names if node.module.startswith("transformer_jax")}
    ours |= {("transformer_jax", name) for name in re.findall(r"\btj\.(\w+)", text)}  # `import transformer_jax as tj`
    assert ours and ours <= {("transformer_jax", name) for name in transformer_jax.__all__} | {("transformer_jax.data", "demo")}


def test_attention_is_the_same_in_one_pass_and_by_the_cache():
    found = load("attention")["main"]()
    assert len(found) == 3 and max(found.values()) < 1e-5


def test_the_search_finds_what_was_meant():
    correct = load("spelling")["correct"]
    found = correct(["elephsnt", "wster", "dog"])
    assert [words[0][0] for words in found] == ["elephant", "water", "dog"]
    for words in found:
        log_probs = [log_prob for _, log_prob in words]
        assert log_probs == sorted(log_probs, reverse=True)


def test_the_language_model_generates_as_it_reads():
    lines = load("language_model")["main"](steps=2, rows=8)
    assert len(lines) == 4 and any(lines)


@pytest.mark.slow
def test_the_classifier_learns_what_it_means():
    assert load("classifier")["main"](steps=60, size=2000) > 0.6


def test_a_loop_of_ones_own_reads_on_where_it_stood(capsys):
    losses = load("own_loop")["main"](steps=20, text="demo:dev")
    assert len(losses) == 20 and losses[-1] < losses[0] - 0.5 and math.isfinite(losses[-1])
    first, second = re.findall(r"epoch (\d+), (\d+) pairs", capsys.readouterr().out)
    assert (0, 0) < tuple(map(int, first)) < tuple(map(int, second))


def test_rewriting_names_what_it_stands_for(tmp_path):
    load("rewriting")["main"](str(tmp_path), {"train": 200, "dev": 20})
    pairs = [line.split("\t") for line in (tmp_path / "train.tsv").read_text(encoding="utf-8").splitlines()]
    assert len(pairs) == 200 and all(len(pair) == 2 for pair in pairs)
    changed = [(source, target) for source, target in pairs if source != target]
    assert 20 < len(changed) < 100
    for source, target in changed:
        assert " it " in source and len(target.split()) == len(source.split()) + 1
