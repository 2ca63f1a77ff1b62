"""Lines in capitals are translated as the same lines in small letters, and come out in capitals."""

import numpy as np
import pytest
from helpers import FAMILIES, each_family, random_parameters, tiny_model

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data.corpus import read_pairs
from transformer_jax.inference.capitals import Capitals, capitals_of, in_small_letters, with_capitals
from transformer_jax.inference.search_queue import Ticket
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
SOURCES, TARGETS = read_pairs("demo:dev", "en", "de")
SMALL = [in_small_letters(line.upper(), Capitals("upper"), "en") for line in SOURCES[:6]]  # without the capitals of names
UPPER = [line.upper() for line in SMALL]
TITLE = [" ".join(word[0].upper() + word[1:] for word in line.split()) for line in SMALL]
OTHERS = ["NATO", "", "A dog sleeps.", "New York City", "THE DOG and I"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    config, folder = TokenizerConfig(vocab_size=400), tmp_path_factory.mktemp("tokenizers")
    text = [*SOURCES[:300], *TARGETS[:300]]
    return {each: Tokenizer.train(text, config, folder / str(each), placeholders=each) for each in (True, False)}


def make_translator(tokenizer, longest=40, **model):
    config = Config()
    config.model = tiny_model(**model)
    config.batch.max_length = longest
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 2, 1.0, 6
    config.decode.no_repeat_ngram = 1  # a model that has learned nothing writes more than one letter
    built = build_model(config.model, tokenizer.vocab_size)
    return Translator(built, random_parameters(built, 0), tokenizer, config)


@pytest.fixture(scope="module", params=each_family(*FAMILIES.values()))
def of_family(tokenizers, request):
    return make_translator(tokenizers[False], **request.param)


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["placeholders", "none"])
def either(tokenizers, request):
    return make_translator(tokenizers[request.param], **FAMILIES["Transformer"])


@pytest.fixture(scope="module")
def transformer(tokenizers):
    """For what does not depend on placeholders."""
    return make_translator(tokenizers[False], **FAMILIES["Transformer"])


def assert_same(found, expected):
    """But for their texts."""
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    for field in ("log_prob", "score"):
        np.testing.assert_allclose(*([getattr(each, field) for each in side] for side in (found, expected)), atol=1e-4)


@pytest.mark.parametrize(
    ("line", "capitals"),
    [
        ("A MAN'S DOG, 2 CATS & A BIRD!", "upper"),
        ("STRAßE UND HOF", "upper"),
        ("SEE {name} AT https://example.org/a OR a@b.de", "upper"),
        ("STOP!", ""),
        ("U.S.A.", ""),
        ("A B C D", ""),
        ("1 2 3", ""),
        ("你好 世界", ""),
        ("THE 2nd DOG", ""),
        ("The Dog's 2nd House And A DVD", "title"),
        ("The Dog Of My (Old) Aunt", "title"),
        ("Der Hund der Tante Anna", ""),
        ("Ich sah Anna", ""),
        ("  ", ""),
    ],
)
def test_which_lines_are_in_capitals(line, capitals):
    assert capitals_of(line) == Capitals(capitals)


@pytest.mark.parametrize(
    ("line", "language", "small"),
    [
        ("I SEE IT. DO I? YES!", "en", "I see it. Do I? Yes!"),
        ("ICH SEHE I UND J.", "de", "Ich sehe i und j."),
        ('"GO," I SAID, I.E. NOW', "en", '"Go," I said, i.e. now'),
        ("SEE https://x.org/A {Name} NOW", "en", "See https://x.org/A {Name} now"),
        ("The DVD Of An iPhone User", "en", "The DVD of an iPhone user"),
    ],
)
def test_how_they_are_read(line, language, small):
    assert in_small_letters(line, capitals_of(line), language) == small


def test_what_is_verbatim_has_no_capitals_of_the_line():
    text = "Siehe die Straße: https://x.org/a {name} \u27e61\u27e7"
    assert with_capitals(text, Capitals("upper")) == "SIEHE DIE STRASSE: https://x.org/a {name} \u27e61\u27e7"
    assert with_capitals(text, Capitals("title")) == "Siehe Die Straße: https://x.org/a {name} \u27e61\u27e7"


def assert_as_small_letters(translator, **options):
    expected = translator.translate(SMALL, **options)
    for capitals, lines in ((Capitals("upper"), UPPER), (Capitals("title"), TITLE)):
        found = translator.translate([*lines, *OTHERS], capitals="restore", **options)
        own, rest = found[: len(lines)], found[len(lines) :]
        assert_same(own, expected)
        for each, small in zip(own, expected, strict=True):
            pairs = zip([each, *each.others], [small, *small.others], strict=True)
            assert all(one.text == with_capitals(other.text, capitals) for one, other in pairs)
        assert [each.source for each in own] == lines
        others = translator.translate(OTHERS, **options)
        assert_same(rest, others)
        assert [each.text for each in rest] == [each.text for each in others]


