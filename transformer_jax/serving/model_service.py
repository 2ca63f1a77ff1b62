"""The service that translates: the models of all pairs of languages, within the limits."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transformer_jax.inference.open_search import SearchCounts
from transformer_jax.inference.search_queue import Ticket
from transformer_jax.serving.errors import BadRequest, Busy, TooLarge, TooSlow
from transformer_jax.serving.language_detection import detect
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.served_model import ServedModel
from transformer_jax.serving.service import PLAIN, LanguagePair, ServedText, TextOptions

__all__ = ["ModelService"]


class ModelService:
    """A `serving.service.Service` over models in this process.

    Attributes:
        pairs: the languages, in the order of `models`
        under_way: how many requests are being translated, or wait for it
    """

    def __init__(self, models: Mapping[LanguagePair, ServedModel], limits: RequestLimits):
        self._models, self._limits = dict(models), limits
        self.pairs = tuple(models)
        self.under_way = 0
        self._stopping = False
        self._making: threading.Thread | None = None
        # A thread waits for each request; the search has threads of its own.
        self._threads = ThreadPoolExecutor(limits.requests, thread_name_prefix="request")

    def pair(self, source: str | None, target: str | None) -> LanguagePair:
        """See `Service.pair`."""
        source, target = _code(source), _code(target)
        if target is None and len({pair.target for pair in self.pairs}) == 1:
            target = self.pairs[0].target
        if target is None:
            raise BadRequest(f"the target language is missing; there are {self._targets()}")
        with_target = [pair for pair in self.pairs if pair.target == target]
        if not with_target:
            raise BadRequest(f"{target} is no target language of this server; there are {self._targets()}")
        if source is None and len(with_target) > 1:
            raise BadRequest(f"the source language is missing: {target} can be translated from several")
        for pair in with_target:
            if source in (None, pair.source):
                return pair
        known = ", ".join(pair.source for pair in with_target)
        raise BadRequest(f"{source} cannot be translated into {target} by this server; {known} can")

    async def translate(self, texts: Sequence[str], pair: LanguagePair, options: TextOptions = PLAIN) -> list[ServedText]:
        """See `Service.translate`."""
        return await self._run(texts, pair, options, Ticket())

    async def stream(self, text: str, pair: LanguagePair, options: TextOptions = PLAIN) -> AsyncIterator[ServedText]:
        """See `Service.stream`."""
        loop, told = asyncio.get_running_loop(), asyncio.Queue()
        model = self._models[pair]

        def tell(so_far: str) -> None:
            # The loop may be gone before the search is.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(told.put_nowait, ServedText(so_far))

        self._check([text])
        ticket = await asyncio.to_thread(model.growing, text, options, tell)
        task = asyncio.ensure_future(self._run([text], pair, options, ticket))
        task.add_done_callback(lambda done: told.put_nowait(None))
        last = None
        try:
            while (so_far := await told.get()) is not None:
                if so_far.text != last:
                    last = so_far.text
                    yield so_far
            (whole,) = await task
            yield whole
        finally:
            task.cancel()
            ticket.leave()

    async def attention_page(self, text: str, pair: LanguagePair) -> str:
        """The page of what the model attends to when it translates a sentence, HTML. Raises BadRequest for more than one
        sentence, and for a model without attention, and what `translate` raises."""
        self._check([text])
        ticket = Ticket()
        return await self._in_time(functools.partial(self._models[pair].attention_page, text, ticket), ticket)

    def detect(self, text: str) -> list[tuple[str, float]]:
        """See `Service.detect`."""
        return detect(text, sorted({language for pair in self.pairs for language in pair}))

    @property
    def most_alternatives(self) -> int:
        """How many other translations every model can give."""
        return min(model.most_alternatives for model in self._models.values())

    def counts(self) -> dict[LanguagePair, SearchCounts]:
        """What the search of each pair has done, and is to do."""
        return {pair: model.search.counts() for pair, model in self._models.items()}

    def compile(self) -> None:
        """Makes the programs of all models, before the first request."""
        for model in self._models.values():
            model.compile()

    def compile_rest(self) -> None:
        """Begins to make what can be made while requests are answered, in a thread."""
        work = [model.compile_rest for model in self._models.values()]
        self._making = threading.Thread(target=lambda: [each() for each in work], name="programs", daemon=True)
        self._making.start()

    def stop(self) -> None:
        """No more requests are taken; those that are under way go on."""
        self._stopping = True

    def close(self) -> None:
        """Ends the threads, once what is under way is done."""
        self.stop()
        for model in self._models.values():
            model.search.close()
        if self._making:
            self._making.join()  # a process should not end in the middle of a compilation
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, texts: Sequence[str], pair: LanguagePair, options: TextOptions, ticket: Ticket) -> list[ServedText]:
        self._check(texts)
        return await self._in_time(functools.partial(self._models[pair].translate, list(texts), options, ticket), ticket)

    async def _in_time(self, work: Callable[[], Any], ticket: Ticket) -> Any:
        """What `work` returns in a thread of its own. Raises Busy, and TooSlow."""
        with self._admitted():
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await asyncio.get_running_loop().run_in_executor(self._threads, work)
            except TimeoutError:
                message = f"the translation took longer than the {self._limits.seconds:g} seconds that this server allows"
                raise TooSlow(f"{message}; send less at a time") from None
            finally:
                ticket.leave()  # where somebody else ended the wait, this frees the slots

    def _check(self, texts: Sequence[str]) -> None:
        characters, most = sum(map(len, texts)), self._limits.file_bytes
        if characters > most:
            raise TooLarge(f"{characters:,} characters in a request: this server takes {most:,} at a time")

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        """The time in which a request is under way. It is only entered in the event loop's thread."""
        if self._stopping:
            raise Busy("the server is about to stop; come again when it is back", seconds=5)
        if self.under_way >= self._limits.requests:
            raise Busy(f"{self.under_way} requests are under way, as many as this server takes; come again in a second")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def _targets(self) -> str:
        return ", ".join(dict.fromkeys(pair.target for pair in self.pairs))


def _code(language: str | None) -> str | None:
    """The code of two letters: `de-AT` and `DE` are de. None for none, and for what asks for detection."""
    if language is None or not language.strip() or language.strip().lower() == "auto":
        return None
    return language.strip().replace("_", "-").split("-")[0].lower()
