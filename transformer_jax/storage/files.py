"""Files on local disks and on object stores (gs://BUCKET/...), through etils' epath."""

import errno
import importlib.util
import math
import os
import stat
from typing import Any

from etils import epath

from transformer_jax.errors import UserError, pip_install

__all__ = ["bytes_of", "finite_or_null", "is_remote", "read_plain", "to_path", "write_whole", "written_at"]

_LARGEST = 1 << 28  # bytes


def finite_or_null(value: Any) -> Any:
    """`value` with None for every number in it that is not finite, because JSON cannot write those.

    >>> finite_or_null({"perplexity": float("inf"), "scores": (1.5, float("nan"))})
    {'perplexity': None, 'scores': [1.5, None]}
    """
    if isinstance(value, dict):
        return {name: finite_or_null(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_remote(path: epath.PathLike) -> bool:
    """Is `path` on an object store?

    >>> is_remote("gs://bucket/runs/demo"), is_remote("runs/demo")
    (True, False)
    """
    return os.fspath(path).startswith("gs://")


def to_path(path: epath.PathLike) -> epath.Path:
    """`path` as a path of epath. Raises UserError if the library that reads such a store is not installed.

    >>> to_path("runs/demo").name
    'demo'
    """
    if is_remote(path):
        # A cached listing would hide files that other processes write.
        os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{path}: reading Google Cloud Storage needs gcsfs; {pip_install('transformer_jax[gcs]')}")
    return epath.Path(path)


def bytes_of(path: epath.Path) -> int:
    """The size of a file. epath's own `stat` fails on a local file whose owner has no name on this machine, as the user of a
    container and of a copied file may have none."""
    return path.stat().length if is_remote(path) else os.stat(path).st_size


def written_at(path: epath.Path) -> float:
    """When a file was last written to, in seconds since 1970; 0 for an object store that does not tell."""
    return path.stat().mtime if is_remote(path) else os.stat(path).st_mtime


def read_plain(path: epath.PathLike, largest: int = _LARGEST) -> bytes:
    """The bytes of a file that a stranger may have made. Raises OSError if it cannot be read, is not a plain file (a device or
    a pipe may never end) or has more than `largest` bytes."""
    path = epath.Path(path)
    if not is_remote(path) and not stat.S_ISREG(mode := os.stat(path).st_mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "is a folder" if stat.S_ISDIR(mode) else "is not a plain file", os.fspath(path))
    if bytes_of(path) > largest:
        raise OSError(errno.EFBIG, f"has more than {largest:,} bytes", os.fspath(path))
    return path.read_bytes()


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes a file so that a kill leaves the old content or the new, never a part of it."""
    content = content.encode("utf-8") if isinstance(content, str) else content
    if is_remote(path):  # an object appears when it is complete
        path.write_bytes(content)
        return
    temporary = path.with_name(f"{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
