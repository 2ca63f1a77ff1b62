"""Tokenised text kept in blocks while a store is made of it: what an interrupted preparation goes on from."""

import contextlib
import hashlib
import logging
import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from transformer_jax.storage.cache_folders import remove_leftovers
from transformer_jax.storage.files import is_remote

__all__ = ["Block", "BlockFiles"]

log = logging.getLogger(__name__)

# A file: the checksum of its name and of the rest, three int64 (bytes of an id, ids, lines), ids, lengths, words.
_DIGEST = 16  # bytes
_SIZES = 24
Buffer = bytes | memoryview


class Block(NamedTuple):
    """The ids of some hundred thousand lines of one side."""

    ids: np.ndarray  # uint16 or int32 [tokens], EOS included
    lengths: np.ndarray  # int64 [lines]: the number of ids of each line
    words: bytes = b""  # UTF-8: each different part of the lines between white space once, or nothing where they were not kept


class BlockFiles:
    """Blocks in a folder on this disk or on an object store. Each is a file of its own, with a checksum, and is written whole;
    its name is a hash of what its ids depend on."""

    def __init__(self, folder: epath.PathLike):
        self._folder = epath.Path(folder)

    def get(self, name: str) -> Block | None:
        """The block of this name, if it is there and as it was written; the log names one that is damaged."""
        path = self._folder / name
        if not path.exists():
            return None
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process, which has its store, has removed it
            return None
        except OSError as error:
            log.warning("%s: cannot be read (%s); its lines are tokenised again", path, error)
            return None
        body = memoryview(content)[_DIGEST:]
        if content[:_DIGEST] != _checksum(name, [body]):
            log.warning("%s: is damaged; its lines are tokenised again", path)
            return None
        id_size, tokens, lines = map(int, np.frombuffer(body, np.int64, 3))
        ids = np.frombuffer(body, np.uint16 if id_size == 2 else np.int32, tokens, _SIZES)
        start = _SIZES + ids.nbytes
        lengths = np.frombuffer(body, np.int64, lines, start)
        return Block(ids, lengths, bytes(body[start + lengths.nbytes :]))

    def put(self, name: str, block: Block) -> None:
        """Writes a block, whole or not at all. Raises OSError if it cannot be written."""
        sizes = np.array([block.ids.itemsize, len(block.ids), len(block.lengths)], np.int64)
        content = [sizes.data, block.ids.data, block.lengths.data, memoryview(block.words)]
        self._write(name, [_checksum(name, content), *content])

    def put_mark(self) -> str:
        """Writes a file by which other processes can tell that they see the same folder (`has`). Returns its name. Raises
        OSError if it cannot be written."""
        name = f"mark-{uuid.uuid4().hex}"
        self._write(name, [])
        return name

    def has(self, name: str) -> bool:
        """Is there a file of this name, whole or damaged?"""
        return (self._folder / name).exists()

    def remove(self, names: Iterable[str]) -> None:
        """Removes blocks. Another program that makes a store of the same text at the same time, and no longer finds them,
        tokenises their lines itself."""
        for name in names:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Removes all blocks that were put here a week ago or earlier, which nobody has come back for."""
        remove_leftovers(self._folder, "*")

    def _write(self, name: str, content: Sequence[Buffer]) -> None:
        if is_remote(self._folder):  # an object appears when it is complete
            (self._folder / name).write_bytes(b"".join(content))
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{name}.partial-{uuid.uuid4().hex}"  # two programs may write the same block
        try:
            with temporary.open("wb") as file:
                file.writelines(content)
            temporary.replace(self._folder / name)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _checksum(name: str, content: Iterable[Buffer]) -> bytes:
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST)
    for part in content:
        digest.update(part)
    return digest.digest()
