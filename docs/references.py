"""The pages of the reference that are made of the package itself when the documentation is built: no list is kept twice.

A line `<!-- made by docs/references.py: NAME -->` of a page and the line after it, which is for readers of the source, become
what the function of that name returns, in Markdown: `commands` from the argparse parsers, `keys` from the config's dataclasses
with the comments beside their fields, `recipes` from the recipes' docstrings and configs, `examples` from examples/. mkdocs has
this file as a hook; tests/test_references.py imports it.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package need not be installed

from transformer_jax.cli import subcommands
from transformer_jax.config import Config, SearchOptions
from transformer_jax.config.fields import (
    AtMost,
    Between,
    Flag,
    MayChange,
    MayDiffer,
    MayGrow,
    OnlyFor,
    OnlyWith,
    annotations,
    choices,
    limits,
    record,
    value_type,
)
from transformer_jax.config.keys import key_values
from transformer_jax.recipes import first_lines, own_text, recipe, recipe_file

__all__ = ["MAKERS", "commands", "examples", "key_meaning", "keys", "on_page_markdown", "recipes"]

_MARK = re.compile(r"^<!-- made by docs/references\.py: (\w+) -->\n\*Not filled yet:.*\*$", re.MULTILINE)
_TYPES = {bool: "true, false", int: "a whole number", float: "a number", str: "text"}
_NO_LIMIT = AtMost((1 << 63) - 1), AtMost(1e30)  # of every number that has no other limit


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs' hook: fills a page's marked lines."""
    return _MARK.sub(lambda mark: MAKERS[mark[1]](), markdown)


# Commands


def commands() -> str:
    """Every command with its description and its flags."""
    return "\n\n".join(_command(name) for name in subcommands.COMMANDS)


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a subcommand."""
    module = subcommands._MODULES.get(name, name)
    return import_module(f"transformer_jax.cli.commands.{module}").make_parser(f"transformer-jax {name}")


def _command(name: str) -> str:
    parser = parser_of(name)
    parts = [f"## transformer-jax {name} {{#{name}}}", _prose(parser.description)]
    for group in parser._action_groups:  # argparse has no public list of them
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            parts.append(f"**{group.title[0].upper()}{group.title[1:]}**")
        rows = [_table_row(_written(action), *map(_escaped, _meaning_and_default(action))) for action in actions]
        parts.append("\n".join(["| argument | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _written(action: argparse.Action) -> str:
    """How an argument is written: `--flag VALUE`, or the name of a text that has no flag."""
    value = action.metavar or {int: "N", float: "NUMBER"}.get(action.type, action.dest.upper())
    value = " ".join(value) if isinstance(value, tuple) else value
    value += " ..." if action.nargs in ("+", "*") else ""
    if not action.option_strings:
        return f"`{value}`"
    return f"`{action.option_strings[0]}`" if action.nargs == 0 else f"`{action.option_strings[0]} {value}`"


def _meaning_and_default(action: argparse.Action) -> tuple[str, str]:
    """The meaning, and the default, which the help may put in words at its end."""
    said = re.fullmatch(r"(.*?)[ ,;]*\(default: (.*)\)", action.help or "", re.DOTALL)
    meaning = said[1] if said else action.help or ""
    if action.required and not said:
        return meaning, "required"
    if action.dest in annotations(SearchOptions) and action.dest != "nbest":
        return meaning, f"the run's [`decode.{action.dest}`](config.md#decode.{action.dest})"
    if said:
        return meaning, said[2]
    default = " ".join(map(str, action.default)) if isinstance(action.default, list | tuple) else action.default
    return meaning, "" if default in (None, False, "") else f"`{default}`"


# Keys of the config


def keys() -> str:
    """Every key of the config, by section."""
    return "\n\n".join("\n\n".join(_section(name, cls)) for name, cls in annotations(Config).items())


def _section(name: str, cls: type) -> Iterator[str]:
    source = SearchOptions if issubclass(cls, SearchOptions) else cls
    yield f"## {name} {{#{name}}}"
    paragraphs = inspect.getdoc(source).split("\n\n")
    yield "\n\n".join(_prose(each) for each in paragraphs[: 1 if source is SearchOptions else None])
    rows = [_key_row(name, field, annotation) for field, annotation in annotations(cls).items()]
    yield "\n".join(["| key | default | meaning | values | when a run goes on |", "|---|---|---|---|---|", *rows])


def _key_row(section: str, field: str, annotation: Any) -> str:
    key = f"{section}.{field}"
    default = key_values(Config())[key]
    shown = f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else "empty"
    meaning = key_meaning(key)
    if only := record(annotation, OnlyFor):
        meaning += f" (only for model.family={only.family})"
    if only := record(annotation, OnlyWith):
        meaning += f" (only for optimizer.name={', '.join(only.names)})"
    name = f'<a id="{key}"></a>`{key}`'
    return _table_row(name, shown, _escaped(meaning), _values(annotation), _on_resuming(annotation))


def _values(annotation: Any) -> str:
    if names := choices(annotation):
        return ", ".join(f"`{name}`" for name in names)
    kind = value_type(annotation)
    kind = str if kind not in _TYPES else kind
    shown = [limit for limit in limits(annotation) if limit not in _NO_LIMIT]
    if any(isinstance(limit, Between) and limit.words != "more than 0" for limit in shown):
        shown = [limit for limit in shown if str(limit) != "more than 0"]
    return ", ".join([_TYPES[kind], *map(str, shown)])


def _on_resuming(annotation: Any) -> str:
    if record(annotation, MayChange):
        return "may change"
    if record(annotation, MayGrow):
        return "may become larger"
    may_differ = record(annotation, MayDiffer)
    unless = f", unless `{may_differ.unless}`" if may_differ and may_differ.unless else ""
    return f"stays; may differ with train.init_from{unless}" if may_differ else "stays"


def key_meaning(key: str) -> str:
    """The comment beside the key's field or above it; without one, the help of its flag; else nothing."""
    section, _, field = key.partition(".")
    cls = annotations(Config)[section]
    flag = record(annotations(cls)[field], Flag)
    return _comment(SearchOptions if issubclass(cls, SearchOptions) else cls, field) or (flag and flag.help) or ""


