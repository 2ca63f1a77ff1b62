"""Spans that must not change: how they are found, and that each comes out once, whatever the model says."""

import collections
import itertools
import json
import random
import time
from pathlib import Path

import pytest
from helpers import FAMILIES, random_parameters, tiny_config, tiny_model

from transformer_jax.cli.commands.translate import make_parser
from transformer_jax.cli.translate import translate_lines
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data.corpus import read_pairs
from transformer_jax.errors import UserError
from transformer_jax.inference.number_formats import number_rewriter
from transformer_jax.inference.span_placement import SeenSpan, moved_links, with_spans
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.placeholders import PLACEHOLDERS, numbers_in
from transformer_jax.tokenization.span_patterns import SPAN_PATTERNS, find_spans, read_patterns
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
ALL = ",".join(SPAN_PATTERNS)
TEXT = [side for pair in zip(*read_pairs("demo:dev", "en", "de"), strict=True) for side in pair][:600]
SPANS = (
    "https://x.org/a?b=1,2",
    "www.example.org",
    "ann.b@mail.example.org",
    "7",
    "1,234.56",
    "{name}",
    "{{x}}",
    "%s",
    "%(x)d",
    "$1",
    '<x id="1"/>',
    "\U0001f602\U0001f602",
    "`a b. C d`",
    "\u27e63\u27e7",
)
# Of these no half is left where a part of one gives way to another span.
UNBROKEN = [*(span for span in SPANS if " " not in span), PLACEHOLDERS[0]]


# How they are found


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("See https://x.org/a?b=1. Or (https://en.x.org/A_(b))!", ["https://x.org/a?b=1", "https://en.x.org/A_(b)"]),
        ("https://x.org/{id}/a {https://x.org}", ["https://x.org/{id}/a", "{https://x.org}"]),
        ("\u201ehttp://q.z\u201c <https://a.b>", ["http://q.z", "https://a.b"]),
        ("Mail a.b+c@d-e.co.uk. @anna a@b", ["a.b+c@d-e.co.uk"]),
        ("1,234.56 of -5, 10:30 on 2024-05-01. A5 5th v1.2 3.5%", ["1,234.56", "-5", "10:30", "2024-05-01", "3.5"]),
        ("1\u00a0234\u202f567,8 and 7.", ["1\u00a0234\u202f567,8", "7"]),
        ("{x} {{x}} ${y} %s %(x)d", ["{x}", "{{x}}", "${y}", "%s", "%(x)d"]),
        ("%1$s%2$s $1 %dx%d", ["%1$s", "%2$s", "$1", "%d", "%d"]),
        ('<x id="1"/> <br/> <b>no</b>', ['<x id="1"/>', "<br/>"]),
        ("100% sure, 50%igen", ["100", "50"]),
        ("\U0001f602\U0001f602 \U0001f44d\U0001f3fd", ["\U0001f602\U0001f602", "\U0001f44d\U0001f3fd"]),
        ("\U0001f1e9\U0001f1ea \u2764\ufe0f \u00a9", ["\U0001f1e9\U0001f1ea", "\u2764\ufe0f"]),
        ("`a b` ``x`y`` ```", ["`a b`", "``x`y``"]),
        ("\u27e61\u27e7 \u27e69\u27e7", ["\u27e61\u27e7", "9"]),
        ("", []),
    ],
)  # fmt: skip
def test_what_the_built_in_patterns_find(text, spans):
    assert [span.of(text) for span in find_spans(text, read_patterns(ALL))] == spans


def test_leftmost_then_longest_and_never_overlapping():
    def found(text, *patterns):
        return [span.of(text) for span in find_spans(text, read_patterns(patterns))]

    assert found("abcd", "bc", "abc", "ab") == ["abc"] and found("abcd", "b", "cd") == ["b", "cd"]
    assert found("aXbX", "X", "aX?") == ["aX", "X"]
    text = " ".join(SPANS) * 3
    spans = find_spans(text, read_patterns(ALL))
    assert all(one.end <= two.start for one, two in itertools.pairwise(spans))
    assert [span.of(text) for span in find_spans(text, read_patterns("number"))] != [span.of(text) for span in spans]


