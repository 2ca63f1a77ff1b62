"""Config files: Python files with a `get_config()`, or the config.json of a run, with overrides from the command line."""

import os
import re
import runpy
import traceback
from collections.abc import Sequence

from transformer_jax.config import Config, from_json, is_config_class, override, unknown_key, validate
from transformer_jax.errors import UserError

__all__ = ["load_config"]


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """The config that a file describes, with `KEY=VALUE` overrides, validated.

    `FILE.py` is run and its `get_config()` called, for `FILE.py:ARGUMENT` with that argument; a `.json` file, such as a run's,
    is only read. Raises UserError. An exception that the file raises becomes one with the file's line, and with the nearest key
    if it is about an unknown one.
    """
    arguments = []
    if not os.path.isfile(path) and ".py:" in path:
        path, _, argument = path.rpartition(":")
        arguments = [argument]
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        names = sorted(name for name in os.listdir(folder) if name.endswith(".py")) if os.path.isdir(folder) else []
        raise UserError(f"{path}: no such config file" + (f"; {folder} has {', '.join(names)}" if names else ""))
    if path.endswith(".json"):
        return _with_overrides(_read_config(path), overrides)
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config(*arguments) if get_config else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _explained(path, error) from error
    if get_config is None:
        raise UserError(f"{path}: has no get_config() that returns a transformer_jax.Config")
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() should return a transformer_jax.Config, not a {type(config).__name__}")
    return _with_overrides(config, overrides)


def _read_config(path: str) -> Config:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return from_json(file.read(), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _with_overrides(config: Config, overrides: Sequence[str]) -> Config:
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
