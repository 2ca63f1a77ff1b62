"""A search that stays open: pieces come from any thread at any time, and are searched together.

Continuous batching across requests: each thread of the search has banks of slots (`decoding.continuous_batching.Bank`). A piece
that waits takes the first slot that is free, of all requests in turn, so that a short request does not wait for a long one.
What a piece's translation is does not depend on the others.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.config import SearchOptions
from transformer_jax.inference.batched_search import Candidate, positions_at_once
from transformer_jax.inference.forced_decoding import ForcedDecoder
from transformer_jax.inference.length_batches import padded_length, power_of_two
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.model_search import BankShape
from transformer_jax.inference.search_queue import Call, Ticket, Waiting
from transformer_jax.inference.search_rows import fewer_positions, pack_rows
from transformer_jax.inference.slot_bank import BankPrograms, Job, SlotBank
from transformer_jax.platform import searches_at_once
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["OpenSearch", "SearchCounts"]

log = logging.getLogger(__name__)

_LENGTHS = 32, 64  # padded lengths of sources; the longest is the model's
# Slots of the banks for times of few requests, beside that of `options.tokens` positions: a step takes 1.3 ms with 2 slots, 5
# with 8 and 12 with 32 (beam 4, 2.4 million parameters, one core).
_SIZES = 2, 8
_FULL = 5 / 8  # of the slots
_REFILL = 4  # pieces that begin at a time
_STEPS = 8  # between two looks at the queue: the longest that a piece waits for a slot that is free


class SearchCounts(NamedTuple):
    """What an open search has done since it began, and has before it."""

    pieces: int  # that have been translated
    tokens: int  # of their translations
    steps: int  # batches of `slots` of which `occupied` were in use, added up: their ratio is how full the batches were
    occupied: int
    slots: int
    waiting: int  # pieces that have no slot yet
    searching: int  # pieces in slots


class OpenSearch:
    """Searches pieces as they come, by beam or greedy search with the options that are given.

    It has a thread for each core of a CPU, or for each other device, and in each thread for each length of sources banks of two
    or three sizes: small ones for times of few requests, and one of `options.tokens` positions. `compile` makes programs before
    the first piece comes; else each is made when it is first needed.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Any,
        tokenizer: Tokenizer,
        options: SearchOptions,
        max_positions: int,
        longest: int,
    ):
        self.options = options
        self.longest = min(padded_length(longest), max_positions)
        self.alone = threading.Lock()  # of who searches beside it
        self.forced = ForcedDecoder(model, tokenizer, max_positions, coarse=True)
        self._params = params
        self._changed = threading.Condition()
        self._closed = False
        # On a CPU several, each of which uses one core, do more together than one that uses all.
        places = [device for device in jax.local_devices() for _ in range(searches_at_once())]
        lengths = [length for length in _LENGTHS if length < self.longest] + [self.longest]
        self._lengths, self._waiting = lengths, [Waiting() for _ in lengths]
        self._programs: list[list[BankPrograms]] = []  # of each length, the smallest first
        for length in lengths:
            room = pack_rows([Piece(np.zeros(1, np.int32))], length, max_positions, tokenizer, options)
            # Few translations are longer than the short length; those begin anew where there is room for the longest.
            rooms = room.max_length if length == self.longest else room.short_length, room.max_length
            most = fewer_positions(positions_at_once(options), options) // options.beam // length
            most = max(power_of_two(most + 1) // 2, _SIZES[0])
            sizes = [size for size in _SIZES if size * size <= 2 * most] + [most]
            shapes = [BankShape(size, length, *rooms, min(size // 2, _REFILL)) for size in sizes]
            self._programs.append([BankPrograms(model, tokenizer, options, shape, max_positions) for shape in shapes])
        copies = {device: jax.device_put(params, device) for device in set(places)}
        self._threads = [_Thread(self, number, copies[place]) for number, place in enumerate(places)]
        self._idle = len(places)
        for thread in self._threads:
            thread.start()

    def compile(self) -> None:
        """Makes the programs of the smallest and the largest banks, side by side; those between wait for `compile_rest`."""
        for of_length in self._programs:
            for programs in of_length[1:-1]:
                programs.available = False
        self._warm([programs for of_length in self._programs for programs in of_length if programs.available])

    def compile_rest(self, alignment_layer: int = 0) -> None:
        """Makes the programs of the other banks, one after the other beside requests, each used from then on; and with an
        `alignment_layer` those of `Translator.translate(align="complete")` for one sentence and for some. It ends early where
        the search is closed."""
        for programs in itertools.chain.from_iterable(self._programs):
            if not programs.available and not self._closed:
                self._warm([programs])
                programs.available = True
        for length, count in itertools.product(self._lengths if alignment_layer else (), (1, 2)):
            if not self._closed:
                rows = [np.zeros(length, np.int32)] * count
                self.forced.layer_attentions(self._params, rows, rows, positions_at_once(self.options), alignment_layer)

    def _warm(self, kinds: Sequence[BankPrograms]) -> None:
        """Compiles, or reads from the cache, what banks of these kinds need."""
        for params in {id(thread.params): thread.params for thread in self._threads}.values():
            with ThreadPoolExecutor() as pool:
                list(pool.map(_run_once, kinds, itertools.repeat(params)))

    def search(
        self,
        pieces: Sequence[Piece],
        wanted: int = 1,
        ticket: Ticket | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Candidate]]:
        """For each piece, of at most `longest` ids, the `wanted` best translations, at most `options.nbest`, best first. It may
        be called by any number of threads. `numbers` are those that `ticket.tell` gets, by default from 0. Raises Left where
        the ticket is left before all are there."""
        call = Call(pieces, wanted, ticket or Ticket(), range(len(pieces)) if numbers is None else numbers)
        if not call.jobs:
            return []
        with self._changed:
            if self._closed:
                raise RuntimeError("the search has been closed")
            for job in call.jobs:
                size = len(job.piece.ids)
                self._waiting[next(i for i, length in enumerate(self._lengths) if size <= length)].add(job)
            self._changed.notify_all()
        call.ticket.wait(call.done)
        if call.error:
            raise call.error
        return call.results

    def counts(self) -> SearchCounts:
        """What has been done, and is to do."""
        threads = self._threads
        totals = [sum(values) for values in zip(*(thread.totals for thread in threads), strict=True)]
        waiting = sum(map(len, self._waiting))
        return SearchCounts(*totals, waiting, sum(thread.searching for thread in threads))

    def close(self) -> None:
        """Ends the threads once all pieces are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


class _Thread(threading.Thread):
    """One thread of an open search, and its banks."""

    def __init__(self, search: OpenSearch, number: int, params: Any):
        super().__init__(name=f"search {number}", daemon=True)
        self.params = params
        self._search, self._programs = search, search._programs
        self._banks: dict[tuple[int, int], SlotBank] = {}
        self.totals = [0, 0, 0, 0, 0]  # the first fields of SearchCounts

    @property
    def searching(self) -> int:
        return sum(bank.occupied for bank in tuple(self._banks.values()))

    def run(self) -> None:
        search = self._search
        while True:
            with search._changed:
                while not self.searching and not any(map(len, search._waiting)):
                    if search._closed:
                        return
                    search._changed.wait()
                search._idle -= 1
            try:
                for length in range(len(self._programs)):
                    self._turn(length)
            finally:
                with search._changed:
                    search._idle += 1

    def _turn(self, length: int) -> None:
        """Gives slots to pieces of this length that wait, and takes some steps of its banks."""
        search, kinds = self._search, range(len(self._programs[length]))
        with search._changed:
            waiting = search._waiting[length]
            # What waits is shared with the threads that have nothing to do.
            share = -(-len(waiting) // (search._idle + 1))
            kind = self._kind(length, share)
            bank = self._banks.get((length, kind))
            jobs = waiting.take(min(share, bank.free if bank else self._programs[length][kind].shape.slots))
        if jobs:
            self._guarded(length, kind, lambda bank: bank.admit(jobs), jobs)
        for kind in kinds:
            bank = self._banks.get((length, kind))
            if bank and bank.occupied:
                self._count(bank)
                enough = max(bank.occupied // 8, 1)  # of a full bank some at a time: each look at it takes a tenth of a step
                self._guarded(length, kind, lambda bank, enough=enough: self._run(bank, enough))

    def _kind(self, length: int, more: int) -> int:
        """The bank that so many more pieces should begin in: the largest that they and those in banks would fill to `_FULL`. A
        step of a bank takes nearly as long as its slots are many, so that in one that is emptier each piece costs more than in
        a smaller one that some wait for. A larger bank that is in use empties meanwhile."""
        kinds = self._programs[length]
        wanted = more + sum(bank.occupied for (of, _), bank in self._banks.items() if of == length)
        filled = (i for i, kind in enumerate(kinds) if kind.available and wanted >= _FULL * kind.shape.slots)
        return max(filled, default=0)

    def _count(self, bank: SlotBank) -> None:
        self.totals[2] += 1
        self.totals[3] += bank.occupied
        self.totals[4] += bank.slots

    def _run(self, bank: SlotBank, enough: int) -> None:
        pieces, tokens, cut = bank.run(_STEPS, enough)
        self.totals[0] += pieces
        self.totals[1] += tokens
        with self._search._changed:
            for job in cut:
                self._search._waiting[-1].add(job)

    def _guarded(self, length: int, kind: int, work: Callable[[SlotBank], None], jobs: Sequence[Job] = ()) -> None:
        """`work` on a bank; what it raises is told to the pieces in it and to those of `jobs`, and the thread goes on."""
        try:
            if (length, kind) not in self._banks:
                self._banks[length, kind] = SlotBank(self._programs[length][kind], self.params)
            work(self._banks[length, kind])
        except Exception as error:
            log.exception("a step of the search failed")
            bank = self._banks.pop((length, kind), None)
            if bank:
                bank.fail(error)
            for job in jobs:
                if job.alive():
                    job.deliver(error)


def _run_once(programs: BankPrograms, params: Any) -> None:
    bank = SlotBank(programs, params)
    bank.admit([Job(Piece(np.zeros(1, np.int32)), None, 1, lambda: True, lambda found: None)])
    bank.run(1, 1)
