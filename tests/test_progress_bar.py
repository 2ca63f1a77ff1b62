"""How many lines there are to translate, and where there is no bar."""

import gzip
import io
import os
import sys

import pytest

from transformer_jax.cli.progress_bar import count_lines, is_terminal, lines_bar


@pytest.mark.parametrize(
    "content, lines", [(b"", 0), (b"one", 1), (b"one\n", 1), (b"\n\nthree", 3), (b"a\n" * 600_000, 600_000)]
)
def test_lines_of_a_plain_file_are_counted(tmp_path, content, lines):
    file = tmp_path / "text"
    file.write_bytes(content)
    assert count_lines(str(file)) == lines


def test_lines_that_can_be_read_only_once_or_slowly_are_not_counted(tmp_path):
    packed = tmp_path / "text"
    packed.write_bytes(gzip.compress(b"one\ntwo\n"))
    os.mkfifo(tmp_path / "pipe")
    for path in (None, "gs://bucket/text", str(packed), str(tmp_path / "pipe"), str(tmp_path / "none")):
        assert count_lines(path) is None


def test_there_is_no_bar_without_a_terminal(monkeypatch, capfd):
    with lines_bar("translating", 3) as progress:
        assert progress is None
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_terminal(sys.stderr) and not is_terminal(io.StringIO())
    with lines_bar("translating", 3) as progress:
        assert progress is None
