"""The text form of sources: one of them (`data.dev`, `--test`), or a list with weights (`data.train`)."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from transformer_jax.data.joining import MOST_JOINED, Join
from transformer_jax.data.noise import DRAWN, NOISES
from transformer_jax.errors import UserError

__all__ = ["FILTERS", "Spec", "parse_list", "parse_sets", "parse_spec", "swapped", "without_join"]

FILTERS = ("max_words", "max_ratio", "deduplicate", "filters")  # options of a source of `data.train`: fields of `DataConfig`

# The other options that only a source of `data.train` has.
_OF_TRAINING = ("placeholders", "join", "score_column", "scores", "min_score")
_OF_ANY = ("tag", "columns", "swap", *NOISES)
_BARE_NOISE = re.compile(rf"(?<![^\s,])({'|'.join(DRAWN)})(?![^\s,])")  # for every line
_LARGEST_WEIGHT = 1_000_000
_IN_QUOTES = "a path that has a comma, a star or parentheses goes in double quotes"
# A quotation mark matters at the start alone; inside, two of them are one.
_QUOTED = r'"(?:[^"]|"")*"'
_ITEM = re.compile(rf"\s*((?:{_QUOTED})?(?:[^,(]|\([^()]*\)|\()*)(,|$)")


class Spec(NamedTuple):
    """One source of text: `NAME`, or `"NAME"` in double quotes, then for training text `* WEIGHT`, then `(KEY=VALUE ...)`."""

    text: str  # as it was written
    name: str  # what is read: demo:train, PREFIX, FILE.tsv, ... (`DataConfig`)
    options: dict[str, str]  # `tag`, `columns`, `swap`, `NOISES`; in training text also `FILTERS`, `_OF_TRAINING`
    weight: float = 1.0  # how often an epoch has each of its pairs
    advice: str = ""  # how a path is written of which this name may be a part; for a message if there is no such file

    @property
    def tag(self) -> str:
        """The word that goes before each source sentence; empty without the option."""
        return self.options.get("tag", "")

    @property
    def columns(self) -> tuple[int, int] | None:
        """The columns of source and target, from 1; without the option the first two if there is a `score_column`, or None."""
        columns = self.options.get("columns", "1,2" if self.score_column else None)
        return tuple(map(int, columns.split(","))) if columns else None

    @property
    def join(self) -> Join | None:
        """How an epoch joins pairs of this source; None without the option."""
        return _join_of(self.options["join"]) if "join" in self.options else None

    @property
    def swap(self) -> bool:
        """Whether the sides are exchanged: the text of the target is the source."""
        return self.options.get("swap") == "true"

    @property
    def noise(self) -> dict[str, float]:
        """The chance of each noise that the source has, and of placeholders, in the order of `DRAWN`."""
        return {name: float(self.options[name]) for name in DRAWN if name in self.options}

    @property
    def has_placeholders(self) -> bool:
        """Whether some pairs get placeholders, which the tokenizer must have."""
        return "placeholders" in self.options

    @property
    def without_noise(self) -> "Spec":
        """The same source as it is read before its noise is drawn."""
        return self._replace(options={key: value for key, value in self.options.items() if key not in DRAWN})

    @property
    def score_column(self) -> int | None:
        """The column of each pair's score, from 1; None without the option."""
        return int(self.options["score_column"]) if "score_column" in self.options else None

    @property
    def scores(self) -> str:
        """The file of the pairs' scores; empty without the option."""
        return self.options.get("scores", "")

    @property
    def min_score(self) -> float | None:
        """The least score of a pair that is kept; None without the option."""
        return float(self.options["min_score"]) if "min_score" in self.options else None


