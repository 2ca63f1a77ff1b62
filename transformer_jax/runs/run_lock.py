"""The lock of a run folder, which holds a second training of it off."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import IO

from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import make_folder, not_writable
from transformer_jax.storage.files import is_remote, to_path

__all__ = ["locked"]

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the lock of a run folder, which is made if it does not exist. Raises UserError if another training holds it.

    The lock, the operating system's on `WORKDIR/lock`, goes with the process, however that ends. On an object store (and on a
    network file system without locks) there is none: there the user must not start two trainings of one folder.
    """
    workdir = to_path(workdir)
    if not collectives.is_first() or is_remote(workdir):
        yield
        return
    try:
        if not (workdir / "config.json").exists():
            make_folder(workdir)
        file = open(workdir / "lock", "a+", encoding="utf-8")
    except OSError as error:
        raise not_writable(workdir, error) from None
    with file:
        _lock(workdir, file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _lock(workdir: epath.Path, file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another process"
        raise UserError(f"{workdir}: {holder} is training in it; wait for it, end it, or name another --workdir") from None
    except OSError as error:
        log.warning("%s: cannot be locked (%s); see that no other training works in it", workdir, error.strerror)
