"""How a handler of requests becomes one whose errors have the form of its API."""

import functools
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from transformer_jax.errors import UserError
from transformer_jax.serving.errors import BadRequest, RequestError

__all__ = ["Handler", "answering", "log_bug"]

Handler = Callable[[Request], Awaitable[Response]]  # of one address

_LOG = logging.getLogger(__name__)


def answering(handler: Handler, body_of: Callable[[RequestError], dict[str, Any]]) -> Handler:
    """The handler, with answers for its errors: `body_of` makes the JSON of one.

    A UserError is a BadRequest. Every other exception is a bug: it is logged and answered with code 500.
    """

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except RequestError as error:
            return _error_response(error, body_of)
        except UserError as error:
            return _error_response(BadRequest(str(error)), body_of)
        except Exception as error:
            log_bug(f"{request.method} {request.url.path!r}", error)
            return _error_response(RequestError("Internal error; the server's log says where."), body_of)

    return answer


def log_bug(what: str, error: BaseException) -> None:
    """Logs where an exception comes from, without its message, which may have text of a request in it."""
    _LOG.error("%s: %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


def _error_response(error: RequestError, body_of: Callable[[RequestError], dict[str, Any]]) -> Response:
    return JSONResponse(body_of(error), error.status, error.headers)
