"""Words with a typing error are read as the training text spells them, and a line of them is translated as the line without."""

import json

import numpy as np
import pytest
from helpers import FAMILIES, each_family, letters, random_parameters, tiny_model, write_tsv

from transformer_jax.cli import translation_formats
from transformer_jax.cli.spelling import keep_spelling
from transformer_jax.cli.spelling_job import SpellingJob
from transformer_jax.config import Config, DataConfig, TokenizerConfig
from transformer_jax.data import source_words
from transformer_jax.data.corpus import read_pairs
from transformer_jax.data.noise import change_pairs
from transformer_jax.data.source_words import SourceWordCounts, SourceWords, source_words_of, word_of
from transformer_jax.errors import UserError
from transformer_jax.inference.search_queue import Ticket
from transformer_jax.inference.spelling import Speller
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.checksums import write_manifest
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training import prepare
from transformer_jax.training.loop import train

COUNTS = {
    "the": 50,
    "dog": 29,
    "NATO": 2,
    "dig": 3,
    "sleeps": 5,
    "sleep": 8,
    "can't": 4,
    "T-shirt": 3,
    "t-shirt": 3,
    "Bali": 40,
    "rare": 1,
    "elephant": 4,
    "Elefant": 6,
    "über": 5,
}


@pytest.mark.parametrize(
    ("language", "text", "read"),
    [
        ("en", "teh dgo slepes.", "the dog sleeps."),
        ("en", "(Teh elephatn, teh", "(The elephant, the"),  # a letter exchanged, with a capital, beside marks
        ("en", "elephhant elphant elefhant", "elephant elephant elephant"),  # one more, one less, another
        ("en", "dg dxg", "dg dog"),  # the more frequent of two; of two letters none
        ("en", "cna't tshirt t-shitr", "can't tshirt t-shirt"),
        ("en", "the Dgo. Teh dog! Dgo", "the Dgo. The dog! Dog"),  # a name, but for the start of a sentence
        ("en", "balli Balli", "balli Balli"),  # the text has it with a capital alone
        ("en", "Ballis are", "Ballis are"),
        ("en", "elephants dogs slep", "elephants dogs sleep"),  # an s at the end is another form
        ("en", "hte xog", "hte xog"),  # the first letter is hardly ever wrong
        ("en", "raer", "raer"),  # the text has it once: as it has this one
        (
            "en",
            "TEH dgO d0g https://teh.org/dgo teh@dgo.de {teh} e.g.",
            "TEH dgO d0g https://teh.org/dgo teh@dgo.de {teh} e.g.",
        ),
        ("en", "  teh \t dgo ", "  the \t dog "),
        ("en", "can\u2019t the dog\u2019s cna\u2019t elephant's", "can\u2019t the dog\u2019s can\u2019t elephant's"),
        ("en", "Elephaant nato NATOO", "Elephaant nato NATOO"),  # may be a name; the text has NATO
        ("en", "\u2581teh", "\u2581teh"),
        ("en", "teh " + "xyq " * 4, "the " + "xyq " * 4),
        ("en", "teh " + "xyq " * 5, "teh " + "xyq " * 5),  # another language
        ("de", "der Elefnt, elefnt. Elefnt", "der Elefant, elefnt. Elefant"),  # nouns have a capital
        ("de", "u\u0308ber ele\u00adphant \u00fcer", "u\u0308ber ele\u00adphant über"),  # as they are seen
        ("en", "", ""),
        ("en", "x" * 31 + " " + "teh" * 9, "x" * 31 + " " + "teh" * 9),
    ],
)
def test_what_is_corrected(language, text, read):
    speller = Speller(SourceWords.of(COUNTS), language)
    assert speller.corrected(text) == read
    assert speller.corrected(read) == read


def test_the_middle_of_a_sentence_and_words_that_are_kept():
    speller = Speller(SourceWords.of(COUNTS), "en")
    assert speller.corrected("Teh dgo", begins=False) == "Teh dog"
    assert speller.corrected(" teh dgo slepes", kept=(0, 2)) == " the dgo sleeps"  # the first word of these is empty


def test_a_word_that_a_long_text_has_seldom_is_no_correction():
    for others, read in ((300_000, "dog"), (900_001, "dgo")):
        assert Speller(SourceWords.of({"dog": 9, "the": others}), "en").corrected("dgo") == read


@pytest.mark.parametrize("part", ["a.b", "", "7", "x7", "-", "a(b)"])
def test_what_is_no_single_word(part):
    assert word_of(part) is None