def test_names_then_one_regular_expression_with_its_commas():
    assert read_patterns(["url,email,[a-z]{2,3},x", "number", "url"]).names == ("url", "email", "[a-z]{2,3},x", "number")
    assert read_patterns(r"\bFirefox\b").names == (r"\bFirefox\b",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("url,emial", r"--protect=url,emial: did you mean email\? to protect the text itself, write it as \(emial\)"),
        ("url,", "ends with a comma"),
        (" ", "--protect is empty"),
        ("(", "is none of url, .*, and not a regular expression"),
        ("x*", "matches the empty text"),
    ],
)
def test_patterns_that_cannot_be(value, message):
    with pytest.raises(UserError, match=message):
        read_patterns([value])


def test_no_text_takes_the_patterns_more_than_linear_time():
    patterns, begun = read_patterns(ALL), time.monotonic()
    runs = [f"{'`' * length}a" for length in range(1, 450)]
    for text in ("a." * 50_000, "a+" * 50_000, f"%{'0' * 100_000}", f"%(x){'0' * 100_000}", "".join(runs)):
        assert len(find_spans(text, patterns)) < 2
    assert time.monotonic() - begun < 10  # 0.3 s; in quadratic time each takes half a minute


# Put back into any text, by any links


def drawn_text(draw: random.Random, spans: list[str]) -> str:
    """Words with spans anywhere between them, attached or not."""
    parts = [draw.choice(["dog", "cat,", "A", "(big)", "x.", "\u00fc"]) for _ in range(draw.randrange(1, 7))]
    for span in spans:
        parts.insert(draw.randrange(len(parts) + 1), span)
    return "".join(part + draw.choice(["", " ", " ", " "]) for part in parts)


def counted(text: str, of: list[str]) -> collections.Counter:
    found = collections.Counter(span.of(text) for span in find_spans(text, read_patterns(ALL)))
    return collections.Counter({text: count for text, count in found.items() if text in of})


def test_each_span_is_found_again_once_whatever_translation_and_links():
    patterns, draw = read_patterns(ALL), random.Random(0)
    for _ in range(3000):
        source = drawn_text(draw, draw.choices(SPANS, k=draw.randrange(1, 6)))
        found = find_spans(source, patterns)
        spans = [
            SeenSpan(span.of(source), span.of(source), *((span.start, span.end) if draw.random() < 0.8 else (span.start,) * 2))
            for span in found
        ]
        target = drawn_text(draw, draw.choices(UNBROKEN, k=draw.randrange(0, 4)))
        links = tuple({(draw.randrange(9), draw.randrange(9)) for _ in range(draw.randrange(12))})
        # What is left out of the text that a model sees has no length there.
        chunks = with_spans(source, spans, target, links, patterns)
        text = "".join(chunk.text for chunk in chunks)
        texts = [span.text for span in spans]
        assert sorted(chunk.span for chunk in chunks if chunk.span is not None) == list(range(len(spans)))
        assert counted(text, texts) == collections.Counter(texts), (source, target, text)
        assert all(
            chunk.text == target[chunk.start : chunk.end] or not chunk.text.strip() or chunk.span is not None
            for chunk in chunks
        )


def test_a_placeholder_takes_its_place_and_others_go():
    spans = [SeenSpan("7", "7", 0, 3, 0), SeenSpan("{x}", "{x}", 4, 7, 1)]
    seen = f"{PLACEHOLDERS[0]} {PLACEHOLDERS[1]} dogs"
    target = f"die {PLACEHOLDERS[1]} ({PLACEHOLDERS[0]}) {PLACEHOLDERS[0]} 7 Hunde{PLACEHOLDERS[4]}"
    chunks = with_spans(seen, spans, target, (), read_patterns(ALL))
    assert "".join(chunk.text for chunk in chunks) == "die {x} (7) Hunde"


