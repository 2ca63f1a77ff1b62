"""A client for `serve_load.py` that costs little: HTTP/1.1 over kept connections, and no more of it than it needs."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    seconds: float


class Connection:
    """One connection, opened again where the server has closed it."""

    def __init__(self, port: int):
        self._port, self._streams = port, None

    async def ask(self, request: bytes) -> Answer:
        """Sends the bytes of a request, and waits for its answer."""
        begun = time.perf_counter()
        for attempt in range(2):
            reader, writer = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            self._streams = reader, writer
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(_LENGTH.search(head)[1]))
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close()
                if attempt:
                    raise
        if b"connection: close" in head.lower():
            self.close()
        return Answer(int(head.split(maxsplit=2)[1]), body, time.perf_counter() - begun)

    def close(self) -> None:
        """Closes it; the next request opens another."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


def post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    """The bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def translation_request(texts: Sequence[str]) -> bytes:
    """The request for these texts, as LibreTranslate's clients make it."""
    return post("/translate", json.dumps({"q": list(texts), "source": "en", "target": "de"}).encode())


async def load(port: int, clients: int, seconds: float, requests: Callable[[], Iterator[bytes]]) -> list[Answer]:
    """The answers to so many clients, each of which asks again as soon as it has its answer, for so many seconds."""
    answers, stream, end = [], requests(), time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < end:
            answers.append(await connection.ask(next(stream)))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers
