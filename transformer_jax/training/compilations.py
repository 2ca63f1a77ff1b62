"""How many programs XLA compiles: if their number keeps growing, compilation makes a training slow."""

from typing import NamedTuple

import jax

__all__ = ["Compilation", "Compilations"]


class Compilation(NamedTuple):
    """One program that XLA compiled, or that was read from the compilation cache."""

    function: str  # the name of the compiled function
    seconds: float  # without tracing it


# JAX reports both with this event. A listener cannot be removed again, so there is one listener and one list for all counters;
# any thread may append to it.
_EVENT = "/jax/core/compile/backend_compile_duration"
_SEEN: list[Compilation] = []
_READ_EVENT = "/jax/compilation_cache/cache_hits"
_READ: list[str] = []


def _listen(event: str, seconds: float, **about: object) -> None:
    if event == _EVENT:
        _SEEN.append(Compilation(str(about.get("fun_name")), seconds))


def _listen_to_cache(event: str, **_: object) -> None:
    if event == _READ_EVENT:
        _READ.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)
jax.monitoring.register_event_listener(_listen_to_cache)


class Compilations:
    """Counts what this process compiles, from now on."""

    def __init__(self):
        self._taken, self._read = len(_SEEN), len(_READ)

    def take(self) -> list[Compilation]:
        """The compilations since the last call, in their order."""
        new = _SEEN[self._taken :]
        self._taken += len(new)
        return new

    def take_numbers(self) -> dict[str, float]:
        """The number and the seconds of the compilations since the last call, for a line of metrics."""
        new = self.take()
        return {"compilations": len(new), "compile_seconds": sum(compilation.seconds for compilation in new)}

    def take_words(self) -> str:
        """The compilations since the last call, in words for a person; the seconds are those of all threads together."""
        read, new = len(_READ) - self._read, self.take()
        self._read += read
        seconds = sum(compilation.seconds for compilation in new)
        return f"programs: {read} read from the cache, {len(new) - read} compiled; {seconds:.1f} s"
