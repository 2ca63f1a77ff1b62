"""What stands before the application: bodies are read whole and within limits, and a client that leaves ends its request."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from transformer_jax.serving.request_limits import RequestLimits

__all__ = ["Guard", "error_body"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def error_body(path: str, message: str) -> bytes:
    """The body of an error, in the form of the API that the path belongs to: DeepL's, or LibreTranslate's."""
    name = "message" if path.startswith(("/v2/", "/v3/")) else "error"
    return json.dumps({name: message}, ensure_ascii=False).encode()


class Guard:
    """ASGI middleware. The application gets the whole body at once, and is cancelled when the client closes the connection.

    It answers 413 where the body has more bytes than the limit, before it is read where the header says so, and 408 where it
    does not come to its end in time.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: RequestLimits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._body(scope, receive, send)
        except TimeoutError:
            message = f"the body did not come to its end within {self._limits.seconds:g} seconds"
            await _refuse(scope, send, 408, message)
            return
        if body is not None:
            await self._run(scope, body, receive, send)

    async def _body(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> bytes | None:
        """The whole body; None where there is none to answer any more."""
        most = self._limits.file_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"")
        parts, size = [], int(announced) if announced.isdigit() else 0
        more = size <= most
        if more:
            size = 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False) and size <= most
        if size > most:
            await _refuse(scope, send, 413, f"the body has more than the {most:,} bytes that this server takes")
            return None
        return b"".join(parts)

    async def _run(self, scope: dict[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        first = True

        async def replay() -> dict[str, Any]:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        answer = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
            try:
                await answer
            except asyncio.CancelledError:
                if not gone.done():
                    raise
        finally:
            answer.cancel()
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(scope: Mapping[str, Any], send: Send, status: int, message: str) -> None:
    body = error_body(scope["path"], message)
    headers = {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}
    headers[b"connection"] = b"close"  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})
