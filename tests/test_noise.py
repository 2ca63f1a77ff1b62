"""Noise: what each kind does to a pair, that it is drawn in the same way everywhere, and as an option of sources."""

import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
from helpers import assert_same_runs, tiny_config, write_tsv

from transformer_jax.config import Config, DataConfig, TextSource, TokenizerConfig, from_json, to_json, validate
from transformer_jax.data import demo, noised_lines
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.noise import NOISES, change_pairs, changes_target, quotes, title, upper
from transformer_jax.data.noised_lines import Part, clean_pairs, tokenizer_lines, with_noise
from transformer_jax.data.sources import parse_sources, read_sources, text_fingerprint
from transformer_jax.data.store import identity, open_store
from transformer_jax.data.typing_errors import SHARE, typos
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train
from transformer_jax.training.prepare import prepare

EXAMPLES = demo.generate("train", 400)
TEXT = Pairs([example.source for example in EXAMPLES], [example.target for example in EXAMPLES])
VERBATIM = "https://example.org/Path?x=Y", "www.Example.org", "Anna@Example.org", "@anna", "{Name}", "%s", "<b>", "snake_Case"


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def graphemes(text: str) -> list[str]:
    return regex.findall(r"\X", text)


def edits(one: list[str], other: list[str]) -> int:
    """The distance of Damerau and Levenshtein, by its recursion (optimal string alignment)."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i, j in itertools.product(range(1, len(one) + 1), range(1, len(other) + 1)):
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one[i - 1] != other[j - 1]))
        if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
            table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(one), len(other)]


@pytest.mark.parametrize("name", NOISES)
def test_sides_urls_and_numbers(name):
    """A noise of the source leaves the target; nothing changes what must be copied, a number or an empty line."""
    line = " ".join(["Die", "alten", "Straßen:", *VERBATIM, "3.500,25", "„sehr“", "langsam."])
    changed = 0
    for seed in range(200):
        source, target = NOISES[name](line, TEXT.target[seed], random(seed))
        assert changes_target(name) or target == TEXT.target[seed]
        assert all(word in source for word in (*VERBATIM, "3.500,25"))
        changed += source != line
        assert NOISES[name]("", "x", random(seed))[0] == ""
    assert changed > 100


def test_capitals():
    assert upper("Straße, weiß", "ﬁn ëa\u0308", random()) == ("STRASSE, WEISS", "FIN ËA\u0308")
    assert title("„hund“ (katze) o'clock 3rd e\u0301t\u00e9", "a-b NASA mcDonald", random()) == (
        "„Hund“ (Katze) O'clock 3rd E\u0301t\u00e9",
        "A-b NASA mcDonald",
    )


def test_a_typo_is_one_edit_of_graphemes_after_the_first_letter():
    words = ["Verkäufer", "elephant", "Größe", "e\u0301te\u0301s", "привет", "abc", "THE-END", "(hello),"]
    kinds = Counter()
    for seed, word in itertools.product(range(300), words):
        found, _ = typos(" ".join([word] * 10), "x", random(seed))
        (wrong,) = [each for each in found.split(" ") if each != word]
        assert edits(graphemes(word), graphemes(wrong)) == 1
        first = next(letter for letter in word if letter.isalpha())
        assert wrong.index(first) == word.index(first)
        assert not unicodedata.combining(wrong[0]) and wrong.count("\u0301") <= word.count("\u0301") + 1
        kinds[len(graphemes(wrong)) - len(graphemes(word)), Counter(graphemes(wrong)) == Counter(graphemes(word))] += 1
    shares = [kinds[key] / sum(kinds.values()) for key in ((1, False), (-1, False), (0, True), (0, False))]
    assert sum(shares) == 1 and min(shares) > 0.15 and max(shares) < 0.35
    assert typos("ab 12 x1234 https://example.org", "x", random())[0] == "ab 12 x1234 https://example.org"


@pytest.mark.parametrize("name", ["typos", "spaces"])
def test_the_share_of_words_is_as_told(name):
    words = wrong = 0
    for number, line in enumerate(line for line in TEXT.source * 2 if len(line.split()) <= 10):  # so that each has one at most
        found, _ = NOISES[name](line, "", random(number))
        words += len(line.split())
        missing = sum((Counter(line.split()) - Counter(found.split())).values())
        assert missing <= 1 if name == "typos" else found.replace(" ", "") == line.replace(" ", "")
        wrong += found != line
    assert wrong / words == pytest.approx(SHARE, abs=0.015)


def test_quotes_have_another_style_and_inches_stay():
    styles = {quotes('"Ja", sagte er, "ja".', "x", random(seed))[0] for seed in range(60)}
    assert len(styles) == 5 and "“Ja”, sagte er, “ja”." in styles and '"Ja", sagte er, "ja".' not in styles
    assert quotes('a 5" pipe', "x", random())[0] == 'a 5" pipe'
    assert {quotes("don't", "x", random(seed))[0] for seed in range(30)} == {"don\u2019t", "don\u00b4t", "don`t"}


def test_what_is_drawn_is_a_function_of_the_pair_and_the_sample_alone():
    chances = {"typos": 0.5, "upper": 0.3, "emoji": 0.2}
    pairs = list(zip(*TEXT, strict=True)) * 6  # more than the pairs whose chances are drawn together
    whole = list(change_pairs(chances, pairs))
    for start, stop in ((0, 5), (990, 1010), (2399, 2400)):
        assert list(change_pairs(chances, pairs[start:stop], start)) == whole[start:stop]
    assert list(change_pairs(chances, pairs, sample=1)) != whole
    # Another noise and a larger chance change no other pair.
    alone, more = list(change_pairs({"upper": 0.3}, pairs)), list(change_pairs({"upper": 0.6}, pairs))
    for pair, one, two, both in zip(pairs, alone, more, whole, strict=True):
        assert (one == pair) == (not both[1].isupper()) and (one == pair or two == one)
    share = sum(one != pair for pair, one in zip(pairs, alone, strict=True)) / len(pairs)
    assert share == pytest.approx(0.3, abs=0.03)


def test_it_is_the_same_in_another_process():
    program = (
        "from transformer_jax.data.corpus import read_pairs; print(read_pairs('demo:dev (typos upper=0.5 emoji)', 'en', 'de'))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", check=True)
    assert other.stdout.strip() == str(read_pairs("demo:dev (typos upper=0.5 emoji)", "en", "de"))


# As options of sources


def test_the_options_are_parsed():
    found = parse_sources(DataConfig(train="a (upper=0.05 typos=.1 tag=<x>), b.tsv * 0.1 (title columns=2, 1, emoji)"))
    assert [source.spec.noise for source in found] == [{"typos": 0.1, "upper": 0.05}, {"title": 1.0, "emoji": 1.0}]
    assert found[1].spec.columns == (2, 1) and found[1].weight == 0.1 and found[0].spec.tag == "<x>"
    config = Config(data=DataConfig(train=[TextSource("a, b", 0.5, swap=True, noise="upper=0.05 typos")]))
    again = parse_sources(from_json(to_json(validate(config))).data)
    assert again[0].spec.noise == {"typos": 1.0, "upper": 0.05} and again[0].spec.swap


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("a (upper=0)", "a \\(upper=0\\): upper=0 should be a chance above 0, 1 at most, as in upper=0.1"),
        ("a (upper=1.5)", "should be a chance"),
        ("a (upper=often)", "should be a chance"),
        ("a (upper=nan)", "should be a chance"),
        ("a (uper)", "did you mean upper"),
        ("a (uper=1)", "did you mean upper"),
        ("a (upper upper=0.5)", "upper comes twice"),
    ],
)
def test_options_that_cannot_be(train, message):
    with pytest.raises(UserError, match=message):
        parse_sources(DataConfig(train=train))


def in_memory(data: DataConfig) -> Pairs:
    return Pairs(*map(list, read_sources(data)[0]))


def test_filters_see_the_text_without_noise_and_a_copy_with_noise_is_no_duplicate(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["a b", "a b", "c d e", "f"], ["x", "x", "z", "w"])
    data = DataConfig(train=f"{table}, {table} * 0.1 (upper), {table} (upper=1), {table} (no_end_punctuation)", max_words=2)
    pairs, counts = read_sources(data)
    assert counts == [(2, 1.0), (2, 0.1), (0, 1.0), (2, 1.0)]
    assert list(pairs.source) == ["a b", "f", "A B", "F", "a b", "f"] and list(pairs.target) == ["x", "w", "X", "W", "x", "w"]


def test_a_tag_has_no_noise_and_a_swapped_source_has_it_on_its_new_source(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["the dog", ""], ["der Hund", "leer"])
    assert in_memory(DataConfig(train=f"{table} (upper tag=<bt>)")) == Pairs(["<bt> THE DOG", "<bt> "], ["DER HUND", "LEER"])
    assert in_memory(DataConfig(train=f"{table} (lower swap=true)")).source == ["der hund"]
    assert read_pairs(f"{table} (upper tag=<bt>)", "en", "de") == Pairs(["<bt> THE DOG", "<bt> "], ["DER HUND", "LEER"])
    assert read_pairs(f"{table} (lower columns=2,1)", "en", "de").source == ["der hund", "leer"]
    assert read_pairs(f'"{table}" (typos)', "en", "de").target == ["der Hund", "leer"]


@pytest.mark.slow
def test_a_test_set_has_the_noise_of_training_text_and_every_line():
    plain, capitals = read_pairs("demo:test", "en", "de"), read_pairs("demo:test (upper)", "en", "de")
    assert capitals == Pairs(*([line.upper() for line in side] for side in plain))
    assert read_pairs("demo:test (typos)", "en", "de").target == plain.target


def test_lines_by_slices_blocks_and_samples(monkeypatch):
    monkeypatch.setattr(noised_lines, "CHUNK", 64)
    parts = [Part(100, {}, ""), Part(250, {"upper": 0.5, "typos": 0.5}, ""), Part(50, {"emoji": 1.0}, "")]
    noised = with_noise(TEXT, parts)
    for number in range(2):
        sides = [side.sample(number) for side in noised]
        expected = [*zip(*(side[:100] for side in TEXT), strict=True)]
        for start, stop, chances in ((100, 350, parts[1].noise), (350, 400, parts[2].noise)):
            expected += change_pairs(chances, zip(*(side[start:stop] for side in TEXT), strict=True), sample=number)
        assert list(zip(*sides, strict=True)) == expected
        assert [sides[0][i] for i in (0, 99, 100, -1)] == [expected[i][0] for i in (0, 99, 100, -1)]
        assert sides[1][90:360] == [pair[1] for pair in expected[90:360]] and sides[1][5:1:-2] == [
            expected[i][1] for i in (5, 3)
        ]
    assert clean_pairs(noised) is TEXT and with_noise(TEXT, [Part(400, {}, "")]) is TEXT
    kept = list(tokenizer_lines(noised, [0.1, 0.2, 2.0]))
    assert len(kept) == 2 * (100 + 50 + 50) and kept[:100] == TEXT.source[:100]
    assert list(tokenizer_lines(TEXT, [0.1])) == [*TEXT.source, *TEXT.target]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    lines = [form for side in TEXT for line in side for form in (line, line.upper())]
    return Tokenizer.train(lines, TokenizerConfig(vocab_size=600, vocab_may_shrink=True), tmp_path_factory.mktemp("tokenizer"))


def lines_of(store, tokenizer: Tokenizer) -> list[str]:
    return tokenizer.decode(np.split(store.target_ids, store.target_offsets[1:-1]))


def test_each_sample_of_a_store_has_its_own_noise(tokenizer, tmp_path):
    noised = with_noise(TEXT, [Part(400, {"upper": 0.5}, "")])
    store = open_store(noised, tokenizer, tmp_path, Sampling(3, 0.1))
    samples = np.split(np.array(lines_of(store, tokenizer)), 3)
    for number, lines in enumerate(samples):
        assert lines.tolist() == list(noised.target.sample(number))
    capitals = [[line.isupper() for line in lines] for lines in samples]
    assert capitals[0] != capitals[1] != capitals[2] and all(150 < sum(each) < 250 for each in capitals)


def test_a_store_is_found_by_the_clean_text_and_its_noise(tokenizer, tmp_path):
    def fingerprint(pairs: Pairs, chance: float, **folder) -> str:
        return open_store(with_noise(pairs, [Part(400, {"lower": chance}, "")]), tokenizer, tmp_path).fingerprint

    first = fingerprint(TEXT, 1.0)
    assert first == fingerprint(TEXT, 1.0)
    # With every source in small letters these have the same noised text, and would have others in another sample.
    small = Pairs([line.lower() for line in TEXT.source], TEXT.target)
    assert len({first, fingerprint(small, 1.0), fingerprint(TEXT, 0.5), open_store(TEXT, tokenizer, tmp_path).fingerprint}) == 4


def test_without_noise_a_store_has_the_name_that_it_had(tokenizer, tmp_path):
    digest = hashlib.blake2b(f"{identity(tokenizer, None)} {len(TEXT.source)}\n".encode(), digest_size=16)
    for side in TEXT:
        digest.update("".join(f"{line}\n" for line in side).encode())
    assert open_store(TEXT, tokenizer, tmp_path).fingerprint == digest.hexdigest()


def test_the_text_has_another_fingerprint(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["a b"], ["x y"])
    ends = "", " (upper=0.1)", " (upper=0.2)", " (title=0.1)"
    assert len({text_fingerprint(DataConfig(train=f"{table}{end}")) for end in ends}) == len(ends)


def config_with(tmp_path: Path, options: str, samples: int = 0, **batch) -> Config:
    config = tiny_config(tmp_path)
    config.data.train = f"{config.data.train}, {config.data.train} * 0.5 {options}"
    config.data.cache_dir, config.tokenizer.samples = str(tmp_path / "cache"), samples
    config.tokenizer.vocab_size, config.batch = 285, dataclasses.replace(config.batch, **batch)
    return config


def test_a_run_that_goes_on_finds_the_same_text_and_the_tokenizer_has_its_letters(tmp_path):
    config = config_with(tmp_path, "(upper)")
    tokenizer, stream, _ = prepare(Run.open_or_create(tmp_path / "run", config))
    letters = {piece for piece in tokenizer.vocabulary() if len(piece) == 1}
    assert any(letter.isupper() for letter in letters)
    again = prepare(Run(tmp_path / "run"))[1]
    config.data.cache_dir = str(tmp_path / "elsewhere")  # another host
    other = prepare(Run.open_or_create(tmp_path / "run", config))[1]
    assert stream.corpus == again.corpus == other.corpus
    for one, two in zip(itertools.islice(stream.batches(), 9), other.batches(), strict=False):
        assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("kind", ["bucketed", "packed"])
def test_a_training_with_noise_goes_on_exactly(tmp_path, kind, samples):
    config = config_with(tmp_path, "(upper=0.5 typos=0.5 join=0.3:2)", samples, kind=kind)
    for name, parts in (("straight", [6]), ("resumed", [3, 6])):
        for steps in parts:
            config.train.steps = steps
            train(config, str(tmp_path / name), verbose=False)
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)
