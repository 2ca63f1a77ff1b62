"""From an application to a socket: binding, serving with uvicorn, and the end on SIGTERM."""

import contextlib
import errno
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from transformer_jax.errors import UserError

__all__ = ["bind", "serve"]

_BACKLOG = 2048  # connections that the kernel holds until they are taken


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address, but takes no connections yet. Port 0 is one that is free. Raises UserError where
    it cannot be had."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port={port} should be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host={host}: {error}; expected an address of this machine, such as 127.0.0.1 or 0.0.0.0") from None
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port={port} is taken on {host}: end the program that listens there, or choose another"
            ) from None
        raise UserError(f"--host={host} --port={port}: {error.strerror}; choose another") from None
    return bound


def serve(
    app: Callable[..., Awaitable[None]],
    bound: socket.socket,
    *,
    grace: float,
    at_begin: Callable[[], None],
    at_signal: Callable[[], None],
    log_requests: bool = False,
) -> None:
    """Answers requests on the socket, from `at_begin` until SIGTERM or Ctrl-C: then `at_signal` is called, no connection is
    taken any more, and requests that are under way have `grace` seconds to their end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=log_requests,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(grace)),
        backlog=_BACKLOG,
        lifespan="off",
    )
    server = _Server(config, at_begin, at_signal)
    with _quiet_signals():
        server.run(sockets=[bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, at_begin: Callable[[], None], at_signal: Callable[[], None]):
        super().__init__(config)
        self._at_begin, self._at_signal = at_begin, at_signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._at_begin()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._at_signal()
        super().handle_exit(sig, frame)


@contextlib.contextmanager
def _quiet_signals() -> Any:
    """uvicorn raises the signal that ended it again when it is done, so that whoever started it sees it. Here that is no error:
    everything was answered."""
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
