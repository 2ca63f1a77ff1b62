"""Other processes of this machine that work on one item after the other, because Python's lock lets one thread of a process run
at a time."""

import collections
import contextlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from transformer_jax.platform import usable_cores

__all__ = ["worker_processes"]

_MOST = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def worker_processes(
    work: Callable[[Item], Result], doing: str, count: int = 0, alone: int = 0
) -> Iterator[Callable[[Iterable[Item]], Iterator[Result]]]:
    """Gives a function that yields `work(item)` of each item, in the order of the items. It takes from them no more than there
    are processes ahead, and may be called again when it has given all.

    There are `count` processes; 0: as many as there are cores, at most 16. The first `alone` items are worked on in this one,
    while others would still be starting, and with a count of 1 all of them. The others start when the next item comes, and end
    with the block. They get `work` and the items by `pickle`: `work` is a function of a module, with arguments by
    `functools.partial`, or an object.

    The function raises RuntimeError if one of them ends before its time; `doing` says what it did ("tokenises").
    """
    count = count or min(usable_cores(), _MOST)
    workers: list[subprocess.Popen] = []

    def map_in_order(items: Iterable[Item]) -> Iterator[Result]:
        items = iter(items)
        yield from map(work, items if count == 1 else itertools.islice(items, 0 if workers else alone))
        for first in items:
            if not workers:
                workers.extend(_start() for _ in range(count))
                _tell(workers, work)
            yield from _by_others(workers, itertools.chain([first], items), doing)

    try:
        yield map_in_order
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def serve() -> None:
    """Runs a process that works: what it does and its items come on standard input, the results go to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the results
    # Not sys.stdout.buffer, which with PYTHONUNBUFFERED=1 loses the rest of what a signal (SIGSTOP) has interrupted.
    with contextlib.suppress(EOFError, BrokenPipeError), open(sys.stdout.fileno(), "wb", closefd=False) as results:
        work = pickle.load(sys.stdin.buffer)
        while True:
            _send(work(pickle.load(sys.stdin.buffer)), results)


def _start() -> subprocess.Popen:
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _tell(workers: list[subprocess.Popen], work: Callable[[Any], Any]) -> None:
    for worker in workers:  # when all have been started: a long message waits until its reader is there
        with contextlib.suppress(BrokenPipeError):  # whoever waits for a result will see that it has ended
            _send(work, worker.stdin)


def _by_others(workers: list[subprocess.Popen], items: Iterator[Any], doing: str) -> Iterator[Any]:
    """The results in the order of the items. Each process has one of the first items; it gets another when it has returned the
    one before."""
    at_work: collections.deque[subprocess.Popen] = collections.deque()
    for worker, item in zip(workers, items, strict=False):
        with _told(worker, doing):
            _send(item, worker.stdin)
        at_work.append(worker)
    while at_work:
        worker = at_work.popleft()
        with _told(worker, doing):
            result = pickle.load(worker.stdout)
        yield result
        for item in itertools.islice(items, 1):
            with _told(worker, doing):
                _send(item, worker.stdin)
            at_work.append(worker)


@contextlib.contextmanager
def _told(worker: subprocess.Popen, doing: str) -> Iterator[None]:
    """Raises RuntimeError where the process has ended."""
    try:
        yield
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=1)
        raise RuntimeError(f"a process that {doing} has ended (code {worker.poll()})") from error


def _send(value: Any, stream: BinaryIO) -> None:
    pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()
