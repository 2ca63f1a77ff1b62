"""The commands of the README and the guides, run as they stand on twenty lines of text; and the numbers of the TPU page.

A block of commands that needs a network, an accelerator or minutes has a line before it that says so and does not show on the
page: `<!-- not run: REASON -->`. Every other one is run, in a folder that has what the pages speak of, with a tiny run in place
of the demo's.
"""

import importlib.util
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest

import transformer_jax
from transformer_jax.cli import program
from transformer_jax.cli.config_files import load_config
from transformer_jax.config import validate
from transformer_jax.data import demo
from transformer_jax.data.batch_shapes import fit_packed_shape, fit_shapes
from transformer_jax.errors import UserError
from transformer_jax.training.across_devices import Parallel

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "guides").glob("*.md"))]
RUN = ROOT / "tests" / "runs" / "9f7c919"
# Test sets of a thousand sentences, and what is scored here instead; a line with more tokens than the tiny run takes.
INSTEAD = {name: "data/test" for name in ("demo:test", "demo:long", "demo:dev")} | {
    "The elephant did not cross the street because it was too tired.": "The dog is hungry."
}
# What makes the training of a recipe one of seconds.
SMALL = (
    "tokenizer.vocab_size=340 batch.tokens=256 batch.shapes=1 batch.row_multiple=2 batch.max_length=60 model.num_layers=1 "
    "model.width=16 model.feed_forward_width=32 model.heads=2 train.steps=2 train.evaluate_every=2 train.checkpoint_every=2 "
    "decode.beam=1 decode.max_length_ratio=0.5 decode.max_length_extra=2"
)
OPTIONAL = "ctranslate2"  # a package that not every environment has: commands with this word are passed over without it


class Block(NamedTuple):
    """Some lines of a page between two fences."""

    text: str
    reason: str  # why they are not run; empty: they are


def blocks_of(page: Path) -> list[Block]:
    form = r"^(?:<!-- not run: ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$"
    found = re.findall(form, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(text, reason) for reason, language, text in found if not language]


def commands_of(block: Block) -> list[list[str]]:
    """What follows `python` in each line that calls it, `<` and `>` with a file included, without a comment."""
    lines = re.sub(r"\\\n\s*", " ", block.text).replace("transformer-jax ", "python -m transformer_jax ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if re.match(r"(\.venv/bin/)?python ", line)]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The folder in which a page's commands are given."""
    for name in ("configs", "tests", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("demo", "other"):
        shutil.copytree(RUN, tmp_path / "runs" / name)
        config = json.loads((RUN / "config.json").read_text(encoding="utf-8"))
        config["decode"] |= {"max_length_ratio": 0.5, "max_length_extra": 2}  # it would go on to the limit
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    pairs = [(example.source, example.target) for example in demo.generate("train", 20)]
    (tmp_path / "data").mkdir()
    for prefix in ("data/train", "data/dev", "data/test", "mine", "dev"):
        for side, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            (tmp_path / f"{prefix}.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    texts = {
        "english.txt": "The dog is hungry.\nYesterday the old teacher bought a red book.\n",
        "german.txt": "Der Hund ist hungrig.\nGestern kaufte der alte Lehrer ein rotes Buch.\n",
        "terms.tsv": "hungry\tdurstig\n",
        "beginnings.txt": "Der Hund war\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
    return tmp_path


def run(words: list[str], monkeypatch) -> int | str | None:
    """The exit code of a Python command in this process."""
    words = [INSTEAD.get(word, word) for word in words]
    stdin = Path(words[words.index("<") + 1]).read_bytes() if "<" in words else b""
    ends = [index for index, word in enumerate(words) if word in ("<", ">")]
    words = words[: ends[0]] if ends else words
    if any(word.startswith("--config=") and not word.endswith(".json") for word in words):
        words += [f"--config.{item}" for item in SMALL.split()]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin), isatty=lambda: False))
        is_module = words[0] == "-m"
        patch.setattr(sys, "argv", words[1:] if is_module else words)
        with pytest.raises(SystemExit) as ended:
            if is_module:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return ended.value.code


RUNNABLE = [page for page in PAGES if any(commands_of(block) for block in blocks_of(page) if not block.reason)]
# Their commands take the longest, and what they do has quick tests of its own: `make test-slow` runs the pages.
SLOW = {"scoring", "fine_tuning", "attention", "candidates", "translating"}


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package:RuntimeWarning")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] * (page.stem in SLOW)) for page in RUNNABLE],
)
def test_the_commands_of_a_page_run(page, here, monkeypatch, capfd):
    for block in blocks_of(page):
        for words in [] if block.reason else commands_of(block):
            if any(OPTIONAL in word for word in words) and importlib.util.find_spec(OPTIONAL) is None:
                continue
            code = run(words, monkeypatch)
            captured = capfd.readouterr()
            assert code == 0, (words, captured.err)
            if {"translate.py", "translate"} & set(words) and "<" in words and ">" not in words and "--nbest=2" not in words:
                assert captured.out.count("\n") == 2, (words, captured.out)


def test_no_page_that_can_be_run_is_left_out():
    names = {page.stem for page in RUNNABLE}
    assert names >= {"README", "translating", "scoring", "terminology", "attention", "exchanging_models"}


def test_every_reason_belongs_to_a_block():
    for page in PAGES:
        written = page.read_text(encoding="utf-8").count("<!-- not run:")
        assert written == len([block for block in blocks_of(page) if block.reason]), page


def test_the_example_of_the_readme_is_python_that_runs(here, capsys):
    code = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3


def small_recipe(name: str):
    return load_config(name, [*SMALL.split(), "batch.packed_length=60", "data.train=data/train", "data.dev=data/dev"])


