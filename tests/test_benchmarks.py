"""Every script of benchmarks/ as its users call it, at a size of seconds; and the commands of the pages are commands."""

import ast
import copy
import functools
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from helpers import FAMILIES, tiny_model, write_config

from transformer_jax.cli.config_files import ConfigFile
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.subcommands import COMMANDS
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.cli.workflow import make_parser
from transformer_jax.config import Config, override
from transformer_jax.data import demo
from transformer_jax.errors import UserError
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SMALL = "--config={config}"
TRAIN_SPEED = (
    "--precision float32 --laps=1 --vocab_size=400 --config.model.num_layers=1 "
    "--config.model.width=32 --config.batch.shapes=1 --config.batch.tokens=512 --config.batch.max_length=64"
)
# Modules of the folder that are no commands of their own, and one that growth.py starts for each of its measurements.
PARTS = {
    "accelerator_equality",
    "accelerator_page",
    "decode_peers",
    "growth_measure",
    "outputs",
    "serve_client",
    "serve_peer",
    "tpu_cycles",
    "train_ours",
    "train_torch",
    "train_work",
}


class Case(NamedTuple):
    """A command, and what it must print and write."""

    command: str  # its arguments; `config`, `corpus`, `dev`, `run` and `out` in braces are of the fixture `here`
    rows: Sequence[tuple[str, ...]] | None = ()  # the first cells of all rows of its tables, in their order; None: by chance
    says: Sequence[str] = ()  # what must be in its output
    files: Sequence[str] = ()  # what it must have written below `out`
    needs: tuple[str, ...] = ()  # packages


