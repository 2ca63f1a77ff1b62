"""Lines encoded by several processes are the lines encoded by one."""

import os
import signal

import numpy as np
import pytest
from helpers import letters

from transformer_jax.config import TokenizerConfig
from transformer_jax.data import encode_lines as encoders
from transformer_jax.data.encode_lines import encode_lines
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

LINES = letters(230, 9)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.train(LINES, TokenizerConfig(vocab_size=272), tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(("processes", "chunk"), [(2, 50), (3, 20)])
def test_any_number_of_processes_draws_the_same_segmentations(processes, chunk, tokenizer, monkeypatch):
    monkeypatch.setattr(encoders, "_CHUNK", chunk)
    found = [
        [np.concatenate(each) for each in zip(*encode_lines(tokenizer, "source", LINES, count, Sampling(3, 0.5)), strict=True)]
        for count in (1, processes)
    ]
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))
    ids, lengths = found[0]
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    assert tokenizer.decode(rows) == 3 * LINES
    times = [[row.tolist() for row in rows[start : start + len(LINES)]] for start in range(0, len(rows), len(LINES))]
    assert times[0] != times[1] != times[2] != times[0]


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(("processes", "chunk"), [(1, 50), (2, 50), (3, 20), (4, 100), (2, 1000)])
def test_any_number_of_processes_gives_the_same(processes, chunk, side, tokenizer, monkeypatch):
    """Chunks that do not divide the lines, fewer of them than processes, one."""
    monkeypatch.setattr(encoders, "_CHUNK", chunk)
    expected = tokenizer.encode_source(LINES)
    ids, lengths = map(np.concatenate, zip(*encode_lines(tokenizer, side, LINES, processes), strict=True))
    assert lengths.tolist() == [len(row) for row in expected]
    assert np.array_equal(ids, np.concatenate(expected))


def test_no_lines(tokenizer):
    assert list(encode_lines(tokenizer, "source", [], 2)) == []


@pytest.fixture
def started(monkeypatch) -> list:
    """The processes that are started, each given ten lines at a time."""
    monkeypatch.setattr(encoders, "_CHUNK", 10)
    found, start = [], encoders.subprocess.Popen
    monkeypatch.setattr(encoders.subprocess, "Popen", lambda *args, **more: found.append(start(*args, **more)) or found[-1])
    return found


def test_a_process_that_is_lost_is_an_error_and_takes_the_others_along(tokenizer, started):
    found = encode_lines(tokenizer, "source", LINES, 2)
    next(found)
    os.kill(started[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a process that tokenises has ended"):
        list(found)
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_whoever_stops_reading_ends_the_processes(tokenizer, started):
    found = encode_lines(tokenizer, "source", LINES, 2)
    next(found)
    found.close()
    assert len(started) == 2 and all(process.poll() is not None for process in started)
