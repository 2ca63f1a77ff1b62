"""Text that looks the same is the same to a model, in training and after it."""

import random
import sys
import unicodedata

import numpy as np
import pytest

from transformer_jax.config import Config, DataConfig, TokenizerConfig, differences, from_json, to_json
from transformer_jax.data.sources import read_sources
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization import normalization
from transformer_jax.tokenization.normalization import normalize, visible, word_numbers
from transformer_jax.tokenization.tokenizer import Tokenizer

EVERY = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
SPACES = [letter for letter in EVERY if letter.isspace()]
FORMAT = [letter for letter in EVERY if unicodedata.category(letter) == "Cf"]
CONTROLS = [letter for letter in EVERY if unicodedata.category(letter) == "Cc" and not letter.isspace()]
# Signs that enclose or mark the number after them: format characters to Unicode, and yet to be seen.
SEEN = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


def test_every_white_space_character_is_a_space_and_every_invisible_one_nothing():
    for letter in SPACES:
        assert normalize(f"{letter}a{letter}{letter}b{letter}") == "a b" and normalize(letter) == ""
    for letter in [*FORMAT, *CONTROLS, "\u034f", "\u3164", "\uffa0", "\ufe0f"]:
        expected = ("a", letter, "b") if letter in SEEN else ("a", "b")
        assert normalize(f"a{letter}b") == "".join(expected) and visible(f"{letter}a ") == "".join(expected[1:-1]) + "a "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The\u00a0elephant", "The elephant"),
        ("u\u0308ber A\u030angstrom \u212b", "\u00fcber \u00c5ngstrom \u00c5"),
        ("ele\u00adphant ele\u200bphant ele\u2060phant", "elephant elephant elephant"),
        ("u\u200b\u0308", "\u00fc"),
        ("a\u2581b", "a b"),
        (f"{FAMILY} and {SCOTLAND}", f"{FAMILY} and {SCOTLAND}"),
        ("1\ufe0f\u20e3 \u2764\ufe0f", "1\ufe0f\u20e3 \u2764\ufe0f"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),  # Persian
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),  # Hindi
        ("a\u200db \u200c\u0645\u200d x\u200d\u0645", "ab \u0645 x\u0645"),
        ("\U000e0041x\U0001f3f4\U000e0041", "x\U0001f3f4"),
        ("\u2026 \u00bd \ufb01 \uff21 \u00b2 \u2122", "\u2026 \u00bd \ufb01 \uff21 \u00b2 \u2122"),  # no NFKC
        ("\x00\x1b[31mred\x7f", "[31mred"),
        ("", ""),
    ],
)
def test_what_becomes_of_text(text, expected):
    assert normalize(text) == expected


def test_normalised_text_is_left_as_it_is_and_words_keep_their_numbers():
    draw = random.Random(0)
    letters = [*SPACES, *FORMAT, *CONTROLS, *"aeuK." * 9, *"\u0308\u0327\u200c\u200d\ufe0f\u034f" * 9, *FAMILY * 5, *SCOTLAND]
    letters += list("\u0915\u094d\u1112\u1161\u11ab\u20e3\u212a\u1fef\u0958\U0001d15e") * 5
    for _ in range(5000):
        text = "".join(draw.choices(letters, k=draw.randint(0, 12)))
        result = normalize(text)
        assert normalize(result) == visible(result) == result == " ".join(visible(text).split())
        assert unicodedata.is_normalized("NFC", result)
        words = text.split()
        assert "".join(visible(words[number]) for number in dict.fromkeys(word_numbers(text))) == result.replace(" ", "")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices("ein Hund über the dog sleeps and runs".split(), k=draw.randint(2, 9))) for _ in range(200)]


def disguised(line: str) -> str:
    """The same to see."""
    return "\ufeff" + unicodedata.normalize("NFD", line).replace(" ", "\u00a0\t").replace("o", "o\u00ad\u200b") + "\u2028"


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_tokenizer_sees_disguised_text_as_it_looks(lines, algorithm, tmp_path):
    config = TokenizerConfig(vocab_size=280, algorithm=algorithm)
    tokenizer = Tokenizer.train(lines, config, tmp_path / "plain")
    again = Tokenizer.train(map(disguised, lines), config, tmp_path / "disguised")
    assert again.normalizes and again.fingerprint == tokenizer.fingerprint
    odd = list(map(disguised, lines))
    for encode in (tokenizer.encode_source, tokenizer.encode_target, lambda text: tokenizer.sample_source(text, 0.3, 5)):
        assert all(map(np.array_equal, encode(odd), encode(lines)))
    assert tokenizer.encode_source(["\u200b", "\ufeff \u00a0"], add_eos=False)[0].tolist() == []
    assert tokenizer.normalized(odd) == lines and tokenizer.visible(["a\u00a0\u200bb"]) == ["a\u00a0b"]


def test_runs_without_it_see_what_they_saw(lines, tmp_path):
    without = Tokenizer.train(lines, TokenizerConfig(vocab_size=300, normalize=False), tmp_path / "without")
    with_it = Tokenizer.train(lines, TokenizerConfig(vocab_size=300), tmp_path / "with")
    assert "normalization" not in (tmp_path / "without" / "tokenizer.json").read_text()
    assert not without.normalizes and without.fingerprint != with_it.fingerprint
    assert without.models() == with_it.models() and without.visible(["\u200b"]) == ["\u200b"]
    assert without.decode(without.encode_target(["a\u00a0b\u00ad"])) == ["a\u00a0b\u00ad"]
    with_it.copy_to(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").normalizes
    description = tmp_path / "copy" / "tokenizer.json"
    for version in (normalization.VERSION + 1, "1", -1):
        text = (tmp_path / "with" / "tokenizer.json").read_text()
        description.write_text(text.replace('"normalization": 1', f'"normalization": {version!r}'.replace("'", '"')))
        with pytest.raises(UserError, match=r"tokenizer\.json: normalization is .* expected 1 at most"):
            Tokenizer.load(tmp_path / "copy")


def test_a_run_from_before_goes_on_without(tmp_path):
    before, today = Config(), Config()
    before.tokenizer.normalize = False
    stored = to_json(before).replace(',\n    "normalize": false', "")
    assert "normalize" not in stored and from_json(stored) == before
    run = tmp_path / "run"
    (run / "checkpoints" / "3").mkdir(parents=True)
    (run / "config.json").write_text(stored)
    for _ in range(2):  # the second time from what the first has written
        assert Run.open_or_create(run, today).config == before
    (run / "config.json").write_text(to_json(today))
    with pytest.raises(UserError, match="normalize: True -> False"):
        Run.open_or_create(run, before)
    assert differences(today, before)[0] and today.tokenizer.normalize


def test_training_text_is_cleaned_as_it_looks(tmp_path):
    pairs = ["a dog\tein Hund", "a\u00a0dog\tein Hund\u200b", "\ufeff\ufeff\tleer", "u\u0308\tue", "\u00fc\tue", "x\ty"]
    (tmp_path / "train.tsv").write_text("".join(f"{pair}\n" for pair in pairs), encoding="utf-8")
    data = DataConfig(train=str(tmp_path / "train.tsv"), cache_dir=str(tmp_path / "cache"))
    seen, parts = read_sources(data, normalized=True)
    assert list(zip(*seen, strict=True)) == [("a dog", "ein Hund"), ("\u00fc", "ue"), ("x", "y")] and parts == [(3, 1.0)]
    as_it_is, _ = read_sources(data)
    assert len(as_it_is.source) == 6
