"""CTranslate2's `model.bin`: read by NumPy alone, from a file that a stranger may have made. All numbers are little-endian.

    uint32 version (2 to 6), string name, uint32 revision, uint32 count of variables, of each
        string name, uint8 rank, rank times uint32 size, uint8 type, uint32 bytes, the bytes
        (before version 4: uint8 bytes of a number, uint32 count of numbers, the bytes)
    uint32 count of aliases, of each: string alias, string name of a variable    (from version 3 on)

    a string: uint16 length, with the NUL at the end; UTF-8; NUL

What CTranslate2 reads by `Model::load` of src/models/model.cc, and writes by `ModelSpec._serialize` of
python/ctranslate2/specs/model_spec.py.
"""

import math
import struct
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from transformer_jax.errors import UserError

__all__ = ["ModelFile", "parse_model_file", "shown"]

_VERSIONS = range(2, 7)
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, jnp.bfloat16)  # by their number
_TYPES_BY_SIZE = {1: np.int8, 2: np.int16, 4: np.float32}  # before version 4
_MOST_AXES = 4
_MOST_OF_NAME = 60  # characters of a name that an error shows


class ModelFile(NamedTuple):
    """The content of a file."""

    version: int
    name: str  # of the kind of model
    revision: int  # of the kind's layout of variables
    variables: dict[str, np.ndarray]  # as they are in the file, and once more under each alias


class _Damaged(Exception):
    """The file is not as it should be; the message says where."""


class _Bytes:
    """The bytes of a file, from the first to the last; every read is checked against what is left."""

    def __init__(self, content: bytes):
        self._content, self._place = memoryview(content), 0

    def left(self) -> int:
        return len(self._content) - self._place

    def take(self, count: int, what: str) -> memoryview:
        if count > self.left():
            raise _Damaged(f"byte {self._place:,}: {what} needs {count:,} bytes, and {self.left():,} are left")
        self._place += count
        return self._content[self._place - count : self._place]

    def number(self, kind: str, what: str) -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}"), what))[0]

    def string(self, what: str) -> str:
        place = self._place
        content = bytes(self.take(self.number("H", what), what))
        try:
            if content[-1:] != b"\0":
                raise ValueError
            return content[:-1].decode("utf-8")
        except ValueError:
            raise _Damaged(f"byte {place:,}: {what} is not UTF-8 with a NUL at the end") from None


def parse_model_file(content: bytes, where: str) -> ModelFile:
    """What the bytes of a `model.bin` say. Raises UserError, naming `where`, if they are damaged, or of another version."""
    try:
        return _parse(_Bytes(content))
    except _Damaged as error:
        raise UserError(f"{where}: not a whole CTranslate2 model ({error}); download or convert it again") from None


def _parse(content: _Bytes) -> ModelFile:
    version = content.number("I", "the version")
    if version not in _VERSIONS:
        expected = f"{_VERSIONS[0]} to {_VERSIONS[-1]}"
        raise _Damaged(f"version {version} of the format, expected {expected}")
    name, revision = content.string("the name of the kind"), content.number("I", "the revision")
    variables: dict[str, np.ndarray] = {}
    for _ in range(content.number("I", "the number of variables")):
        variable = content.string("the name of a variable")
        if variable in variables:
            raise _Damaged(f"{shown(variable)} comes twice")
        variables[variable] = _array(content, variable, version)
    if version >= 3:
        _add_aliases(content, variables)
    if content.left():
        raise _Damaged(f"{content.left():,} bytes follow its end")
    return ModelFile(version, name, revision, variables)


def _array(content: _Bytes, name: str, version: int) -> np.ndarray:
    what = shown(name)
    rank = content.number("B", what)
    if rank > _MOST_AXES:
        raise _Damaged(f"{what} has {rank} axes, expected {_MOST_AXES} at most")
    shape = tuple(content.number("I", what) for _ in range(rank))
    number, count = content.number("B", what), content.number("I", what)
    kinds = dict(enumerate(_TYPES)) if version >= 4 else _TYPES_BY_SIZE
    if number not in kinds:
        raise _Damaged(f"{what} is of the unknown type {number}")
    kind = np.dtype(kinds[number])
    size = count if version >= 4 else count * kind.itemsize
    if size != math.prod(shape) * kind.itemsize:
        raise _Damaged(f"{what} of shape {shape} and type {kind.name} has {size:,} bytes")
    return np.frombuffer(content.take(size, what), kind.newbyteorder("<")).reshape(shape)


def _add_aliases(content: _Bytes, variables: dict[str, np.ndarray]) -> None:
    """Adds each alias, and that of the scale with which a variable is quantised."""
    names = set(variables)
    for _ in range(content.number("I", "the number of aliases")):
        alias, name = content.string("an alias"), content.string("the name of an alias' variable")
        if alias in variables:
            raise _Damaged(f"{shown(alias)} comes twice")
        if name not in names:
            raise _Damaged(f"{shown(alias)} stands for {shown(name)}, which is not there")
        variables[alias] = variables[name]
        if f"{name}_scale" in names:
            variables.setdefault(f"{alias}_scale", variables[f"{name}_scale"])


def shown(name: str) -> str:
    """A name as an error shows it: in quotes and of one line, where it is not an ordinary one; its beginning, if it is long.

    >>> shown("encoder/activation"), shown("ä")
    ('encoder/activation', "'ä'")
    """
    text = name if name.isascii() and name.isprintable() and name else repr(name)
    return text if len(text) <= _MOST_OF_NAME else f"{text[:_MOST_OF_NAME]}..."
