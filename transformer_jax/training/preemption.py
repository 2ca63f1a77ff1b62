"""SIGTERM and Ctrl-C as a request to stop that is met between two steps, by all processes at the same one."""

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from transformer_jax.errors import ToBeContinued

__all__ = ["Preemption"]


class Preemption:
    """As a context manager it catches SIGTERM and the first SIGINT; a second SIGINT ends the process at once.

    Until `hold()` there is nothing to save, and a signal raises ToBeContinued where it finds the program. After it, only
    `check()` raises. Signals are caught in the main thread only, as Python does; elsewhere nothing changes.
    """

    def __init__(self):
        self._asked = self._held = False
        self._before: dict[int, object] = {}
        self._checks = 0

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._receive)
            if jax.process_count() == 1:  # else JAX's own handler tells the others of it
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From here on signals wait for `check()`."""
        self._held = True

    def check(self) -> None:
        """Raises ToBeContinued if a signal has come; with several processes to any, and then in all at the same call."""
        # JAX says yes at one count only, the same in all processes, which is why each must count in the same way, from 1.
        self._checks += 1
        if jax.process_count() > 1:
            self._asked |= multihost_utils.reached_preemption_sync_point(self._checks)
        if self._asked:
            raise _to_be_continued()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)
                return
        self._asked = True
        if not self._held:
            raise _to_be_continued()


def _to_be_continued() -> ToBeContinued:
    return ToBeContinued("stopped as asked; the same command goes on from here")
