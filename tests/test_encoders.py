"""Lines encoded by several processes are the lines encoded by one."""

import os
import select
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from helpers import letters

from transformer_jax import worker_processes
from transformer_jax.config import TokenizerConfig
from transformer_jax.data.encode_lines import Chunk, encoders
from transformer_jax.tokenization.tokenizer import Tokenizer

LINES = letters(230, 9)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.train(LINES, TokenizerConfig(vocab_size=272), tmp_path_factory.mktemp("tokenizer"))


def encode(tokenizer: Tokenizer, side: str, lines: list[str], processes: int, chunk: int, alpha: float = 0) -> Iterator:
    """The ids and lengths of the lines, cut into chunks; with an alpha each chunk is segmented with a seed of its own."""
    chunks = (
        Chunk("\n".join(lines[start : start + chunk]).encode(), (alpha, start) if alpha else None)
        for start in range(0, len(lines), chunk)
    )
    with encoders(tokenizer, side, len(lines), processes) as encode_chunks:
        yield from encode_chunks(chunks)


@pytest.mark.parametrize(("processes", "chunk"), [(2, 50), (3, 20)])
def test_any_number_of_processes_draws_the_same_segmentations(processes, chunk, tokenizer):
    found = [
        [np.concatenate(each) for each in zip(*encode(tokenizer, "source", LINES, count, chunk, 0.5), strict=True)]
        for count in (1, processes)
    ]
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))
    ids, lengths = found[0]
    assert tokenizer.decode(np.split(ids, np.cumsum(lengths)[:-1])) == LINES


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(("processes", "chunk"), [(1, 50), (2, 50), (3, 20), (4, 100), (2, 1000)])
def test_any_number_of_processes_gives_the_same(processes, chunk, side, tokenizer):
    """Chunks that do not divide the lines, fewer of them than processes, one."""
    expected = tokenizer.encode_source(LINES)
    ids, lengths = map(np.concatenate, zip(*encode(tokenizer, side, LINES, processes, chunk), strict=True))
    assert lengths.tolist() == [len(row) for row in expected]
    assert np.array_equal(ids, np.concatenate(expected))


def test_no_lines(tokenizer):
    assert list(encode(tokenizer, "source", [], 2, 10)) == []


@pytest.fixture
def started(monkeypatch) -> list:
    """The processes that are started."""
    found, start = [], worker_processes.subprocess.Popen
    monkeypatch.setattr(
        worker_processes.subprocess, "Popen", lambda *args, **more: found.append(start(*args, **more)) or found[-1]
    )
    return found


def test_the_same_processes_encode_again_when_they_have_given_all(tokenizer, started):
    with encoders(tokenizer, "target", len(LINES), 2) as encode_chunks:
        for lines in (LINES[:100], LINES[100:]):
            chunks = [Chunk("\n".join(lines[start : start + 10]).encode()) for start in range(0, len(lines), 10)]
            ids = np.concatenate([row.ids for row in encode_chunks(chunks)])
            assert np.array_equal(ids, np.concatenate(tokenizer.encode_target(lines)))
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_a_process_that_is_lost_is_an_error_and_takes_the_others_along(tokenizer, started):
    found = encode(tokenizer, "source", LINES, 2, 10)
    next(found)
    os.kill(started[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a process that tokenises has ended"):
        list(found)
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_whoever_stops_reading_ends_the_processes(tokenizer, started):
    found = encode(tokenizer, "source", LINES, 2, 10)
    next(found)
    found.close()
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_a_process_that_is_stopped_while_it_sends_sends_all(tokenizer, started, monkeypatch):
    """What a pipe takes at once is less than the result, and containers often have Python unbuffered."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    lines = 60 * LINES
    found = encode(tokenizer, "source", lines, 2, len(lines) // 2)
    next(found)
    assert select.select([started[1].stdout], [], [], 20)[0]
    time.sleep(0.05)  # until the pipe is full
    os.kill(started[1].pid, signal.SIGSTOP)
    time.sleep(0.05)
    os.kill(started[1].pid, signal.SIGCONT)
    ids, _ = next(found)
    assert np.array_equal(ids, np.concatenate(tokenizer.encode_source(lines[len(lines) // 2 :])))
