"""Configs by name or path: recipes, Python files with a `get_config()`, or a run's config.json, with overrides."""

import contextlib
import difflib
import inspect
import os
import re
import runpy
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer_jax.config import Config, from_json, is_config_class, override, unknown_key, validate
from transformer_jax.errors import UserError
from transformer_jax.recipes import first_lines, recipe_file

__all__ = ["ConfigFile", "load_config", "with_overrides"]


def load_config(given: str, overrides: Sequence[str] = ()) -> Config:
    """The config that a name or path describes (`ConfigFile`), with `KEY=VALUE` overrides, validated. Raises UserError, also
    for a recipe that chooses by the number of pairs."""
    file = ConfigFile(given)
    if file.by_size:
        raise UserError(f"{given}: chooses by the number of pairs, which only a training counts; name another config")
    return file.config(overrides)


class ConfigFile:
    """A recipe's name, or the path of a config file: Python with a `get_config()`, or a run's config.json.

    A Python file is run once; `FILE.py:ARGUMENT` and `RECIPE:ARGUMENT` are an argument of `get_config`. A `.json` file, or a
    pipe that has such text, is only read. Raises UserError. An exception that the file raises becomes one with the file's line,
    and with the nearest key if it is about an unknown one.

    Attributes:
        by_size: whether the config depends on the number of pairs: `get_config` has an argument `pairs`
    """

    def __init__(self, given: str):
        self._path, self._arguments = _find(given)
        self._get_config = None
        # A pipe, as in --config=<(command), holds JSON: Python would be read from it twice.
        if os.path.isfile(self._path) and not self._path.endswith(".json"):
            with _explained_errors(self._path):
                self._get_config = runpy.run_path(self._path).get("get_config")
            if self._get_config is None:
                raise UserError(f"{self._path}: has no get_config() that returns a transformer_jax.Config")
        self._names = inspect.signature(self._get_config).parameters if self._get_config else {}
        self.by_size = "pairs" in self._names
        if self.by_size and self._arguments:
            raise UserError(f"{given}: takes no argument; the pairs of data.train are counted")

    def config(self, overrides: Sequence[str] = (), pairs: int = 0, device: str = "") -> Config:
        """The config with `KEY=VALUE` overrides, validated. `pairs` and `device` are the arguments of one that is `by_size`."""
        if not self._get_config:
            return with_overrides(_read_config(self._path), overrides)
        size = {name: value for name, value in dict(pairs=pairs, device=device).items() if self.by_size and name in self._names}
        with _explained_errors(self._path):
            config = self._get_config(*self._arguments, **size)
        if not isinstance(config, Config):
            kind = type(config).__name__
            raise UserError(f"{self._path}: get_config() should return a transformer_jax.Config, not a {kind}")
        return with_overrides(config, overrides)


@contextlib.contextmanager
def _explained_errors(path: str) -> Iterator[None]:
    """Turns what a config file raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _explained(path, error) from error


def _find(given: str) -> tuple[str, list[str]]:
    """The file, and the argument of its `get_config`, if there is one. A file goes before a recipe."""
    if os.path.exists(given) and not os.path.isdir(given):
        return given, []
    name, colon, argument = given.rpartition(":")
    if colon and name.endswith(".py") and os.path.isfile(name):
        return name, [argument]
    name, colon, argument = given.partition(":")
    recipe = recipe_file(name)
    if recipe is None:
        raise _no_such(given)
    return str(recipe), [argument] if colon else []


def _no_such(given: str) -> UserError:
    """The error for what is neither a file nor a recipe. It lists the config files of the folder that is named, or, where that
    has none or no folder is named, the recipes."""
    path = Path(given.rpartition(":")[0] if ".py:" in given else given)
    if path.suffix == ".json":
        return UserError(f"{given}: no such file; expected a run's config.json, a file with get_config(), or a recipe's name")
    is_path = path.name != given or path.suffix == ".py"
    there = first_lines(path.parent) if is_path and path.parent.is_dir() else {}
    names = {str(path.with_name(f"{stem}.py")): line for stem, line in there.items()}
    title = f"config files in {path.parent}:" if names else "recipes, which --config=NAME takes:"
    names = names or first_lines()
    width = max(map(len, names)) + 2
    wanted = path.with_suffix(".py") if there else path.stem if is_path else given.partition(":")[0]
    near = difflib.get_close_matches(str(wanted), names, n=1)
    hint = f"did you mean {near[0]}?" if near else "expected a path, or one of the recipes above" if not there else ""
    what = "no such config file" if is_path else "no such recipe or config file"
    return UserError(
        f"{given}: {what}" + (f" ({hint})" if hint else ""),
        [title, *(f"  {name:{width}}{line}".rstrip() for name, line in names.items())],
    )


def _read_config(path: str) -> Config:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return from_json(file.read(), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Sets each `KEY=VALUE` in `config`, and returns it validated. Raises UserError."""
    for item in overrides:
        key, _, value = item.partition("=")
        override(config, key, value)
    return validate(config)


def _explained(path: str, error: BaseException) -> UserError:
    """What an exception raised by a config file says to its author."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)  # a SyntaxError has no frame in the file
    where = f"{path}: line {line}" if line else path
    key = _key_of_config(error)
    if key:
        return unknown_key(key, where)
    if isinstance(error, SystemExit):
        return UserError(f"{where}: ends the program (SystemExit: {error}), where get_config() should return a Config")
    hint = ""
    if isinstance(error, TypeError) and str(error).startswith("get_config() missing") and not frames:
        hint = "; its argument is written after the file's name, as in FILE.py:ARGUMENT"
    return UserError(f"{where}: {type(error).__name__}: {error}{hint}")


def _key_of_config(error: BaseException) -> str:
    """The unknown field of a config class that an error is about; "" for any other error."""
    if isinstance(error, AttributeError):
        match = re.match(r"'(\w+)' object has no attribute '(\w+)'", str(error))
        # Where an attribute is set, `obj` is None before Python 3.13.
        kind = type(error.obj) if error.obj is not None else None
    elif isinstance(error, TypeError):
        match, kind = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)), None
    else:
        return ""
    return match[2] if match and is_config_class(kind or match[1]) else ""
