"""Joining the processes of one program, and leaving them: what must be set up before JAX is used at all."""

import atexit
import contextlib
import ctypes
import glob
import importlib.util
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from transformer_jax.errors import UserError

__all__ = [
    "BAD_INPUT",
    "LOST",
    "TO_BE_CONTINUED",
    "end_of_another",
    "join",
    "leave",
    "others",
    "several",
    "shows_loss",
    "stay_alone",
]

log = logging.getLogger(__name__)

BAD_INPUT = 2  # the exit code after a UserError
TO_BE_CONTINUED = 75  # the exit code, sysexits.h's EX_TEMPFAIL, after which the same command goes on
# The line in which a process ends when another is lost.
LOST = "another process was lost (or what the lines above say); the same command everywhere goes on from the last checkpoint"
# In what JAX, its transport on CPU and orbax raise when one is. On TPU and GPU it is JAX's heartbeat that notices, and aborts.
_SIGNS_OF_LOSS = ("Gloo", "oordination service", "Connection closed by peer", "heartbeat", "waiting for async_")
_HEARTBEAT = 30  # seconds after which a process that is heard of no more counts as lost
_PAUSE = 0.5  # seconds between two looks at whether another process has ended
_FAREWELL = 10  # seconds that a process with an error waits at most until the others have noticed
_LAST = 300  # seconds that a process that is done waits for the others, as JAX does
_END = "transformer_jax/end"  # in JAX's store of keys and values: the code and the line of the first process that ended
_NOTICED = "transformer_jax/noticed/{}"  # a process has read that, and ends
# What JAX needs to know of a Slurm step.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# How the chips of one host lie, by their number, in the notation of libtpu.
_CHIPS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
_state: dict[str, Any] = {"several": False, "if aborted": None, "handler": None}
_leaving = threading.Event()  # this process ends: what the others do changes nothing any more


