"""What the server keeps for a client that comes again: in memory, for a bounded time, within a bounded size."""

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from transformer_jax.serving.errors import Busy, NotFound

__all__ = ["Kept"]

T = TypeVar("T")


@dataclass
class _Entry(Generic[T]):
    value: T
    size: int
    asked: float  # when it was last asked for


class Kept(Generic[T]):
    """Values by identifiers that cannot be guessed.

    Args:
        seconds: how long a value is kept after it was last asked for
        max_bytes: of all values together
        what: a value's name in messages
    """

    def __init__(self, seconds: float, max_bytes: int, what: str, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._max_bytes, self._what, self._clock = seconds, max_bytes, what, clock
        self._entries: dict[str, _Entry[T]] = {}

    def put(self, value: T, size: int) -> str:
        """Keeps a value that takes `size` bytes. Returns its identifier. Raises Busy where too much is kept already."""
        self._forget_old()
        if self._entries and size + sum(entry.size for entry in self._entries.values()) > self._max_bytes:
            oldest = min(entry.asked for entry in self._entries.values())
            seconds = max(1, math.ceil(oldest + self._seconds - self._clock()))
            raise Busy(f"The server keeps as many {self._what}s as it may; try again in {seconds} s.", seconds)
        identifier = secrets.token_hex(16).upper()
        self._entries[identifier] = _Entry(value, size, self._clock())
        return identifier

    def get(self, identifier: str) -> T:
        """The value. Raises NotFound if there is none, or not any more."""
        self._forget_old()
        if identifier not in self._entries:
            raise NotFound(f"{self._what.capitalize()} not found")
        self._entries[identifier].asked = self._clock()
        return self._entries[identifier].value

    def forget(self, identifier: str) -> None:
        """Takes a value out, if it is there."""
        self._entries.pop(identifier, None)

    def _forget_old(self) -> None:
        oldest = self._clock() - self._seconds
        self._entries = {name: entry for name, entry in self._entries.items() if entry.asked > oldest}
