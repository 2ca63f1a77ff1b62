"""The file format safetensors (https://github.com/huggingface/safetensors): a JSON header, then the arrays' bytes."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.storage.files import read_plain

__all__ = ["read_safetensors", "write_safetensors"]

_LARGEST = 1 << 40  # bytes
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, in their shapes and types, by their names. Raises UserError if it cannot be read or is damaged."""
    try:
        content = read_plain(path, _LARGEST)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            data = memoryview(content)[8 + size + start : 8 + size + stop]
            if start < 0 or len(data) != stop - start:
                raise ValueError(f"{name} ends after the file")
            # The file is little-endian, as are all machines that JAX runs on.
            arrays[name] = np.frombuffer(data, _TYPES[entry["dtype"]]).reshape(entry["shape"])
        return arrays
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"unknown type {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not a whole safetensors file ({reason}); download it again") from None


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes float32 arrays in the order of their names."""
    header, end = {"__metadata__": {"format": "pt"}}, 0  # Hugging Face requires the mark
    for name in sorted(arrays):
        start, end = end, end + arrays[name].nbytes
        header[name] = {"dtype": "F32", "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(arrays):
            file.write(np.ascontiguousarray(arrays[name], np.float32).tobytes())
