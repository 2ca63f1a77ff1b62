"""Training text of several sources: each with its weight, its filters and its tag."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import letters, write_tsv

from transformer_jax.config import Config, DataConfig, TextSource, differences, from_json, to_json, validate
from transformer_jax.data import sources
from transformer_jax.data.corpus import Pairs, iter_pairs, read_pairs
from transformer_jax.data.sources import parse_sources, read_sources, text_fingerprint
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.prepare import prepare


def test_a_list_of_sources():
    data = DataConfig(
        train="a/europarl*1,b.tsv * 2.5 (max_ratio=3, tag=<b> deduplicate=false),sacrebleu:wmt14, c ( max_words=7 )"
    )
    own = dataclasses.replace
    found = parse_sources(data)
    assert [(source.spec.name, source.spec.tag, source.weight) for source in found] == [
        ("a/europarl", "", 1.0),
        ("b.tsv", "<b>", 2.5),
        ("sacrebleu:wmt14", "", 1.0),
        ("c", "", 1.0),
    ]
    filters = [data, own(data, max_ratio=3.0, deduplicate=False), data, own(data, max_words=7)]
    assert [source.filters for source in found] == filters


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("a * two", "a \\* two: the weight should be a number above 0, 1,000,000 at most, as in a \\* 2"),
        ("a * 1e9", "a \\* 1e9: the weight should be a number above 0, 1,000,000 at most"),
        ("a * inf", "a \\* inf: the weight should be a number above 0, 1,000,000 at most"),
        ("a * 0", "above 0"),
        ("a * inf", "above 0"),
        ("a *", "above 0"),
        ("a,", "data.train='a,': the name of a source is empty"),
        ("", "the name of a source is empty"),
        ("a, b (max_ratio)", "b \\(max_ratio\\): expected KEY=VALUE"),
        ("a ()", "expected KEY=VALUE"),
        ('"a', 'expected "NAME" in double quotes'),
        ('"a"b', 'expected "NAME" in double quotes'),
        ('"" * 2', "the name of a source is empty"),
        (
            "a * 2 * b",
            "the weight should be a number above 0, .* at most, as in a \\* 2 \\* 2; a path that has .* in double quotes",
        ),
        ("a (tag=<x> tag=<y>)", "tag comes twice"),
        ("a.tsv (colums=1,2)", "colums is none of .*did you mean columns"),
        ("a (ratio=3)", "ratio is none of the options of a source: max_words, max_ratio, deduplicate, filters, tag"),
        ("a (max_words=many)", "data.max_words"),
        ("a (max_words=0)", "a \\(max_words=0\\): .*max_words=0"),
        ("a (train=b)", "train is none of the options"),
    ],
)
def test_lists_that_cannot_be(train, message):
    with pytest.raises(UserError, match=message):
        parse_sources(DataConfig(train=train))


def test_a_path_in_double_quotes_may_have_anything_in_it():
    data = DataConfig(train='"my, (1) * 2/t.tsv" * 3 (columns=2,1 max_ratio=3),"say ""so""", plain "x" , " b "(tag=<x>)')
    found = [(source.spec.name, source.weight, source.spec.columns, source.spec.tag) for source in parse_sources(data)]
    assert found == [
        ("my, (1) * 2/t.tsv", 3.0, (2, 1), ""),
        ('say "so"', 1.0, None, ""),
        ('plain "x"', 1.0, None, ""),
        (" b ", 1.0, None, "<x>"),
    ]


