"""Many lines to ids, on all cores: in several processes, because looking words up holds Python's lock."""

import collections
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from transformer_jax.data.lines_on_disk import CHUNK, joined
from transformer_jax.data.noised_lines import as_sample
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["encode_lines"]

_CHUNK = CHUNK
_FEW = 200_000  # lines that this process encodes while others would still be starting
_MOST_PROCESSES = 16


def encode_lines(
    tokenizer: Tokenizer,
    side: str,
    lines: Sequence[str],
    processes: int = 0,
    sampling: Sampling | None = None,
    on_block: Callable[[bytes], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunk by chunk, the ids int32 [tokens] of `lines`, EOS included, and the number of ids of each line, int64 [lines].

    `side` is source or target. `processes` is how many other processes encode; 0: as many as there are cores, none for few
    lines. With `sampling` all lines come `sampling.count` times over, each time segmented anew, with the noise of that sample
    (`NoisedLines`); the same at each call.
    `on_block` is called with each chunk of the text in its order (`lines_on_disk.joined`), once.

    Raises RuntimeError if one of the other processes ends before its time.
    """
    times = sampling.count if sampling else 1
    total = times * len(lines)
    processes = processes or (min(_cores(), _MOST_PROCESSES) if total > _FEW else 1)
    tasks = _tasks(lines, times, sampling, on_block)
    with tqdm(total=total, desc=f"tokenising the {side}", unit=" lines", unit_scale=True, disable=None, leave=False) as bar:
        encoded = (
            _by_others(tokenizer, side, tasks, processes)
            if processes > 1
            else (_encode(tokenizer, side, *task) for task in tasks)
        )
        for ids, lengths in encoded:
            bar.update(len(lengths))
            yield ids, lengths


def _tasks(
    lines: Sequence[str], times: int, sampling: Sampling | None, on_block: Callable[[bytes], None] | None
) -> Iterator[tuple[bytes, tuple[float, int] | None]]:
    """Each chunk of the text, with the alpha and the seed of its segmentation."""
    for time in range(times):
        drawn = as_sample(lines, time)
        for start in range(0, len(lines), _CHUNK):
            block = joined(drawn, start, min(start + _CHUNK, len(lines)))
            if on_block and not time:
                on_block(block)
            yield block, sampling and (sampling.alpha, _seed(time, start))


def serve() -> None:
    """Runs a process that encodes: chunks come on standard input, their ids go to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the ids
    tokenizer, side = Tokenizer.load(sys.argv[1]), sys.argv[2]
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            _send(_encode(tokenizer, side, *pickle.load(sys.stdin.buffer)), sys.stdout.buffer)


def _by_others(tokenizer: Tokenizer, side: str, tasks: Iterator[tuple], count: int) -> Iterator[tuple]:
    """The results in the order of the tasks. Process i has the tasks i, i + count, ...; it gets the next one when it has
    returned the one before."""
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()", os.fspath(tokenizer.folder), side]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(count)]
    try:
        at_work = collections.deque()
        for worker, task in zip(workers, tasks, strict=False):
            _send(task, worker.stdin)
            at_work.append(worker)
        while at_work:
            worker = at_work.popleft()
            yield pickle.load(worker.stdout)
            if (task := next(tasks, None)) is not None:
                _send(task, worker.stdin)
                at_work.append(worker)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"a process that tokenises has ended (codes: {[worker.poll() for worker in workers]})") from error
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _send(value: Any, stream: BinaryIO) -> None:
    pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _encode(tokenizer: Tokenizer, side: str, text: bytes, sampled: tuple[float, int] | None) -> tuple[np.ndarray, np.ndarray]:
    lines = text.decode("utf-8").split("\n")
    if sampled:
        rows = (tokenizer.sample_source if side == "source" else tokenizer.sample_target)(lines, *sampled)
    else:
        rows = (tokenizer.encode_source if side == "source" else tokenizer.encode_target)(lines)
    return np.concatenate(rows), np.fromiter(map(len, rows), np.int64, len(rows))


def _seed(time: int, start: int) -> int:
    """The seed of the segmentations of the chunk of lines from `start` on."""
    return int(np.random.SeedSequence([time, start]).generate_state(1)[0])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
