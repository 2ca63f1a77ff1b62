"""A thread that makes the next items of an iterator while the device works."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetch", "prefetch"]

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """Iterates over another iterator, which a thread runs up to `size` items ahead.

    What the iterator raises is raised here, in its place in the sequence. `close()`, the end of a `with` block, or the end of
    the object's life ends the thread; a thread that is never closed does not keep the interpreter from leaving.
    """

    def __init__(self, iterator: Iterator[Item], size: int):
        self._results: queue.Queue = queue.Queue(max(size, 1))  # 0 would mean without bound
        self._stop = threading.Event()
        # The thread knows the queue but not this object, so that it does not keep it alive.
        self._thread = threading.Thread(target=_produce, args=(iterator, self._results, self._stop), daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetch[Item]":
        return self

    def __next__(self) -> Item:
        if self._stop.is_set():
            raise StopIteration
        item, error = self._results.get()
        if error is None:
            return item
        self.close()
        raise error

    def close(self) -> None:
        """Ends the thread; an item that it is at work on is finished first. May be called again."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "Prefetch[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._stop.set()


def prefetch(iterator: Iterator[Item], size: int = 2) -> Prefetch[Item]:
    """`iterator`'s items, made by a thread up to `size` ahead of their use.

    >>> with prefetch(iter("abc"), 2) as letters:
    ...     list(letters)
    ['a', 'b', 'c']
    """
    return Prefetch(iter(iterator), size)


def _produce(iterator: Iterator, results: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in iterator:
            if not _put(results, (item, None), stop):
                return
        end: BaseException = StopIteration()
    except BaseException as error:
        end = error
    finally:
        if hasattr(iterator, "close"):  # a generator's own clean-up runs on the thread that ran the generator
            with contextlib.suppress(Exception):
                iterator.close()
    _put(results, (None, end), stop)


def _put(results: queue.Queue, item: tuple, stop: threading.Event) -> bool:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            results.put(item, timeout=0.05)  # seconds between looks at `stop`
            return True
    return False