@pytest.mark.parametrize(
    "name", ["europarl", "a, b", "a * 2", "(tag=<x>)", "[1] {2}", 'say "so"', " b ", '"', "tfds:x/y#train[:10%]"]
)
def test_sources_in_python_are_those_of_their_text(name):
    source = TextSource(name, 2.5, "<x>", max_words=7, max_ratio=3.0, deduplicate=False)
    table = TextSource(f"{name}.tsv", columns=(3, 1))
    config = Config(data=DataConfig(train=[source, table, TextSource(name)]))
    parsed = parse_sources(config.data)
    assert [spec.name for spec, *_ in parsed] == [name, f"{name}.tsv", name]
    assert [weight for _, weight, _ in parsed] == [2.5, 1.0, 1.0]
    assert [(spec.tag, spec.columns) for spec, *_ in parsed] == [("<x>", None), ("", (3, 1)), ("", None)]
    own = parsed[0].filters
    assert (own.max_words, own.max_ratio, own.deduplicate) == (7, 3.0, False) and parsed[2].filters.max_words == 250
    again = from_json(to_json(validate(config)))
    assert isinstance(again.data.train, str) and [source.spec for source in parse_sources(again.data)] == [
        p.spec for p in parsed
    ]
    assert differences(again, config) == ([], [])


@pytest.mark.parametrize("train", [None, [], ["europarl"], (TextSource("a"),), TextSource("a")])
def test_training_text_is_text_or_a_list_of_sources(train):
    with pytest.raises(UserError, match="train should be of type str"):
        validate(Config(data=DataConfig(train=train)))


def test_the_demo_has_a_fingerprint_of_its_program():
    assert text_fingerprint(DataConfig())


def test_a_path_that_was_cut_says_how_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_tsv(tmp_path / "my, own.tsv", ["a"], ["x"])
    with pytest.raises(UserError, match=r"my: no such file .*; a path that has a comma, .* goes in double quotes"):
        read_sources(DataConfig(train="my, own.tsv"))
    assert in_memory(DataConfig(train=f'"{table}" * 2')) == (Pairs(["a"], ["x"]), [(1, 2.0)])
    assert (
        text_fingerprint(DataConfig(train='"my, own.tsv"'))
        != text_fingerprint(DataConfig(train='"my, own.tsv" (tag=<x>)'))
        != ""
    )


def in_memory(data: DataConfig) -> tuple[Pairs, list[tuple[int, float]]]:
    pairs, parts = read_sources(data)
    return Pairs(*map(list, pairs)), parts


def test_each_source_is_cleaned_by_its_own_filters_and_a_pair_of_two_is_the_firsts(tmp_path):
    news = write_tsv(tmp_path / "news.tsv", ["a", "a", "b b b b b b b b", "c"], ["x", "x", "y", "z"])
    talks = write_tsv(tmp_path / "talks.tsv", ["c", "d", "d"], ["z", "w", "w"])
    data = DataConfig(train=f"{news} * 3 (max_words=5), {talks} (deduplicate=false)")
    assert in_memory(data) == (Pairs(["a", "c", "c", "d", "d"], ["x", "z", "z", "w", "w"]), [(2, 3.0), (3, 1.0)])
    # All of one filter: the second's "c" is the first's.
    data = DataConfig(train=f"{news}, {talks}")
    assert in_memory(data) == (Pairs(["a", "b b b b b b b b", "c", "d"], ["x", "y", "z", "w"]), [(3, 1.0), (1, 1.0)])


def test_a_tag_goes_before_the_source_of_any_set(tmp_path):
    table = write_tsv(tmp_path / "set.tsv", ["a dog", ""], ["ein Hund", ""])
    assert read_pairs(f"{table} (tag=<bt>)", "en", "de") == Pairs(["<bt> a dog", "<bt> "], ["ein Hund", ""])
    data = DataConfig(train=f"{table} * 2 (tag=<bt>), {table}", max_words=2)
    assert in_memory(data)[0] == Pairs(["a dog"], ["ein Hund"])  # with its tag it has three words
    with pytest.raises(UserError, match=r"max_words filters training text; a dev or test set has only"):
        read_pairs(f"{table} (max_words=3)", "en", "de")


