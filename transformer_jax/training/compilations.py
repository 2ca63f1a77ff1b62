"""How many programs are compiled while a training goes on: if there is no end to it, that is what makes it slow."""

from typing import NamedTuple

import jax

__all__ = ["Compilation", "Compilations"]


class Compilation(NamedTuple):
    """One program that XLA made, or that was read from the folder of those it made before."""

    function: str  # the name of what was compiled
    seconds: float  # without tracing it


# JAX tells of the first and the second in the same way. It goes on telling for as long as the process lives, so there is one
# listener and one list, which all counters read; threads may add to it.
_EVENT = "/jax/core/compile/backend_compile_duration"
_SEEN: list[Compilation] = []


def _listen(event: str, seconds: float, **about: object) -> None:
    if event == _EVENT:
        _SEEN.append(Compilation(str(about.get("fun_name")), seconds))


jax.monitoring.register_event_duration_secs_listener(_listen)


class Compilations:
    """Counts what this process compiles, from now on."""

    def __init__(self):
        self._taken = len(_SEEN)

    def take(self) -> list[Compilation]:
        """Those since the last call, in their order."""
        new = _SEEN[self._taken :]
        self._taken += len(new)
        return new

    def take_numbers(self) -> dict[str, float]:
        """How many there were since the last call and how long they took, for a line of metrics."""
        new = self.take()
        return {"compilations": len(new), "compile_seconds": sum(each.seconds for each in new)}
