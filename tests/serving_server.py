"""A server with the two APIs over a service that has no model, for tests that speak to it as clients do."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

from transformer_jax.inference.markup.translation import TagNames, translate_texts
from transformer_jax.inference.translation import Translation
from transformer_jax.serving.errors import BadRequest, Busy, TooSlow
from transformer_jax.serving.service import LanguagePair, ServedText, TextOptions

_DEFAULTS = TextOptions()
WORDS = {"the": "der", "dog": "Hund", "sleeps": "schläft", "big": "große", "man": "Mann"}


class FakeService:
    """Translates English into German word by word, and German back; unknown words become small, or capital, letters.

    Text with BUSY or SLOW in it is refused as a server with too much to do refuses, and with BUG it fails. `asked` has the
    options of each call.
    """

    pairs = (LanguagePair("en", "de"), LanguagePair("de", "en"))

    def __init__(self):
        self.asked: list[tuple[list[str], LanguagePair, TextOptions]] = []
        self.busy = 0  # how many calls more are refused
        self.gate: threading.Semaphore | None = None  # what each call has to pass

    def pair(self, source, target):
        found = [pair for pair in self.pairs if pair.target == target and source in (None, pair.source)]
        if len(found) != 1:
            raise BadRequest("There is no such pair.")
        return found[0]

    async def translate(self, texts, pair, options=_DEFAULTS):
        self.asked.append((list(texts), pair, options))
        if self.gate:
            await asyncio.to_thread(self.gate.acquire)
        if self.busy:
            self.busy -= 1
            raise Busy("The queue is full.", 1)
        for word, error in (("BUSY", Busy("The queue is full.", 7)), ("SLOW", TooSlow("It took too long."))):
            if any(word in text for text in texts):
                raise error
        if any("BUG" in text for text in texts):
            raise RuntimeError(f"a bug with {texts}")
        if options.markup:
            names = TagNames(options.ignore_tags, options.splitting_tags, options.non_splitting_tags)
            of_texts = translate_texts(
                texts, options.markup, names, lambda lines, kept: [_translation(line, pair) for line in lines]
            )
            translated = [text.text for text in of_texts]
        else:
            translated = [_words(text, pair) for text in texts]
        terms = [options.terminology.translations(text) if options.terminology else [] for text in texts]
        others = tuple(f"other {number}" for number in range(options.alternatives))
        return [ServedText(" ".join([text, *of_text]), others) for text, of_text in zip(translated, terms, strict=True)]

    async def stream(self, text, pair, options=_DEFAULTS):
        yield _words(text, pair)

    def detect(self, text):
        words = text.lower().split()
        german = sum(word in ("der", "hund", "schläft") for word in words)
        english = sum(word in WORDS for word in words)
        found = [("en", english), ("de", german)]
        total = max(english + german, 1)
        return sorted(((code, count / total) for code, count in found), key=lambda entry: (-entry[1], entry[0]))


def _words(text, pair):
    table = WORDS if pair.source == "en" else {german: english for english, german in WORDS.items()}
    return "".join(table.get(word, word.upper() if word.islower() else word.lower()) for word in _pieces(text))


def _pieces(text):
    piece = ""
    for character in text:
        if character.isalnum() != piece[-1:].isalnum() and piece:
            yield piece
            piece = ""
        piece += character
    yield piece


def _translation(line, pair):
    links = tuple((i, i) for i in range(len(line.split())))
    return Translation(_words(line, pair), 0.0, 0.0, (), source=line, alignment=links)


@contextlib.contextmanager
def serving(routes) -> Iterator[str]:
    """Serves the routes on a free port of this machine, as long as the context lasts. Yields the address."""
    import uvicorn
    from starlette.applications import Starlette

    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="critical", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
