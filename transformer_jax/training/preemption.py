"""SIGTERM, SIGHUP and Ctrl-C as a request to stop, which all processes follow between the same two steps."""

import itertools
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from transformer_jax.errors import ToBeContinued

__all__ = ["Preemption"]

_CHECKS = itertools.count(1)


class Preemption:
    """A context manager that catches SIGTERM, SIGHUP (a terminal or connection that is gone; unless it is ignored, as under
    `nohup`) and the first SIGINT; a second SIGINT ends the process at once.

    Until `hold()` is called there is nothing to save, and a signal raises ToBeContinued wherever the program is. Afterwards
    only `check()` raises it. Python handles signals in the main thread; in other threads this class has no effect.
    """

    def __init__(self):
        self._asked = self._held = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._receive)
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
                self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._receive)
            if jax.process_count() == 1:  # with several, JAX's own handler passes the signal on to the others
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From now on signals wait for `check()`."""
        self._held = True

    def check(self) -> None:
        """Raises ToBeContinued if a signal has arrived; with several processes, in all of them at the same call if it arrived
        at any."""
        # JAX answers yes at one number only, the same in all processes: each counts its calls, of all its trainings, from 1.
        number = next(_CHECKS)
        if jax.process_count() > 1:
            self._asked |= multihost_utils.reached_preemption_sync_point(number)
        if self._asked:
            raise _to_be_continued()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if number != signal.SIGTERM and jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._asked = True
        if not self._held:
            raise _to_be_continued()


def _to_be_continued() -> ToBeContinued:
    return ToBeContinued("stopped as asked; the same command goes on from here")
