"""Patterns that name parameters by their paths."""

import difflib
from collections.abc import Collection
from fnmatch import fnmatchcase

from transformer_jax.errors import UserError

__all__ = ["matching_paths"]


def matching_paths(key: str, patterns: str, paths: Collection[str]) -> frozenset[str]:
    """Those of `paths` that one of the `patterns` names: patterns as the shell has them (`*` also stands for slashes), with
    commas between, of a whole path or of its beginning up to a slash. Raises UserError for a pattern that names none, with the
    names that are like it; `key` is whose value the patterns are.

    >>> sorted(matching_paths("train.freeze", "encoder_*/bias, decoder", ["encoder_0/bias", "encoder_0/a", "decoder/bias"]))
    ['decoder/bias', 'encoder_0/bias']
    >>> matching_paths("train.freeze", "encoder", ["encoder_0/bias", "decoder_0/bias"])
    Traceback (most recent call last):
    transformer_jax.errors.UserError: config: train.freeze: encoder names no parameter (did you mean encoder_0?)
    """
    named: set[str] = set()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        found = {path for path in paths if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")}
        if not found:
            raise UserError(f"config: {key}: {pattern} names no parameter ({_near(pattern, paths)})")
        named |= found
    if not named:
        raise UserError(f"config: {key}={patterns!r} should be patterns of parameters' paths, with commas between")
    return frozenset(named)


def _near(pattern: str, paths: Collection[str]) -> str:
    """The names that are like `pattern`: whole paths, or their beginnings."""
    parts = [path.split("/") for path in paths]
    names = dict.fromkeys("/".join(path[: depth + 1]) for depth in range(max(map(len, parts))) for path in parts)
    near = difflib.get_close_matches(pattern.rstrip("/*"), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"the paths begin with {', '.join(sorted({path[0] for path in parts}))}"
