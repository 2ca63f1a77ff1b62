"""Lines of UTF-8 text, in and out."""

import codecs
import contextlib
import gzip
import itertools
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from transformer_jax.errors import UserError
from transformer_jax.files import to_path

__all__ = ["iter_lines", "open_output", "read_lines", "refuse_same_files", "split_line"]


def read_lines(path: str | Path) -> list[str]:
    r"""The lines of a UTF-8 text file, plain or `.gz`.

    Lines end at `\n` and nowhere else: U+2028, form feeds and the like, at which `str.splitlines` would also cut, are text, and
    cutting there would shift one side of a corpus against the other. A `\r` before the `\n` goes, as does a byte order mark;
    the last line may do without its `\n`.

        b"one\r\n\ntwo\xe2\x80\xa8more"  ->  ["one", "", "two\u2028more"]

    Raises UserError if there is no such file, it is empty or damaged, or a line is not UTF-8 (naming the line).
    """
    return list(iter_lines(path, expected=True))


def iter_lines(path: str | Path | None, expected: bool = False, errors: str = "strict") -> Iterator[str]:
    """As `read_lines`, one line at a time as they come; None is standard input. No lines at all are an error if some are
    `expected`. With `errors="replace"` what is not UTF-8 becomes U+FFFD. Raises UserError as `read_lines` does, when it comes
    to it."""
    name, number = "standard input" if path is None else path, 0
    with contextlib.nullcontext(sys.stdin.buffer) if path is None else _reading(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", errors)
            except UnicodeDecodeError:
                raise _not_utf8(name, number) from None
    if expected and not number:
        raise UserError(f"{name}: the file is empty, expected one sentence a line")


@contextlib.contextmanager
def open_output(path: str | Path | None, mode: Literal["w", "a"] = "w") -> Iterator[TextIO]:
    """A UTF-8 file to write, its lines ending in `\\n` on any system; None is standard output. UserError if it cannot be."""
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        yield sys.stdout
        return
    try:
        file = open(path, mode, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        yield file


def refuse_same_files(**files: str | None) -> None:
    """Raises UserError if two flags, by their names, name one file."""
    named = [(name, path) for name, path in files.items() if path]
    for (name, path), (other, same) in itertools.combinations(named, 2):
        if _same_file(path, same):
            raise UserError(f"--{other}={same} is the file of --{name}; name another")


def split_line(text: str, count: Callable[[str], int], most: int) -> list[str]:
    """A line in pieces of at most `most` tokens by `count`; nothing for a blank line.

    Pieces end at the end of a sentence if one is there, else at a space, else inside a word; one letter may be more tokens.

    >>> split_line("A dog. A cat sleeps. A cow", lambda text: len(text.split()), 5)
    ['A dog. A cat sleeps.', 'A cow']
    >>> split_line("  ", len, 5)
    []
    """
    text = text.strip()
    if not text:
        return []
    if count(text) <= most:
        return [text]
    sentences = re.split(r"(?<=[.!?])\s+", text)
    units = sentences if len(sentences) > 1 else text.split()
    if len(units) == 1:
        middle = len(text) // 2
        # One letter can be several tokens (bytes); it is translated however long it is.
        return [text] if not middle else split_line(text[:middle], count, most) + split_line(text[middle:], count, most)
    pieces = [units[0]]
    for unit in units[1:]:
        joined = f"{pieces[-1]} {unit}"
        if count(joined) <= most:
            pieces[-1] = joined
        else:
            pieces.append(unit)
    return [part for piece in pieces for part in split_line(piece, count, most)]


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[BinaryIO]:
    path = to_path(path)
    try:
        with path.open("rb") as file:
            yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _same_file(path: str, other: str) -> bool:
    there = os.path.exists(path) and os.path.exists(other)
    return os.path.samefile(path, other) if there else os.path.realpath(path) == os.path.realpath(other)


def _not_utf8(name: str | Path, line: int) -> UserError:
    return UserError(f"{name}: line {line} is not UTF-8; convert the text, for example with iconv -t UTF-8")
