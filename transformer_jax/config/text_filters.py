"""The names of the filters of training text, as `data.filters` and the option `filters` of a source have them."""

import re

from transformer_jax.config.keys import nearest
from transformer_jax.errors import UserError

__all__ = ["FILTER_LIMITS", "USUAL_FILTERS", "parse_filters"]

# Each filter with its usual limit; None: it has no limit. `data.filters` says what each does.
FILTER_LIMITS: dict[str, float | None] = {
    "encoding": None,
    "copies": None,
    "script": 0.5,
    "repeats": None,
    "long_words": 100.0,
    "numbers": None,
    "urls": None,
    "currencies": None,
    "language": 0.5,
}
USUAL_FILTERS = tuple(name for name in FILTER_LIMITS if name != "language")  # `usual`: all that need no further package

_SHARES = ("script", "language")  # whose limit is a share or a probability; that of the others is a whole number
_ITEM = re.compile(r"(^|[+-])([a-z_]+)(?::(\d+|\d*\.\d+))?(?=[+-]|$)")
_FORM = "names joined by +, as in usual+language, usual-numbers or script:0.7+urls"


def parse_filters(text: str) -> dict[str, float | None]:
    """The filters that a text names, each with its limit, in the order in which they are applied. `usual` stands for all but
    `language`, `none` and an empty text for no filter; `-NAME` takes away what came before. Raises UserError, which names what
    is wrong, for anything else.

    >>> parse_filters("script:0.7+urls")
    {'script': 0.7, 'urls': None}
    >>> list(parse_filters("usual-numbers-currencies"))
    ['encoding', 'copies', 'script', 'repeats', 'long_words', 'urls']
    """
    if text in ("", "none"):
        return {}
    limits: dict[str, float | None] = {}
    position = 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if not match:
            raise UserError(f"{text!r} should be {_FORM}")
        sign, name, limit = match.groups()
        _change(limits, sign == "-", name, limit)
        position = match.end()
    return {name: limits[name] for name in FILTER_LIMITS if name in limits}


def _change(limits: dict[str, float | None], takes_away: bool, name: str, limit: str | None) -> None:
    if name == "none":
        raise UserError("none should stand alone")
    names = USUAL_FILTERS if name == "usual" else (name,)
    if not set(names) <= FILTER_LIMITS.keys():
        known = ("usual", "none", *FILTER_LIMITS)
        raise UserError(f"{name!r} should be one of {', '.join(known)}{nearest(name, known)}")
    if limit is not None and (takes_away or name == "usual" or FILTER_LIMITS[name] is None):
        having = ", ".join(f"{each}:{value:g}" for each, value in FILTER_LIMITS.items() if value is not None)
        raise UserError(f"{name}:{limit}: has no limit there; those that have one are {having}")
    for each in names:
        if takes_away and each not in limits:
            raise UserError(f"-{each} takes away what is not there before it; {_FORM}")
        if takes_away:
            del limits[each]
        else:
            limits[each] = FILTER_LIMITS[each] if limit is None else _limit(each, limit)


def _limit(name: str, text: str) -> float:
    value = float(text)
    if name in _SHARES and not 0 < value <= 1:
        raise UserError(f"{name}:{text} should be above 0, 1 at most")
    if name not in _SHARES and not (value.is_integer() and 1 <= value <= 1_000_000):
        raise UserError(f"{name}:{text} should be a whole number from 1 to 1,000,000")
    return value