def parse_spec(text: str) -> Spec:
    """Parses the name of a dev or test set. Raises UserError unless it has the form of `Spec`, without a weight, `FILTERS`,
    `join`, `placeholders` and scores.

    >>> spec = parse_spec("backtranslated/news.tsv (columns=3,1 tag=<bt>)")
    >>> spec.name, spec.columns, spec.tag
    ('backtranslated/news.tsv', (3, 1), '<bt>')
    >>> parse_spec('"data (1)/test, new"').name
    'data (1)/test, new'
    >>> parse_spec("demo:test (upper typos=0.5)").noise
    {'typos': 0.5, 'upper': 1.0}
    """
    name, weight, options = _parts(text.strip(), text, False)
    if weight is not None:
        raise UserError(f"{text}: a weight is of a source of data.train; leave it out")
    for key in options:
        if key in FILTERS:
            raise UserError(f"{text}: {key} filters training text; a dev or test set has only the options {', '.join(_OF_ANY)}")
        if key in _OF_TRAINING:
            own = ", ".join(_OF_ANY)
            raise UserError(f"{text}: {key} is an option of training text; leave it out: a dev or test set has only {own}")
    return Spec(text, name, _checked(options, name, text, _OF_ANY), 1.0, _IN_QUOTES if name != text else "")


def parse_list(text: str) -> list[Spec]:
    """Parses `data.train`, sources separated by commas. Raises UserError where one does not have the form of `Spec`.

    >>> [(spec.name, spec.weight) for spec in parse_list('europarl, "my, own" * 2.5 (max_ratio=3)')]
    [('europarl', 1.0), ('my, own', 2.5)]
    """
    items = _items(text)
    return [_parse(item, text, len(items) > 1) for item in items]


def parse_sets(text: str, key: str) -> list[Spec]:
    """Parses the dev and test sets of a key of the config, separated by commas; none where it is empty. Raises UserError where
    one does not have the form that `parse_spec` reads, or comes twice.

    >>> [spec.name for spec in parse_sets("news/dev, demo:dev (tag=<x>)", "data.watch")], parse_sets("", "data.watch")
    (['news/dev', 'demo:dev'], [])
    """
    items = _items(text) if text.strip() else []
    for item in items:
        if not item:
            raise UserError(f"{key}={text!r}: the name of a set is empty, expected NAME, NAME, ...")
        if items.count(item) > 1:
            raise UserError(f"{key}: {item} comes twice; leave one of them")
    return [parse_spec(item) for item in items]


def _items(text: str) -> list[str]:
    items, position = [], 0
    while position is not None:
        match = _ITEM.match(text, position)
        items.append(match[1].strip())
        position = match.end() if match[2] else None
    return items


def without_join(text: str) -> str:
    """`data.train` without the option `join`, which changes neither the text nor its tokens; unchanged where no source has it.

    >>> without_join("europarl, news * 2 (max_ratio=3 join=0.2:2-4), talks (join=1:3)")
    'europarl, news * 2 (max_ratio=3), talks'
    """
    specs = parse_list(text)
    if not any(spec.join for spec in specs):
        return text
    return ", ".join(_without(spec, "join") for spec in specs)


def swapped(text: str) -> str:
    """One source or a list of them, of which each has its sides exchanged: for a model of the other direction.

    >>> swapped('europarl, "my, own" * 2 (tag=<own>), c.tsv (columns=3,1 swap=true)')
    'europarl (swap=true), "my, own" * 2 (tag=<own> swap=true), c.tsv (columns=3,1)'
    """
    return ", ".join(
        _without(spec, "swap") if spec.swap else _with(_without(spec, "swap"), "swap=true") for spec in parse_list(text)
    )


def _without(spec: Spec, key: str) -> str:
    """The text of a source without this option."""
    if key not in spec.options:
        return spec.text
    before, _, options = spec.text.rpartition("(")  # no value has a parenthesis
    kept = re.sub(rf"(^|[\s,]+){key}=[^\s,]+", "", options.rstrip()[:-1]).strip(" \t,")
    return f"{before}({kept})" if kept else before.rstrip()


