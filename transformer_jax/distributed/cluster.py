"""Joins the processes of one program before JAX is used, and ends them together."""

import atexit
import contextlib
import ctypes
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
from transformer_jax.platform import tpu_files

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
# The last line of a process that ends because another was lost.
LOST = "another process was lost (or what the lines above say); the same command everywhere goes on from the last checkpoint"
# Parts of the exceptions of JAX, its transport on CPU, and orbax when a process is lost. On TPU and GPU JAX's heartbeat notices
# the loss, and aborts the process (`_catch_aborts`).
_SIGNS_OF_LOSS = ("Gloo", "oordination service", "Connection closed by peer", "heartbeat", "waiting for async_")
_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
_PAUSE = 0.5  # seconds between two checks whether another process has ended
_FAREWELL = 10  # most seconds that a process with an error waits for the others to notice it
_LAST = 300  # most seconds that a finished process waits for the others, as in JAX
# Keys of JAX's key-value store:
_END = "transformer_jax/end"  # number, exit code and last line of the first process that ended with an error
_NOTICED = "transformer_jax/noticed/{}"  # the process of this number has read that, and ends
# The variables from which JAX learns about a Slurm step.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# The topology of one host's chips by their number, as libtpu writes it.
_CHIPS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
_state: dict[str, Any] = {"several": False, "if aborted": None, "handler": None}
_leaving = threading.Event()  # set once this process ends, whatever the others do


def others(coordinator: str | None, processes: int | None, process: int | None) -> str:
    """A description of the other processes of this program, according to the three flags, Slurm's variables, or a TPU; "" if
    nothing says that there are any.

    `processes=1` means one process alone, wherever it runs. Raises UserError if only some of the three are given, if they are
    impossible, or if variables of Slurm are missing.
    """
    are_given = [value is not None for value in (coordinator, processes, process)]
    alone = processes == 1 and process in (None, 0)
    if any(are_given) and not alone and not (all(are_given) and processes > 0 and 0 <= process < processes):
        raise UserError(
            f"--coordinator={coordinator} --processes={processes} --process={process}: give all three, and a process from 0 to "
            "one less than processes; or --processes=1 for one process alone"
        )
    if alone:
        return ""
    if any(are_given):
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
    """Connects to the other processes, if there are any: the three flags name them, or JAX finds them on Slurm and TPU slices.

    The log says which processes are waited for, and when all are there. If they do not all come within `patience` seconds, the
    program ends with a line and code 75. Raises UserError as `others` does.
    """
    waited_for = others(coordinator, processes, process)
    if not waited_for:
        return stay_alone()
    if process == 0:
        _check_free(coordinator)
    log.info("waiting for %s; to run alone: --processes=1", waited_for)
    message = (
        f"not all processes came together within {patience} s: there was nothing to be seen of {waited_for}; start the same "
        "command for each of them, with an address that all reach, or one alone with --processes=1"
    )
    import jax

    with _if_aborted(message, TO_BE_CONTINUED):
        try:
            jax.distributed.initialize(
                coordinator, processes, process, initialization_timeout=patience, heartbeat_timeout_seconds=_HEARTBEAT
            )
        except (ValueError, TypeError, KeyError) as error:  # variables of the environment are impossible
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
    """Prepares a program that runs in one process: on a host of a TPU slice it does not wait for the other hosts."""
    if _on_tpu():
        chips = _CHIPS.get(len(tpu_files()))
        alone = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": chips, "CLOUD_TPU_TASK_ID": "0"}
        for name, value in alone.items() if chips else ():
            os.environ.setdefault(name, value)


def _on_tpu() -> bool:
    asked_for = os.environ.get("JAX_PLATFORMS", "")
    return bool(tpu_files() and importlib.util.find_spec("libtpu")) and (not asked_for or "tpu" in asked_for)


def _processes(count: int) -> str:
    return "process" if count == 1 else "processes"