def test_words_of_a_text_in_blocks_are_those_of_all_of_it(monkeypatch):
    words = [word.replace(" ", "") for word in letters(300, 5)]
    lines = [f"{word.capitalize()} {word}, ({word}) 12 é{word}!" for word in words]
    expected = source_words_of(lines)
    monkeypatch.setattr(source_words, "_MOST_PARTS", 50)
    counts = SourceWordCounts()
    for line in lines:
        counts.add(line)
    found = counts.words()
    assert np.array_equal(found.hashes, expected.hashes) and np.array_equal(found.counts, expected.counts)
    assert set(found.letters) == set(expected.letters) >= {"é"}
    word = words[0]
    often = words.count(word)
    counts = found.count([word, word.capitalize(), f"é{word}", "12", "nowhere"])
    assert counts.tolist() == [2 * often, often, often, 0, 0]
    again = SourceWords.from_bytes(found.to_bytes())
    assert again.to_bytes() == found.to_bytes() and again.letters == found.letters


def test_the_rarest_words_of_a_text_of_very_many_are_left_out(monkeypatch):
    monkeypatch.setattr(source_words, "_MOST_WORDS", 3)
    one, other = SourceWords.of({"a": 4, "b": 1, "c": 2}), SourceWords.of({"b": 1, "d": 1, "e": 5})
    assert one.together_with(other).count(list("abcde")).tolist() == [4, 0, 0, 0, 5]
    assert one.together_with(SourceWords.of({"a": 1})).count(list("abc")).tolist() == [5, 1, 2]


@pytest.mark.parametrize("change", [lambda data: data[:-30], lambda data: b"", lambda data: data.replace(b"counts", b"coumts")])
def test_words_that_are_damaged(change):
    with pytest.raises(ValueError, match="no words of a text"):
        SourceWords.from_bytes(change(SourceWords.of(COUNTS).to_bytes()))
    with pytest.raises(ValueError, match="no words of a text"):
        SourceWords.from_bytes(SourceWords.of(COUNTS)._replace(counts=np.ones(3, np.uint64)).to_bytes())


# Translations

SOURCES, TARGETS = read_pairs("demo:dev", "en", "de")
WORDS = source_words_of(SOURCES)
SPELLER = Speller(WORDS, "en")
MISTYPED = [
    (wrong, line)
    for (wrong, _), line in zip(change_pairs({"typos": 1}, ((line, "") for line in SOURCES)), SOURCES, strict=True)
    if wrong != line and SPELLER.corrected(wrong) == line and len(line.split()) < 9
][:5]
WRONG, RIGHT = map(list, zip(*MISTYPED, strict=True))


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
    built = build_model(config.model, tokenizer.vocab_size)
    translator = Translator(built, random_parameters(built, 0), tokenizer, config)
    translator.spell_by(lambda: WORDS)
    return translator


@pytest.fixture(scope="module", params=each_family(*FAMILIES.values()))
def of_family(tokenizers, request):
    return make_translator(tokenizers[False], **request.param)


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["placeholders", "none"])
def either(tokenizers, request):
    return make_translator(tokenizers[request.param], **FAMILIES["Transformer"])


@pytest.fixture(scope="module")
def transformer(tokenizers):
    return make_translator(tokenizers[False], **FAMILIES["Transformer"])


pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")


def without_source(translations):
    return [
        each._replace(source="", read="", others=tuple(other._replace(source="", read="") for other in each.others))
        for each in translations
    ]


def test_a_line_with_typing_errors_has_the_translation_of_the_one_without(of_family):
    found = of_family.translate([*WRONG, ""], spelling="correct", nbest=2)
    assert without_source(found) == without_source(of_family.translate([*RIGHT, ""], nbest=2))
    assert [(each.source, each.read) for each in found[:-1]] == MISTYPED
    kept = of_family.translate(WRONG, nbest=2)
    assert [each.tokens for each in kept] != [each.tokens for each in found[:-1]] and not any(each.read for each in kept)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"beam": 1}, {"temperature": 1.0, "seed": 3, "nbest": 2}, {"mbr": 3}], ids=str)
def test_however_it_is_searched_for(transformer, options):
    found, expected = transformer.translate(WRONG, spelling="correct", **options), transformer.translate(RIGHT, **options)
    assert without_source(found) == without_source(expected)


def test_words_are_aligned_and_looked_at_as_those_without(transformer):
    found, expected = (
        transformer.translate(lines, align=True, spelling=spelling) for lines, spelling in ((WRONG, "correct"), (RIGHT, "keep"))
    )
    assert [each.alignment for each in found] == [each.alignment for each in expected]
    assert transformer.attention(WRONG[0], found[0]).source == RIGHT[0]


def test_with_rules_about_the_translation_it_is_corrected_too(either):
    rules = dict(prefixes=["Der Hund"]), dict(phrases=[["Der Hund"]]), dict(terminology={"xyz": "Katze"})
    for rule in rules:
        found, expected = either.translate(WRONG[:1], spelling="correct", **rule), either.translate(RIGHT[:1], **rule)
        assert without_source(found) == without_source(expected)


