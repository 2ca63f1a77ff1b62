"""A file of lines that is made over hours: whoever makes it may be killed at any moment and goes on with the same lines."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote, read_plain, write_whole

__all__ = ["ResumableLines"]


class ResumableLines:
    """Lines that are appended to `FILE.partial` in blocks of `block` lines, the last perhaps shorter, and become `FILE` at the
    end. `FILE.json` has the `settings` that the lines are made with.

    Where there is a partial file, its whole blocks are kept and `done` is the number of their lines; what a kill left of the
    next block is cut off, and so are blocks that have a line which is not `valid`. So each line is there once, and where lines
    depend on the settings and their block alone, the file is the one that an uninterrupted program writes.

    It is a context manager, which closes the file. Raises UserError where the file exists or was begun with other settings,
    another process writes it, or it cannot be written.

    Attributes:
        done: the lines that are there already
        complete: whether the file is there, made with these settings: there is nothing to do
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], block: int, valid: Callable[[str], bool]):
        if is_remote(path):
            raise UserError(f"{path}: should be a file on a local disk; name one and copy it")
        self._path, self._partial = Path(path), Path(f"{path}.partial")
        self._settings, self._block, self._valid = settings, block, valid
        note = Path(f"{path}.json")
        self.complete, self.done = self._path.exists(), 0
        try:
            if self._partial.exists() or self.complete:
                self._check_settings(note)
            else:
                write_whole(epath.Path(note), json.dumps(settings, indent=2) + "\n")
            self._file = open(self._path if self.complete else self._partial, "rb" if self.complete else "a+b")
            if not self.complete:
                self._lock()
                self.done = self._cut()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); name another file") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def append(self, lines: Sequence[str]) -> None:
        """Writes the next block."""
        self._file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
        self._file.flush()
        self.done += len(lines)

    def finish(self) -> None:
        """Gives the file its name."""
        self._partial.rename(self._path)
        self.complete = True

    def _check_settings(self, note: Path) -> None:
        there = self._path if self.complete else self._partial
        try:
            known = json.loads(read_plain(note))
        except (OSError, ValueError):
            known = None
        if not isinstance(known, dict):
            raise UserError(
                f"{there}: exists, without the {note.name} of this program beside it; remove it or name another file"
            )
        names = self._settings.keys() | known.keys()
        other = sorted(name for name in names if known.get(name) != json.loads(json.dumps(self._settings.get(name))))
        if other:
            raise UserError(f"{there}: was made with another {', '.join(other)} ({note.name}); remove it or name another file")

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"{self._partial}: another process is writing it; wait for that one, or name another file"
            ) from None

    def _cut(self) -> int:
        """Leaves the whole blocks alone in the file, and returns the number of their lines."""
        self._file.seek(0)
        kept = position = number = 0
        for line in self._file:
            if not (line.endswith(b"\n") and self._valid(line[:-1].decode("utf-8", "replace"))):
                break
            number, position = number + 1, position + len(line)
            kept = position if number % self._block == 0 else kept
        self._file.truncate(kept)
        return number // self._block * self._block
