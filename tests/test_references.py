"""The generated pages of the reference: every flag and every key is on its page, with a meaning."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from transformer_jax.cli.subcommands import COMMANDS
from transformer_jax.cli.translation_formats import COLUMNS, TranslatedLine, as_json
from transformer_jax.config import Config
from transformer_jax.config.keys import key_values
from transformer_jax.evaluation.analysis import Analysis, Group, Sentence
from transformer_jax.evaluation.checks import Checks, Copied, ShortLines
from transformer_jax.evaluation.metrics import Score
from transformer_jax.evaluation.reliability import Reliability, ReliabilityBin
from transformer_jax.evaluation.report import Report
from transformer_jax.evaluation.robustness import Robustness
from transformer_jax.evaluation.significance import Comparison, Difference
from transformer_jax.recipes import first_lines
from transformer_jax.runs.calibration import Calibration
from transformer_jax.runs.progress import TrainProgress

DOCS = Path(__file__).parents[1] / "docs"
RUN = Path(__file__).parent / "runs" / "9f7c919"
ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def references():
    """docs/references.py, as mkdocs imports it."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("references")
    finally:
        sys.path.remove(str(DOCS))


def rows_of(text: str) -> list[list[str]]:
    return [re.split(r" (?<!\\)\| ", row) for row in ROW.findall(text)]


def test_every_flag_of_every_command_has_a_meaning(references):
    for command in COMMANDS:
        page = re.search(rf"^## transformer-jax {command} .*?(?=^## |\Z)", references.commands(), re.MULTILINE | re.DOTALL)[0]
        meanings = {row[0].strip("`").split()[0]: row[1] for row in rows_of(page)}
        for action in references.parser_of(command)._actions:
            name = action.option_strings[0] if action.option_strings else action.metavar or action.dest.upper()
            if name != "-h":
                assert re.search("[a-z]", meanings[name]), (command, name)


def test_every_key_has_a_meaning_values_and_its_default(references):
    rows = {re.search(r'id="([\w.]+)"', row[0])[1]: row for row in rows_of(references.keys()) if "id=" in row[0]}
    defaults = key_values(Config())
    assert rows.keys() == defaults.keys()
    for key, (name, default, meaning, values, resuming) in rows.items():
        assert name.endswith(f"`{key}`") and re.search(r"[a-z]{2}", meaning) and values, key
        assert default.strip("`").lower() in (str(defaults[key]).lower(), "empty"), key
        assert resuming.startswith(("stays", "may ")), key


def test_comments_of_fields_are_found_wherever_they_stand(references):
    assert references.key_meaning("train.steps") == "updates in all"  # at the end of the line
    assert references.key_meaning("data.cache_dir").startswith("where tokenised corpora are kept")  # inside parentheses
    assert references.key_meaning("model.key_width").startswith("K, of one head's")  # above it
    assert references.key_meaning("tokenizer.vocab_size").startswith("number of pieces")  # above the first
    assert references.key_meaning("tokenizer.samples").startswith("0: the best")  # not what is said of it and the next


def test_limits_and_what_may_change_are_told(references):
    rows = {row[0].rpartition(">")[2].strip("`"): row for row in rows_of(references.keys())}
    assert rows["model.norm"][3] == "`post`, `pre`" and "only for model.family=transformer" in rows["model.norm"][2]
    assert rows["tokenizer.samples"][3:] == [
        "a whole number, 0 or more, at most 1,000",
        "stays; may differ with train.init_from",
    ]
    assert rows["model.positions"][4] == "stays; may differ with train.init_from, unless `learned`"
    assert "(only for optimizer.name=adam, muon, schedule_free)" in rows["optimizer.epsilon"][2]
    assert rows["train.steps"][4] == "may become larger" and rows["train.log_every"][4] == "may change"


def test_every_recipe_has_a_row_with_hardware_and_a_score_and_its_docstring(references):
    page = references.recipes()
    rows = {re.match(r"\[`(\w+)`", row[0])[1]: row for row in rows_of(page) if row[0].startswith("[")}
    assert list(rows) == list(first_lines())
    for name, first_line in first_lines().items():
        assert f"## {name} {{#{name}}}\n\n{first_line}" in page
        *_, time, score = rows[name]
        assert name == "own_text" or (time and score and ("minute" in time or "not yet trained" in score)), name


def test_pages_are_filled_and_leave_no_mark(references):
    pages = [page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md"))]
    marks = re.findall(r"<!-- made by (.*) -->", "".join(pages))
    assert sorted(marks) == sorted(f"docs/references.py: {name}" for name in references.MAKERS)
    filled = "".join(map(references.on_page_markdown, pages))
    assert "made by" not in filled and "Not filled" not in filled
    assert references.on_page_markdown("Nothing to fill.") == "Nothing to fill."


def test_every_example_is_shown_with_its_text_and_its_code(references):
    page = references.examples()
    for file in (DOCS.parent / "examples").glob("*.py"):
        text, _, code = file.read_text(encoding="utf-8").removeprefix('"""').partition('"""')
        assert f"## {file.stem}\n" in page and text.strip() in page and f"```python\n{code.strip()}\n```" in page


def test_the_page_of_file_formats_has_every_key_and_column():
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    told = {name for code in re.findall(r"`([^`\n]+)`", page) for name in re.findall(r"\w+", code)}
    of_reports = (Report, Score, Comparison, Difference, Analysis, Group, Sentence, Checks, Copied, ShortLines, Robustness)
    of_reports += (Reliability, ReliabilityBin, Calibration)
    names = {field.name for cls in (*of_reports, TrainProgress) for field in dataclasses.fields(cls)}
    metrics = (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    names |= {key for line in metrics for key in json.loads(line)} | {"time", "bleu", "ema_decay"} | set(COLUMNS)
    one = SimpleNamespace(text="", score=0, log_prob=0, tokens=[], token_log_probs=[], others=(), confidence=0.5, read="b")
    line = TranslatedLine(1, "a", one, list, below_min_confidence=True)
    written = json.loads(as_json(line))
    names |= written.keys() | written["translations"][0].keys()
    assert not names - told
    assert not [path.name for path in RUN.iterdir() if f"`{path.name}" not in page]


def test_the_examples_of_file_formats_are_true():
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    tokenizer = (RUN / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
    assert tokenizer.strip() in page
    lines = re.findall(r'^\{"step".*$', page, re.MULTILINE)
    assert lines and not set(lines) - set((RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
