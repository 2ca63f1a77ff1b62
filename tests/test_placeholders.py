"""Placeholders in training: the same pieces on both sides, of a tokenizer that owns them, drawn as noise is."""

import collections
import itertools

import numpy as np
import pytest
from helpers import assert_same_runs, letters, tiny_config

from transformer_jax.config import Config, DataConfig, TextSource, TokenizerConfig, from_json, to_json, validate
from transformer_jax.data.corpus import read_pairs
from transformer_jax.data.noise import NOISES, change_pairs
from transformer_jax.data.placeholders import placeholders
from transformer_jax.data.source_syntax import parse_spec
from transformer_jax.data.sources import parse_sources
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.placeholders import MOST_PLACEHOLDERS, PLACEHOLDERS, numbers_in
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train
from transformer_jax.training.prepare import prepare

PAIRS = list(zip(*(side[:600] for side in read_pairs("demo:train", "en", "de")), strict=True))


def without_placeholders(line: str) -> str:
    for piece in PLACEHOLDERS:
        for form in (f" ({piece})", f' "{piece}"', f" {piece}", f'"{piece}"', f"({piece})", piece):
            line = line.replace(form, "")
    return " ".join(line.strip(" :,").split())


def test_both_sides_have_the_same_placeholders_once_and_all_numbers_are_drawn():
    counts = collections.Counter()
    for seed, (source, target) in enumerate(PAIRS):
        found = placeholders(source, target, np.random.default_rng(seed))
        first, second = map(numbers_in, found)
        assert sorted(first) == sorted(second) and len(set(first)) == len(first) and 1 <= len(first) <= MOST_PLACEHOLDERS
        counts.update(first)
    assert set(counts) == set(range(MOST_PLACEHOLDERS)) and min(counts.values()) > len(PAIRS) / 40
    # Most are numbered as a translation numbers them.
    in_order = [numbers_in(placeholders(*pair, np.random.default_rng(seed))[0]) for seed, pair in enumerate(PAIRS)]
    assert 0.7 < sum(numbers == list(range(len(numbers))) for numbers in in_order) / len(PAIRS) < 0.9


def test_what_is_put_in_changes_nothing_else():
    changed = 0
    for seed, (source, target) in enumerate([("a small dog runs .", "x ein kleiner hund .")] * 200):
        for line, new in zip((source, target), placeholders(source, target, np.random.default_rng(seed)), strict=True):
            assert without_placeholders(new) == line
            changed += new != line
    assert changed == 400


def test_spans_that_both_sides_have_become_placeholders():
    source = "See https://x.org/a, write to a@b.de, pay 1,234.56 or {price} for 7 dogs."
    target = "Siehe https://x.org/a, schreib an a@b.de, zahl {price} oder 1,234.56 f\u00fcr sieben Hunde."
    for seed in range(20):
        first, second = placeholders(source, target, np.random.default_rng(seed))
        for span in ("https://x.org/a", "a@b.de", "1,234.56", "{price}"):
            assert span not in first and span not in second
        assert "7 dogs" in first and "sieben" in second
        assert len(numbers_in(first)) >= 4


def test_words_that_both_sides_have_stand_for_nouns():
    taken = [placeholders("A man in London.", "Ein Mann in London.", np.random.default_rng(seed)) for seed in range(60)]
    assert 15 < sum("London" not in first and "London" not in second for first, second in taken) < 45
    assert all(("London" in first) == ("London" in second) for first, second in taken)
    assert all("in " in first for first, _ in taken)  # no noun, though both have it


@pytest.mark.parametrize("pair", [("", "x"), ("x", " "), (f"a {PLACEHOLDERS[0]}", "b"), ("a", f"{PLACEHOLDERS[7]} b")])
def test_blank_sides_and_text_that_has_placeholders_stay(pair):
    assert placeholders(*pair, np.random.default_rng(0)) == pair


def test_the_chance_and_the_independence_of_other_noises():
    alone = list(change_pairs({"placeholders": 0.2}, PAIRS))
    share = sum(bool(numbers_in(source)) for source, _ in alone) / len(PAIRS)
    assert share == pytest.approx(0.2, abs=0.05)
    both = list(change_pairs({"placeholders": 0.2, "upper": 1.0}, PAIRS))
    assert [bool(numbers_in(one[0])) for one in both] == [bool(numbers_in(one[0])) for one in alone]
    assert list(change_pairs({"placeholders": 0.2}, PAIRS, sample=1)) != alone and "placeholders" not in NOISES