CASES = {
    "accelerator": Case(
        "deterministic --model=tiny --data=random:8x8 --vocab_size=400 --steps=2 --config.model.num_layers=1",
        [("--xla_backend_optimization_level=0",)],
        ["| yes |"],
    ),
    "accelerator, equality": Case(
        "equality",
        [(f"{family}, one step",) for family in ("Transformer", "LSTM", "LSTM + attention") for _ in range(2)]
        + [(f"search, beam {beam}",) for beam in "1144"],
    ),
    "architectures": Case(
        SMALL + " --output={out} --only Transformer --test {dev}",
        [("Transformer",)],
        ["| BLEU ", "8: ", ", 256: "],
        ["table.md", "bleu_by_length.png", "learning.png", "speed.png", "transformer/metrics.jsonl"],
        ("matplotlib",),
    ),
    "curve": Case("--workdir={run} --output={out}/curve.png", [("2",), ("4",)], ["target tokens/s"], ["curve.png"]),
    "decode_speed": Case(
        "--workdir={run} --test {dev} --beam 1 2 --repeats=1 --tune=2",
        2
        * [
            ("dev", beam, system)
            for beam in "12"
            for system in ("ours", "ours, bfloat16", "CTranslate2", "CTranslate2, int8", "Hugging Face")
        ],
        ["ours compiled"],
        needs=("ctranslate2", "transformers", "torch"),
    ),
    "decode_speed, of an accelerator": Case(
        "--workdir={run} --test {dev} --device accelerator --sentences=3 --beam 1 --repeats=1 --alone=1",
        2 * [("dev", "1", "ours"), ("dev", "1", "ours, bfloat16")],
        ["CTranslate2, float16 is left out: CTranslate2 cannot compute in float16 on cuda"],
        needs=("ctranslate2",),
    ),
    "decode_profile": Case(
        "--workdir={run} --test {dev} --beam 2 --sentences=4",
        rows=None,  # by how long each took
        says=["beam 2: 4 pieces in ", "product with the vocabulary", "cache rows that move", "% of them"],
    ),
    "decode_speed, ours alone": Case(
        "--workdir={run} --test {dev} --sentences=3 --beam 1 --repeats=1 --only ours --alone=2",
        2 * [("dev", "1", "ours")],
        ["ours compiled"],
    ),
    "elephant": Case("--workdir={run}", says=["600 sentences", '"it", encoder', "the German pronoun, cross"]),
    "enlarge": Case("{corpus} 2 {out}/big", files=["big.en", "big.de"]),
    "exchange": Case(
        "--workdir={run} --test {dev} --beam 2",
        says=["8 of 8 sources have the same tokens", "arrays have the same bits", "our exporter, beam 2: "],
        needs=("torch", "transformers", "ctranslate2"),
    ),
    "faults": Case(
        "--kills=1 --output={out}/faults --config.data.train={corpus} --config.data.dev={dev} "
        "--config.tokenizer.vocab_size=400 --config.batch.shapes=1 --config.model.family=lstm --config.model.attention=none "
        "--config.train.steps=8 --config.train.checkpoint_every=2 --config.train.samples=0",
        rows=None,  # of the moments that were hit
        says=["1 times in ", "trainings, 0 differences"],
        files=["faults/straight/metrics.jsonl"],
    ),
    "filters": Case(
        "--corpus={corpus} --held_out={dev} --filters script numbers long_words:8 --examples=2 --repeats=1",
        [("`script`",), ("`numbers`",), ("`long_words:8`",), ("`held_out`",), ("reading, without filters",)],
        ["300 pairs"],
    ),
    "growth": Case(
        "--of batch --sizes 32 64 --output={out}",
        [(kind, size) for size in ("32", "64") for kind in ("Transformer", "LSTM + attention")]
        + [(kind, name) for kind in ("Transformer", "LSTM + attention") for name in ("slope", "slope, upper half")],
        files=["growth_batch.png"],
        needs=("matplotlib",),
    ),
    "growth of the corpus": Case(
        "--of corpus --sizes 500 1000 --corpus={corpus} --vocab_size=400 --output={out}",
        [("", "500"), ("", "1,000"), ("", "slope"), ("", "slope, upper half")],
        files=["growth_corpus.png"],
        needs=("matplotlib",),
    ),
    "growth of a store": Case(
        "--of store --sizes 1000 20000 --output={out}",
        [(kind, size) for size in ("1,000", "20,000") for kind in ("bucketed", "packed")]
        + [(kind, name) for kind in ("bucketed", "packed") for name in ("slope", "slope, upper half")],
        files=["growth_store.png"],
        needs=("matplotlib",),
    ),
    "growth of devices": Case(
        "--of devices --sizes 1 2 --output={out}",
        [(mode, size) for size in ("1", "2") for mode in ("pmap", "sharded")]
        + [(mode, name) for mode in ("pmap", "sharded") for name in ("slope", "slope, upper half")],
        files=["growth_devices.png"],
        needs=("matplotlib",),
    ),
    "input_speed": Case(
        "--corpus={corpus} --vocab_size=400 --tokens=512 --max_length=64 --packed_length=64 --repeats=1",
        [("bucketed",), ("packed",)],
        ["300 pairs", "pairs/s"],
    ),
    "invariance": Case("--workdir={run} --test {dev} --batch_size 4 --beam 2", [("2", "4")], ["8 lines, 1 devices"]),
    "leaderboard": Case(
        "news --data={folder} --output={out}/news --seeds=2 --config.tokenizer.vocab_size=400 --config.batch.shapes=1 "
        "--config.batch.max_length=64 --config.model.num_layers=1 --config.model.width=16 --config.model.feed_forward_width=16 "
        "--config.decode.beam=1 --config.decode.max_length_ratio=0.2 --config.train.steps=2 --config.train.evaluate_every=2",
        [("0",), ("1",)],
        ["dev: mean ", " of 2 seeds"],
        ["news/0/metrics.jsonl", "news/1/leaderboard.json"],
    ),
    "markup": Case("--workdir={run}", says=["of 1000 sentences are translated as the reference", "most often wrong: "]),
    "one_sentence": Case(
        "--workdir={run} --repeats=1",
        [
            ("Python",),
            ("JAX is imported",),
            ("its devices are found",),
            ("the program's other modules are imported",),
            ("the checkpoint and the tokenizer are read",),
            ("the search",),
            ("... traced",),
            ("... lowered",),
            ("... compiled, or read from the cache",),
            ("... run",),
            ("until the end of the process",),
        ],
        ["translate.py: ", " s with a full one"],
    ),
    "overhead": Case(SMALL + " --rounds=1", says=["plain: ", "checkpoint: ", "logging every 2: "]),
    "parallel_sequential": Case(
        "--lengths 8 --positions=64 --kept={out}/kept.json --output={out}/picture.png --models LSTM Transformer "
        "--config.model.width=16",
        [(task, model, "8", "8") for task in ("training", "decoding") for model in ("LSTM", "Transformer")],
        ["LSTM: "],
        ["kept.json", "picture.png"],
        needs=("libtpu", "matplotlib"),
    ),
    "protected": Case(
        "--workdir={run} --test {dev} --show=1", [("as text",), ("--protect",)], ["100.0%", "lines without spans: "]
    ),
    "preparation": Case(SMALL, [("new text",), ("prepared",), ("going on late in an epoch",)]),
    "serve_load": Case(
        "--workdir={run} --text={dev}.en --clients 1 4 --sentences 1 --seconds=0.5 --requests=40 --beam=2",
        [("ours", "1", "1"), ("ours", "4", "1")],
        [
            "offline: ",
            "40 requests in ",
            ", 0 answers differ from offline",
            "the server ended with code 0",
            "ready again after ",
        ],
        needs=("starlette",),
    ),
    "recomputation": Case(
        SMALL + " --rows=8 --length=8 --pieces=400 --repeats=1 --remat none layers products",
        [("none",), ("layers",), ("products",)],
    ),
    "scaling": Case(
        "--chips 8 512/2 --modes pmap",
        [
            (kind, model, "pmap", *size)
            for kind in ("v5e", "v5p")
            for model in ("base", "big")
            for size in (("8", "1"), ("512", "2"))
        ],
        ["v5e: 1.50 GHz"],
    ),
    "startup": Case(SMALL + " --repeats=1", [("at first",), ("with what is kept",)]),
    "tpu_lowering": Case(
        SMALL + " --shapes 8x8x8 --pieces=400 --keep={out}/kept",
        [("pmap", "8x8x8", "400"), ("sharded", "8x8x8", "400")],
        files=["kept/config-pmap-8x8x8-400.txt"],
        needs=("libtpu",),
    ),
    "train_speed": Case(
        TRAIN_SPEED + " --data random:8x8 --models tiny lstm",
        [("random:8x8", "tiny", "float32", system) for system in ("ours", "PyTorch", "PyTorch compiled")]
        + [("random:8x8", "lstm", "float32", system) for system in ("ours", "PyTorch")],
        ["* random:8x8, tiny, float32: the loss of one batch"],
        needs=("torch",),
    ),
    "train_speed, ours alone": Case(
        TRAIN_SPEED + " --data random:8x8 {corpus} --models tiny --systems ours",
        [("random:8x8", "tiny", "float32", "ours"), ("here/train", "tiny", "float32", "ours")],
    ),
}


