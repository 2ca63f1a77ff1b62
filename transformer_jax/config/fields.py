"""What a field of the config may be: records that stand in its annotation, as in `Annotated[int, AtLeast(0), AtMost(1000)]`.

A number is more than 0 unless a record of its field allows 0 (`AtLeast(0)`); an int is at most 2**63 - 1, a float at most
1e30. A text is one of the values of its `Literal`, or any where it has none.
"""

import functools
import math
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = [
    "AtLeast",
    "AtMost",
    "Between",
    "Flag",
    "Fraction",
    "HostOnly",
    "MayChange",
    "MayDiffer",
    "MayGrow",
    "OnlyFor",
    "OnlyWith",
    "ZeroOr",
    "annotations",
    "choices",
    "limits",
    "record",
    "value_type",
]


@dataclass(frozen=True)
class AtLeast:
    """A number of `least` or more."""

    least: float

    def allows(self, value: float) -> bool:
        """Whether `value` is in the limit."""
        return value >= self.least

    def __str__(self) -> str:
        return f"{self.least} or more"


@dataclass(frozen=True)
class AtMost:
    """A number of `most` or less. A larger one could only end in a crash."""

    most: float

    def allows(self, value: float) -> bool:
        """Whether `value` is in the limit."""
        return value <= self.most

    def __str__(self) -> str:
        return f"at most {self.most:,}" if isinstance(self.most, int) else f"at most {self.most:g}"


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`. A message says `words`."""

    low: float
    high: float
    words: str

    def allows(self, value: float) -> bool:
        """Whether `value` is in the limit."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class ZeroOr:
    """0, or a number of `least` or more."""

    least: float

    def allows(self, value: float) -> bool:
        """Whether `value` is in the limit."""
        return value == 0 or value >= self.least

    def __str__(self) -> str:
        return f"0 or at least {self.least:g}"


@dataclass(frozen=True)
class OnlyFor:
    """Only this family of models uses the field; with any other family it keeps its default."""

    family: str


class OnlyWith:
    """Only the optimizers of these names use the field; with any other `optimizer.name` it keeps its default.

    >>> OnlyWith("adam", "lion").names
    ('adam', 'lion')
    """

    def __init__(self, *names: str):
        self.names = names


class MayChange:
    """The field may change when a run goes on: the parameters that a given step has do not depend on it."""


class MayGrow:
    """The field may become larger when a run goes on."""


@dataclass(frozen=True)
class MayDiffer:
    """The field may differ from that of the run that `train.init_from` names: the parameters fit whatever it is, unless one of
    the two runs has the value `unless`."""

    unless: str | None = None


class HostOnly:
    """The field is used on the host alone: a compiled search does not depend on it."""


@dataclass(frozen=True)
class Flag:
    """The field has a flag on the command lines that translate, named as the field unless `name` is given."""

    help: str | None = None
    metavar: str | None = None
    name: str | None = None


Limit = AtLeast | AtMost | Between | ZeroOr
Fraction = Annotated[float, Between(0, math.nextafter(1, 0), "at least 0 and below 1")]  # such as a dropout rate
Record = TypeVar("Record")

_POSITIVE = Between(math.ulp(0), math.inf, "more than 0")


@functools.cache
def annotations(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass, with its records."""
    return get_type_hints(cls, include_extras=True)


def value_type(annotation: Any) -> type:
    """The type of a field's values, the first where there are several.

    >>> value_type(Annotated[int, AtLeast(0)]), value_type(Literal["post", "pre"]), value_type(str)
    (<class 'int'>, <class 'str'>, <class 'str'>)
    """
    if get_origin(annotation) in (Annotated, UnionType):
        return value_type(get_args(annotation)[0])
    return type(get_args(annotation)[0]) if get_origin(annotation) is Literal else annotation


def choices(annotation: Any) -> tuple[str, ...]:
    """The values of a field's `Literal`; none where it has no `Literal`.

    >>> choices(Annotated[Literal["post", "pre"], OnlyFor("transformer")]), choices(str)
    (('post', 'pre'), ())
    """
    if get_origin(annotation) is Annotated:
        return choices(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def record(annotation: Any, kind: type[Record]) -> Record | None:
    """The record of this kind in a field's annotation, or None.

    >>> record(Annotated[int, AtLeast(0), AtMost(1000)], AtMost)
    AtMost(most=1000)
    """
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, kind)), None)


def limits(annotation: Any) -> list[Limit]:
    """The limits of a number, in the order in which they are checked; none for a field of another type.

    >>> [str(limit) for limit in limits(Annotated[int, AtMost(1000)])]
    ['more than 0', 'at most 1,000']
    """
    kind = value_type(annotation)
    if kind not in (int, float):
        return []
    all_limits = [extra for extra in get_args(annotation)[1:] if isinstance(extra, Limit)]
    allows_zero = any(limit.allows(0) for limit in all_limits if not isinstance(limit, AtMost))
    if not allows_zero:
        all_limits.insert(0, _POSITIVE)
    if record(annotation, AtMost) is None:
        all_limits.insert(1, AtMost(1e30 if kind is float else (1 << 63) - 1))
    return all_limits
