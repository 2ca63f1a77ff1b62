"""The page at `/`: its HTML, and what its script asks the server for."""

import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from transformer_jax.serving.errors import NotFound, RequestError
from transformer_jax.serving.page_request import read_page_request
from transformer_jax.serving.service import LanguagePair, ServedText, Service
from transformer_jax.visualization.page_template import html_page, inline_hashes

__all__ = ["LESS_SURE", "SURE", "AttentionPages", "page_html", "page_routes", "page_security_policy"]

SURE = 0.8  # from this probability of a word on the page calls it sure
LESS_SURE = 0.5  # from this one on it is less sure, and below it unsure

_PARTS = ("page_server", "page_words", "page_terms", "page_files")  # scripts that go before page.js

Endpoint = Callable[[Request], Awaitable[Response]]


class AttentionPages(Protocol):
    """Who can show the attention of a sentence."""

    async def attention_page(self, text: str, pair: LanguagePair) -> str:
        """The HTML of `visualization.attention_page` for a sentence and its translation. Raises BadRequest for more than one
        sentence and for a model without attention, Busy, TooSlow."""


def page_routes(service: Service, *, attention: AttentionPages | None = None, alternatives: int = 2) -> list[Route]:
    """The page and what it asks for; `attention` opens its link to the attention page, `alternatives` is how many it asks for.

    * `GET /`: the page
    * `POST /page/translate`: JSON (`page_request`) in; out comes JSON, `{"text", "alternatives", "confidence", "words"}`, each
      word with its `start` and `end` in the text, the places of its `source` and its `probability`, places counted in
      characters. With `Accept: text/event-stream` come server-sent events: `text` for the translation so far, then `done` with
      that JSON, or `error`.
    * `POST /page/attention`: the same JSON in, an HTML page out

    An error is `{"error": MESSAGE}` with its status; in a stream it has the `status` and `again`, the seconds of `Retry-After`.
    The translation stops when the request is cancelled, as `guard.Guard` does when the client leaves.
    """
    page = page_html(service, attention is not None, alternatives)
    policy = page_security_policy(page)

    async def show(request: Request) -> Response:
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return HTMLResponse(page, headers=headers | {"X-Content-Type-Options": "nosniff"})

    async def translate(request: Request) -> Response:
        wish = await read_page_request(request, service)
        if "text/event-stream" in request.headers.get("accept", ""):
            answers = service.stream(wish.text, wish.pair, wish.options)
            return _Events(answers, await anext(answers))  # an error before the first event has its HTTP status
        (served,) = await service.translate([wish.text], wish.pair, wish.options)
        return JSONResponse(_plain(served))

    async def show_attention(request: Request) -> Response:
        wish = await read_page_request(request, service)
        if attention is None:
            raise NotFound("this server has no attention pages")
        shown = await attention.attention_page(wish.text, wish.pair)
        return HTMLResponse(shown, headers={"X-Content-Type-Options": "nosniff"})

    return [
        Route("/", show, methods=["GET"]),
        Route("/page/translate", _answering(translate), methods=["POST"]),
        Route("/page/attention", _answering(show_attention), methods=["POST"]),
    ]


def page_html(service: Service, attention: bool, alternatives: int) -> str:
    """The page for the pairs of a service."""
    data = {
        "pairs": service.pairs,
        "attention": attention,
        "alternatives": alternatives,
        "sure": SURE,
        "lessSure": LESS_SURE,
    }
    return html_page("page", data, room="serving", parts=_PARTS)


def page_security_policy(page: str) -> str:
    """The Content-Security-Policy of the page: its own style and script, its own server and nothing else; no text ever becomes
    markup or script. The page opens attention pages from memory, to which its policy goes along, so theirs are allowed too."""
    pages = [page, html_page("attention_page", {})]
    sources = {kind: " ".join(inline_hashes(each)[kind] for each in pages) for kind in ("style", "script")}
    rules = [
        "default-src 'none'",
        f"script-src {sources['script']}",
        f"style-src {sources['style']}",
        "connect-src 'self'",
        "img-src data:",  # the empty icon, without which browsers ask for /favicon.ico
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join(rules)


def _answering(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with errors as JSON."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return JSONResponse({"error": error.message}, error.status, error.headers)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return answer


def _plain(served: ServedText) -> dict[str, Any]:
    return served._asdict() | {"words": [word._asdict() for word in served.words]}


# ---- server-sent events


class _Events(StreamingResponse):
    """The translation as it grows. The search stops when the response ends, begun or not."""

    def __init__(self, answers: AsyncIterator[ServedText], first: ServedText):
        # Proxies should pass events on as they come.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_events(answers, first), media_type="text/event-stream", headers=headers)
        self._answers = answers

    async def __call__(self, *arguments: Any) -> None:
        try:
            await super().__call__(*arguments)
        finally:
            if isinstance(self._answers, AsyncGenerator):
                await self._answers.aclose()


async def _events(answers: AsyncIterator[ServedText], answer: ServedText) -> AsyncIterator[str]:
    yield _event("text", {"text": answer.text})
    try:
        async for answer in answers:
            yield _event("text", {"text": answer.text})
        yield _event("done", _plain(answer))
    except RequestError as error:
        again = error.headers.get("Retry-After")
        yield _event("error", {"error": error.message, "status": error.status, "again": again and int(again)})


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"
