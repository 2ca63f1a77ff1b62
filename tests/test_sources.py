"""Training text of several sources: each with its weight, its filters and its tag."""

import dataclasses

import pytest
from helpers import write_tsv

from transformer_jax.config import DataConfig
from transformer_jax.data.corpus import Pairs, clean, read_pairs
from transformer_jax.data.sources import Source, parse_sources, read_sources
from transformer_jax.errors import UserError


def test_a_list_of_sources():
    data = DataConfig(
        train="a/europarl*1,b.tsv * 2.5 (max_ratio=3, tag=<b> deduplicate=false),sacrebleu:wmt14, c ( max_words=7 )"
    )
    own = dataclasses.replace
    assert parse_sources(data) == [
        Source("a/europarl", 1.0, data),
        Source("b.tsv (tag=<b>)", 2.5, own(data, max_ratio=3.0, deduplicate=False)),
        Source("sacrebleu:wmt14", 1.0, data),
        Source("c", 1.0, own(data, max_words=7)),
    ]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("a * two", "a \\* two: the weight should be a number above 0, as in a \\* 2"),
        ("a * 0", "above 0"),
        ("a * inf", "above 0"),
        ("a *", "above 0"),
        ("a, b (max_ratio)", "b \\(max_ratio\\): expected KEY=VALUE"),
        ("a ()", "expected KEY=VALUE"),
        ("a (ratio=3)", "ratio is none of the options of a source: max_words, max_ratio, deduplicate, tag"),
        ("a (max_words=many)", "data.max_words"),
        ("a (max_words=0)", "a \\(max_words=0\\): .*max_words=0"),
        ("a (train=b)", "train is none of the options"),
    ],
)
def test_lists_that_cannot_be(train, message):
    with pytest.raises(UserError, match=message):
        parse_sources(DataConfig(train=train))


def test_each_source_is_cleaned_by_its_own_filters_and_a_pair_of_two_is_the_firsts(tmp_path):
    news = write_tsv(tmp_path / "news.tsv", ["a", "a", "b b b b b b b b", "c"], ["x", "x", "y", "z"])
    talks = write_tsv(tmp_path / "talks.tsv", ["c", "d", "d"], ["z", "w", "w"])
    data = DataConfig(train=f"{news} * 3 (max_words=5), {talks} (deduplicate=false)")
    assert read_sources(data) == (Pairs(["a", "c", "c", "d", "d"], ["x", "z", "z", "w", "w"]), [(2, 3.0), (3, 1.0)])
    # All of one filter: the second's "c" is the first's.
    data = DataConfig(train=f"{news}, {talks}")
    assert read_sources(data) == (Pairs(["a", "b b b b b b b b", "c", "d"], ["x", "y", "z", "w"]), [(3, 1.0), (1, 1.0)])
    data = DataConfig(train=news)
    assert read_sources(data)[0] == clean(read_pairs(news, "en", "de"), data)[0]


def test_a_tag_goes_before_the_source_of_any_set(tmp_path):
    table = write_tsv(tmp_path / "set.tsv", ["a dog", ""], ["ein Hund", ""])
    assert read_pairs(f"{table} (tag=<bt>)", "en", "de") == Pairs(["<bt> a dog", "<bt> "], ["ein Hund", ""])
    data = DataConfig(train=f"{table} * 2 (tag=<bt>), {table}", max_words=2)
    assert read_sources(data)[0] == Pairs(["a dog"], ["ein Hund"])  # with its tag it has three words
    with pytest.raises(UserError, match=r"max_words=.*only \(tag=WORD\)"):
        read_pairs(f"{table} (max_words=3)", "en", "de")
