"""The slots of an open search on one device: which piece is in which, and what comes out of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.continuous_batching import Bank
from transformer_jax.inference.batched_search import Candidate, candidates_of
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.model_search import BankShape, ModelBank
from transformer_jax.inference.search_rows import SearchRows, pack_rows
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["BankPrograms", "Job", "SlotBank"]

_INDEX_LIMIT = 1 << 30  # a bank that has taken so many steps is emptied before its next sentence: the index has 31 bits


class Job(NamedTuple):
    """A piece, and what becomes of it."""

    piece: Piece
    call: object  # whose it is
    wanted: int  # how many translations
    alive: Callable[[], bool]  # is it still waited for?
    deliver: Callable[[list[Candidate] | Exception], None]
    tell: Callable[[np.ndarray], None] | None = None  # gets the tokens so far, now and then


class BankPrograms:
    """The compiled programs of a bank of one shape, for any number of devices and threads.

    Attributes:
        shape: what the programs are for
        available: may banks of this shape be used yet?
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, options: SearchOptions, shape: BankShape, max_positions: int):
        self.shape = shape
        self.available = True
        self._pack = functools.partial(
            pack_rows,
            length=shape.source,
            max_positions=max_positions,
            tokenizer=tokenizer,
            options=options,
        )
        self._has_least = bool(options.min_length_ratio or options.min_length_extra)
        self._search = bank = ModelBank(model, tokenizer, options.compiled(), shape)
        self._empty: Bank | None = None  # its shapes
        self.admit = jax.jit(bank.admit, donate_argnums=1)  # the bank is written in place
        self.run = jax.jit(bank.run, donate_argnums=1)

    def empty(self, params: Any) -> Bank:
        """A bank without sentences, on the host."""
        if self._empty is None:
            self._empty = jax.eval_shape(self._search.empty, params, self.rows([Piece(np.zeros(1, np.int32))]))
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._empty)

    def rows(self, pieces: Sequence[Piece]) -> SearchRows:
        """The arrays of these pieces, one or more, filled up to `shape.refill` rows."""
        fill = [pieces[0]] * (self.shape.refill - len(pieces))
        rows = self._pack([*pieces, *fill]).rows
        if self._has_least and rows.min_length is None:  # the same program, whether the pieces have a least length or not
            rows = rows._replace(min_length=np.zeros(self.shape.refill, np.int32))
        return rows


class SlotBank:
    """A bank of slots on one device. It belongs to one thread."""

    def __init__(self, programs: BankPrograms, params: Any):
        self._programs, self._params = programs, params
        self._jobs: list[Job | None] = [None] * programs.shape.slots
        self._rows = programs.rows([Piece(np.zeros(1, np.int32))])  # of which the programs need the shape
        (self._device,) = jax.tree.leaves(params)[0].devices()
        self._begin_anew()

    @property
    def slots(self) -> int:
        """How many pieces it has room for."""
        return self._programs.shape.slots

    @property
    def occupied(self) -> int:
        """How many slots have a piece."""
        return sum(job is not None for job in self._jobs)

    @property
    def free(self) -> int:
        """How many more pieces can begin now."""
        occupied = self.occupied
        return self.slots - occupied if self._steps < _INDEX_LIMIT or not occupied else 0

    def admit(self, jobs: Sequence[Job]) -> None:
        """Has the pieces of these jobs, at most `free`, begin in slots that are free."""
        size = self._programs.shape.refill
        if not self.occupied:
            # On the bank's device, as the programs leave it: for a number from elsewhere they would be compiled again.
            index = jax.device_put(np.int32(0), self._device)
            self._bank, self._steps = self._bank._replace(index=index), 0
        for start in range(0, len(jobs), size):
            some = jobs[start : start + size]
            free = [slot for slot, job in enumerate(self._jobs) if job is None][: len(some)]
            slots = np.array([*free, *[self.slots] * (size - len(free))], np.int32)
            self._bank = self._programs.admit(self._params, self._bank, self._programs.rows([job.piece for job in some]), slots)
            for slot, job in zip(free, some, strict=True):
                self._jobs[slot] = job

    def run(self, steps: int, enough: int) -> tuple[int, int, list[Job]]:
        """At most `steps` steps, fewer where `enough` pieces are done before, and the delivery of those that are. Pieces that
        nobody waits for any more leave their slots. Returns how many pieces were delivered, how many tokens they have, and
        which jobs left because their translations are longer than `shape.length`: they need a bank with more room."""
        self._jobs = [job if job is not None and job.alive() else None for job in self._jobs]
        if not self.occupied:
            return 0, 0, []
        wanted = np.array([job.wanted if job else 0 for job in self._jobs], np.int32)
        self._bank, found = self._programs.run(self._params, self._bank, self._rows, wanted, np.int32(steps), np.int32(enough))
        done, hypotheses, so_far = jax.device_get(found)
        self._steps += steps
        finished = np.flatnonzero(done).tolist()
        rows = candidates_of(jax.tree.map(lambda leaf: leaf[finished], hypotheses)) if finished else []
        pieces, tokens, cut = 0, 0, []
        for slot, candidates in zip(finished, rows, strict=True):
            job, self._jobs[slot] = self._jobs[slot], None
            if not candidates:
                cut.append(job)
                continue
            pieces, tokens = pieces + 1, tokens + len(candidates[0].ids)
            job.deliver(candidates[: job.wanted])
        for slot, job in enumerate(self._jobs):
            if job and job.tell:
                job.tell(so_far[slot])
        return pieces, tokens, cut

    def fail(self, error: Exception) -> None:
        """Delivers the error to all pieces and begins anew: what the device holds may be lost."""
        jobs, self._jobs = self._jobs, [None] * self.slots
        for job in jobs:
            if job:
                job.deliver(error)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._bank, self._steps = jax.device_put(self._programs.empty(self._params), self._device), 0