class TestUnchangedText:
    """A run that goes on finds its store without reading the text; where anything is different, the text is read."""

    @pytest.fixture
    def text(self, tmp_path):
        return Path(write_tsv(tmp_path / "text.tsv", letters(300, 6), letters(300, 6, seed=2)))

    @pytest.fixture
    def run(self, text, tmp_path):
        config = Config()
        config.data.train, config.data.dev, config.data.cache_dir = f"{text} * 2", str(text), str(tmp_path / "cache")
        config.tokenizer.vocab_size, config.batch.tokens, config.batch.row_multiple = 272, 256, 4
        return Run.open_or_create(tmp_path / "run", config)

    @pytest.fixture
    def reads(self, monkeypatch):
        found = []
        monkeypatch.setattr(sources, "iter_pairs", lambda *given: found.append(given[0]) or iter_pairs(*given))
        return found

    def test_a_dev_set_that_cannot_be_read_is_told_before_it_is(self, run, reads):
        run.config.data.dev = "no/such"
        with pytest.raises(UserError, match="no/such"):
            prepare(run)
        assert not reads

    def test_it_is_read_once(self, run, reads):
        _, stream, _ = prepare(run)
        batch, _ = next(stream.batches())
        assert len(reads) == 1
        _, again, _ = prepare(run)
        assert len(reads) == 1 and (again.corpus, again.pairs) == (stream.corpus, stream.pairs)
        assert all(np.array_equal(a, b) for a, b in zip(next(again.batches())[0], batch, strict=True))

    def test_another_text_filter_or_tokenizer_is_another(self, run, text, reads):
        _, stream, _ = prepare(run)
        status = text.stat()
        text.write_bytes(text.read_bytes().replace(b"a", b"b"))
        os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))  # the size and the time of change are as they were
        _, other, _ = prepare(run)
        assert len(reads) == 2 and other.corpus != stream.corpus
        run.config.data.max_words = 3
        assert prepare(run)[1].pairs < other.pairs and len(reads) == 3
        run.config.data.train = f"{text} * 3 (max_ratio=2)"
        prepare(run)
        assert len(reads) == 4
        run.tokenizer_file.unlink()
        run.config.tokenizer.vocab_size = 270
        prepare(run)
        assert len(reads) == 5

    def test_another_run_of_it_reads_and_trains_nothing(self, run, reads, tmp_path, monkeypatch):
        tokenizer, stream, _ = prepare(run)
        with monkeypatch.context() as patch:
            patch.setattr(Tokenizer, "train", None)
            other = Run.open_or_create(tmp_path / "other", run.config)
            again, same, _ = prepare(other)
        assert len(reads) == 1 and again.fingerprint == tokenizer.fingerprint and same.corpus == stream.corpus
        assert again.folder == other.tokenizer_folder
        # Segmented in another way it is the same tokenizer, damaged it is none.
        run.config.tokenizer.samples = 2
        third, sampled, _ = prepare(Run.open_or_create(tmp_path / "third", run.config))
        assert len(reads) == 2 and third.fingerprint == tokenizer.fingerprint and sampled.corpus != stream.corpus
        (kept,) = (Path(run.config.data.cache_dir) / "tokenizers").iterdir()
        (kept / "sentencepiece.model").write_bytes(b"x")
        fourth, _, _ = prepare(Run.open_or_create(tmp_path / "fourth", run.config))
        assert len(reads) == 3 and fourth.fingerprint == tokenizer.fingerprint

    def test_a_store_that_is_gone_or_damaged_is_made_again(self, run, reads, caplog):
        _, stream, _ = prepare(run)
        folder = Path(run.config.data.cache_dir) / stream.corpus
        whole = (folder / "target_ids.npy").read_bytes()
        (folder / "target_ids.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        prepare(run)
        assert len(reads) == 2 and "target_ids.npy is damaged; the text is tokenised again" in caplog.text
        assert (folder / "target_ids.npy").read_bytes() == whole
        shutil.rmtree(folder)
        prepare(run)
        assert len(reads) == 3
        for note in (Path(run.config.data.cache_dir) / "notes").iterdir():
            note.write_text("{")
        prepare(run)
        assert len(reads) == 4