def test_a_line_in_capitals_has_the_translation_of_its_small_letters(of_family):
    assert_as_small_letters(of_family, nbest=2)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"beam": 1}, {"temperature": 1.0, "seed": 3, "nbest": 2}, {"mbr": 3}], ids=str)
def test_however_it_is_searched_for(transformer, options):
    assert_as_small_letters(transformer, **options)


def test_capitals_are_kept_unless_asked(transformer):
    kept = transformer.translate(UPPER)
    assert kept == transformer.translate(UPPER, capitals="keep") != transformer.translate(UPPER, capitals="restore")


def test_words_are_aligned_as_those_of_small_letters(transformer):
    found = transformer.translate(UPPER, align=True, capitals="restore")
    assert [each.alignment for each in found] == [each.alignment for each in transformer.translate(SMALL, align=True)]


@pytest.mark.parametrize("rule", ["phrases", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("prefixes", "terms"))])
def test_what_must_occur_has_its_own_letters(either, rule):
    """With a prefix, phrases or terms a line is read as it is."""
    first, second = UPPER[:2]
    word = first.split()[1]
    rules = dict(phrases=[["Der Hund"], []]), dict(prefixes=["Der Hund", ""]), dict(terminology={word: "Katze"})
    wanted = dict(zip(("phrases", "prefixes", "terms"), rules, strict=True))[rule]
    lines = [first, second.replace(word, "")]
    kept, _ = either.translate(lines, **wanted)
    found, other = either.translate(lines, capitals="restore", **wanted)
    assert found == kept
    assert other.text == with_capitals(other.text, Capitals("upper")) != ""


def test_protected_spans_keep_their_letters(either):
    small = ["See https://x.org/a?b=Cd now!", "Call ABC-12x or {name}, I say"]
    lines = [SMALL[0].upper(), "SEE https://x.org/a?b=Cd NOW!", "CALL ABC-12x OR {name}, I SAY"]
    spans = ["url", "placeholder", "ABC-12x"]
    first, *found = either.translate(lines, protect=spans, capitals="restore")
    assert first.text == with_capitals(first.text, Capitals("upper")) != ""
    for line, each, expected in zip(lines[1:], found, either.translate(small, protect=spans), strict=True):
        assert each.tokens == expected.tokens
        for span in ("https://x.org/a?b=Cd", "{name}", "ABC-12x"):
            assert each.text.count(span) == line.count(span)


def test_markup_is_no_part_of_the_capitals(transformer):
    (found,) = transformer.translate_markup(['<p>THE <b class="x">OLD DOG</b> SLEEPS HERE.</p>'], capitals="restore")
    assert found.text.startswith("<p>") and '<b class="x">' in found.text
    text = found.text
    for tag in ("<p>", "</p>", '<b class="x">', "</b>"):
        text = text.replace(tag, "")
    assert text == with_capitals(text, Capitals("upper")) != ""


def test_a_long_line_is_split_by_the_length_of_its_small_letters(tokenizers):
    """In capitals it has more tokens, since its words are in no piece."""
    translator = make_translator(tokenizers[False], longest=30, **FAMILIES["Transformer"])
    small = " ".join(SMALL)
    (expected,), (found,) = translator.translate([small]), translator.translate([small.upper()], capitals="restore")
    (kept,) = translator.translate([small.upper()])
    assert found.parts == expected.parts < kept.parts
    assert (found.tokens, found.text) == (expected.tokens, with_capitals(expected.text, Capitals("upper")))


@pytest.mark.slow
def test_an_open_search_has_the_same(transformer):
    search = transformer.open_search(capitals="restore")
    found = transformer.sharing(search, Ticket()).translate(UPPER, capitals="restore")
    search.close()
    expected = transformer.translate(UPPER, capitals="restore")
    assert [each.text for each in found] == [each.text for each in expected]


def test_the_attention_of_a_line_in_capitals_is_that_of_its_small_letters(transformer):
    line, loud = "The dog sleeps.", "THE DOG SLEEPS."
    small, upper = (transformer.translate([each], capitals="restore", nbest=2)[0] for each in (line, loud))
    for found, expected in ((upper, small), (upper.others[0], small.others[0])):
        found, expected = transformer.attention(loud, found), transformer.attention(line, expected)
        assert (found.source, found.translation) == (line, expected.translation)
        np.testing.assert_allclose(found.words["cross"].weights, expected.words["cross"].weights, atol=1e-5)
    kept = transformer.translate([loud], capitals="keep")[0]
    assert transformer.attention(loud, kept).source == transformer.attention(loud, kept.text).source == loud