def script_of(name: str) -> str:
    """Of a case that has the name of its script, or also says what is different about it."""
    return re.split("[, ]", name)[0]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> SimpleNamespace:
    """A small corpus, a config for it, and what it trains: sentences of the demo grammar, as those of elephant.py."""
    folder = tmp_path_factory.mktemp("benchmarks") / "here"
    folder.mkdir()
    examples = demo.generate("train", 300)
    shortest = sorted(examples, key=lambda example: len(example.source))[:8]  # of few lengths: each is a program to compile
    for name, chosen in {"train": examples, "dev": shortest}.items():
        for language, side in (("en", "source"), ("de", "target")):
            text = "".join(f"{getattr(example, side)}\n" for example in chosen)
            (folder / f"{name}.{language}").write_text(text, encoding="utf-8")
    config = Config()
    config.data.train, config.data.dev = f"{folder}/train", f"{folder}/dev"
    config.tokenizer.vocab_size = 400
    config.batch.tokens, config.batch.shapes, config.batch.row_multiple, config.batch.max_length = 512, 1, 8, 64
    config.model = tiny_model()
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 1, 0.2, 2
    config.train.steps, config.train.samples = 4, 0
    config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 2
    write_config(folder / "config.py", config)
    train(config, str(folder / "run"))
    names = {name: str(folder / name) for name in ("dev", "run")}
    return SimpleNamespace(folder=folder, corpus=config.data.train, config=f"{folder}/config.py", **names)


