"""Recipes by name: each is a config that can be trained, and names are found without a checkout."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import transformer_jax
from transformer_jax.cli import program
from transformer_jax.cli.config_by_size import count_pairs
from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.subcommands import run
from transformer_jax.config import Config, DataConfig, ModelConfig, from_json, override, validate
from transformer_jax.errors import UserError
from transformer_jax.recipes import first_lines, own_text, recipe_file
from transformer_jax.recipes.transformer_table3 import ROWS

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(set(first_lines()) - {"own_text"}))
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


@pytest.fixture
def prefix(tmp_path) -> str:
    """Twenty pairs of text."""
    for language in ("en", "de"):
        lines = [f"{language} word{i} word{i % 7}\n" for i in range(20)]
        (tmp_path / f"text.{language}").write_text("".join(lines))
    return str(tmp_path / "text")


class TestOwnText:
    @pytest.mark.parametrize("device", ["cpu", "gpu"])
    def test_every_size_is_a_config_and_more_text_is_a_larger_model(self, device):
        rows = own_text.ON_CPU if device == "cpu" else own_text.ON_ACCELERATOR
        widths = []
        for pairs in [1, 20, *(size.pairs for size in rows[1:]), 10**8]:
            config = transformer_jax.recipe("own_text", pairs, device)
            for key in ("data.train", "data.dev"):
                override(config, key, "text")
            validate(config)
            epochs = config.train.steps * config.batch.tokens / (20 * pairs)
            assert epochs < 62 or config.train.steps == 200
            assert config.optimizer.warmup_steps < config.train.steps >= config.train.evaluate_every
            widths.append((config.model.num_layers, config.model.width, config.tokenizer.vocab_size))
        assert widths == sorted(widths)
        with pytest.raises(UserError, match="0 pairs"):
            own_text.get_config(0, device)

    def test_where_it_says_measured_it_is_the_recipe_that_was(self):
        for pairs, name in ((29_000, "multi30k"), (345_708, "mixed")):
            chosen, measured = own_text.get_config(pairs), transformer_jax.recipe(name)
            chosen.data, chosen.train.log_every = measured.data, measured.train.log_every
            chosen.train.evaluate_every = measured.train.evaluate_every
            chosen.train.checkpoint_every = measured.train.checkpoint_every
            chosen.tokenizer.sample_lines = measured.tokenizer.sample_lines  # more than the text has
            chosen.tokenizer.vocab_may_shrink = False  # these texts have enough pieces
            if name == "multi30k":  # captions are short, and its time is that of a processor with bfloat16
                assert chosen.batch.tokens == measured.batch.tokens
                chosen.batch, chosen.model.compute_dtype = measured.batch, measured.model.compute_dtype
            assert chosen == measured
        assert own_text.get_config(4_500_000, "tpu").model == transformer_jax.recipe("transformer_base").model
        demo, small = transformer_jax.recipe("demo").model, own_text.get_config(1000).model
        assert dataclasses.replace(small, dropout=0.0) == demo != ModelConfig()

    def test_train_counts_the_pairs_says_what_it_chose_and_overrides_it(self, prefix, capsys, caplog, monkeypatch):
        monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
        flags = ["train", "--config=own_text", f"--config.data.train={prefix} * 3", f"--config.data.dev={prefix}"]
        with caplog.at_level(logging.INFO, "transformer_jax"):
            run([*flags, "--config.model.dropout=0.5", "--print_config"])
        printed = from_json(capsys.readouterr().out)
        expected = own_text.get_config(20)
        expected.data.train, expected.data.dev, expected.model.dropout = f"{prefix} * 3", prefix, 0.5
        assert printed == expected
        for part in (
            "20 pairs on CPU",
            "2 layers of width 128, up to 1,000 pieces, dropout 0.3",
            "200 steps of 1,024 positions",
            "instead: model.dropout=0.5",
        ):
            assert part in caplog.text

    @pytest.mark.slow
    def test_a_run_that_goes_on_is_not_sized_anew(self, prefix, tmp_path, monkeypatch, caplog, capsys):
        monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
        folder, text = tmp_path / "run", [f"--config.data.{key}={prefix}" for key in ("train", "dev")]
        small = dict(num_layers=1, width=16, heads=2, feed_forward_width=16)
        tiny = [f"--config.model.{key}={value}" for key, value in small.items()]
        tiny += [f"--config.{each}" for each in ("tokenizer.vocab_size=290", "train.samples=0", "train.metric=loss")]
        tiny += [f"--config.train.{key}=1" for key in ("evaluate_every", "checkpoint_every", "log_every")]
        with caplog.at_level(logging.INFO, "transformer_jax"):
            run(["train", "--config=own_text", f"--workdir={folder}", *text, *tiny, "--config.train.steps=1"])
            config = (folder / "config.json").read_text()
            for language in ("en", "de"):
                Path(f"{prefix}.{language}").unlink()
            capsys.readouterr()
            run(["train", "--config=own_text", f"--workdir={folder}", "--print_config"])
        assert capsys.readouterr().out == config
        assert "goes on with the config of its config.json" in caplog.text and from_json(config).train.steps == 1
        assert (folder / "checkpoints" / "1").is_dir()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], r"^--config.data.train=PREFIX and --config.data.dev=PREFIX: expected with this config"),
            (["--config.data.train=nothing", "--config.data.dev=nothing"], r"no such file nothing\.en"),
            (["--config.data.train=nothing"], "^--config.data.dev=PREFIX: expected"),
            (["--config.data.trian=nothing"], r"data\.trian.*did you mean data\.train"),
            (["--config=own_text:5"], "own_text:5: takes no argument"),
        ],
    )
    def test_what_is_missing_is_named(self, arguments, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(program, "set_up", lambda *_, **__: None)
        with pytest.raises(UserError, match=message):
            run(["train", "--config=own_text", "--workdir=run", *arguments])
        assert not list(tmp_path.iterdir())

    def test_only_a_training_counts(self, prefix):
        assert count_pairs(DataConfig(train=f"{prefix}, {prefix} * 2.5")) == 40
        with pytest.raises(UserError, match="own_text: chooses by the number of pairs"):
            load_config("own_text", [f"data.train={prefix}"])
