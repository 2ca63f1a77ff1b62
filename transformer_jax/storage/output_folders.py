"""Folders that are written whole, or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote

__all__ = ["require_possible_output", "written_whole"]


def require_possible_output(output: str | Path) -> None:
    """Raises UserError unless `output` is a local folder that is empty or does not exist."""
    if is_remote(output):
        raise UserError(f"{output}: should be a folder on a local disk; name one and copy it")
    for folder in (Path(output), _unfinished(output)):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is not an empty folder; name another, or remove it")


@contextlib.contextmanager
def written_whole(output: str | Path) -> Iterator[Path]:
    """The name of a folder to make and fill, which is renamed to `output` at the end: a kill leaves nothing that looks like a
    model, an error nothing at all. Raises UserError if it cannot be written."""
    output, unfinished = Path(output), _unfinished(output)
    try:
        yield unfinished
        if output.exists():
            output.rmdir()
        unfinished.rename(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); name another folder") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished(output: str | Path) -> Path:
    return Path(f"{Path(output)}.partial")