def call(script: str, arguments: str, folder: Path, code: int = 0) -> SimpleNamespace:
    """The script in a process of its own, in another folder. What XLA optimises is not looked at here, and takes its time."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), *shlex.split(arguments)],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return SimpleNamespace(out=done.stdout, err=done.stderr)


def cells(text: str) -> list[list[str]]:
    """The rows of Markdown tables, without their heads."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    rules = [number for number, row in enumerate(rows) if set("".join(row)) <= set("-: ")]
    return [row for number, row in enumerate(rows) if number not in rules and number + 1 not in rules]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_script_does_what_it_says(name, here, tmp_path):
    case = CASES[name]
    missing = [package for package in case.needs if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    done = call(script_of(name), case.command.format(out=tmp_path, **vars(here)), tmp_path)
    rows = cells(done.out)
    if case.rows is not None:
        assert [tuple(row[: len(start)]) for row, start in zip(rows, case.rows, strict=False)] == list(case.rows), done.out
        assert len(rows) == len(case.rows), done.out
    assert not [row for row in rows if "nan" in row]
    assert not [text for text in case.says if text not in done.out], done.out
    assert not [file for file in case.files if not (tmp_path / file).stat().st_size]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the compiler for TPUs (jax[tpu])")
@pytest.mark.parametrize("family", ["Transformer", "LSTM with input feeding"])
@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_in_float32_the_program_of_a_tpu_rounds_no_operand_unless_a_precision_is_set(tmp_path, monkeypatch, family, precision):
    config = Config()
    config.batch.row_multiple, config.batch.tokens, config.batch.max_length = 8, 512, 64
    config.model = tiny_model(compute_dtype="float32", **FAMILIES[family])
    write_config(tmp_path / "config.py", config)
    if precision:
        monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", precision)
    (row,) = cells(call("tpu_lowering", "--config=config.py --modes pmap --shapes 8x8x8 --pieces=400", tmp_path).out)
    exact, total = map(int, row[-1].split(" of "))
    assert exact == (0 if precision else total) and total > 10


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--kinds v5e", "--kinds v5p --modes pmap"])
def test_the_page_has_the_rows_that_the_arithmetic_of_scaling_gives(tmp_path, flags):
    page = (ROOT / "docs" / "benchmarks" / "tpu_lowering.md").read_text(encoding="utf-8")
    rows = cells(call("scaling", flags, tmp_path).out)
    assert len(rows) == (20 if "v5e" in flags else 10)
    assert not [row for row in rows if row not in cells(page)]


def test_every_script_has_a_case_here_a_command_on_a_page_and_a_line_in_the_readme():
    scripts = {script_of(name) for name in CASES}
    assert {file.stem for file in BENCHMARKS.glob("*.py")} == scripts | PARTS
    assert {command.script for command in WRITTEN if command.file in FIGURES} >= {f"benchmarks/{name}.py" for name in scripts}
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)\.py` \|", readme, re.MULTILINE)) == scripts
    linked = re.findall(r"\]\(([^)]+)\)", readme)
    assert linked and not [page for page in linked if not (BENCHMARKS / page).is_file()]


# The commands of the pages and docstrings


class Command(NamedTuple):
    """What a page tells to type."""

    file: Path
    script: str  # from the project's root, or a subcommand of `transformer-jax`
    arguments: list[str]


def commands_of(file: Path) -> Iterator[Command]:
    """Every `python SCRIPT.py ARGUMENT...` and `transformer-jax COMMAND ARGUMENT...`, up to a comment, a redirection or the end
    of the code; with variables' values."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", " ", file.read_text(encoding="utf-8")).splitlines():
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        variables |= dict(re.findall(r'^([A-Z]+)="(.*)"$', line))
        for script, rest in re.findall(r"\b(?:python (?=[\w/]+\.py)|transformer-jax (?=[a-z]))([\w/]+(?:\.py)?)\b(.*)", line):
            rest = re.split(r"`|\)|   ", rest)[0]  # a remark is some spaces away
            if rest.count('"') % 2:  # the end of a quotation that begins before the command
                rest = rest[: rest.rindex('"')]
            words = shlex.shlex(rest, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            yield Command(file, script, list(itertools.takewhile(lambda word: word[0] not in "<>|&;", words)))


FIGURES = sorted((ROOT / "docs" / "benchmarks").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *BENCHMARKS.glob("*.py"),
    *(ROOT / "transformer_jax" / "recipes").glob("*.py"),
]
WRITTEN = [command for file in PAGES for command in commands_of(file)]
JOBS = {job.__name__: job for job in (EvaluationJob, TranslationJob)}
TYPES = {"int": int, "float": float, "Path": Path, "str": str}


@functools.cache
def parser_of(script: str) -> Parser:
    """The script's flags, read off its text: to import it would take seconds. Choices are checked if they are written there.
    Those of a subcommand, or of the script that calls it, are made."""
    command = script.removesuffix(".py")
    if command in COMMANDS:
        return import_module(f"transformer_jax.cli.commands.{command.replace('import', 'import_model')}").make_parser()
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    parser = make_parser("") if script.startswith("recipes/") else Parser("")
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    constants = {ast.unparse(node.targets[0]): literal(node.value, {}) for node in assigned}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr == "add_argument":
            names = [ast.literal_eval(name) for name in node.args]
            options = {keyword.arg: literal(keyword.value, constants | TYPES) for keyword in node.keywords}
            parser.add_argument(*names, **{name: value for name, value in options.items() if value is not None})
        elif node.func.attr in ("add_ensemble", "add_processes", "add_search"):
            getattr(parser, node.func.attr)()
        elif node.func.attr == "add_job":
            parser.add_job(JOBS[ast.unparse(node.args[0])])
    return parser


def literal(node: ast.expr, names: dict) -> Any:
    """The value of a literal or of one of the `names`; None for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def check_overrides(overrides: list[str], config: str | None) -> None:
    """Raises UserError unless the config file, if it is a recipe, takes all of them; elsewhere fields must be there."""
    if config and (config.startswith("configs/") or re.fullmatch(r"\w+(:[\w-]+)?", config)):
        path = f"{ROOT}/{config}" if config.startswith("configs/") else config
        ConfigFile(path).config(overrides, pairs=1000, device="cpu")
    for item in [] if config else overrides:
        override(Config(), *item.split("=", 1))


@pytest.mark.parametrize("file", sorted({command.file for command in WRITTEN}), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_commands_that_a_page_tells_are_commands(file):
    for command in WRITTEN:
        if command.file != file:
            continue
        assert command.script in COMMANDS or (ROOT / command.script).is_file(), command
        read_by_hand = command.script.startswith("examples/")
        if command.arguments and "..." not in command.arguments and not read_by_hand:
            flags, overrides = parser_of(command.script).parse_with_overrides(command.arguments)
            config = getattr(flags, "config", None)
            check_overrides(overrides, None if config == "..." else config)


def test_flags_that_a_page_of_figures_names_are_those_of_a_script_on_it():
    """Such as (`--sentences=100 --tune=8`)."""
    checked = 0
    for page in FIGURES:
        scripts = {command.script for command in WRITTEN if command.file == page}
        for flags in re.findall(r"`(--[^`\n]*)`", page.read_text(encoding="utf-8")):
            if not any(takes(script, flags) for script in scripts):
                assert flags.startswith("--xla_"), (page, flags)  # of XLA_FLAGS
            else:
                checked += 1
    assert checked > 2


def takes(script: str, flags: str) -> bool:
    """Whether a script has these flags."""
    parser = copy.deepcopy(parser_of(script))
    for action in parser._actions:  # argparse has no public list of them
        action.required = False
    try:
        parser.parse_with_overrides([item for item in flags.split() if "KEY" not in item])
    except UserError:
        return False
    return True
