"""Flags as a person types them: text that begins with -, names that are nearly right, and config files' own errors."""

import pytest

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.errors import UserError


def parser() -> Parser:
    parser = Parser("")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--input")
    parser.add_ensemble()
    parser.add_search()
    return parser


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["- Hello"], ["- Hello"]),
        (["-5 degrees", "-5"], ["-5 degrees", "-5"]),
        (["-how are you"], ["-how are you"]),
        (["a", "--beam=2", "- b", "--seed", "1", "c"], ["a", "- b", "c"]),
        (["--", "-Hello", "--beam=3", "--"], ["-Hello", "--beam=3", "--"]),
        (["a", "--", "-b"], ["a", "-b"]),
        (["--ensemble", "x", "y", "--beam=1", "a"], ["a"]),
        (["--quote me", "\u2013 ja", "-"], ["--quote me", "\u2013 ja", "-"]),
        (["--input", "- x"], []),
        (["--length_penalty", "-1"], []),
        ([""], [""]),
    ],
)
def test_text_among_flags(arguments, text):
    assert parser().parse_args(arguments).text == text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--beem=4", r"unknown argument --beem=4 \(did you mean --beam\?\); --help"),
        ("--beam_size=4", r"did you mean --beam\?"),
        ("--Beam=4", r"did you mean --beam\?"),
        ("--batch-size=4", r"did you mean --batch_size\?"),
        ("--batch=4", r"did you mean --batch_size\?"),
        ("-beam=4", r"did you mean --beam\?"),
        ("\u2014beam=4", r"did you mean --beam\?"),
        ("--inptu=my file", r"did you mean --input\?"),
        ("--no-such", r"--no-such; a text that begins with - goes after --; --help"),
        ("-Hello", r"-Hello; a text that begins with - goes after --"),
        ("--beam 4", r"'--beam 4' is one argument: write --beam and its value apart"),
        ("--beam=few", r"--beam: invalid int value: 'few'"),
    ],
)
def test_flags_that_are_none(argument, message):
    for others in ([], ["a text"]):
        with pytest.raises(UserError, match=message):
            parser().parse_args([*others, argument])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--steps=3", r"unknown argument --steps=3 \(did you mean --config.train.steps\?\)"),
        ("--model.width=3", r"did you mean --config.model.width\?"),
        ("--confg.model.width=3", r"did you mean --config.model.width\?"),
        ("--wrokdir=x", r"did you mean --workdir\?"),
        ("--config.model.width", r"an override is written --config.KEY=VALUE"),
        ("stray", r"unknown argument stray; --help"),
    ],
)
def test_overrides_that_are_none(argument, message):
    parser = Parser("")
    parser.add_argument("--workdir", required=argument.startswith("--wr"))
    with pytest.raises(UserError, match=message):  # and not that --workdir is missing
        parser.parse_with_overrides(["--config.train.seed=1", argument])


IMPORT = "from transformer_jax.config import *\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n c = Config()\n c.modle.width = 2", r"line 4: unknown key 'modle' \(did you mean model\?\)"),
        ("def get_config(): return Config(modle=1)", r"line 2: unknown key 'modle' \(did you mean model\?\)"),
        ("def get_config():\n x = None\n x.width = 2", r"line 4: AttributeError: 'NoneType' object has no attribute 'width'"),
        ("import os\ndef get_config(): return os.widht", r"line 3: AttributeError: module 'os' has no attribute 'widht'"),
        ("class A: __slots__ = ()\ndef get_config(): A().widht = 2", "line 3: AttributeError: 'A' object"),
        ("def f(): pass\ndef get_config(): f(widht=2)", r"line 3: TypeError: f\(\) got an unexpected keyword argument 'widht'"),
        ("def get_config(): exit(3)", r"line 2: ends the program \(SystemExit: 3\)"),
        ("def get_config(row): return Config()", r"TypeError: .*missing 1 .*'row'; its argument is written .*FILE.py:ARGUMENT"),
        ("def get_config(): return {}['x']", "line 2: KeyError: 'x'"),
    ],
)
def test_a_config_files_own_errors_keep_their_words(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(IMPORT + text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"mine\.py: {message}"):
        load_config(str(tmp_path / "mine.py"))
