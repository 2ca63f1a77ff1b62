"""Arguments that are lists of text, checked where a caller hands them over: a string alone would pass for its letters."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any

from transformer_jax.errors import UserError

__all__ = ["check_options", "list_of_texts", "refuse_bare_text", "require_one_for_each"]


def refuse_bare_text(values: Any, name: str, of: str = "strings") -> None:
    """Raises TypeError where `values`, the argument `name` of a function, is a string or no list at all, and not a list of
    strings (or of what else `of` says).

    >>> refuse_bare_text("The dog sleeps.", "lines")
    Traceback (most recent call last):
    TypeError: lines should be a list of strings, not the string 'The dog sleeps.' alone; write ['The dog sleeps.']
    """
    if isinstance(values, str | bytes):
        kind, short = ("string", values) if isinstance(values, str) else ("bytes", values.decode("utf-8", "replace"))
        short = short if len(short) <= 40 else f"{short[:37]}..."
        hint = f" alone; write [{short!r}]" if of == "strings" else ""
        raise TypeError(f"{name} should be a list of {of}, not the {kind} {short!r}{hint}")
    if not isinstance(values, Iterable) or isinstance(values, Mapping | Set):
        raise TypeError(f"{name} should be a list of {of}, not {_described(values)}")


def list_of_texts(values: Iterable[str], name: str) -> list[str]:
    """The strings of a list, an iterator or an array. Raises TypeError for anything else, naming the argument and the place.

    >>> list_of_texts(iter(["one", "two"]), "lines")
    ['one', 'two']
    """
    refuse_bare_text(values, name)
    texts = list(values)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{number}] should be a string, not {_described(text)}")
    return texts


def require_one_for_each(values: Collection[Any], name: str, lines: Collection[Any], of: str) -> None:
    """Raises UserError unless `values` are as many as `lines`.

    >>> require_one_for_each(["Der"], "prefixes", ["one", "two"], "lines")
    Traceback (most recent call last):
    transformer_jax.errors.UserError: prefixes: 1 for 2 lines; expected one for each
    """
    if len(values) != len(lines):
        raise UserError(f"{name}: {len(values)} for {len(lines)} {of}; expected one for each")


def check_options(options: Mapping[str, Any], known: Collection[str], function: str) -> None:
    """Raises TypeError for an option that `function` does not have, naming the nearest.

    >>> check_options({"beams": 4}, ["beam", "nbest"], "translate")
    Traceback (most recent call last):
    TypeError: translate() has no option 'beams' (did you mean beam?)
    """
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"{function}() has no option {name!r} ({hint})")


def _described(value: Any) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 40 else shown[:37] + '...'} of type {type(value).__name__}"
