"""What a command compares before it goes on with files that it began: the lines of its input, and its models."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.storage.growing_files import LinesDone

__all__ = ["CountedLines", "model_digest"]

_Texts = TypeVar("_Texts", bound=Sequence[str])


class CountedLines(Iterator[_Texts]):
    """Lines of input as they are read, with their number and a hash of them. Each is a tuple of the texts that belong together,
    such as a source and its target.

    Attributes:
        count: how many have been read
    """

    def __init__(self, lines: Iterator[_Texts]):
        self._lines, self._hash, self.count = lines, hashlib.blake2b(digest_size=16), 0

    def __next__(self) -> _Texts:
        line = next(self._lines)
        self._hash.update("\n".join((*line, "")).encode("utf-8", "surrogatepass"))
        self.count += 1
        return line

    def done(self) -> LinesDone:
        """What a note says after the lines that have been read."""
        return LinesDone(self.count, self._hash.hexdigest())

    def skip(self, before: LinesDone, differ: str) -> None:
        """Reads the lines that are done. Raises UserError, which says how they `differ`, where they are others."""
        for _ in itertools.islice(self, before.lines):
            pass
        if before.lines and self.done() != before._replace(complete=False):
            raise UserError(f"{differ}; bring them back, or name another --output")


def model_digest(translator: Translator) -> str:
    """A hash of a model's parameters, or an ensemble's, and its tokenizer."""
    digest = hashlib.blake2b(translator.tokenizer.fingerprint.encode(), digest_size=16)
    for leaf in jax.tree.leaves(translator.params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