def others(coordinator: str | None, processes: int | None, process: int | None) -> str:
    """What tells this process that it is one of several: the three flags, Slurm's variables, or a TPU; "" where nothing does.

    `processes=1` is one process alone, wherever it is. Raises UserError if only some of the three are given, if what they say
    cannot be, or if variables of Slurm's are missing.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    alone = processes == 1 and process in (None, 0)
    if any(given) and not alone and not (all(given) and processes > 0 and 0 <= process < processes):
        raise UserError(
            f"--coordinator={coordinator} --processes={processes} --process={process}: give all three, and a process from 0 to "
            "one less than processes; or --processes=1 for one process alone"
        )
    if alone:
        return ""
    if any(given):
        if not re.fullmatch(r".+:\d+", coordinator):
            raise UserError(f"--coordinator={coordinator} should be HOST:PORT, with a port that is free on that host")
        return f"{processes - 1} other {_processes(processes - 1)} at {coordinator} (--coordinator, --processes)"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdecimal() and int(tasks) > 1:
        missing = [name for name in _SLURM if not os.environ.get(name)]
        if missing:
            raise UserError(
                f"SLURM_STEP_NUM_TASKS={tasks} says that this is one of {tasks} tasks of a Slurm step, but "
                f"{', '.join(missing)} are not set: start it with srun, or with --processes=1 to run alone"
            )
        rest, where = int(tasks) - 1, os.environ["SLURM_STEP_NODELIST"]
        return f"{rest} other {_processes(rest)} on {where} (Slurm: SLURM_STEP_NUM_TASKS={tasks})"
    return "the other hosts of the TPU slice, if it has others" if _on_tpu() else ""


def join(coordinator: str | None, processes: int | None, process: int | None, patience: int = 300) -> None:
    """Finds the other processes: by the three flags, or Slurm's and a TPU slice's by what JAX knows. Alone, it does nothing.

    The log says for whom it waits, and when all are there. Where they do not all come within `patience` seconds, the program
    ends with a line and code 75. Raises UserError as `others` does.
    """
    waited_for = others(coordinator, processes, process)
    if not waited_for:
        return stay_alone()
    if process == 0:
        _check_free(coordinator)
    log.info("waiting for %s; to run alone: --processes=1", waited_for)
    words = (
        f"not all processes came together within {patience} s: there was nothing to be seen of {waited_for}; start the same "
        "command for each of them, with an address that all reach, or one alone with --processes=1"
    )
    import jax

    with _if_aborted(words, TO_BE_CONTINUED):
        try:
            jax.distributed.initialize(
                coordinator, processes, process, initialization_timeout=patience, heartbeat_timeout_seconds=_HEARTBEAT
            )
        except (ValueError, TypeError, KeyError) as error:  # what the environment says of the processes cannot be
            raise UserError(
                f"JAX cannot join {waited_for} ({error}): give --coordinator, --processes and --process, or --processes=1 to "
                "run alone"
            ) from error
    together = _together()
    _state["several"] = together.num_processes > 1
    if several():
        log.info("all %d processes are here, this is number %d", together.num_processes, together.process_id)
        _state["if aborted"] = LOST, TO_BE_CONTINUED
        _watch_the_others()


def stay_alone() -> None:
    """For a program that has no use for others: a TPU host of a slice does not wait for the rest of it."""
    if _on_tpu():
        chips = _CHIPS.get(len(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")))
        alone = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": chips, "CLOUD_TPU_TASK_ID": "0"}
        for name, value in alone.items() if chips else ():
            os.environ.setdefault(name, value)


def _on_tpu() -> bool:
    asked_for = os.environ.get("JAX_PLATFORMS", "")
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")
    return bool(chips and importlib.util.find_spec("libtpu")) and (not asked_for or "tpu" in asked_for)


def _processes(count: int) -> str:
    return "process" if count == 1 else "processes"


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


def leave(code: int, words: str = "") -> NoReturn:
    """Ends this process. One of several does not wait for the others, which may be waiting for it: they see that it is gone.

    Unless it is to be continued, the others are told first, with the line in which it ends (`words`): they end with the same
    code. Otherwise each of them would end as if this one were lost, and a scheduler would start the same failure again and
    again.
    """
    if several():
        if code not in (0, TO_BE_CONTINUED):
            _tell_the_others(code, words)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def end_of_another() -> tuple[int, str] | None:
    """The exit code of the first of the others that ended with an error, and a line about it; None if none has, or if nothing
    can be known because the first process is gone."""
    try:
        number, code, words = json.loads(_together().client.key_value_try_get(_END))
    except Exception:  # no such key, or no connection: JAX has no type for either
        return None
    return code, f"process {number} ended with code {code}, and so does this one: {words}"


def _tell_the_others(code: int, words: str) -> None:
    _leaving.set()
    _state["if aborted"] = "", code  # JAX aborts this process if the first is gone before it
    together = _together()
    own = together.process_id
    with contextlib.suppress(Exception):  # the store goes with the first process
        together.client.key_value_set(_NOTICED.format(own), "yes")
        together.client.key_value_set(_END, json.dumps([own, code, words]))  # raises where another was first: that stands
    rest = set(range(together.num_processes)) - {own}
    deadline = time.monotonic() + _FAREWELL
    while rest and time.monotonic() < deadline:
        rest -= {number for number in rest if _has_noticed(number)}
        time.sleep(_PAUSE / 2)


def _has_noticed(number: int) -> bool:
    try:
        return bool(_together().client.key_value_try_get(_NOTICED.format(number)))
    except Exception:
        return False


def _watch_the_others() -> None:
    """Starts a thread that ends this process when another has ended with an error: this one may be waiting for it where only
    JAX's network code could notice."""
    together = _together()

    def watch() -> None:
        while not _leaving.wait(_PAUSE):
            end = end_of_another()
            if end and not _leaving.wait(_PAUSE):  # if the error is also this process's own, it says so itself
                code, words = end
                _state["if aborted"] = "", code  # JAX aborts this process if the first is gone before it
                os.write(2, f"{words}\n".encode())
                with contextlib.suppress(Exception):
                    together.client.key_value_set(_NOTICED.format(together.process_id), "yes")
                time.sleep(0 if together.process_id else 4 * _PAUSE)  # the first keeps the store: it lets the others leave
                os._exit(code)

    def end_together() -> None:
        with contextlib.suppress(Exception):  # of a loss JAX's own farewell, which comes next, makes what it always makes
            together.client.wait_at_barrier("transformer_jax/done", 1000 * _LAST)
        _leaving.set()
        thread.join(_FAREWELL)

    thread = threading.Thread(target=watch, daemon=True, name="other processes")
    thread.start()
    atexit.register(end_together)  # before JAX takes its leave of the others: handlers are called in reverse order


def _together() -> Any:
    """What JAX knows of the processes before it has looked for devices: `process_id`, `num_processes`, and `client`, with the
    keys and values that they share, which the first keeps. It has no public name."""
    from jax._src import distributed

    return distributed.global_state


@contextlib.contextmanager
def _if_aborted(words: str | None, code: int) -> Iterator[None]:
    """In the block an abort of the process, as JAX and XLA end it, is an end with this line and this exit code; where there
    are no `words`, it stays an abort."""
    before = _state["if aborted"]
    _state["if aborted"] = (words, code) if words else before
    if words:
        _catch_aborts()
    try:
        yield
    finally:
        _state["if aborted"] = before


def _catch_aborts() -> None:
    def end(_: int) -> None:
        if _state["if aborted"]:  # else the abort is another's, and goes on
            words, code = _state["if aborted"]
            os.write(2, f"{words}\n".encode() if words else b"")
            os._exit(code)

    if _state["handler"]:
        return
    handler = _state["handler"] = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)  # kept, or it would be freed
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