def _check_free(coordinator: str) -> None:
    """Raises UserError if this process, the first, cannot open the coordinator's port; JAX would crash."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--coordinator={coordinator}: cannot open this port here ({error}); name one that is free") from error


def several() -> bool:
    """Did `join` connect this process to others?"""
    return _state["several"]


def shows_loss(error: Exception) -> bool:
    """Was `error` caused by the loss of another process?"""
    return several() and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def leave(code: int, message: str = "") -> NoReturn:
    """Ends this process with an exit code. One of several does not wait for the others, which may be waiting for it.

    The code and last line (`message`) of an error reach the others first, so that they end with the same code. Without that
    they would take this process for lost and end with code 75, and a scheduler would restart the same failure again and again.
    """
    if several():
        if code not in (0, TO_BE_CONTINUED):
            _report_to_others(code, message)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def end_of_another() -> tuple[int, str] | None:
    """The exit code of the first process that ended with an error, and a line about it; None if none did, or if process 0,
    which keeps the store, is gone."""
    try:
        number, code, message = json.loads(_together().client.key_value_try_get(_END))
    except Exception:  # no such key, or no connection: JAX has no type for either
        return None
    return code, f"process {number} ended with code {code}, and so does this one: {message}"


def _report_to_others(code: int, message: str) -> None:
    """Stores how this process ends, and waits until the others have noticed."""
    _leaving.set()
    _state["if aborted"] = "", code  # JAX aborts this process if the first is gone before it
    together = _together()
    own = together.process_id
    with contextlib.suppress(Exception):  # the store ends with process 0
        together.client.key_value_set(_NOTICED.format(own), "yes")
        together.client.key_value_set(_END, json.dumps([own, code, message]))  # raises if another was first, whose entry stays
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
    """Starts a thread that ends this process after another has ended with an error. This process may be waiting for the other
    in JAX's network code, where Python cannot interrupt it."""
    together = _together()

    def watch() -> None:
        while not _leaving.wait(_PAUSE):
            end = end_of_another()
            if end and not _leaving.wait(_PAUSE):  # time to report the error itself, if this process has the same
                code, message = end
                _state["if aborted"] = "", code  # JAX aborts this process if the first is gone before it
                os.write(2, f"{message}\n".encode())
                with contextlib.suppress(Exception):
                    together.client.key_value_set(_NOTICED.format(together.process_id), "yes")
                time.sleep(0 if together.process_id else 4 * _PAUSE)  # process 0 keeps the store until the others have read it
                os._exit(code)

    def end_together() -> None:
        with contextlib.suppress(Exception):  # JAX's own shutdown, which comes next, deals with a loss
            together.client.wait_at_barrier("transformer_jax/done", 1000 * _LAST)
        _leaving.set()
        thread.join(_FAREWELL)

    thread = threading.Thread(target=watch, daemon=True, name="other processes")
    thread.start()
    atexit.register(end_together)  # runs before JAX's own shutdown: handlers are called in reverse order


def _together() -> Any:
    """JAX's state of the processes, before it looks for devices: `process_id`, `num_processes`, and `client`, for the key-value
    store that process 0 keeps. It has no public name."""
    from jax._src import distributed

    return distributed.global_state


@contextlib.contextmanager
def _if_aborted(message: str, code: int) -> Iterator[None]:
    """An abort of the process in the block becomes an end with this line and this exit code."""
    before, _state["if aborted"] = _state["if aborted"], (message, code)
    _catch_aborts()
    try:
        yield
    finally:
        _state["if aborted"] = before


def _catch_aborts() -> None:
    """Installs a handler of SIGABRT that ends the process as `_state["if aborted"]` says; without an entry the abort goes on.

    JAX aborts a process whose others did not come in time, or were lost. With jax 0.10.2 and the handler off, the exit code is
    134 below a stack trace of C++, when process 0 of two is killed and when a process waits in vain; a scheduler that restarts
    what ends with 75 would give such a training up. JAX offers no other way: the callback for missed heartbeats of its client
    fails with std::bad_cast, and once JAX notices the loss the abort follows before a thread of Python could act.

    The handler runs Python inside a signal handler, which is safe only if the interrupted code holds neither the GIL nor a lock
    of the allocator. JAX aborts deliberately (a fatal log line) on a network thread of its own, or in a call that has released
    the GIL; other aborts, such as the allocator's on a corrupt heap, may hang here instead of ending.
    """

    def end(_: int) -> None:
        if _state["if aborted"]:
            message, code = _state["if aborted"]
            os.write(2, f"{message}\n".encode() if message else b"")
            os._exit(code)

    if _state["handler"]:
        return
    handler = _state["handler"] = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)  # kept, or it would be freed
    set_handler = ctypes.CDLL(None).signal  # Python's own handlers run on the main thread only, after the abort
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
