"""Many lines to ids, on all cores: in several processes, because looking words up holds Python's lock."""

import collections
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Chunk", "EncodedLines", "encoders"]

_FEW = 200_000  # lines that this process encodes while others would still be starting
_MOST_PROCESSES = 16


class Chunk(NamedTuple):
    r"""Lines that one process encodes together."""

    text: bytes  # UTF-8, with `\n` between two lines (`lines_on_disk.joined`)
    sampled: tuple[float, int] | None = None  # alpha and seed of their segmentation, where it is drawn at random


class EncodedLines(NamedTuple):
    """The ids of a chunk."""

    ids: np.ndarray  # int32 [tokens], EOS included
    lengths: np.ndarray  # int64 [lines]: the number of ids of each line


@contextlib.contextmanager
def encoders(
    tokenizer: Tokenizer, side: str, lines: int, processes: int = 0
) -> Iterator[Callable[[Iterable[Chunk]], Iterator[EncodedLines]]]:
    """Gives a function that encodes chunks of a side, source or target, in their order; it takes from the chunks no more than
    there are processes ahead, and may be called again when it has given all. The processes end with the block.

    `lines` is how many lines there will be, about. `processes` is how many other processes encode; 0: as many as there are
    cores, none for few lines. The function raises RuntimeError if one of the other processes ends before its time.
    """
    processes = processes or (min(_cores(), _MOST_PROCESSES) if lines > _FEW else 1)
    workers: list[subprocess.Popen] = []

    def encode(chunks: Iterable[Chunk]) -> Iterator[EncodedLines]:
        if processes == 1:
            return (_encode(tokenizer, side, *chunk) for chunk in chunks)
        if not workers:
            workers.extend(_start(tokenizer, side) for _ in range(processes))
        return _by_others(workers, iter(chunks))

    try:
        yield encode
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def serve() -> None:
    """Runs a process that encodes: chunks come on standard input, their ids go to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the ids
    tokenizer, side = Tokenizer.load(sys.argv[1]), sys.argv[2]
    # Not sys.stdout.buffer, which with PYTHONUNBUFFERED=1 loses the rest of what a signal (SIGSTOP) has interrupted.
    with contextlib.suppress(EOFError, BrokenPipeError), open(sys.stdout.fileno(), "wb", closefd=False) as results:
        while True:
            _send(_encode(tokenizer, side, *pickle.load(sys.stdin.buffer)), results)


def _start(tokenizer: Tokenizer, side: str) -> subprocess.Popen:
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()", os.fspath(tokenizer.folder), side]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _by_others(workers: list[subprocess.Popen], chunks: Iterator[Chunk]) -> Iterator[EncodedLines]:
    """The results in the order of the chunks. Each process has one of the first chunks; it gets another when it has returned
    the one before."""
    try:
        at_work = collections.deque()
        for worker, chunk in zip(workers, chunks, strict=False):
            _send(chunk, worker.stdin)
            at_work.append(worker)
        while at_work:
            worker = at_work.popleft()
            yield pickle.load(worker.stdout)
            if (chunk := next(chunks, None)) is not None:
                _send(chunk, worker.stdin)
                at_work.append(worker)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"a process that tokenises has ended (codes: {[worker.poll() for worker in workers]})") from error


def _send(value: Any, stream: BinaryIO) -> None:
    pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _encode(tokenizer: Tokenizer, side: str, text: bytes, sampled: tuple[float, int] | None) -> EncodedLines:
    lines = text.decode("utf-8").split("\n")
    if sampled:
        rows = (tokenizer.sample_source if side == "source" else tokenizer.sample_target)(lines, *sampled)
    else:
        rows = (tokenizer.encode_source if side == "source" else tokenizer.encode_target)(lines)
    return EncodedLines(np.concatenate(rows), np.fromiter(map(len, rows), np.int64, len(rows)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