def test_the_option_is_of_training_text():
    config = Config(data=DataConfig(train=[TextSource("a", placeholders=0.1, noise="upper=0.2"), TextSource("b")]))
    first, second = parse_sources(from_json(to_json(validate(config))).data)
    assert first.spec.noise == {"upper": 0.2, "placeholders": 0.1} and not second.spec.has_placeholders
    assert first.spec.has_placeholders and "placeholders" not in first.spec.without_noise.options
    with pytest.raises(UserError, match="placeholders is an option of training text"):
        parse_spec("demo:dev (placeholders=0.1)")
    with pytest.raises(UserError, match="placeholders=2 should be a chance above 0"):
        parse_sources(DataConfig(train="a (placeholders=2)"))
    with pytest.raises(UserError, match="did you mean placeholders"):
        parse_sources(DataConfig(train="a (placeholder=0.1)"))


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_placeholder_is_one_piece_wherever_it_stands(tmp_path, algorithm):
    lines = [side for pair in PAIRS[:200] for side in pair]
    config = TokenizerConfig(vocab_size=500, algorithm=algorithm)
    tokenizer = Tokenizer.train(lines, config, tmp_path / "with", placeholders=True)
    assert tokenizer.pieces(tokenizer.placeholder_ids) == list(PLACEHOLDERS)
    one, two, three, last = (PLACEHOLDERS[number] for number in (0, 1, 2, 7))
    line = f"The elephant {one} yesterday ({three}), x{last}y {one}{two} \u27e69\u27e7."
    rows = tokenizer.encode_source([line]) + [tokenizer.sample_target([line], 0.1, seed)[0] for seed in range(9)]
    assert len({tuple(row) for row in rows}) > 1
    for row in rows:
        assert [i for i in row if i in tokenizer.placeholder_ids] == [tokenizer.placeholder_ids[k] for k in (0, 2, 7, 0, 1)]
    assert tokenizer.decode(rows) == [line] * len(rows)
    assert Tokenizer.train(lines, config, tmp_path / "without").placeholder_ids == ()


def config_with(tmp_path, options: str, **tokenizer) -> Config:
    config = tiny_config(tmp_path)
    config.data.train, config.data.cache_dir = f"{config.data.train} {options}", str(tmp_path / "cache")
    config.tokenizer.vocab_size, config.tokenizer.vocab_may_shrink = 285, True
    for name, value in tokenizer.items():
        setattr(config.tokenizer, name, value)
    return config


def test_only_a_source_with_the_option_makes_a_tokenizer_with_placeholders(tmp_path):
    for name, options, count in (("plain", "", 0), ("with", "(placeholders=0.5)", MOST_PLACEHOLDERS)):
        config = config_with(tmp_path, options)
        for _ in range(2):  # trained, and found in the cache or in the run folder
            tokenizer, stream, _ = prepare(Run.open_or_create(tmp_path / name, config))
            assert len(tokenizer.placeholder_ids) == count
        batch = next(iter(stream.batches()))[0]
        assert np.isin(tokenizer.placeholder_ids, batch.source).any() == bool(count)


@pytest.mark.slow
def test_a_tokenizer_without_them_is_refused(tmp_path):
    config = config_with(tmp_path, "")
    train(config, str(tmp_path / "plain"), verbose=False)
    config = config_with(tmp_path, "(placeholders=0.5)")
    config.train.init_from = str(tmp_path / "plain")
    with pytest.raises(UserError, match=r"^data.train: placeholders= needs a tokenizer with these pieces.*init_tokenizer=own"):
        prepare(Run.open_or_create(tmp_path / "tuned", config))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("samples", [0, 3])
def test_a_training_goes_on_exactly(tmp_path, samples):
    config = config_with(tmp_path, "(placeholders=0.5 join=0.3:2)", samples=samples)
    for name, parts in (("straight", [6]), ("resumed", [3, 6])):
        for steps in parts:
            config.train.steps = steps
            train(config, str(tmp_path / name), verbose=False)
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)


def test_letters_alone_are_enough():
    """A text without numbers, names or capitals gets placeholders, too."""
    lines = letters(50, 6)
    pairs = change_pairs({"placeholders": 1.0}, zip(lines, (line[::-1] for line in lines), strict=True))
    assert all(numbers_in(source) for source, _ in itertools.islice(pairs, 50))