def test_a_span_without_placeholder_takes_the_place_of_its_words():
    spans = [SeenSpan("https://x.org", "https://x.org", 4, 17)]
    chunks = with_spans(
        "See https://x.org now.", spans, "Siehe htp x jetzt.", ((0, 0), (1, 1), (1, 2), (2, 3)), read_patterns("url")
    )
    assert "".join(chunk.text for chunk in chunks) == "Siehe https://x.org jetzt."


def test_a_span_that_would_touch_a_letter_gets_a_space():
    spans = [SeenSpan("7", "7", 0, 3, 0)]
    for target, text in ((f"x{PLACEHOLDERS[0]}m", "x 7 m"), (f"({PLACEHOLDERS[0]})", "(7)"), (f"3.{PLACEHOLDERS[0]}", "3. 7")):
        chunks = with_spans(PLACEHOLDERS[0], spans, target, (), read_patterns("number"))
        assert "".join(chunk.text for chunk in chunks) == text


def test_links_move_with_the_words_of_spans():
    patterns = read_patterns("code")
    spans = [SeenSpan("`a b`", "`a b`", 4, 7, 0)]
    target = f"das {PLACEHOLDERS[0]} da"
    chunks = with_spans(f"the {PLACEHOLDERS[0]} there", spans, target, (), patterns)
    assert "".join(chunk.text for chunk in chunks) == "das `a b` da"
    source = [chunk._replace(text=chunk.text.replace("das", "the").replace("da", "there")) for chunk in chunks]
    source = [chunk._replace(end=chunk.end + 3 * (chunk.text == " there")) for chunk in source]
    links = moved_links(((0, 0), (1, 1), (2, 2)), (f"the {PLACEHOLDERS[0]} there", source), (target, chunks))
    assert links == ((0, 0), (1, 1), (2, 2), (3, 3))


# Numbers


@pytest.mark.parametrize(
    ("languages", "pairs"),
    [
        (("en", "de"), {"1,234.56": "1.234,56", "-0.5": "-0,5", "1,234": "1.234", "2024": "2024"}),
        (("de_DE", "eng"), {"1.234,56": "1,234.56", "0,5": "0.5", "12.05.2024": "12.05.2024", "10:30": "10:30"}),
        (("en", "fr"), {"1,234,567.8": "1\u202f234\u202f567,8"}),
        (("cs", "en"), {"1\u00a0234,5": "1,234.5", "1\u202f234": "1,234"}),
    ],
)  # fmt: skip
def test_numbers_of_another_language(languages, pairs):
    rewriter = number_rewriter(*languages)
    assert {number: rewriter.rewritten(number) for number in pairs} == pairs


def test_a_language_whose_numbers_are_not_known():
    with pytest.raises(UserError, match=r"--numbers=locale: how tlh writes numbers is not known here; there are en"):
        number_rewriter("en", "tlh")


# In translations


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    config, folder = TokenizerConfig(vocab_size=400), tmp_path_factory.mktemp("tokenizers")
    return {each: Tokenizer.train(TEXT, config, folder / str(each), placeholders=each) for each in (True, False)}


def make_translator(tokenizer, seed=0, **model):
    config = Config()
    config.model = tiny_model(**model)
    config.batch.max_length = 40
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 2, 1.0, 6
    built = build_model(config.model, tokenizer.vocab_size)
    return Translator(built, random_parameters(built, seed), tokenizer, config)


@pytest.fixture(
    scope="module",
    params=[pytest.param(FAMILIES[name], id=name, marks=[pytest.mark.slow] * (name != "Transformer")) for name in FAMILIES],
)
def translators(tokenizers, request):
    return {each: make_translator(tokenizers[each], **request.param) for each in tokenizers}


@pytest.fixture(scope="module")
def with_placeholders(tokenizers):
    return make_translator(tokenizers[True], **FAMILIES["Transformer"])


@pytest.fixture(scope="module")
def without(tokenizers):
    return make_translator(tokenizers[False], **FAMILIES["Transformer"])


