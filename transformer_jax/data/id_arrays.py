"""Arrays of ids in NumPy's files: written as they come, mapped into memory to be read."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["map_array", "write_ids"]


def write_ids(path: Path, kind: np.dtype, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Writes ids as `np.save` does, as they come: all at once would double the memory. Returns the lengths that come with
    them. Raises OSError if the file cannot be written."""
    lengths, count = [], 0
    with path.open("wb") as file:
        _write_header(file, kind, count)
        for ids, of_lines in rows:
            file.write(ids.astype(kind).data)
            lengths.append(of_lines)
            count += len(ids)
        file.seek(0)
        _write_header(file, kind, count)
    return lengths


def map_array(path: Path) -> np.ndarray:
    """The array in a file of `np.save`, mapped into memory where it has any elements; it cannot be written to then."""
    try:
        # As a plain array: indexing through numpy's memmap class costs several times as much.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:  # no mapping of an array without elements
        return np.load(path, allow_pickle=False)


def _write_header(file: BinaryIO, kind: np.dtype, count: int) -> None:
    """Its size does not depend on `count`: NumPy leaves room for 21 digits."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
