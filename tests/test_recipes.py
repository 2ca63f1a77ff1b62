"""Recipes by name: each is a config that can be trained, and names are found without a checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import transformer_jax
from transformer_jax.cli.config_files import load_config
from transformer_jax.config import Config
from transformer_jax.errors import UserError
from transformer_jax.recipes import first_lines, recipe_file
from transformer_jax.recipes.transformer_table3 import ROWS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", first_lines())
def test_by_name_and_by_path_it_is_the_same_valid_config(name):
    argument = ("base",) if name == "transformer_table3" else ()
    config = load_config(":".join((name, *argument)))
    assert isinstance(config, Config) and config == transformer_jax.recipe(name, *argument)
    assert config == load_config(":".join((f"{ROOT}/configs/{name}.py", *argument)))
    assert first_lines()[name].endswith((".", ":"))


def test_the_row_of_a_table_is_an_argument():
    heads = {row: transformer_jax.recipe("transformer_table3", row).model.heads for row in ROWS}
    assert heads["base"] == 8 and heads["A-h1"] == 1
    assert load_config("transformer_table3:A-h1").model.heads == 1


def test_a_wrong_name_is_told_with_what_there_is(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no recipe 'dmeo' \(did you mean demo\?\); there are demo, demo_full, "):
        transformer_jax.recipe("dmeo")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^dmeo: no such recipe or config file \(did you mean demo\?\)$") as raised:
        load_config("dmeo")
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in raised.value.choices[1:]}
    assert listed == first_lines() and set(listed) == {file.stem for file in (ROOT / "configs").glob("[a-z]*.py")}
    assert recipe_file("__init__") is None


def test_of_a_folder_only_config_files_are_listed(tmp_path):
    (tmp_path / "mine.py").write_text('"""My own."""\ndef get_config(): ...\n')
    (tmp_path / "script.py").write_text("print(1)\n")
    (tmp_path / "broken.py").write_text("def (\n")
    with pytest.raises(UserError, match=r"mien\.py: no such config file \(did you mean .*/mine\.py\?\)") as raised:
        load_config(f"{tmp_path}/mien.py")
    assert raised.value.choices[1:] == [f"  {tmp_path}/mine.py  My own."]


def test_a_file_goes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("from transformer_jax import Config\ndef get_config(): return Config()\n")
    assert load_config("demo") == Config()


def test_the_list_is_printed_before_the_error(tmp_path):
    command = [sys.executable, "-m", "transformer_jax", "train", "--config=dmeo", "--workdir=run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    lines = found.stderr.splitlines()
    assert found.returncode == 2 and not found.stdout and len(lines) == len(first_lines()) + 2
    assert lines[-1].startswith("error: dmeo: no such recipe") and not list(tmp_path.iterdir())