def _comment(cls: type, field: str) -> str:
    """The comment at the end of a field's line or right above it. Above a field that follows an empty line, and is not the
    first, a comment is about several fields."""
    lines = inspect.getsource(cls).splitlines()
    fields = [node for node in ast.parse("\n".join(lines)).body[0].body if isinstance(node, ast.AnnAssign)]
    node = next(node for node in fields if node.target.id == field)
    for number in (node.end_lineno, node.value.end_lineno):  # these differ where the value is in parentheses
        if comment := lines[number - 1].partition("  # ")[2]:
            return comment
    first = node.lineno - 1
    start = first
    while lines[start - 1].startswith("    # "):
        start -= 1
    is_its_own = lines[start - 1].strip() or node is fields[0]
    return " ".join(line.removeprefix("    # ") for line in lines[start:first]) if is_its_own else ""


# Recipes


def recipes() -> str:
    """A table of all recipes, and the docstring of each."""
    names = list(first_lines())
    head = ["| recipe | what is trained | time | score |", "|---|---|---|---|"]
    return "\n\n".join(["\n".join([*head, *map(_recipe_row, names)]), *map(_recipe_text, names)])


def _recipe_row(name: str) -> str:
    link, text = f"[`{name}`](#{name})", _docstring(name)
    if name == "own_text":
        layers = sorted({size.layers for size in (*own_text.ON_CPU, *own_text.ON_ACCELERATOR)})
        return _table_row(link, f"Transformer, {layers[0]} to {layers[-1]} layers, by the number of pairs; your text", "", "")
    config = recipe(name, *(["base"] if name == "transformer_table3" else []))
    model, train = config.model, config.train
    kind = "Transformer" if model.family == "transformer" else "LSTM" if model.attention == "none" else "LSTM + attention"
    size = f"{kind}, {model.num_layers} x {model.width}, {train.steps:,} updates of {config.batch.tokens:,} positions"
    size = "Transformer base, changed as the row says" if name == "transformer_table3" else size
    return _table_row(link, f"{size}; {config.data.train}", *_measured(text))


def _measured(text: str) -> tuple[str, str]:
    """Time and hardware, and score, as a recipe's docstring has them; "" for what it does not have."""
    text = " ".join(text.split())
    hardware = re.search(r"[Tt](wo CPU cores)|Hardware: ([^,;.]*(?:\.py`)?)", text)
    time = re.search(r"(?:\d+ hours? )?\d+ minutes?(?: \d+ to \d+ seconds)?", text)
    beside = " beside other work" if re.search("other work|another training", text) else ""
    score = re.search(r"[\d.]+ BLEU(?: \([^)]*\))? on (?:demo:)?\w+|[\d.]+% of [\w, ]+ exactly right", text)
    of_demo = re.search(r" test +([\d.]+) ", text)  # in a table
    found = f"{of_demo[1]} BLEU on demo:test" if of_demo else score[0] if score else ""
    if "ot yet trained here" in text or "is trained here yet" in text:
        found = "not yet trained here" + (f"; in the literature {found}" if found else "")
    where = "t" + hardware[1] if hardware and hardware[1] else hardware[2] if hardware else ""
    return ", ".join(filter(None, [time[0] + beside if time else "", where])), found


def _recipe_text(name: str) -> str:
    return f"## {name} {{#{name}}}\n\n{_prose(_docstring(name))}"


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(recipe_file(name).read_text(encoding="utf-8")))


# Markdown


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in cells) + " |"


def _prose(text: str) -> str:
    """Paragraphs; those whose lines are all indented are commands or their output, or drawings."""
    paragraphs = re.split(r"\n(?:[ ]*\n)+", textwrap.dedent(text).strip("\n"))
    return "\n\n".join(
        each if all(line.startswith("    ") for line in each.split("\n")) else _escaped(each) for each in paragraphs
    )


def _escaped(text: str) -> str:
    """Outside of code, `<` is no tag."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


# Examples


def examples() -> str:
    """The scripts of examples/: the docstring of each as text, then its code."""
    return "\n\n".join(map(_example, sorted((Path(__file__).parents[1] / "examples").glob("*.py"))))


def _example(file: Path) -> str:
    source = file.read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source))
    code = source.split('"""', 2)[2].strip()
    return f"## {file.stem}\n\n{text}\n\n```python\n{code}\n```"


MAKERS: dict[str, Callable[[], str]] = {"commands": commands, "keys": keys, "recipes": recipes, "examples": examples}
