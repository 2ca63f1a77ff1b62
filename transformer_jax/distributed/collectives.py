"""How several processes exchange values and agree on them: gather, the first one's value, barriers, shared work.

A process that is alone waits for nothing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = ["first_before_others", "from_first", "gather", "is_alone", "is_first", "map_over_processes", "place_among"]

Item, Result = TypeVar("Item"), TypeVar("Result")


def is_first() -> bool:
    """Is this the process that writes what is written once?"""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Is there no other process?"""
    return jax.process_count() == 1


@contextlib.contextmanager
def first_before_others(what: str) -> Iterator[bool]:
    """The first process goes through the block, then all others do; gives `is_first()`. `what` is the barrier's name,
    a different one at each place."""
    if not is_first():
        _wait(what)
    yield is_first()
    if is_first():
        _wait(what)


def gather(value: Any) -> list[Any]:
    """The `value` of every process (anything that JSON knows), in the order of the processes; all of them must call this."""
    if is_alone():
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([data.size]))[:, 0]
    padded = np.pad(data, (0, sizes.max() - data.size))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def from_first(function: Callable[[], Result]) -> Result:
    """`function()`, called by the first process alone; all processes must call this, and get the same result."""
    return gather(function() if is_first() else None)[0]


def place_among(takes_part: bool) -> tuple[int, int]:
    """This process's number among those for which `takes_part` is true, and how many these are; the number is -1 where it takes
    no part. All processes must call this."""
    those = [number for number, does in enumerate(gather(takes_part)) if does]
    return those.index(jax.process_index()) if takes_part else -1, len(those)


def map_over_processes(
    function: Callable[[Item], Result], items: Sequence[Item], between: Callable[[], None] | None = None
) -> list[Result]:
    """[function(item) for item in items], in which each process computes a part and all get the whole. `between` is called
    before each item, equally often in all processes."""
    index, count = jax.process_index(), jax.process_count()
    own = []
    for start in range(0, len(items), count):
        if between:
            between()
        if start + index < len(items):
            own.append(function(items[start + index]))
    results = gather(own)
    return [results[i % count][i // count] for i in range(len(items))]


def _wait(what: str) -> None:
    if not is_alone():
        multihost_utils.sync_global_devices(what)