def drawn_lines(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        spans = draw.choices(SPANS, k=draw.choice([0, 1, 1, 2, 3, 11]))
        lines.append(drawn_text(draw, spans) if number % 9 else draw.choice(["", " ", spans[0] if spans else "dog"]))
    return lines


def starts(translation):
    return [start for start, _ in sorted(translation.protected)]


def ends(translation):
    return [end for _, end in sorted(translation.protected)]


def assert_unchanged(lines, translations):
    for line, best in zip(lines, translations, strict=True):
        spans = [span.of(line) for span in find_spans(line, read_patterns(ALL))]
        for one in (best, *best.others):
            assert sorted(one.text[start:end] for start, end in one.protected) == sorted(spans), (line, one.text)
            own = "".join(one.text[a:b] for a, b in zip([0, *ends(one)], [*starts(one), len(one.text)], strict=True))
            if "`" not in own:  # that the model writes by itself makes code of what is between two
                assert counted(one.text, spans) == collections.Counter(spans), (line, one.text)
            assert "\n" not in one.text and not ({*map(str, numbers_in(one.text))} - {*map(str, numbers_in(line))})


OPTIONS = {
    "beam": dict(),
    "greedy": dict(beam=1),
    "n best": dict(nbest=2),
    "samples": dict(temperature=1.0, nbest=3),
    "sentences": dict(split_sentences="always"),
    "minimum Bayes risk": dict(mbr=3),
}


@pytest.mark.parametrize(
    "way", [pytest.param(True, id="placeholders", marks=pytest.mark.slow), pytest.param(False, id="fallback")]
)
@pytest.mark.parametrize("name", ["beam", pytest.param("samples", marks=pytest.mark.slow)])
def test_every_span_comes_out_once_with_any_model(translators, way, name):
    lines = drawn_lines(14)
    assert_unchanged(lines, translators[way].translate(lines, protect=ALL, **OPTIONS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("way", [True, False], ids=["placeholders", "fallback"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_span_comes_out_once_in_many_lines(translators, way, name):
    lines = drawn_lines(200, seed=1)
    assert_unchanged(lines, translators[way].translate(lines, protect=ALL, **OPTIONS[name]))


@pytest.mark.slow
def test_a_line_does_not_depend_on_its_neighbours(with_placeholders, without):
    lines = drawn_lines(12, seed=2)
    for translator in (with_placeholders, without):
        translator.align_with(1)
        together = translator.translate(lines, protect=ALL, align=True)
        for line, translation in zip(lines, together, strict=True):
            (alone,) = translator.translate([line], protect=ALL, align=True)
            assert (alone.text, alone.alignment) == (translation.text, translation.alignment)


@pytest.mark.slow
def test_alignment_is_of_the_words_of_line_and_translation_and_changes_no_text(with_placeholders, without):
    lines = drawn_lines(9, seed=3)
    for translator in (with_placeholders, without):
        translator.align_with(1)
        plain = translator.translate(lines, protect=ALL)
        for options in (dict(), dict(split_sentences="always")):
            translations = translator.translate(lines, protect=ALL, align=True, **options)
            if not options:
                assert [each.text for each in translations] == [each.text for each in plain]
            for line, each in zip(lines, translations, strict=True):
                assert all(0 <= i < len(line.split()) and 0 <= j < len(each.text.split()) for i, j in each.alignment)
    (translation,) = with_placeholders.translate(["dog `a b` cat"], protect="code", align=True)
    place = translation.text.split().index("`a")
    assert {(1, place), (2, place + 1)} <= set(translation.alignment)


@pytest.mark.slow
def test_a_search_places_each_placeholder_of_the_source_and_no_other(with_placeholders):
    tokenizer = with_placeholders.tokenizer
    lines = [f"dog {PLACEHOLDERS[4]} cat {PLACEHOLDERS[1]}", "the old dog sleeps", "x " * 20]
    for options in (dict(beam=1), dict(beam=4, nbest=4), dict(temperature=1.5, nbest=5, seed=2)):
        for line, best in zip(lines, with_placeholders.translate(lines, **options), strict=True):
            for one in (best, *best.others):
                placed = [i for i in one.tokens if i in tokenizer.placeholder_ids]
                assert len(set(placed)) == len(placed) and {*placed} <= {tokenizer.placeholder_ids[k] for k in numbers_in(line)}
    (protected,) = with_placeholders.translate(["dog 5 cat {x}"], protect=ALL)
    assert sorted(i for i in protected.tokens if i in tokenizer.placeholder_ids) == list(tokenizer.placeholder_ids[:2])


@pytest.mark.slow
def test_what_has_no_word_is_not_translated(with_placeholders, without):
    for translator in (with_placeholders, without):
        (same, changed) = translator.translate([" 7, https://x.org! ", "7 dogs"], protect=ALL, align=True)
        assert same.text == "7, https://x.org!" and same.alignment == ((0, 0), (1, 1)) and same.tokens == ()
        assert changed.tokens


def test_a_model_without_placeholders_translates_again_without_what_it_does_not_copy(without):
    """Its translation is that of the sentence without the span, which stands beside."""
    rest = without.translate(["The dog sleeps today.", "the old dog"])
    found = without.translate(["The dog sleeps https://x.org/abc today.", "www.x.org the old dog"], protect="url")
    for span, one, other in zip(("https://x.org/abc", "www.x.org"), found, rest, strict=True):
        assert one.tokens == other.tokens
        assert "".join(one.text.replace(span, "").split()) == "".join(other.text.split())


def test_a_run_without_placeholders_says_so_once(without, caplog):
    from transformer_jax.inference import protected_translation

    protected_translation._warn_once.cache_clear()
    for _ in range(2):
        without.translate(["dog", "dog 7"], protect=ALL)
    assert sum("trained without placeholders" in record.message for record in caplog.records) == 1


@pytest.mark.slow
def test_prefixes_phrases_and_terms_go_along_with_placeholders(with_placeholders, without):
    line, wanted = (
        "the dog 7 sleeps {x}",
        dict(prefixes=["Hund {x}"], phrases=[["klein", "7"]], terminology={"sleeps": "schl\u00e4ft"}),
    )
    (translation,) = with_placeholders.translate([line], protect=ALL, **wanted)
    assert translation.text.startswith("Hund {x}") and "klein" in translation.text and "schl\u00e4ft" in translation.text
    assert_unchanged([line], [translation])
    for name, value in wanted.items():
        with pytest.raises(UserError, match="--protect and --numbers go with prefixes, phrases and terms only in a run"):
            without.translate([line], protect=ALL, **{name: value})
        assert without.translate(["dog"], protect=ALL, **{name: value})  # there is nothing to protect
    with pytest.raises(UserError, match="has 9 protected spans; with a prefix, phrases or terms a sentence may have 8"):
        with_placeholders.translate(["dog " + "7 " * 9], protect=ALL, phrases=[["klein"]])


def test_a_span_that_is_too_long_for_the_model_is_left_out_of_what_it_sees(with_placeholders, without):
    line = f"the dog https://x.org/{'a1' * 300} sleeps {'{x}' * 40} today"
    for translator in (with_placeholders, without):
        (translation,) = translator.translate([line], protect=ALL)
        assert_unchanged([line], [translation])


def test_what_is_left_out_makes_a_sentence_short_enough_and_comes_back_with_its_spaces(tokenizers):
    model = dict(FAMILIES["Transformer"], positions="learned", max_positions=48)  # which has no row for more
    spans = "https://x.org/" + "a1" * 100, "https://y.org/" + "b2" * 100
    line = f"the dog sees {spans[0]} and {spans[1]}, today"
    translator = make_translator(tokenizers[False], **model)
    assert_unchanged([line], [found := translator.translate([line], protect="url", align="complete")[0]])
    assert {i for i, _ in found.alignment} == set(range(len(line.split())))
    protection = translator.protection("url", "keep")
    search = translator.search_config()
    maker = translator._piece_maker(search)
    ((piece,),) = protection.pieces(protection.masked([line]), maker, search)
    seen = [piece, *(piece.without(left_out, maker) for left_out in ((), (0,), (1,), (0, 1)))]
    assert [each.piece.span.text.count("https") for each in seen] == [0, 2, 1, 1, 0]
    assert all("".join(chunk.text for chunk in each.source_chunks()) == line for each in seen)


def test_numbers_as_the_language_writes_them(with_placeholders, without):
    for translator in (with_placeholders, without):
        found = translator.translate(["dog 1,234.56 cat", "dog 1,234.56 www.x.org/1,5 cat"], numbers="locale", protect="url")
        assert all("1.234,56" in each.text and "1,234.56" not in each.text for each in found)
        assert "www.x.org/1,5" in found[1].text
    with pytest.raises(UserError, match="--numbers=german should be one of keep, locale"):
        without.translate(["dog"], numbers="german")


def test_nothing_is_protected_unless_asked(without):
    lines = drawn_lines(9)
    assert without.translate(lines, protect=None) == without.translate(lines) == without.translate(lines, protect=[])


def test_markup_keeps_spans_and_elements(with_placeholders, without):
    text = '<p>The <b>dog</b> sees <a href="x">https://x.org/1</a> {name}.</p><p>7</p>'
    for translator in (with_placeholders, without):
        (translation,) = translator.translate_markup([text], protect=ALL)
        for part in ("https://x.org/1", "{name}", "<b>", "</b>", '<a href="x">', "</a>", "<p>7</p>"):
            assert translation.text.count(part) == 1, translation.text


@pytest.mark.slow
def test_elements_inside_of_spans_stand_beside_them_and_kept_ones_are_spans(with_placeholders, without):
    texts = [
        "The <i>dog</i> sees https://<b>x</b>.org and <name>7 cats</name> {<u>name</u>} <name>Kim</name>.",
        "<name>The dog</name> <name>https://x.org</name>",
    ]
    for translator in (with_placeholders, without):
        first, second = translator.translate_markup(texts, protect=ALL, ignore_tags=["name"])
        for part in ("<name>7 cats</name>", "<name>Kim</name>", "https://x.org", "{name}", "<b>", "</b>", "<u>", "</u>", "<i>"):
            assert first.text.count(part) == 1, first.text
        assert second.text.count("<name>The dog</name>") == second.text.count("<name>https://x.org</name>") == 1
        assert second.text.count("https") == 1
    (kept,) = with_placeholders.translate_markup(["The dog sees <name>Kim 7</name>."], ignore_tags=["name"])
    assert kept.text.count("<name>Kim 7</name>") == 1 and kept.text.count("Kim") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(protect=["x*"]), "--protect=x\\*: matches the empty text"),
        (dict(numbers="x"), "--numbers=x should be one of"),
        (dict(protect=["url"], score="file"), "--protect does not go with --score"),
        (dict(numbers="locale", score="file"), "--numbers does not go with --score"),
        (dict(protect=["url"], attention="a.png"), "draw it without --protect"),
    ],
)
def test_flags_that_do_not_go_together(flags, message):
    with pytest.raises(UserError, match=message):
        TranslationJob(workdir="x", **flags)


def test_an_element_of_a_list_that_is_no_text(without):
    with pytest.raises(TypeError, match="protect should be names and regular expressions"):
        without.translate(["dog"], protect=[7])


@pytest.mark.slow
def test_the_command(tmp_path):
    config = tiny_config(tmp_path)
    config.data.train += " (placeholders=0.5)"
    config.tokenizer.vocab_size, config.tokenizer.vocab_may_shrink = 285, True
    train(config, str(tmp_path / "run"), verbose=False)
    flags = make_parser().parse_args(["--workdir=x", "--protect=url,number", "--protect=x{1,2}y", "a 7"])
    lines = ["a b https://x.org c 7", "xxy a", ""]
    output = str(tmp_path / "out")
    shared = dict(workdir=str(tmp_path / "run"), text=lines, protect=flags.protect, output=output)
    translate_lines(TranslationJob(**shared))
    found = Path(output).read_text().split("\n")
    assert len(found) == 4 and "https://x.org" in found[0] and "7" in found[0].split() and "xxy" in found[1]
    translate_lines(TranslationJob(**shared, format="json", nbest=2))
    best = [json.loads(line)["translations"] for line in Path(output).read_text().splitlines()]
    assert len(best[0]) == 2 and all(one["text"].count("https://x.org") == 1 for one in best[0])
