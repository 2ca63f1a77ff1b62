"""The text form of sources: one of them (`data.dev`, `--test`), or a list with weights (`data.train`)."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from transformer_jax.errors import UserError

__all__ = ["FILTERS", "Spec", "parse_list", "parse_spec"]

FILTERS = ("max_words", "max_ratio", "deduplicate")  # options of a source of `data.train`: fields of `DataConfig`

_OF_ANY = ("tag", "columns")
_LARGEST_WEIGHT = 1_000_000
_IN_QUOTES = "a path that has a comma, a star or parentheses goes in double quotes"
# A quotation mark matters at the start alone; inside, two of them are one.
_QUOTED = r'"(?:[^"]|"")*"'
_ITEM = re.compile(rf"\s*((?:{_QUOTED})?(?:[^,(]|\([^()]*\)|\()*)(,|$)")


class Spec(NamedTuple):
    """One source of text: `NAME`, or `"NAME"` in double quotes, then for training text `* WEIGHT`, then `(KEY=VALUE ...)`."""

    text: str  # as it was written
    name: str  # what is read: demo:train, PREFIX, FILE.tsv, ... (`DataConfig`)
    options: dict[str, str]  # of `tag`, `columns` and, in training text, `FILTERS`
    weight: float = 1.0  # how often an epoch has each of its pairs
    advice: str = ""  # how a path is written of which this name may be a part; for a message if there is no such file

    @property
    def tag(self) -> str:
        """The word that goes before each source sentence; empty without the option."""
        return self.options.get("tag", "")

    @property
    def columns(self) -> tuple[int, int] | None:
        """The columns of source and target, from 1; None without the option."""
        columns = self.options.get("columns")
        return tuple(map(int, columns.split(","))) if columns else None


def parse_spec(text: str) -> Spec:
    """Parses the name of a dev or test set. Raises UserError unless it has the form of `Spec`, without a weight and `FILTERS`.

    >>> spec = parse_spec("backtranslated/news.tsv (columns=3,1 tag=<bt>)")
    >>> spec.name, spec.columns, spec.tag
    ('backtranslated/news.tsv', (3, 1), '<bt>')
    >>> parse_spec('"data (1)/test, new"').name
    'data (1)/test, new'
    """
    name, weight, options = _parts(text.strip(), text, False)
    if weight is not None:
        raise UserError(f"{text}: a weight is of a source of data.train; leave it out")
    for key in options:
        if key in FILTERS:
            raise UserError(f"{text}: {key} filters training text; a dev or test set has only the options {', '.join(_OF_ANY)}")
    return Spec(text, name, _checked(options, name, text, _OF_ANY), 1.0, _IN_QUOTES if name != text else "")


def parse_list(text: str) -> list[Spec]:
    """Parses `data.train`, sources separated by commas. Raises UserError where one does not have the form of `Spec`.

    >>> [(spec.name, spec.weight) for spec in parse_list('europarl, "my, own" * 2.5 (max_ratio=3)')]
    [('europarl', 1.0), ('my, own', 2.5)]
    """
    items, position = [], 0
    while position is not None:
        match = _ITEM.match(text, position)
        items.append(match[1].strip())
        position = match.end() if match[2] else None
    return [_parse(item, text, len(items) > 1) for item in items]


def _parse(item: str, whole: str, several: bool) -> Spec:
    where = f"data.train: {item}"
    name, weight, options = _parts(item, where, True)
    try:
        times = float(weight or 1)
    except ValueError:
        times = math.nan
    if weight == "" or not 0 < times <= _LARGEST_WEIGHT:
        largest = f"{_LARGEST_WEIGHT:,}"
        raise UserError(f"{where}: the weight should be a number above 0, {largest} at most, as in {name} * 2; {_IN_QUOTES}")
    if not name:
        raise UserError(f"data.train={whole!r}: the name of a source is empty, expected NAME * WEIGHT, NAME, ...")
    options = _checked(options, name, where, (*FILTERS, *_OF_ANY))
    return Spec(item, name, options, times, _IN_QUOTES if several or name != item else "")


def _parts(text: str, where: str, weighted: bool) -> tuple[str, str | None, dict[str, str]]:
    """The name, what stands after a star, and the options."""
    quoted = re.match(_QUOTED, text, re.DOTALL)
    rest = text[quoted.end() :] if quoted else text
    before, options = re.fullmatch(r"(.*?)(?:\s*\(([^()]*)\))?\s*", rest, re.DOTALL).groups()
    name, star, weight = before.rpartition("*") if weighted or quoted else (before, "", "")
    name = name if star else before
    if text.startswith('"'):
        if not quoted or name.strip():
            form = '"NAME" in double quotes (one inside is written twice), then * WEIGHT and (KEY=VALUE) if need be'
            raise UserError(f"{where}: expected {form}")
        name = quoted[0][1:-1].replace('""', '"')
    return name if quoted else name.strip(), weight.strip() if star else None, _options(options, where)


def _options(text: str | None, where: str) -> dict[str, str]:
    if text is None:
        return {}
    options: dict[str, str] = {}
    for item in re.split(r"[\s,]+(?=[^\s,=]+=)", text.strip(" \t,")):
        key, _, value = item.partition("=")
        if not key or not value:
            raise _no_option(where)
        if key in options:
            raise UserError(f"{where}: {key} comes twice; leave one of them")
        options[key] = re.sub(r"\s", "", value) if key == "columns" else value
    return options


def _checked(options: dict[str, str], name: str, where: str, allowed: Sequence[str]) -> dict[str, str]:
    for key, value in options.items():
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{where}: {key} is none of the options of a source: {', '.join(allowed)}{hint}")
        if key != "columns" and re.search(r"[\s,]", value):
            raise _no_option(where)
        if key != "columns":
            continue
        numbers = re.fullmatch(r"0*([1-9]\d{0,5}),0*([1-9]\d{0,5})", value)
        if not numbers or numbers[1] == numbers[2]:
            raise UserError(f"{where}: columns={value} should be the source's and the target's, two numbers from 1, as in 3,1")
        if not name.endswith((".tsv", ".tsv.gz")):
            raise UserError(f"{where}: columns={value}: only FILE.tsv and FILE.tsv.gz have columns; leave it out")
    return options


def _no_option(where: str) -> UserError:
    return UserError(f"{where}: expected KEY=VALUE between the parentheses, such as (max_ratio=3 tag=<bt>); {_IN_QUOTES}")
