"""`transformer-jax` and `python -m transformer_jax`: what is listed, what is mistyped, and the commands that no script has."""

import configparser
import runpy
import subprocess
import sys
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

from transformer_jax.cli import program
from transformer_jax.cli.subcommands import COMMANDS, run
from transformer_jax.config import from_json, sections
from transformer_jax.errors import UserError
from transformer_jax.recipes import recipe
from transformer_jax.version import __version__

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[1]
OPUS = ROOT / "tests" / "marian" / "opus"


@pytest.fixture(autouse=True)
def _no_set_up(monkeypatch):
    monkeypatch.setattr(program, "set_up", lambda *_, **__: None)


def module_run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "transformer_jax", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_has_a_line_for_each_command(capsys):
    run(["--help"])
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert shown in (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert all(any(line.split() == [name, *what.split()] for line in lines) for name, what in COMMANDS.items())
    run(["--version"])
    assert capsys.readouterr().out == f"transformer_jax {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_keeps_its_examples(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith(f"usage: transformer-jax {name} ")
    module = import_module(f"transformer_jax.cli.commands.{'import_model' if name == 'import' else name}")
    examples = [line for line in module.__doc__.splitlines() if line.startswith("    ")]
    assert examples and all(f"{line}\n" in shown and line.startswith(f"    transformer-jax {name} ") for line in examples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a command, one of train, evaluate, translate, .*import.*; --help"),
        (["--workdir=x"], "expected a command before --workdir=x, one of train"),
        (["trian"], r"unknown command trian \(did you mean train\?\); there are train, "),
        (["xyz"], "unknown command xyz; there are train, "),
        (["train", "--workdri=x"], "did you mean --workdir"),
        (["export", "a", "b"], "--format"),
        (["export", "a", "b", "--format=onnx"], "--format=onnx should be one of ctranslate2, hugging_face"),
        (["export", "a", "b", "--format=hugging_face", "--quantization=int8"], "--quantization is for --format=ctranslate2"),
        (["average", "nothing", "out"], "nothing: no such run folder"),
        (["import", "nothing", "out"], "nothing: no such folder"),
    ],
)
def test_what_is_wrong_is_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(arguments)
    assert not list(tmp_path.iterdir())


def test_a_model_is_imported_copied_and_exported(tmp_path, capsys):
    opus, copy, again = str(tmp_path / "opus"), str(tmp_path / "copy"), str(tmp_path / "again")
    run(["import", str(OPUS), opus])
    run(["average", opus, copy, "--checkpoint", "latest"])
    run(["export", copy, again, "--format=hugging_face"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{opus}: 8,309 parameters of {OPUS}"
    assert any(line.startswith(f"{copy}: step 0 of {opus}, without") for line in lines), lines
    assert any(line.startswith(f"{again}: step 0 of {copy}") for line in lines), lines
    assert (Path(again) / "model.safetensors").is_file()
    with pytest.raises(UserError, match="has 1 checkpoints, cannot average 5; name average:1 or fewer"):
        run(["average", opus, str(tmp_path / "more")])


def test_the_config_is_printed_as_it_would_be_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["train", "--config=demo", "--config.model.num_layers=3", "--print_config"])
    printed = from_json(capsys.readouterr().out)
    expected = recipe("demo")
    expected.model.num_layers = 3
    assert printed == expected and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        run(["train", "--help"])
    assert f"\n    {sections.__file__}\n" in capsys.readouterr().out


def test_as_a_module_it_ends_like_the_scripts():
    found = module_run("trian")
    assert (found.returncode, found.stdout) == (2, "") and found.stderr.startswith("error: transformer-jax: unknown command")
    assert module_run("translate", "--help").stdout.startswith("usage: transformer-jax translate ")


def test_the_description_of_a_package_index_has_neither_pictures_nor_local_links():
    text = runpy.run_path(str(ROOT / "setup.py"))["long_description"]()
    assert "](" not in text and text.startswith("# transformer_jax\n") and "[Translate]" not in text
    assert "* Translate lines, pages and strings with markup, huge files" in text
    assert text.count("```") == (ROOT / "README.md").read_text(encoding="utf-8").count("```")


def test_an_installation_has_the_command_and_every_file_of_the_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    name, _, place = settings["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = place.partition(":")
    assert name == "transformer-jax" and callable(getattr(import_module(module), function))
    patterns = settings["options.package_data"]["transformer_jax"].split(", ")
    package = ROOT / "transformer_jax"
    files = [file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert files and all(any(fnmatch(str(file.relative_to(package)), each) for each in patterns) for file in files)
    assert all((folder / "__init__.py").is_file() for folder in {file.parent for file in package.rglob("*.py")})
