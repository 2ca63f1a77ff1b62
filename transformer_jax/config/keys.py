"""The keys of a config, `SECTION.FIELD`: their values, their annotations, and how the command line sets one."""

import dataclasses
import difflib
import functools
from typing import Any

from transformer_jax.config.fields import annotations, value_type
from transformer_jax.config.sections import Config
from transformer_jax.config.text_sources import train_text
from transformer_jax.errors import UserError

__all__ = ["as_dict", "full_name", "is_config_class", "key_annotations", "key_values", "nearest", "override", "unknown_key"]


def as_dict(config: Config) -> dict[str, Any]:
    """A dict for each section, with a value for each field, of which JSON knows the types."""
    sections = dataclasses.asdict(config)
    sections["data"]["train"] = train_text(config.data.train)
    return sections


def key_values(config: Config) -> dict[str, Any]:
    """The value of every key.

    >>> key_values(Config())["model.num_layers"]
    6
    """
    return {f"{section}.{name}": value for section, values in as_dict(config).items() for name, value in values.items()}


@functools.cache
def key_annotations() -> dict[str, Any]:
    """The annotation of every key, with its records."""
    sections = annotations(Config)
    return {f"{section}.{name}": kind for section, cls in sections.items() for name, kind in annotations(cls).items()}


def override(config: Config, key: str, text: str) -> None:
    """Sets `key` (`model.num_layers`) to the value that `text` spells in the field's type.

    Raises UserError for an unknown key, naming the nearest, and for text that is not of the type.

    >>> config = Config()
    >>> override(config, "model.num_layers", "2")
    >>> config.model.num_layers
    2
    """
    if key not in key_annotations():
        raise unknown_key(key)
    section, _, name = key.partition(".")
    kind = value_type(key_annotations()[key])
    words = {"true": True, "false": False}
    try:
        value = words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UserError(f"config: {key}={text!r} should be {expected}") from None
    setattr(getattr(config, section), name, value)


def unknown_key(key: str, where: str = "config") -> UserError:
    """The error for a key, `model.num_layer` or `num_layer` alone, that no config has; it names the nearest.

    >>> unknown_key("model.num_layer")
    UserError("config: unknown key 'model.num_layer' (did you mean model.num_layers?)")
    """
    near = full_name(key, cutoff=0.6)
    return UserError(f"{where}: unknown key {key!r}" + (f" (did you mean {near}?)" if near else ""))


def full_name(key: str, cutoff: float = 1.0) -> str:
    """The key, `model.num_layers`, of a field's name alone, `num_layers`, or of one that is as alike as `cutoff` (difflib's
    ratio), or the name of a section; empty if there is none.

    >>> full_name("num_layers"), full_name("num_layer"), full_name("modle", 0.6)
    ('model.num_layers', '', 'model')
    """
    keys = {name if "." in key else name.partition(".")[2]: name for name in reversed(key_annotations())}
    sections = {} if "." in key else {section: section for section in annotations(Config)}
    for names in (keys if key in keys else sections, keys):
        near = difflib.get_close_matches(key, names, n=1, cutoff=cutoff)
        if near:
            return names[near[0]]
    return ""


def nearest(text: Any, candidates: Any) -> str:
    """The end of a message about `text`, which is none of the candidates; empty if none of them is like it.

    >>> nearest("prenorm", ["post", "pre"])
    ' (did you mean pre?)'
    """
    near = difflib.get_close_matches(str(text), list(candidates), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def is_config_class(kind: type | str) -> bool:
    """Whether this is `Config`, the class of a section or a class that a section inherits its fields from, or its name."""
    classes = {base for cls in (Config, *annotations(Config).values()) for base in cls.__mro__ if base is not object}
    return kind in classes or kind in {cls.__name__ for cls in classes}
