"""Folders of results that are kept for the next run; a user may delete them whenever no program uses them."""

import atexit
import contextlib
import fnmatch
import functools
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.storage.checksums import find_damage
from transformer_jax.storage.files import is_remote, written_at

__all__ = ["default_cache_dir", "fill", "lasting_cache_dir", "remove_leftovers", "use_compilation_cache"]

log = logging.getLogger(__name__)

_LEAST_SECONDS = 0.5  # compilation time from which a program is kept
_WEEK = 7 * 24 * 3600  # seconds after which nobody comes back for what a killed program has left


def default_cache_dir() -> Path:
    """`lasting_cache_dir()`, or if there is none a temporary folder, which is removed when this process ends."""
    return lasting_cache_dir() or _temporary_dir()


def lasting_cache_dir() -> Path | None:
    """$XDG_CACHE_HOME/transformer_jax, or ~/.cache/transformer_jax; None, and a line in the log, if it cannot be written."""
    return _checked(os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME"))


def use_compilation_cache(folder: str | os.PathLike | None = None) -> str | None:
    """Makes JAX keep compiled programs that took at least half a second in a folder, for this process and later ones.

    The folder is the argument, or else $JAX_COMPILATION_CACHE_DIR, or `compiled` in `lasting_cache_dir()`. To be called once,
    before the first translation or training step: programs compiled before the call are not kept. Returns the folder; None,
    with a line in the log, if no folder is given and none can be written. Raises UserError if the given one cannot be written.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    path = os.fspath(folder) if folder is not None else jax.config.jax_compilation_cache_dir
    if not path:
        lasting = lasting_cache_dir()
        path = str(lasting / "compiled") if lasting else None
    reason = _why_not_writable(Path(path)) if path and not is_remote(path) else ""
    if reason and folder is not None:
        raise UserError(f"{path}: compiled programs cannot be kept there ({reason}); name another folder")
    if reason:
        log.warning("%s: cannot be written (%s); programs are compiled anew each time", path, reason)
    chosen = None if reason else path
    jax.config.update("jax_compilation_cache_dir", chosen)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    compilation_cache.reset_cache()  # else JAX keeps the cache, or the lack of one, that it had for its first program
    return chosen


def fill(parent: Path, write: Callable[[Path], str]) -> Path | None:
    """Has `write` fill a temporary folder, its manifest included, which then becomes the folder in `parent` whose name `write`
    returns, as a whole or not at all. Returns that folder; None where it is neither there nor can be. What programs that were
    killed have left in `parent` is removed after a week."""
    # Not tempfile's mkdtemp, whose folders no other user of a shared cache could read.
    temporary = parent / f"new.partial-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        folder = parent / write(temporary)
        with contextlib.suppress(OSError):
            return temporary.rename(folder)
        if not find_damage(folder):  # another writer's, which is as good
            return folder
        damaged = temporary.with_name(f"{temporary.name}-damaged")
        with contextlib.suppress(OSError):
            folder.rename(damaged)
            return temporary.rename(folder)
        return None
    finally:
        for path in (temporary, temporary.with_name(f"{temporary.name}-damaged")):
            shutil.rmtree(path, ignore_errors=True)
        remove_leftovers(parent, "new.partial-*")


def remove_leftovers(folder: epath.PathLike, pattern: str) -> None:
    """Removes the files and folders in `folder` whose names match `pattern` (as in a shell) and to which nothing has been
    written for a week. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for path in epath.Path(folder).iterdir():
            if fnmatch.fnmatchcase(path.name, pattern):
                _remove_if_old(path)


def _remove_if_old(path: epath.Path) -> None:
    with contextlib.suppress(OSError):
        is_folder = path.is_dir()
        written = max(written_at(file) for file in ([path, *path.iterdir()] if is_folder else [path]))
        if 0 < written < time.time() - _WEEK:
            path.rmtree() if is_folder else path.unlink()


@functools.cache
def _checked(xdg: str, home: str | None) -> Path | None:
    """The folder that the two environment variables lead to, or None; each line is logged once."""
    if xdg and not os.path.isabs(xdg):
        log.warning("XDG_CACHE_HOME=%s has no effect, as the XDG specification says: it should be an absolute path", xdg)
    try:
        base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
        reason = _why_not_writable(base / "transformer_jax") if base.is_absolute() else f"HOME={home} is not an absolute path"
        where = f"{base / 'transformer_jax'}: {reason}"
    except RuntimeError:
        reason = where = f"HOME is not set, and user {os.getuid()} has no name"
    if not reason:
        return base / "transformer_jax"
    log.warning(
        "there is no cache (%s): text is tokenised and programs are compiled anew each time; set XDG_CACHE_HOME to a folder "
        "that can be written",
        where,
    )
    return None


def _why_not_writable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@functools.cache
def _temporary_dir() -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="transformer_jax-")
    except OSError as error:
        raise UserError(f"there is no folder for temporary files ({error}); set TMPDIR to one that can be written") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
