"""Many lines to ids, on all cores: in several processes, because looking words up holds Python's lock."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.worker_processes import worker_processes

__all__ = ["Chunk", "EncodedLines", "encoders"]

_FEW = 200_000  # lines that this process encodes while others would still be starting


class Chunk(NamedTuple):
    r"""Lines that one process encodes together."""

    text: bytes  # UTF-8, with `\n` between two lines (`lines_on_disk.joined`)
    sampled: tuple[float, int] | None = None  # alpha and seed of their segmentation, where it is drawn at random


class EncodedLines(NamedTuple):
    """The ids of a chunk."""

    ids: np.ndarray  # int32 [tokens], EOS included
    lengths: np.ndarray  # int64 [lines]: the number of ids of each line


def encoders(
    tokenizer: Tokenizer, side: str, lines: int, processes: int = 0
) -> contextlib.AbstractContextManager[Callable[[Iterable[Chunk]], Iterator[EncodedLines]]]:
    """Gives a function that encodes chunks of a side, source or target, in their order, as `worker_processes` does.

    `lines` is how many lines there will be, about. `processes` is how many other processes encode; 0: as many as there are
    cores, at most 16, and none for few lines.
    """
    processes = processes or (0 if lines > _FEW else 1)
    return worker_processes(functools.partial(_encode_chunk, tokenizer, side), "tokenises", processes)


def _encode_chunk(tokenizer: Tokenizer, side: str, chunk: Chunk) -> EncodedLines:
    return _encode(tokenizer, side, *chunk)


def _encode(tokenizer: Tokenizer, side: str, text: bytes, sampled: tuple[float, int] | None) -> EncodedLines:
    lines = text.decode("utf-8").split("\n")
    if sampled:
        rows = (tokenizer.sample_source if side == "source" else tokenizer.sample_target)(lines, *sampled)
    else:
        rows = (tokenizer.encode_source if side == "source" else tokenizer.encode_target)(lines)
    return EncodedLines(np.concatenate(rows), np.fromiter(map(len, rows), np.int64, len(rows)))
