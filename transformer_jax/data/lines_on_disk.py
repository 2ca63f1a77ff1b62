"""Lines of text kept on disk: a corpus may be larger than memory."""

import contextlib
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from transformer_jax.errors import UserError

__all__ = ["CHUNK", "Spool", "joined"]

CHUNK = 20_000  # lines that are read and written at once: a block


class Spool(Sequence[str]):
    r"""A list of lines, none with a `\n` in it, in a temporary file in `folder` that has no name and ends with the object.

    A slice, an iteration or a single line reads whole blocks of lines. Raises UserError where the file cannot be written.

    >>> lines = Spool(tempfile.gettempdir())
    >>> lines.extend(b"one\ntwo", 2)
    >>> lines[0], lines[1:], list(lines)
    ('one', ['two'], ['one', 'two'])
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._starts = [0]  # of each block in the file, and the file's end
        self._last: list[bytes] = []  # the text after the last full block, in parts of lines, ..
        self._left = 0  # .. and their number
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        weakref.finalize(self, self._file.close)

    def extend(self, text: bytes, count: int) -> None:
        """Adds `count` lines, `joined`; every `CHUNK` of them are written together."""
        while self._left + count >= CHUNK:
            lines = text.split(b"\n", CHUNK - self._left)
            self._write(b"\n".join([*self._last, *lines[: CHUNK - self._left]]))
            text, count = lines[-1], count - (CHUNK - self._left)
            self._last, self._left = [], 0
        if count:
            self._last.append(text)
            self._left += count

    def __len__(self) -> int:
        return (len(self._starts) - 1) * CHUNK + self._left

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index):
        numbers = range(len(self))[index]
        if not isinstance(index, slice):
            return self._block(numbers // CHUNK)[numbers % CHUNK]
        if not numbers:
            return []
        first, last = sorted((numbers[0] // CHUNK, numbers[-1] // CHUNK))
        read = [line for block in range(first, last + 1) for line in self._block(block)]
        return [read[i - first * CHUNK] for i in numbers]

    def __iter__(self) -> Iterator[str]:
        for block in range(len(self._starts)):
            yield from self._block(block)

    def block(self, index: int) -> bytes:
        """The text of one block, `joined`: the `CHUNK` lines from `CHUNK * index` on, or as many as there are."""
        if index == len(self._starts) - 1:
            return b"\n".join(self._last)
        start, end = self._starts[index : index + 2]
        self._file.seek(start)
        return self._file.read(end - start)

    def _block(self, index: int) -> list[str]:
        is_empty = index == len(self._starts) - 1 and not self._left
        return [] if is_empty else self.block(index).decode("utf-8").split("\n")

    def _write(self, block: bytes) -> None:
        left = memoryview(block)
        with self._writing():
            self._file.seek(self._starts[-1])
            self._starts.append(self._starts[-1] + len(block))
            while left:
                left = left[self._file.write(left) :]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be written ({error}); free space or set data.cache_dir") from None


def joined(lines: Sequence[str], start: int, stop: int) -> bytes:
    r"""lines[start:stop] as UTF-8, with `\n` between two.

    >>> joined(["one", "", "two"], 1, 3)
    b'\ntwo'
    """
    if isinstance(lines, Spool) and start % CHUNK == 0 and stop in (start + CHUNK, len(lines)) and stop - start <= CHUNK:
        return lines.block(start // CHUNK)
    return "\n".join(lines[start:stop]).encode("utf-8")
