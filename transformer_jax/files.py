"""Files on local disks and on object stores (gs://BUCKET/...), through etils' epath."""

import importlib.util
import os

from etils import epath

from transformer_jax.errors import UserError

__all__ = ["is_remote", "to_path", "write_whole"]


def is_remote(path: epath.PathLike) -> bool:
    """Is it on an object store?

    >>> is_remote("gs://bucket/runs/demo"), is_remote("runs/demo")
    (True, False)
    """
    return os.fspath(path).startswith("gs://")


def to_path(path: epath.PathLike) -> epath.Path:
    """`path` as a path of epath. Raises UserError if what reads such a store is not installed.

    >>> to_path("runs/demo").name
    'demo'
    """
    if is_remote(path):
        # A listing that is kept hides what other processes write.
        os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{path}: reading Google Cloud Storage needs gcsfs; pip install 'transformer_jax[gcs]'")
    return epath.Path(path)


def write_whole(path: epath.Path, text: str) -> None:
    """Replaces a file such that a kill leaves the old one or the new one, never a part."""
    if is_remote(path):  # an object is there when it is complete
        path.write_text(text, encoding="utf-8")
        return
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