@pytest.mark.slow
def test_the_python_of_the_guide_runs(here, monkeypatch, capsys):
    """All of it, in its order, as in one notebook; a block with an output below it prints something, or trains."""
    monkeypatch.setattr(transformer_jax, "recipe", small_recipe)
    text = (DOCS / "guides" / "from_python.md").read_text(encoding="utf-8")
    for name, small in {**INSTEAD, "evaluate_every = 40": "evaluate_every = 1"}.items():
        text = text.replace(name, small)
    blocks = re.findall(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL)
    names = {}
    for code, output in blocks:
        exec(compile(code, "from_python.md", "exec"), names)
        printed = capsys.readouterr().out
        assert bool(output) == bool(printed) or "train(" in code, code
    assert len(blocks) > 5 and Path("attention.html").exists() and Path("runs/mine/checkpoints").is_dir()


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 110 and len(text.split()) <= 1000
    assert not [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (ROOT / link).exists()]


# The table of the TPU page

ROW = re.compile(r"^\| (\d+) \| (packed|bucketed) \| (\d+) \| (\d+) \| (\d+) \| ([\d,]+) \|$", re.MULTILINE)
BATCHES = ROW.findall((DOCS / "guides" / "tpus.md").read_text(encoding="utf-8"))


def shapes_of(config):
    """The shapes of a corpus with short pairs and long ones, up to the longest that the recipe keeps."""
    validate(config)
    lengths = np.array([*range(8, 64), *range(64, 257, 8)])
    if config.batch.kind == "packed":
        return [fit_packed_shape(lengths, lengths, config.batch)]
    return fit_shapes(lengths, lengths, config.batch)


def recipe(kind: str, multiple: str, tokens: str, name: str = "transformer_base"):
    overrides = [f"batch.kind={kind}", f"batch.row_multiple={multiple}", f"batch.tokens={tokens}"]
    return load_config(f"{ROOT}/configs/{name}.py", overrides)


@pytest.mark.parametrize(("chips", "kind", "multiple", "tokens", "rows", "positions"), BATCHES)
def test_the_batches_of_the_tpu_page_divide(chips, kind, multiple, tokens, rows, positions):
    config = recipe(kind, multiple, tokens)
    assert config.batch == recipe(kind, multiple, tokens, "transformer_big").batch
    Parallel(config, jax.devices()[:1] * int(chips))  # raises UserError where the rows do not divide
    shapes = shapes_of(config)
    assert all(shape.rows % int(chips) == 0 for shape in shapes)
    longest = shapes[-1]
    assert (longest.rows, max(longest[1:])) == (int(rows), 256)
    assert longest.rows * 256 == int(positions.replace(",", ""))


def test_the_tpu_page_has_batches_of_both_kinds_for_8_16_and_128_chips():
    kinds = {chips: {row[1] for row in BATCHES if row[0] == chips} for chips in ("8", "16", "128")}
    assert all(kinds[chips] == {"packed", "bucketed"} for chips in kinds)


def test_the_recipe_itself_fills_less_as_the_tpu_page_says():
    (shape,) = shapes_of(recipe("packed", "64", "25600"))
    assert shape.rows * 256 == 16_384
    with pytest.raises(UserError, match="at least row_multiple \\* packed_length = 32768"):
        shapes_of(recipe("packed", "128", "25600"))


def test_the_chip_hours_of_the_tpu_page_follow_from_the_compilers_count():
    text = (DOCS / "guides" / "tpus.md").read_text(encoding="utf-8")
    counted = re.search(
        r"([\d,]+) GFLOP a chip for an update of base on eight v5e and ([\d,]+) for one of big", " ".join(text.split())
    )
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [name for name, *_ in rows] == ["transformer_base", "transformer_big"]
    for (name, updates, whole, part), gigaflop in zip(rows, counted.groups(), strict=True):
        assert load_config(name, []).train.steps == int(updates.replace(",", ""))
        hours = int(updates.replace(",", "")) * float(gigaflop.replace(",", "")) * 1e9 * 8 / (197e12 * 3600)
        assert [f"{hours:.1f}", f"{hours / 0.4:.1f}"] == [whole, part]


def test_the_flags_of_the_tpus_compiler_reach_the_training_through_three_shells(tmp_path):
    """On the user's machine, on the host and in tmux, each of which is a function here that shows or runs what it is given."""
    blocks = [block.text for block in blocks_of(DOCS / "guides" / "tpus.md")]
    (training,) = (block for block in blocks if "tmux new-session" in block)
    (flags,) = (block.strip("\n") for block in blocks if "LIBTPU_INIT_ARGS" in block)
    start = "    .venv/bin/python train.py"
    assert training.count(start) == 1
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/bash\necho "$LIBTPU_INIT_ARGS" "$@"\n')
    python.chmod(0o755)
    stubs = """
gcloud() { for word in "$@"; do case $word in --command=*) (eval "${word#--command=}") ;; esac; done; }
cd() { :; }
tmux() { bash -c "${@: -1}"; }
tail() { :; }
BUCKET=gs://bucket
"""
    done = subprocess.run(
        ["bash", "-c", stubs + training.replace(start, f"{flags}\n{start}")], cwd=tmp_path, capture_output=True, text=True
    )
    seen = (tmp_path / "train.log").read_text().split()
    assert seen[0] == "--xla_tpu_enable_sparse_core_collective_offload_all_reduce=true", done.stderr
    assert seen[1:4] == ["--xla_jf_crs_combiner_threshold_in_bytes=8000000", "train.py", "--config=transformer_base"]
    assert "--workdir=gs://bucket/base" in seen and not done.stderr
