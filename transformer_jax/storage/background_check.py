"""A folder's files compared with their checksums while they are in use already."""

import contextlib
import threading
from pathlib import Path

from transformer_jax.errors import UserError
from transformer_jax.storage.checksums import MANIFEST, find_damage

__all__ = ["BackgroundCheck"]


class BackgroundCheck:
    """Looks for damage in a folder (`checksums.find_damage`) on a thread, once.

    Where it finds some, the folder loses its manifest, and with it is one that was not written to its end: what comes next
    does not take it. The thread does not keep the interpreter from leaving: call `require_whole(wait=True)` before then.
    """

    def __init__(self, folder: Path):
        self._folder, self._error = folder, ""
        self._thread = threading.Thread(target=self._run, name=f"checksums of {folder.name}", daemon=True)
        self._thread.start()

    def require_whole(self, wait: bool = False) -> None:
        """Raises UserError if damage has been found; with `wait`, when all files have been compared."""
        if wait:
            self._thread.join()
        if self._error:
            raise UserError(self._error)

    def _run(self) -> None:
        try:
            damage = find_damage(self._folder)
            if damage:
                with contextlib.suppress(OSError):
                    (self._folder / MANIFEST).unlink()
        except Exception as error:  # of any kind: what could not be compared must not pass for whole
            damage = f"cannot be compared with its checksums ({type(error).__name__}: {error})"
        if damage:
            again = "start the same command again, which makes it anew"
            if (self._folder / MANIFEST).exists():
                again = f"remove this folder and {again}"
            self._error = f"{self._folder}: {damage}, which was found after it had been read from; {again}"
