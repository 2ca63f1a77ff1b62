"""Joining the processes of one program, and leaving them: what must be set up before JAX is used at all."""

import ctypes
import glob
import importlib.util
import os
import re
import signal
import socket
import sys
from typing import Any, NoReturn

from transformer_jax.errors import UserError

__all__ = ["LOST", "TO_BE_CONTINUED", "join", "leave", "several", "shows_loss"]

TO_BE_CONTINUED = 75  # the exit code, sysexits.h's EX_TEMPFAIL, after which the same command goes on
# The line in which a process ends when another is lost.
LOST = "another process was lost (or what the lines above say); the same command everywhere goes on from the last checkpoint"
# In what JAX, its transport on CPU and orbax raise when one is. On TPU and GPU it is JAX's heartbeat that notices, and aborts.
_SIGNS_OF_LOSS = ("Gloo", "oordination service", "Connection closed by peer", "heartbeat", "waiting for async_")
_HEARTBEAT = 30  # seconds after which a process that is heard of no more counts as lost
_state: dict[str, Any] = {"several": False, "last words": None}


def join(coordinator: str | None, processes: int | None, process: int | None, patience: int = 300) -> None:
    """Finds the other processes: by the three flags, or Slurm's and a TPU slice's by what JAX knows. Alone, it does nothing.

    Where they do not all come within `patience` seconds, the program ends with a line and code 75. Raises UserError if only
    some of the three are given, or what they say cannot be.
    """
    import jax

    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not (all(given) and processes > 0 and 0 <= process < processes):
        raise UserError(
            f"--coordinator={coordinator} --processes={processes} --process={process}: give all three, and a process from 0 to "
            "one less than processes"
        )
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} should be HOST:PORT, with a port that is free on that host")
    if process == 0:
        _check_free(coordinator)
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    on_slurm = tasks.isdecimal() and int(tasks) > 1
    on_tpu = importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
    if any(given) or on_slurm or on_tpu:
        where = f" at --coordinator={coordinator}" if coordinator else ""
        _state["last words"] = (
            f"not all processes came together{where} within {patience} s: start the same command for each of them, with an "
            "address that all reach"
        )
        _leave_when_aborted()
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=patience, heartbeat_timeout_seconds=_HEARTBEAT
        )
        _state["several"] = jax.process_count() > 1
        _state["last words"] = LOST if several() else None


def _check_free(coordinator: str) -> None:
    """The first process opens the port; JAX crashes where it cannot."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--coordinator={coordinator}: cannot open this port here ({error}); name one that is free") from error


def several() -> bool:
    """Has `join` found others?"""
    return _state["several"]


def shows_loss(error: Exception) -> bool:
    """Does `error` come from the loss of another process?"""
    return several() and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def leave(code: int) -> NoReturn:
    """Ends this process. One of several does not wait for the others, which may be waiting for it: they see that it is gone."""
    if several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _leave_when_aborted() -> None:
    """JAX aborts a process that waits for another in vain: then, too, it ends with our line and code."""

    def end(_: int) -> None:
        if _state["last words"]:  # else the abort is another's, and goes on
            os.write(2, f"{_state['last words']}\n".encode())
            os._exit(TO_BE_CONTINUED)

    handler = _state["handler"] = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)  # kept, or it would be freed
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
