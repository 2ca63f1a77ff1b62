"""Recipes: configs with their command, hardware, time and score, a module each with a `get_config()`.

    config = transformer_jax.recipe("demo")
    config = transformer_jax.recipe("transformer_table3", "A-h1")

On the command line they are `--config=demo` and `--config=transformer_table3:A-h1`. To change more than a few keys, copy a
recipe's file and give the copy's path: `--config=mine.py`. In a checkout, `configs/` is a link to this folder.
"""

import ast
import difflib
from importlib import import_module
from pathlib import Path

from transformer_jax.config import Config
from transformer_jax.errors import UserError

__all__ = ["first_lines", "recipe", "recipe_file"]

_FOLDER = Path(__file__).parent


def recipe(name: str, *arguments: str | int) -> Config:
    """The config of the recipe of that name; `arguments` are those of its `get_config`. Raises UserError if there is no such
    recipe, naming the nearest.

    >>> recipe("demo").model.num_layers
    2
    >>> recipe("transformer_table3", "A-h1").model.heads
    1
    """
    if not recipe_file(name):
        names = [file.stem for file in _files()]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"there is no recipe {name!r}{hint}; there are {', '.join(names)}")
    return import_module(f"{__name__}.{name}").get_config(*arguments)


def recipe_file(name: str) -> Path | None:
    """The file of the recipe of that name, None if there is none."""
    return next((file for file in _files() if file.stem == name), None)


def first_lines(folder: Path = _FOLDER) -> dict[str, str]:
    """The config files of a folder, by default the recipes: of each Python file with a `get_config`, the name without its
    ending, and the first line of its docstring. No file is run.

    >>> first_lines()["demo"]
    'The built-in corpus on a laptop: what `make demo` trains.'
    """
    found = {}
    for file in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue  # it is listed nowhere; who names it is told what is wrong with it
        if any(isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body):
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _files() -> list[Path]:
    return sorted(file for file in _FOLDER.glob("*.py") if file.stem != "__init__")
