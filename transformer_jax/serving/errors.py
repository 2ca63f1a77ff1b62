"""What a request can be answered with instead of a translation; each API writes it in its own form."""

from collections.abc import Mapping

__all__ = ["BadRequest", "Busy", "Forbidden", "NotFound", "RequestError", "TooLarge", "TooSlow"]


class RequestError(Exception):
    """A request that is not answered as it was asked.

    Attributes:
        status: of HTTP
        message: one sentence: what is wrong, what was expected, what to do
        headers: that the answer has beside the usual ones
    """

    status = 500

    def __init__(self, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})


class BadRequest(RequestError):
    """The request cannot be understood, or asks for what there is not."""

    status = 400


class Forbidden(RequestError):
    """The key is missing or wrong."""

    status = 403


class NotFound(RequestError):
    """There is nothing of this name."""

    status = 404


class TooLarge(RequestError):
    """The request has more than the server's limits allow."""

    status = 413


class Busy(RequestError):
    """The queue is full, or the server is about to stop; `Retry-After` says when to come again."""

    status = 503

    def __init__(self, message: str, seconds: int = 1):
        super().__init__(message, {"Retry-After": str(seconds)})


class TooSlow(RequestError):
    """The translation was not there within the server's limit of time."""

    status = 504