def test_terms_are_words_that_are_known(transformer):
    wrong, right = next((a, b) for a, b in zip(WRONG[0].split(), RIGHT[0].split(), strict=True) if a != b)
    terms = {wrong.strip("."): "Katze"}
    found, expected = (transformer.translate(WRONG[:1], spelling=each, terminology=terms) for each in ("correct", "keep"))
    assert found == expected and not found[0].read
    found = transformer.translate(WRONG[:1], spelling="correct", terminology={right.strip("."): "Katze"})
    assert found[0].read == RIGHT[0] and "Katze" in found[0].text


def test_capitals_and_spelling_go_together(transformer):
    loud = [line.upper() for line in WRONG]
    found = transformer.translate(loud, capitals="restore", spelling="correct")
    expected = transformer.translate([line.upper() for line in RIGHT], capitals="restore")
    assert without_source(found) == without_source(expected)


def test_what_is_protected_is_not_corrected(either):
    word, other = next((a, b) for a, b in zip(WRONG[0].split(), RIGHT[0].split(), strict=True) if a != b)
    found, expected = (
        either.translate(lines, protect=[word], spelling=spelling)
        for lines, spelling in ((WRONG[:1], "correct"), (WRONG[:1], "keep"))
    )
    assert without_source(found) == without_source(expected)
    assert word in found[0].text and other != word
    pieces = [
        either.protected_pieces(WRONG[:2], either.protection(["never"]), spelling=each)[1][0].piece
        for each in ("correct", "keep")
    ]
    assert (pieces[0].read, pieces[1].read) == (RIGHT[1], "")


def test_words_in_markup_are_corrected(transformer):
    texts = [[f"<p>{line}</p>"] for line in (WRONG[1], RIGHT[1])]
    found, expected = (transformer.translate_markup(text, spelling="correct")[0].text for text in texts)
    assert found == expected


def test_a_long_line_is_corrected_in_its_parts(tokenizers):
    translator = make_translator(tokenizers[False], longest=30, **FAMILIES["Transformer"])
    (found,), (expected,) = (translator.translate([" ".join(lines)], spelling="correct") for lines in (WRONG, RIGHT))
    assert found.parts == expected.parts > 1 and (found.text, found.tokens) == (expected.text, expected.tokens)
    assert found.read == " ".join(RIGHT) and not expected.read


@pytest.mark.slow
def test_an_open_search_an_ensemble_and_other_parameters_have_the_same(transformer):
    expected = transformer.translate(RIGHT)
    search = transformer.open_search(spelling="correct")
    found = transformer.sharing(search, Ticket()).translate(WRONG, spelling="correct")
    search.close()
    assert [each.text for each in found] == [each.text for each in expected]
    for same in (transformer.together_with(transformer), transformer.with_params(transformer.params)):
        found = same.translate(WRONG, spelling="correct")
        assert [each.tokens for each in found] == [each.tokens for each in expected]


def test_a_translator_that_knows_no_words_says_so(tokenizers):
    translator = make_translator(tokenizers[False], **FAMILIES["Transformer"])
    translator.spell_by(lambda: None)
    assert translator.score(RIGHT[:1], TARGETS[:1], length_penalty=1.0)
    with pytest.raises(UserError, match=r"spelling=correct: it is not known which words .* `transformer-jax spelling"):
        translator.translate(WRONG, spelling="correct")
    assert translator.translate(WRONG) == translator.translate(WRONG, spelling="keep")


def test_json_tells_what_was_read(transformer):
    for line, read in ((WRONG[0], RIGHT[0]), (RIGHT[0], None)):
        (found,) = transformer.translate([line], spelling="correct")
        written = json.loads(translation_formats.as_json(translation_formats.TranslatedLine(1, line, found, list)))
        assert written.get("read") == read and written["source"] == line


# Runs


def run_config(tmp_path) -> Config:
    config = Config(data=DataConfig(str(tmp_path / "train.tsv"), str(tmp_path / "dev.tsv"), cache_dir=str(tmp_path / "cache")))
    write_tsv(tmp_path / "train.tsv", SOURCES[:200], TARGETS[:200])
    write_tsv(tmp_path / "dev.tsv", WRONG, [TARGETS[SOURCES.index(line)] for line in RIGHT])
    config.tokenizer.vocab_size, config.model = 400, tiny_model()
    config.batch.tokens, config.batch.row_multiple = 1024, 2
    config.train.steps, config.train.evaluate_every = 2, 1
    config.decode.spelling, config.decode.beam = "correct", 1
    return config


