"""A service without a model, for tests of what stands in front of one, and the server that it runs in."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from transformer_jax.inference.markup.translation import TagNames, translate_texts
from transformer_jax.inference.translation import Translation
from transformer_jax.serving.errors import BadRequest
from transformer_jax.serving.service import PLAIN, LanguagePair, ServedText, ServedWord, TextOptions

GERMAN = {"the": "der", "dog": "Hund", "sleeps": "schläft", "young": "junge", "elephant": "Elefant", "man": "Mann"}
ENGLISH = {german: english for english, german in GERMAN.items()}
PROBABILITIES = {"Hund": 0.97, "schläft": 0.62, "junge": 0.31}


class FakeService:
    """Translates word by word between English and German; the translation of `the dog` is `der Hund`, of an unknown word the
    word itself, of a term what the terminology says.

    `delay` (the seconds that a translation takes, in which it grows), `gate` (what each call has to pass) and `errors` (the
    next is raised in place of a translation) may be set at any time; `asked` has the texts and options so far, `left` the texts
    whose clients did not wait.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]] = (("en", "de"), ("de", "en"))):
        self.pairs = tuple(LanguagePair(*pair) for pair in pairs)
        self.delay = 0.0
        self.gate: threading.Semaphore | None = None
        self.errors: list[Exception] = []
        self.asked: list[tuple[str, LanguagePair, TextOptions]] = []
        self.left: list[str] = []
        self.aligned = True
        self.calibrated = True

    def pair(self, source: str | None, target: str | None) -> LanguagePair:
        found = [pair for pair in self.pairs if pair.target == target and source in (None, pair.source)]
        if len(found) != 1:
            raise BadRequest(f"{source} to {target}: this server does not translate so.")
        return found[0]

    async def translate(self, texts: Sequence[str], pair: LanguagePair, options: TextOptions = PLAIN) -> list[ServedText]:
        self.asked += [(text, pair, options) for text in texts]
        if self.gate:
            await asyncio.to_thread(self.gate.acquire)
        await self._wait(texts[0], self.delay)
        if self.errors:
            raise self.errors.pop(0)
        return [self._served(text, pair, options) for text in texts]

    async def stream(self, text: str, pair: LanguagePair, options: TextOptions = PLAIN) -> AsyncIterator[ServedText]:
        self.asked.append((text, pair, options))
        whole = self._served(text, pair, options)
        for end in range(1, len(whole.text)) if self.delay else ():
            await self._wait(text, self.delay / len(whole.text))
            yield ServedText(whole.text[:end])
        if self.errors:
            raise self.errors.pop(0)
        yield whole

    def detect(self, text: str) -> list[tuple[str, float]]:
        words = text.lower().split()
        tables = {"de": [word.lower() for word in ENGLISH], "en": GERMAN}
        counts = {code: sum(word in table for word in words) for code, table in tables.items()}
        total = max(sum(counts.values()), 1)
        return sorted(((code, count / total) for code, count in counts.items()), key=lambda entry: (-entry[1], entry[0]))

    async def attention_page(self, text: str, pair: LanguagePair) -> str:
        raise NotImplementedError

    async def _wait(self, text: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.left.append(text)
            raise

    def _served(self, text: str, pair: LanguagePair, options: TextOptions) -> ServedText:
        if options.markup:
            names = TagNames(options.ignore_tags, options.splitting_tags, options.non_splitting_tags)
            (found,) = translate_texts(
                [text], options.markup, names, lambda lines, kept: [_aligned(line, pair, options) for line in lines]
            )
            return ServedText(found.text)
        out, words, end = "", [], 0
        for match in re.finditer(r"\S+", text):
            out += text[end : match.start()]
            end = match.end()
            word = _translated(match[0], pair, options)
            places = (match.span(),) if self.aligned else ()
            words.append(ServedWord(len(out), len(out) + len(word), places, PROBABILITIES.get(word, 0.9)))
            out += word
        out += text[end:]
        others = tuple(f"{out} ({number})" for number in range(options.alternatives))
        return ServedText(out, others, 0.83 if self.calibrated else None, tuple(words))


def _translated(text: str, pair: LanguagePair, options: TextOptions) -> str:
    table = GERMAN if pair.source == "en" else ENGLISH

    def word(match: re.Match[str]) -> str:
        terms = options.terminology.translations(match[0]) if options.terminology else []
        return terms[0] if terms else table.get(match[0], match[0])

    return re.sub(r"\w+", word, text)


def _aligned(line: str, pair: LanguagePair, options: TextOptions) -> Translation:
    links = tuple((i, i) for i in range(len(line.split())))
    return Translation(_translated(line, pair, options), 0.0, 0.0, (), source=line, alignment=links)


@contextlib.contextmanager
def served(app: ASGIApp | list[Route]) -> Iterator[str]:
    """The address of a server of an application, or of one with these routes, on the loopback interface."""
    app = Starlette(routes=app) if isinstance(app, list) else app
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        end = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
