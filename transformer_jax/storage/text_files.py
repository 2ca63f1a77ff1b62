"""Reads and writes lines of UTF-8 text: files, plain or gzip's, and standard streams."""

import codecs
import contextlib
import gzip
import io
import itertools
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote, to_path

__all__ = [
    "STANDARD",
    "check_writable",
    "iter_lines",
    "open_output",
    "read_lines",
    "refuse_same_files",
    "refuse_shared_stream",
]

STANDARD = "-"  # the name of standard input, or output; a file of that name is ./-

_BLOCK = 1 << 18  # bytes of lines that are decoded at once
_GZIP = b"\x1f\x8b"  # the first bytes of a gzip file, and of no UTF-8 text


def read_lines(path: str | Path) -> list[str]:
    r"""The lines of a UTF-8 text file, plain or gzip's.

    Lines end at `\n` alone. U+2028, form feeds and other characters at which `str.splitlines` also splits are text: splitting
    there would shift one side of a corpus against the other. A `\r` before the `\n` and a byte order mark are removed; the last
    line may lack its `\n`.

        b"one\r\n\ntwo\xe2\x80\xa8more"  ->  ["one", "", "two\u2028more"]

    Raises UserError if the file does not exist, is empty or damaged, if a line is not UTF-8 (naming the line) or has a NUL
    byte, as UTF-16 has, or if the only line ends are `\r`.
    """
    return list(iter_lines(path, expected=True))


def iter_lines(path: str | Path | None, expected: bool = False, errors: str = "strict") -> Iterator[str]:
    """Yields the lines of `read_lines` one at a time, as they arrive; None and "-" are standard input. No lines at all are an
    error if some are `expected`. With `errors="replace"` bytes that are not UTF-8, and NUL bytes, become U+FFFD. Raises
    UserError as `read_lines` does, after the lines before the error."""
    name, number = "standard input" if _is_standard(path) else path, 0
    with _reading(path) as file:
        for lines in _blocks(file, 1 if _is_stream(path) else _BLOCK):
            if lines and not number:
                lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
                if not lines[0].endswith(b"\n") and b"\r" in lines[0].rstrip(b"\r"):  # this line is the whole file
                    raise UserError(f"{name}: its lines end in CR alone, as on old Macs; convert it with tr '\\r' '\\n'")
            yield from _decoded_block(lines, errors, name, number)
            number += len(lines)
    if expected and not number:
        raise UserError(f"{name}: the file is empty, expected one sentence a line")


@contextlib.contextmanager
def open_output(path: str | Path | None) -> Iterator[TextIO]:
    """Opens a UTF-8 file to write, with lines that end in `\\n` on any system; None and "-" are standard output. A `.gz` file
    is compressed, without a name or time in it, and can be read up to the last flush. Raises UserError if it cannot be
    written."""
    if _is_standard(path):
        if sys.stdout is None:
            raise UserError("standard output is closed; name a file with --output, or open it")
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        yield sys.stdout
        return
    with contextlib.ExitStack() as files:
        try:
            file = files.enter_context(open(path, "wb"))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        if os.fspath(path).endswith(".gz"):
            file = files.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        yield files.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline="\n"))


def check_writable(path: str | Path) -> None:
    """Raises UserError if a file cannot be written. Its content stays; a file that does not exist is made, empty."""
    if path == STANDARD:
        raise UserError(f"{path}: standard output has the scores; name a file")
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def refuse_same_files(**files: str | None) -> None:
    """Raises UserError if two flags, the names of the arguments, name the same file."""
    named = [(name, path) for name, path in files.items() if path and path != STANDARD]
    for (name, path), (other, same) in itertools.combinations(named, 2):
        if _same_file(path, same):
            raise UserError(f"--{other}={same} is the file of --{name}; name another")


def refuse_shared_stream(stream: str, **files: str | None) -> None:
    """Raises UserError if more than one of these flags is "-", where all would use `stream`, "standard input" or "standard
    output".

    >>> refuse_shared_stream("standard input", input="-", prefixes="starts.txt", score=None)
    """
    named = [f"--{name}" for name, path in files.items() if path == STANDARD]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} would share {stream}; name a file for all but one")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UserError("standard input is closed; give sentences, name a file with --input, or open it")
    return sys.stdin.buffer


@contextlib.contextmanager
def _reading(path: str | Path | None) -> Iterator[BinaryIO]:
    if _is_standard(path):
        with _readable("standard input"):
            yield _unpacked(_standard_input())
        return
    path = to_path(path)
    with _readable(path), path.open("rb") as file:
        unpacked = _unpacked(file)
        if path.suffix == ".gz" and unpacked is file and _first_bytes(file):
            raise UserError(f"{path}: cannot be read, it is named .gz and is not gzip's; rename or compress it")
        yield unpacked


@contextlib.contextmanager
def _readable(name: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: cannot be read ({error})") from None


def _unpacked(file: BinaryIO) -> BinaryIO:
    return gzip.GzipFile(fileobj=file) if _first_bytes(file) == _GZIP else file


def _first_bytes(file: BinaryIO) -> bytes:
    if hasattr(file, "peek"):  # a pipe cannot seek
        return file.peek(2)[:2]
    first = file.read(2)
    file.seek(0)
    return first


def _is_standard(path: str | Path | None) -> bool:
    return path is None or path == STANDARD  # a Path is always a file: Path("./-") equals Path("-")


def _is_stream(path: str | Path | None) -> bool:
    """Whether what is there may wait for its next line: standard input, or a pipe with a name."""
    return _is_standard(path) or not (is_remote(path) or os.path.isfile(path))


def _same_file(path: str, other: str) -> bool:
    exist = os.path.exists(path) and os.path.exists(other)
    return os.path.samefile(path, other) if exist else os.path.realpath(path) == os.path.realpath(other)


def _blocks(file: BinaryIO, size: int) -> Iterator[list[bytes]]:
    """The lines of a file, so many together that they have `size` bytes or more; those before an error come before it."""
    block, bytes_left = [], size
    try:
        for line in file:
            block.append(line)
            bytes_left -= len(line)
            if bytes_left <= 0:
                yield block
                block, bytes_left = [], size
    except (OSError, EOFError, zlib.error):
        yield block
        raise
    yield block


def _decoded_block(lines: list[bytes], errors: str, name: str | Path, before: int) -> Iterator[str]:
    """The text of the lines that follow `before` others. Nearly all can be decoded at once, in a fraction of the time."""
    block = b"".join(lines)
    if len(lines) > 1 and b"\0" not in block and not block.endswith(b"\r"):
        with contextlib.suppress(UnicodeDecodeError):
            return iter(block.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n"))
    return (_decoded(line, errors, name, number) for number, line in enumerate(lines, before + 1))


def _decoded(line: bytes, errors: str, name: str | Path, number: int) -> str:
    line, what = line.removesuffix(b"\n").removesuffix(b"\r"), f"{name}: line {number} is not UTF-8"
    if errors == "strict" and (b"\0" in line or line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))):
        has = "NUL bytes" if b"\0" in line else "a byte-order mark"
        how = "iconv -f UTF-16 -t UTF-8" + (", or delete them with tr -d '\\0'" if b"\0" in line else "")
        raise UserError(f"{what} text: it has {has}, as UTF-16 has; convert it, for example with {how}")
    try:
        return line.decode("utf-8", errors).replace("\0", "\ufffd")
    except UnicodeDecodeError:
        raise UserError(f"{what}; convert the text, for example with iconv -t UTF-8") from None
