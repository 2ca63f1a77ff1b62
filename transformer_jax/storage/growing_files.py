"""Text files that grow together in whole blocks, beside a note of how far they are, so that a stopped program can go on."""

import contextlib
import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote, read_plain

__all__ = ["GrowingFiles", "LinesDone"]

_ENDING = ".progress"


class LinesDone(NamedTuple):
    """How far a program is with its input: it has written what belongs to the first `lines` of it."""

    lines: int = 0
    digest: str = ""  # a hash of these lines, by which their input is known again
    complete: bool = False  # was that all of the input?


class GrowingFiles:
    """Files to which blocks of text are appended, and a note beside the first (`FILE.progress`, JSON).

    After each block the files are forced to the disk (fsync), then the note is replaced by one with their sizes: after a kill
    at any moment the note tells a moment at which all files were whole, and `open` cuts them back to it. Of a `.gz` file each
    block is a member of its own, so that a file that was cut and continued has the bytes of one that was not.

        german.txt           the translations of 3,000 lines, and a part of the block that was being written
        german.txt.progress  {"settings": {...}, "lines": 3000, "digest": "5f1c...", "complete": false, "sizes": [181346]}

    `settings` are what the content depends on, with values that JSON knows; one that is left out has its default. Raises
    UserError where a file is on an object store; where there are files and a note with other settings, naming these; and where
    there are files and no note.

    Attributes:
        done: how far the files are
    """

    def __init__(self, paths: Sequence[str | Path], settings: Mapping[str, Any]):
        for path in paths:
            if is_remote(path):
                raise UserError(f"{path}: cannot grow in blocks on an object store; name a file on a local disk")
        self._paths = [Path(path) for path in paths]
        self._note = Path(f"{self._paths[0]}{_ENDING}")
        self._settings = json.loads(json.dumps(settings))
        self._files: list[BinaryIO] = []
        self._sizes = [0] * len(paths)
        self.done = LinesDone()
        stored = self._read_note()
        if stored is not None:
            self.done, self._sizes = LinesDone(stored["lines"], stored["digest"], stored["complete"]), stored["sizes"]
            self._require_settings(stored["settings"])
        self._require_sizes(stored is not None)

    @contextlib.contextmanager
    def open(self) -> Iterator["GrowingFiles"]:
        """Opens the files for `append`, each as long as the note says. Raises UserError where another program has them open,
        and where they cannot be written."""
        with contextlib.ExitStack() as files:
            try:
                self._files = [files.enter_context(open(path, "ab")) for path in self._paths]
                for path, file, size in zip(self._paths, self._files, self._sizes, strict=True):
                    _lock(path, file)
                    file.truncate(size)
                self._write_note()
            except OSError as error:
                raise UserError(f"{self._paths[0]}: cannot be written ({error.strerror})") from None
            yield self

    def append(self, texts: Sequence[str], done: LinesDone) -> None:
        """Appends a text to each file, which are then those of the input's first `done.lines`."""
        for number, (path, file, text) in enumerate(zip(self._paths, self._files, texts, strict=True)):
            content = text.encode("utf-8")
            if path.suffix == ".gz" and content:
                content = gzip.compress(content, mtime=0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            self._sizes[number] += len(content)
        self.done = done
        self._write_note()

    def _write_note(self) -> None:
        note = {"settings": self._settings, **self.done._asdict(), "sizes": self._sizes}
        temporary = self._note.with_name(f"{self._note.name}.partial")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(note, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())  # else a note of nothing could take the old one's place when the power fails
        temporary.replace(self._note)

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(read_plain(self._note))
            LinesDone(note["lines"] + 0, note["digest"] + "", note["complete"])
            if len(note["sizes"]) == len(self._paths) and isinstance(note["settings"], dict):
                return note
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass
        raise UserError(f"{self._note}: is damaged, or of other files; {self._begin_anew()}")

    def _require_settings(self, stored: dict[str, Any]) -> None:
        names = sorted({*stored, *self._settings})
        pairs = [(name, stored.get(name, "default"), self._settings.get(name, "default")) for name in names]
        differing = ", ".join(f"{name}: {before} -> {now}" for name, before, now in pairs if before != now)
        if differing:
            raise UserError(
                f"{self._paths[0]}: was begun otherwise ({differing}): give the same as then, or {self._begin_anew()}"
            )

    def _require_sizes(self, has_note: bool) -> None:
        for path, size in zip(self._paths, self._sizes, strict=True):
            there = path.stat().st_size if path.exists() else 0
            if there and not has_note:
                raise UserError(f"{path}: exists, and there is no {self._note} that tells how far it is; name another file")
            if there < size:
                raise UserError(f"{path}: is shorter than {self._note} says; {self._begin_anew()}")

    def _begin_anew(self) -> str:
        return f"remove {', '.join(map(str, [*self._paths, self._note]))} to begin anew"


def _lock(path: Path, file: BinaryIO) -> None:
    """Holds the operating system's lock of the file until it is closed, where there are such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path}: another process writes it; wait for it, end it, or name another file") from None
    except OSError:  # a network file system without locks
        return
