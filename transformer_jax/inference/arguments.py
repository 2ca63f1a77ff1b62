"""The arguments of a translator's methods, checked and as lists."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from transformer_jax.config import Config, DecodeConfig, SearchOptions, validate
from transformer_jax.errors import UserError
from transformer_jax.inference.terminology import Terminology, compiled
from transformer_jax.tokenization.text_arguments import list_of_texts, refuse_bare_text, require_one_for_each

__all__ = ["checked_lines", "checked_pairs", "checked_search", "checked_terminology"]


def checked_lines(
    lines: Iterable[str], prefixes: Iterable[str] | None, phrases: Iterable[Iterable[str]] | None
) -> tuple[list[str], list[str], list[list[str]]]:
    """Lines, prefixes and phrases as lists: an empty prefix and no phrase for each line where none are given. Raises UserError
    and TypeError as `Translator.translate` does."""
    lines = list_of_texts(lines, "lines")
    prefixes = [""] * len(lines) if prefixes is None else list_of_texts(prefixes, "prefixes")
    phrases = [()] * len(lines) if phrases is None else phrases
    refuse_bare_text(phrases, "phrases", "lists of strings")
    phrases = [list_of_texts(texts, f"phrases[{number}]") for number, texts in enumerate(phrases)]
    for name, values in (("prefixes", prefixes), ("phrases", phrases)):
        require_one_for_each(values, name, lines, "lines")
    return lines, prefixes, phrases


def checked_terminology(terminology: Terminology | Mapping[str, str] | None) -> Terminology | None:
    """The terminology, of a mapping as `Terminology` reads it. Raises TypeError for anything else."""
    if terminology is None or isinstance(terminology, Terminology):
        return terminology
    if not isinstance(terminology, Mapping):
        raise TypeError(f"terminology should be a dict from terms to their translations, not {terminology!r}")
    for term, translation in terminology.items():
        if not isinstance(term, str) or not isinstance(translation, str):
            raise TypeError(f"terminology: expected a string for a string, found {term!r}: {translation!r}")
    return compiled(tuple(terminology.items())) if terminology else None


def checked_pairs(
    sources: Iterable[str], targets: Iterable[str | Sequence[int]], vocab_size: int
) -> tuple[list[str], list[str | np.ndarray]]:
    """Sources and targets, text or rows of tokens, as lists. Raises UserError and TypeError as `Translator.score` does."""
    sources = list_of_texts(sources, "sources")
    refuse_bare_text(targets, "targets", "strings or rows of tokens")
    checked = [
        target if isinstance(target, str) else _checked_tokens(f"targets[{number}]", target, vocab_size)
        for number, target in enumerate(targets)
    ]
    require_one_for_each(checked, "targets", sources, "sources")
    return sources, checked


def checked_search(config: SearchOptions, options: Mapping[str, Any]) -> SearchOptions:
    """The options of a config, but for those that are given. Raises UserError for impossible values."""
    # A value that cannot be hashed is one that no option has: the check of the options says so.
    checked = _checked_search if all(value.__hash__ for value in options.values()) else _checked_search.__wrapped__
    given = tuple((name, type(value), value) for name, value in sorted(options.items()))
    return checked(dataclasses.astuple(config), given)


@functools.lru_cache(maxsize=256)
def _checked_search(config: tuple[Any, ...], given: tuple[tuple[str, type, Any], ...]) -> SearchOptions:
    """`checked_search`, once for each combination: it takes milliseconds. Of a value the type counts, too: 1 is not True."""
    names = [field.name for field in dataclasses.fields(SearchOptions)]
    options = dict(zip(names, config, strict=True)) | {name: value for name, _, value in given}
    search = validate(Config(decode=DecodeConfig(**options))).decode.frozen()
    # A config may have them beside a temperature of 0, of a run whose translations are drawn by a flag.
    for name in sorted({"top_k", "top_p"} & {name for name, *_ in given}):
        value = getattr(search, name)
        if value != getattr(SearchOptions(), name) and not search.draws:
            raise UserError(
                f"{name}={value:g} has no use with temperature=0, where nothing is drawn: set temperature, such as 1"
            )
    return search


def _checked_tokens(name: str, target: Sequence[int], vocab_size: int) -> np.ndarray:
    ids = np.asarray(target)
    if ids.ndim == 1 and not ids.size:
        raise UserError(f"{name} has no token; a translation ends with EOS, and the empty one has it alone")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} should be a string, or the tokens of a translation, not {target!r}")
    if not 0 <= ids.min() <= ids.max() < vocab_size:
        raise UserError(f"{name}: expected tokens from 0 to {vocab_size - 1}, found {ids.min()} to {ids.max()}")
    return ids.astype(np.int32)
