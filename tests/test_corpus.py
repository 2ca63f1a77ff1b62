"""Reading sentence pairs, and cleaning training text."""

import codecs
import dataclasses
import gzip
import io
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import sacrebleu.utils
from helpers import data_set

from transformer_jax.config import DataConfig
from transformer_jax.data import lines_on_disk as spool
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.filters import Cleaning
from transformer_jax.data.lines_on_disk import Spool, joined
from transformer_jax.data.seen_hashes import SeenHashes
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import check_writable, iter_lines, open_output, read_lines, refuse_shared_stream
from transformer_jax.tokenization.normalization import normalize


def message(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lines_end_at_newlines_only(tmp_path):
    text = "one\u2028still one\x0bstill\x85one\x1cone\r\n\n  two  \nno newline"
    expected = ["one\u2028still one\x0bstill\x85one\x1cone", "", "  two  ", "no newline"]
    (tmp_path / "plain").write_bytes(text.encode())
    (tmp_path / "marked").write_bytes(codecs.BOM_UTF8 + text.encode() + b"\n")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain", "marked", "packed.gz"):
        assert read_lines(tmp_path / name) == expected


def test_all_ways_to_store_pairs_read_the_same(tmp_path):
    pairs = Pairs(["a dog", "", "ü"], ["ein Hund", "leer", ""])
    for side, language in zip(pairs, ("en", "de"), strict=True):
        text = "".join(f"{line}\n" for line in side).encode()
        (tmp_path / f"plain.{language}").write_bytes(text)
        (tmp_path / f"packed.{language}.gz").write_bytes(gzip.compress(text))
    table = "".join(f"{a}\t{b}\n" for a, b in zip(*pairs, strict=True)).encode()
    (tmp_path / "table.tsv").write_bytes(table)
    (tmp_path / "table.tsv.gz").write_bytes(gzip.compress(table))
    for spec in ("plain", "packed", "table.tsv", "table.tsv.gz"):
        assert read_pairs(str(tmp_path / spec), "en", "de") == pairs
    assert read_pairs(str(tmp_path / "plain"), "de", "en") == Pairs(pairs.target, pairs.source)


def test_demo_is_a_source():
    pairs = read_pairs("demo:dev", "en", "de")
    assert len(pairs.source) == len(pairs.target) > 0
    assert "demo:nowhere" in message(read_pairs, "demo:nowhere", "en", "de")
    assert "en to de" in message(read_pairs, "demo:dev", "de", "en")


def test_multi30k_has_its_published_size():
    assert len(read_pairs(str(data_set("multi30k") / "train"), "en", "de").source) == 29_000


@pytest.mark.parametrize("special", [b"r\xc3\xbc", b"two\r", b"cr \r in it", b"\xe2\x80\xa8", b""])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_file_of_many_blocks_is_its_lines_and_an_error_names_its_own(tmp_path, special, end):
    lines = [b"%d \xc3\xbc" % i for i in range(100_000)]
    lines[60_000] = lines[-1] = special
    (tmp_path / "text").write_bytes(b"\n".join(lines) + end)
    expected = [line.removesuffix(b"\r").decode() for line in lines]
    if not special and not end:
        expected.pop()  # the last line's own end
    assert read_lines(tmp_path / "text") == expected
    lines[70_000] = b"caf\xe9"
    (tmp_path / "text").write_bytes(b"\n".join(lines) + end)
    found = []
    with pytest.raises(UserError, match="line 70001 is not UTF-8"):
        for line in iter_lines(tmp_path / "text"):
            found.append(line)
    assert found == expected[:70_000]
    assert list(iter_lines(tmp_path / "text", errors="replace"))[70_000] == "caf\ufffd"


@pytest.mark.parametrize("name", ["pipe", "/dev/stdin"])
def test_the_lines_of_a_pipe_come_as_they_are_written(tmp_path, name):
    program = "import sys; from transformer_jax.storage.text_files import iter_lines\n"
    program += "for line in iter_lines(sys.argv[1]): print(line, flush=True)"
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", program, name]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, env=environment) as reader:
        with reader.stdin if name != "pipe" else open(tmp_path / "pipe", "wb") as lines:
            for line in (b"one\n", b"two\n"):
                lines.write(line)
                lines.flush()
                assert reader.stdout.readline() == line
        assert reader.wait() == 0


def test_what_is_written_compressed_is_read_again(tmp_path):
    files = [tmp_path / name for name in ("plain", "one.gz", "two.gz")]
    for file in files:
        with open_output(file) as out:
            out.write("one\n\u00fc\u2028\n")
            out.flush()
            assert list(itertools.islice(iter_lines(file), 2)) == ["one", "\u00fc\u2028"]  # before it is closed
            out.write("\n")
        assert read_lines(file) == ["one", "\u00fc\u2028", ""]
    plain, one, two = (file.read_bytes() for file in files)
    assert one == two != plain == gzip.decompress(one)
    # What is gzip's is known by its content; no UTF-8 text begins so.
    (tmp_path / "x.txt").write_bytes(one)
    assert read_lines(tmp_path / "x.txt") == ["one", "\u00fc\u2028", ""]
    check_writable(files[1])
    assert files[1].read_bytes() == one


def test_a_dash_is_standard_input_or_output_and_a_path_of_that_name_is_a_file(tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    for content in (b"a\nb\n", gzip.compress(b"a\nb\n")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert list(iter_lines("-")) == ["a", "b"]
    with open(1, "w", closefd=False) as standard, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", standard)
        with open_output("-") as out:
            out.write("\u00fc\n")
            out.flush()
    assert capfdbinary.readouterr().out == "\u00fc\n".encode()
    with open_output("./-") as out:
        out.write("x\n")
    assert read_lines("./-") == read_lines(Path("-")) == ["x"]
    refuse_shared_stream("standard input", input="-", prefixes="x", score=None)
    told = message(lambda: refuse_shared_stream("standard input", input="-", prefixes="-"))
    assert told == "--input and --prefixes would share standard input; name a file for all but one"


def test_columns_of_a_table(tmp_path):
    (tmp_path / "t.tsv").write_text("de\t1\ten\nzwei\t2\ttwo\tmore\n", encoding="utf-8")
    table = str(tmp_path / "t.tsv")
    assert read_pairs(f"{table} (columns=3,1)", "en", "de") == Pairs(["en", "two"], ["de", "zwei"])
    assert read_pairs(f"{table} (columns=3,1 tag=<x>)", "en", "de") == Pairs(["<x> en", "<x> two"], ["de", "zwei"])
    assert read_pairs(f"{table} ( tag=<x>, columns = 3, 1 )".replace(" = ", "="), "en", "de").target == ["de", "zwei"]
    assert "line 1 has 2 tabs, expected one, between source and target; name the columns" in message(
        read_pairs, table, "en", "de"
    )
    for columns, part in (
        ("4,1", "line 1 has only 3 columns, columns=4,1 needs 4"),
        ("0,1", "columns=0,1 should be"),
        ("1", "columns=1 should be"),
        ("1,1", "columns=1,1 should be"),
        ("a,b", "columns=a,b should be"),
        ("1,2,3", "columns=1,2,3 should be"),
        ("1,2 columns=2,1", "columns comes twice"),
    ):
        assert part in message(read_pairs, f"{table} (columns={columns})", "en", "de")
    for name in ("demo:dev", str(tmp_path / "t"), "sacrebleu:wmt14", "tfds:x"):
        assert "only FILE.tsv and FILE.tsv.gz have columns" in message(read_pairs, f"{name} (columns=1,2)", "en", "de")


def test_any_path_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my data, (1) * 2", 'a "b"', "plain (tag=<x>)", '"'):
        for language in ("en", "de"):
            (tmp_path / f"{name}.{language}").write_text(f"{language} {name}\n", encoding="utf-8")
        expected = Pairs([f"en {name}"], [f"de {name}"])
        assert read_pairs(name, "en", "de") == expected  # as it is written, where there are such files
        quoted = '"' + name.replace('"', '""') + '"'
        assert read_pairs(quoted, "en", "de") == expected
        assert read_pairs(f"{quoted} (tag=<y>)", "en", "de") == Pairs([f"<y> en {name}"], [f"de {name}"])
    for text, part in (
        ("data (1)", "data (1): expected KEY=VALUE .*; a path that has a comma, a star or parentheses goes in double quotes"),
        ('"data', 'expected "NAME" in double quotes'),
        ('"data" more', 'expected "NAME" in double quotes'),
        ('"plain" * 2', "a weight is of a source of data.train"),
        ("plain (tga=x)", r"tga is none of the options of a source: tag, columns, .* (did you mean tag?)"),
        ('"no such"', "no such file no such.en"),
    ):
        assert re.search(re.escape(part).replace(r"\.\*", ".*"), message(read_pairs, text, "en", "de"))


def test_bad_files_are_named(tmp_path):
    def write(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    assert "x.en" in message(read_pairs, str(tmp_path / "x"), "en", "de")
    assert "no such file" in message(read_pairs, str(tmp_path / "x.tsv"), "en", "de")
    assert "cannot be read" in message(read_lines, tmp_path)
    assert "empty" in message(read_lines, write("empty", b""))
    assert "line 3 is not UTF-8" in message(read_lines, write("latin1", b"a\nb\ncaf\xe9\nd\n"))
    assert "named .gz and is not gzip's; rename or compress it" in message(read_lines, write("not.gz", b"plain text"))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32-le"):
        told = message(read_lines, write(encoding, "A dog.\nA cat.\n".encode(encoding)))
        assert "line 1 is not UTF-8 text" in told and "iconv -f UTF-16 -t UTF-8" in told
    assert "line 2 is not UTF-8 text: it has NUL bytes" in message(read_lines, write("nul", b"a\nb\0c\n"))
    assert list(iter_lines(write("nul", b"a\nb\0c\xff\n"), errors="replace")) == ["a", "b\ufffdc\ufffd"]
    for text in (b"a\rb", b"a\rb\r", b"\xef\xbb\xbfa\r\rb"):
        assert "its lines end in CR alone" in message(read_lines, write("mac", text))
    for text, expected in ((b"a\r", ["a"]), (b"a\rb\r\nc\r", ["a\rb", "c"]), (b"\r\n\r\n", ["", ""]), (b"\r\r", ["\r"])):
        assert read_lines(write("not_mac", text)) == expected
    assert "cannot be read" in message(read_lines, write("cut.gz", gzip.compress(b"many words " * 1000)[:-20]))
    assert "line 2 has 0 tabs" in message(read_pairs, write("none.tsv", b"a\tb\nc\n"), "en", "de")
    assert "line 1 has 2 tabs" in message(read_pairs, write("two.tsv", b"a\tb\tc\n"), "en", "de")
    write("odd.en", b"a\nb\nc\n")
    write("odd.de", b"a\nb\n")
    told = message(read_pairs, str(tmp_path / "odd"), "en", "de")
    assert "3 lines" in told and "has 2" in told


def test_a_spool_is_a_list_of_lines_that_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK", 3)
    lines, expected = Spool(tmp_path / "new"), []
    for i in range(11):
        expected.append("" if i % 4 == 0 else f"{i} ü\u2028\r\x00 ")
        lines.extend(expected[-1].encode(), 1)
        # While it grows, and not in order.
        assert lines[i // 2] == expected[i // 2] and lines[-1] == expected[-1]
        assert len(lines) == len(expected) and list(lines) == expected
    for start, stop, step in itertools.product([None, 0, 2, 3, -2, 20], [None, 1, 6, -1], [None, 1, 2, -1, -4]):
        assert lines[start:stop:step] == expected[start:stop:step]
    for start, stop in itertools.combinations(range(12), 2):
        assert joined(lines, start, stop) == joined(expected, start, stop) == "\n".join(expected[start:stop]).encode()
    with pytest.raises(IndexError):
        lines[11]
    for first, second in itertools.product(range(9), range(9)):  # many at a time
        some = Spool(tmp_path / "new")
        for text in (expected[:first], expected[first : first + second], []):
            some.extend("\n".join(text).encode(), len(text))
        assert list(some) == expected[: first + second] and len(some) == len(list(some))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_spool_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert "set data.cache_dir" in message(Spool, tmp_path / "file")
    lines = Spool(tmp_path)
    monkeypatch.setattr(spool, "CHUNK", 1)
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(lines, "_file", full)
        assert "No space left on device" in message(lines.extend, b"x", 1)


@pytest.mark.parametrize("spec", ["", "http://example.com/x", "nothing:here"])
def test_an_unknown_kind_of_source_lists_the_kinds(spec):
    assert "sacrebleu:NAME" in message(read_pairs, spec, "en", "de")


def test_sacrebleu_sets(tmp_path, monkeypatch):
    for name in ("source", "reference"):
        (tmp_path / name).write_text(f"the {name}\n", encoding="utf-8")
    asked = []
    monkeypatch.setattr(sacrebleu.utils, "get_source_file", lambda *names: asked.append(names) or str(tmp_path / "source"))
    monkeypatch.setattr(sacrebleu.utils, "get_reference_files", lambda *_: [str(tmp_path / "reference")])
    assert read_pairs("sacrebleu:wmt14/full", "en", "de") == Pairs(["the source"], ["the reference"])
    assert asked == [("wmt14/full", "en-de")]
    assert "did you mean sacrebleu:wmt14/full?" in message(read_pairs, "sacrebleu:wmt14/ful", "en", "de")


@pytest.mark.parametrize("error", [URLError("no network"), SystemExit(1), TimeoutError("timed out")])
def test_sacrebleu_without_network(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(sacrebleu.utils, "get_source_file", fail)
    started = time.monotonic()
    assert "cannot be downloaded" in message(read_pairs, "sacrebleu:wmt14/full", "en", "de")
    assert time.monotonic() - started < 5


def test_cleaning_counts_each_reason_and_changes_no_line():
    long = "w " * 11
    pairs = Pairs(
        ["a b", " ", "a", long, "a b c d e f g h i", "a  b", "a b", "a b", "a"],
        ["c d", "b", "\u00a0", "x y", "x", "c d", "c d", "other", "x y"],
    )
    config = DataConfig(max_words=10, max_ratio=3.0)
    cleaned = Cleaning(config)(pairs).without_duplicates(SeenHashes())
    assert cleaned.counts == {"empty": 2, "too long": 1, "length ratio": 1, "duplicate": 1, "kept": 4}
    kept = cleaned.lines()
    assert kept == (["a b", "a  b", "a b", "a"], ["c d", "c d", "other", "x y"])
    seen = SeenHashes()
    one_at_a_time = [Cleaning(config)([[line] for line in pair]).without_duplicates(seen) for pair in zip(*pairs, strict=True)]
    assert [cleaned.lines() for cleaned in one_at_a_time if cleaned.counts["kept"]] == [
        ([source], [target]) for source, target in zip(*kept, strict=True)
    ]
    more = Cleaning(dataclasses.replace(config, deduplicate=False))(pairs).without_duplicates(seen)
    assert more.counts["kept"] == len(kept[0]) + 1


def test_words_of_normalised_text_are_counted_alike():
    texts = ["", "a", "a b", "\u00a0a\u2003b\tc ", "\u200b", "a\u00adb \u2581 c", "\u3000", "\x1c a", "x " * 12]
    pairs = list(zip(*itertools.product(texts, texts), strict=True))
    normalized = [list(map(normalize, side)) for side in pairs]
    config = DataConfig(max_words=10, max_ratio=1.0)
    counted, split = Cleaning(config, normalized=True)(pairs), Cleaning(config)(normalized)
    assert counted[:2] == split[:2] and np.array_equal(counted.hashes, split.hashes) and counted.counts == split.counts
    assert min(counted.counts[name] for name in ("empty", "too long", "kept")) > 0


def test_the_ratio_has_room_for_short_sentences():
    cleaned = Cleaning(DataConfig())([("a", "c"), ("b " * 14, "b " * 15)])  # 9 * 1 + 5 = 14
    assert cleaned.lines() == (["a"], ["b " * 14])
