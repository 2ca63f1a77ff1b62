"""The application: the two APIs, the page and the figures, behind the guard."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from transformer_jax.serving.deepl import deepl_routes
from transformer_jax.serving.glossaries import Glossaries
from transformer_jax.serving.guard import Guard, error_body
from transformer_jax.serving.keys import Keys, key_in_headers
from transformer_jax.serving.libretranslate import libretranslate_routes
from transformer_jax.serving.metrics import Metrics
from transformer_jax.serving.model_service import ModelService
from transformer_jax.serving.page_api import page_routes
from transformer_jax.serving.request_limits import RequestLimits

__all__ = ["make_app"]

_FEW_BYTES = 1 << 20  # of a body that has no file
_ALTERNATIVES_ON_PAGE = 2


def make_app(
    service: ModelService, limits: RequestLimits, keys: Keys, glossaries: Glossaries, origins: Sequence[str] = ()
) -> Callable[..., Awaitable[None]]:
    """The ASGI application of a server. `origins` are those whose pages may ask from a browser (`*`: all)."""
    metrics = Metrics(service)

    async def figures(request: Request) -> Response:
        page, kind = metrics.page()
        return Response(page, media_type=kind)

    async def bug(request: Request, error: Exception) -> Response:
        body = error_body(request.url.path, "Internal error; the server's log says where.")
        return Response(body, 500, media_type="application/json")

    alternatives = min(_ALTERNATIVES_ON_PAGE, service.most_alternatives)
    page = page_routes(service, attention=service, alternatives=alternatives)
    routes = [
        *(Route(route.path, _with_key(route.endpoint, keys, route.path), methods=route.methods) for route in page),
        *libretranslate_routes(service, limits, keys),
        *deepl_routes(service, limits, keys, glossaries),
        Route("/metrics", figures, methods=["GET"]),
    ]
    app = Guard(Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found, Exception: bug}), limits)
    counted = metrics.around(app)
    if not origins:
        return counted
    return CORSMiddleware(counted, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"], max_age=600)


def _with_key(endpoint: Callable[..., Awaitable[Response]], keys: Keys, path: str) -> Callable[..., Awaitable[Response]]:
    """The endpoint, for those who have a key; the page itself needs none, it asks for one."""
    if path == "/" or keys.is_open:
        return endpoint

    async def guarded(request: Request) -> Response:
        if not keys.allows(key_in_headers(request.headers)):
            return JSONResponse({"error": "This server needs an API key, in the header Authorization: Bearer KEY."}, 403)
        return await endpoint(request)

    return guarded


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    path, method = request.url.path, request.method
    what = f"{path} is nothing that this server has" if status == 404 else f"{method} is not for {path}"
    return Response(error_body(path, what), status, media_type="application/json")
