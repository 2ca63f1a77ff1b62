"""The log of several processes: the first speaks, the others when they must, with their number."""

import contextlib
import logging
from collections.abc import Iterator

import jax

__all__ = ["first_speaks"]


@contextlib.contextmanager
def first_speaks() -> Iterator[None]:
    """While the block runs, all processes but the first log nothing of this package below a warning; a warning of theirs
    begins with `process I: `. It concerns the handlers that the root logger and that of this package have when the block
    begins."""
    number = jax.process_index()
    loggers = (logging.getLogger(), logging.getLogger("transformer_jax")) if number else ()
    handlers = [handler for logger in loggers for handler in logger.handlers]

    def keep(record: logging.LogRecord) -> bool:
        if not record.name.startswith("transformer_jax"):
            return True
        if record.levelno < logging.WARNING:
            return False
        if not hasattr(record, "process_index"):  # each handler asks
            record.msg, record.args, record.process_index = f"process {number}: {record.getMessage()}", (), number
        return True

    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