def _with(source: str, option: str) -> str:
    """The text of a source with a further option."""
    return f"{source.rstrip()[:-1].rstrip()} {option})" if source.rstrip().endswith(")") else f"{source} ({option})"


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
    options = _checked(options, name, where, (*FILTERS, *_OF_ANY, *_OF_TRAINING))
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
    for item in re.split(r"[\s,]+(?=[^\s,=]+=)", _BARE_NOISE.sub(r"\1=1", text).strip(" \t,")):
        key, _, value = item.partition("=")
        if not key or not value:
            near = difflib.get_close_matches(item, DRAWN, n=1)
            raise _no_option(where, f" (did you mean {near[0]}?)" if near else "")
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
        if key in DRAWN and not _is_chance(value):
            raise UserError(f"{where}: {key}={value} should be a chance above 0, 1 at most, as in {key}=0.1")
        if key == "swap" and value not in ("true", "false"):
            raise UserError(f"{where}: swap={value} should be true or false")
        if key == "join" and not _join_of(value):
            form = f"a share above 0, 1 at most, and a number of pairs from 2 to {MOST_JOINED}, as in 0.2:2-4 or 1:3"
            raise UserError(f"{where}: join={value} should be SHARE:PAIRS or SHARE:LEAST-MOST, {form}")
        if key == "score_column" and not re.fullmatch(r"0*[1-9]\d{0,5}", value):
            raise UserError(f"{where}: score_column={value} should be a column, from 1")
        if key == "min_score" and not _is_number(value):
            raise UserError(f"{where}: min_score={value} should be a number")
        if key in ("columns", "score_column") and not name.endswith((".tsv", ".tsv.gz")):
            raise UserError(f"{where}: {key}={value}: only FILE.tsv and FILE.tsv.gz have columns; leave it out")
        if key != "columns":
            continue
        numbers = re.fullmatch(r"0*([1-9]\d{0,5}),0*([1-9]\d{0,5})", value)
        if not numbers or numbers[1] == numbers[2]:
            raise UserError(f"{where}: columns={value} should be the source's and the target's, two numbers from 1, as in 3,1")
    _check_scores(options, where)
    return options


def _is_chance(text: str) -> bool:
    return bool(re.fullmatch(r"(\d+|\d*\.\d+)(e-\d\d?)?", text)) and 0 < float(text) <= 1


def _check_scores(options: dict[str, str], where: str) -> None:
    given = [key for key in ("score_column", "scores") if key in options]
    if len(given) == 2:
        raise UserError(f"{where}: score_column and scores both say where the scores are; leave one of them")
    if given and "min_score" not in options:
        raise UserError(f"{where}: {given[0]} is of use only with min_score=NUMBER, the least score of a pair that is kept")
    if "min_score" in options and not given:
        raise UserError(f"{where}: min_score needs score_column=N or scores=FILE, which say where the scores are")
    if "score_column" in options and int(options["score_column"]) in map(int, options.get("columns", "1,2").split(",")):
        raise UserError(f"{where}: score_column={options['score_column']} is a column of the text; name another")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _join_of(text: str) -> Join | None:
    """
    >>> _join_of("0.2:2-4"), _join_of("1:3"), _join_of("1:1")
    (Join(share=0.2, least=2, most=4), Join(share=1.0, least=3, most=3), None)
    """
    match = re.fullmatch(r"(\d+|\d*\.\d+):(\d{1,9})(?:-(\d{1,9}))?", text)
    if not match:
        return None
    join = Join(float(match[1]), int(match[2]), int(match[3] or match[2]))
    return join if 0 < join.share <= 1 and 2 <= join.least <= join.most <= MOST_JOINED else None


def _no_option(where: str, hint: str = "") -> UserError:
    expected = "expected KEY=VALUE between the parentheses, such as (max_ratio=3 tag=<bt>)"
    return UserError(f"{where}: {expected}{hint}; {_IN_QUOTES}")
