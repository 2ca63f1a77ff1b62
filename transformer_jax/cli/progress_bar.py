"""The progress bar of evaluate.py and translate.py: lines that are translated, on standard error, on a terminal only."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from transformer_jax.distributed import collectives

__all__ = ["count_lines", "is_terminal", "lines_bar"]

_DELAY = 1.0  # seconds: shorter work ends without a bar
_GZIP = b"\x1f\x8b"


def is_terminal(stream: Any) -> bool:
    """Is a standard stream a terminal? One that is closed (None) is not."""
    return hasattr(stream, "isatty") and stream.isatty()


@contextlib.contextmanager
def lines_bar(what: str, lines: int | None = None, shown: bool = True) -> Iterator[Callable[..., None] | None]:
    """While the block runs, a bar of `lines` lines (None: their number is not known) on standard error, after a second.

    Gives progress(done), with which the block sets the number of lines that are done; it takes the number of all lines, too.
    Gives None, and there is no bar, where standard error is not a terminal, in all but the first of several processes, and
    unless `shown`.
    """
    if not (shown and is_terminal(sys.stderr) and collectives.is_first()):
        yield None
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar = tqdm(desc=what, total=lines, unit=" lines", dynamic_ncols=True, leave=False, delay=_DELAY)

    def progress(done: int, lines: int | None = None) -> None:
        bar.total = lines or bar.total
        bar.update(done - bar.n)

    with logging_redirect_tqdm(), contextlib.closing(bar):
        yield progress


def count_lines(path: str | None) -> int | None:
    """The number of lines of a plain file on this machine; None for standard input, a pipe, an object store or a compressed
    file, which can be read only once or not in no time, and for what cannot be read."""
    if path is None or not os.path.isfile(path):  # to epath a pipe would be a file
        return None
    with contextlib.suppress(OSError), open(path, "rb") as file:
        lines, last = 0, b"\n"
        while block := file.read(1 << 20):
            if not lines and block.startswith(_GZIP):
                return None
            lines, last = lines + block.count(b"\n"), block[-1:]
        return lines + (last != b"\n")
    return None
