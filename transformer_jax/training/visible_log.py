"""Where the lines of a training go when the program that calls `train()` has not set up logging."""

import contextlib
import logging
import sys
from collections.abc import Iterator

__all__ = ["in_notebook", "loggers_of_console", "visible_log"]

_PACKAGE = "transformer_jax"


@contextlib.contextmanager
def visible_log(verbose: bool) -> Iterator[None]:
    """While the block runs, this package's log is seen with `verbose`, and nothing of it below a warning is without.

    A program that has set up `logging` keeps its handlers and levels, so that no line comes twice, and gets the warnings in
    either case. Where nothing is set up, the lines go to standard error, in a notebook to standard output; without `verbose`
    nothing is printed at all. Orbax's hundred lines about each checkpoint are left out, but for its warnings.
    """
    orbax = logging.getLogger("absl")
    level_of_orbax = orbax.level
    orbax.setLevel(max(level_of_orbax, logging.WARNING))
    logger = logging.getLogger(_PACKAGE)
    is_set_up, level, propagate = _is_set_up(logger), logger.level, logger.propagate
    handler = logging.NullHandler()
    if verbose and not is_set_up:
        handler = logging.StreamHandler(sys.stdout if in_notebook() else sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if not is_set_up:
        logger.addHandler(handler)
        logger.propagate = False  # to the handler of `basicConfig()`, if there is one: every line would come twice
    if not verbose:
        logger.setLevel(max(level, logging.WARNING))
    elif not is_set_up:
        logger.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        orbax.setLevel(level_of_orbax)
        logger.propagate = propagate
        logger.setLevel(level)


def _is_set_up(logger: logging.Logger) -> bool:
    return any(
        not (isinstance(handler, logging.NullHandler) or _is_of_basic_config(handler))
        for handler in (*logger.handlers, *logging.getLogger().handlers)
    )


def _is_of_basic_config(handler: logging.Handler) -> bool:
    """Is it the handler that `logging.basicConfig()` without arguments gives the root logger? Libraries call that as well (absl
    at its first message, and so the import of orbax), and it shows warnings alone."""
    shows_as_it_comes = (
        type(handler) is logging.StreamHandler and getattr(handler.formatter, "_fmt", "") == logging.BASIC_FORMAT
    )
    return shows_as_it_comes and logging.getLogger().level == logging.WARNING


def in_notebook() -> bool:
    """Does this program run in a notebook (the kernel of Jupyter, Colab and the like), which shows widgets?"""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


def loggers_of_console() -> list[logging.Logger]:
    """The loggers whose lines go to the terminal or notebook, where a bar must step aside for them."""
    return [logger for logger in map(logging.getLogger, (None, _PACKAGE)) if any(map(_is_of_console, logger.handlers))]


def _is_of_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