def test_a_run_knows_its_words_from_the_first_evaluation_on(tmp_path):
    config = run_config(tmp_path)
    progress = train(config, tmp_path / "run")
    run, expected = Run(tmp_path / "run"), source_words_of(SOURCES[:200])
    assert run.source_words().to_bytes() == expected.to_bytes()
    translator = Translator.load(tmp_path / "run")
    scored = [each.text for each in translator.translate(WRONG, spelling="correct")]
    assert translator.translate(WRONG)[0].read == RIGHT[0]  # by its config
    assert progress.best_score is not None and len(scored) == len(RIGHT)
    (tmp_path / "run" / "source_words.npz").write_bytes(b"no zip file")
    with pytest.raises(UserError, match=r"source_words\.npz: damaged, .* make it again with `transformer-jax spelling"):
        Translator.load(tmp_path / "run").translate(WRONG)
    Translator.load(tmp_path / "run").translate(WRONG, spelling="keep")


def test_text_that_an_older_version_has_tokenised_is_read_for_its_words(tmp_path):
    config = run_config(tmp_path)
    first, second, third = (Run.open_or_create(tmp_path / name, config) for name in ("first", "second", "third"))
    prepare.prepare(first)
    for words in (tmp_path / "cache").rglob("source_words.npz"):
        words.unlink()
        write_manifest(words.parent)
    prepare.prepare(second)
    assert second.source_words().to_bytes() == first.source_words().to_bytes()
    third.config.decode.spelling = "keep"
    prepare.prepare(third)
    assert third.source_words() is None


@pytest.mark.slow
def test_a_run_that_begins_with_another_knows_the_words_of_both(tmp_path):
    config = run_config(tmp_path)
    train(config, tmp_path / "first")
    write_tsv(tmp_path / "more.tsv", ["a quagga jumps", "quagga"], ["ein Quagga springt", "Quagga"])
    config.data.train, config.train.init_from = str(tmp_path / "more.tsv"), str(tmp_path / "first")
    train(config, tmp_path / "second")
    first, second = (Run(tmp_path / name).source_words() for name in ("first", "second"))
    known = [first.count(["the", "quagga"]), second.count(["the", "quagga"])]
    assert known[0][0] == known[1][0] > 0 and (known[0][1], known[1][1]) == (0, 2)


def test_the_command_gives_a_run_the_words_of_any_text(tmp_path, capsys):
    config = run_config(tmp_path)
    train(config, tmp_path / "run")
    expected = (tmp_path / "run" / "source_words.npz").read_bytes()
    (tmp_path / "run" / "source_words.npz").unlink()
    keep_spelling(SpellingJob(workdir=str(tmp_path / "run")))
    assert (tmp_path / "run" / "source_words.npz").read_bytes() == expected
    told = capsys.readouterr().out
    changed = sum(a != b for pair in MISTYPED for a, b in zip(*map(str.split, pair), strict=True))
    assert f"reads {changed} of {sum(len(line.split()) for line in WRONG)} words as others\n  " in told
    wrong, right = next((a, b) for a, b in zip(WRONG[0].split(), RIGHT[0].split(), strict=True) if a != b)
    assert f"  {wrong} -> {right}\n" in told
    write_tsv(tmp_path / "other.tsv", ["zebra zebra"], ["Zebra"])
    keep_spelling(SpellingJob(workdir=str(tmp_path / "run"), train=str(tmp_path / "other.tsv")))
    assert Run(tmp_path / "run").source_words().count(["zebra", "the"]).tolist() == [2, 0]


def test_words_that_cannot_be_written_are_told_and_leave_nothing(tmp_path):
    run = Run.open_or_create(tmp_path / "run", run_config(tmp_path))
    (tmp_path / "run" / "source_words.npz").mkdir()
    with pytest.raises(UserError, match=r"cannot be written \((?!None)"):
        run.keep_source_words(SourceWords.of(COUNTS))
    assert not list((tmp_path / "run").glob("*.partial"))


def test_noise_of_the_training_text_is_no_word_of_it(tmp_path):
    config = run_config(tmp_path)
    config.data.train += " (typos)"
    run = Run.open_or_create(tmp_path / "run", config)
    prepare.prepare(run)
    assert run.source_words().to_bytes() == source_words_of(SOURCES[:200]).to_bytes()


def test_no_known_word_is_hurt_and_most_typing_errors_are_mended():
    assert list(map(SPELLER.corrected, SOURCES)) == SOURCES
    mistyped = [line for line, _ in change_pairs({"typos": 1}, zip(SOURCES, SOURCES, strict=True))]
    texts = (" ".join(each).split() for each in (mistyped, SOURCES, map(SPELLER.corrected, mistyped)))
    wrong = [(right, read) for typed, right, read in zip(*texts, strict=True) if typed != right]
    assert sum(right == read for right, read in wrong) > 0.75 * len(wrong) > 50
