"""The queue of an open search: who waits for which pieces, and whose comes next."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import numpy as np

from transformer_jax.inference.batched_search import Candidate
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.slot_bank import Job

__all__ = ["Call", "Left", "Ticket", "Waiting"]


class Left(Exception):
    """Nobody waits for the translation any more."""


class Ticket:
    """What holds the pieces of a request together: `leave` takes them all out of the search."""

    def __init__(self, tell: Callable[[int, np.ndarray], None] | None = None):
        self.tell = tell  # gets the number of a piece in the call and its tokens so far, now and then
        self._left = threading.Event()
        self._waits: set[threading.Event] = set()

    @property
    def has_left(self) -> bool:
        """Was it left?"""
        return self._left.is_set()

    def leave(self) -> None:
        """Frees the slots of the pieces; whoever waits for them gets `Left`."""
        self._left.set()
        for event in tuple(self._waits):
            event.set()

    def wait(self, event: threading.Event) -> None:
        """Returns once the event is set. Raises Left where the ticket was left."""
        self._waits.add(event)
        if not self.has_left:
            event.wait()
        self._waits.discard(event)
        if self.has_left:
            raise Left


class Call:
    """The pieces of one call of `OpenSearch.search`, and their results."""

    def __init__(self, pieces: Sequence[Piece], wanted: int, ticket: Ticket, numbers: Sequence[int]):
        self.results: list[list[Candidate]] = [[] for _ in pieces]
        self.error: Exception | None = None
        self.done = threading.Event()
        self.ticket = ticket
        self._left = len(pieces)
        self._lock = threading.Lock()
        self.jobs = [
            self._job(place, piece, wanted, number) for place, (piece, number) in enumerate(zip(pieces, numbers, strict=True))
        ]

    def _job(self, place: int, piece: Piece, wanted: int, number: int) -> Job:
        def alive() -> bool:
            return self.error is None and not self.ticket.has_left

        def deliver(found: list[Candidate] | Exception) -> None:
            with self._lock:
                self._left -= 1
                if isinstance(found, Exception):
                    self.error = self.error or found
                else:
                    self.results[place] = found
                if not self._left or self.error:
                    self.done.set()

        tell = self.ticket.tell
        return Job(piece, self, wanted, alive, deliver, tell and (lambda tokens: tell(number, tokens)))


class Waiting:
    """Pieces that wait for a slot of one length, taken from all calls in turn."""

    def __init__(self) -> None:
        self._calls: OrderedDict[int, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._calls.values()))

    def add(self, job: Job) -> None:
        """Puts a piece behind those of its own call."""
        self._calls.setdefault(id(job.call), deque()).append(job)

    def take(self, count: int) -> list[Job]:
        """At most `count` of those that somebody still waits for."""
        taken = []
        while len(taken) < count and self._calls:
            key, jobs = self._calls.popitem(last=False)
            job = jobs.popleft()
            if not job.alive():
                continue  # nor does anybody wait for the rest of that call
            taken.append(job)
            if jobs:
                self._calls[key] = jobs
        return taken
