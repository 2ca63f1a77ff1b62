"""Which terms a line has, whatever its white space, Unicode form, markup and, at a sentence's start, case."""

import gzip
import unicodedata

import pytest

from transformer_jax.errors import UserError
from transformer_jax.inference import terminology
from transformer_jax.inference.terminology import Terminology, compiled, read_terms

TERMS = {
    "elephant": "Elefant",
    "elephants": "Elefanten",
    "big dog": "Köter",
    "dog": "Hund",
    "C++": "Cpp",
    ".NET": "Net",
    "café": "Kaffeehaus",
    "state-of-the-art": "neueste",
    "don": "Don",
    "can't": "unmöglich",
    "<name>": "<Name>",
    "Polish": "polnisch",
    "polish": "polieren",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Elephants sleep.", ["Elefanten"]),
        ("The Elephants sleep.", []),
        ("ELEPHANTS sleep.", []),
        ("Yes. Elephants sleep. He said: Dog!", ["Elefanten", "Hund"]),
        ("Why? (Elephants) sleep", ["Elefanten"]),
        ('He said "Elephants sleep." Dogs', ["Elefanten"]),
        ("„Elephants“ sagt er", ["Elefanten"]),
        ("'Elephants' are", ["Elefanten"]),
        ("- Elephants", ["Elefanten"]),
        ("1. Elephants", ["Elefanten"]),
        ("<bt> Elephants sleep.", ["Elefanten"]),
        ("<p>So.</p><p>Elephants</p>", ["Elefanten"]),
        ("Mr. Elephant and J. Dog", []),
        ("3.5 Elephant", []),
        ("the big  dog", ["Köter"]),
        ("the big\u00a0dog", ["Köter"]),
        ("the big\u2009\tdog", ["Köter"]),
        ("Big dog", ["Köter"]),
        ("the big-dog", ["Hund"]),
        ("a big <b>dog</b>", ["Köter"]),
        ('a big</i> <b class="x">dog', ["Köter"]),
        ("a big<br/>dog", ["Köter"]),
        ("a **big** dog", ["Köter"]),
        ("a <b>elephant</b><br>", ["Elefant"]),
        ("_elephant_ [elephant](x)", ["Elefant"]),
        ("elephant_count elephant1 elephantine", []),
        ("elephant-shaped, the elephant's", ["Elefant"]),
        ("a < dog and b > dog", ["Hund"]),
        ("ele\u00adphant", ["Elefant"]),
        ("\u200belephant\ufeff", ["Elefant"]),
        (unicodedata.normalize("NFD", "the café is"), ["Kaffeehaus"]),
        ("elephant\u0301", []),  # a letter that no code point has composed
        ("the cafe\u0301s", []),
        ("C++, and C++.", ["Cpp"]),
        ("C++11 on ASP.NET", []),
        ("use .NET now", ["Net"]),
        ("state\u2011of\u2011the\u2011art", ["neueste"]),
        ("I don't, he can\u2019t", ["unmöglich"]),
        ("Don is here", ["Don"]),
        ("Hello <name>, hello <nome>", ["<Name>"]),
        ("Polish it: polish, and the Polish dog", ["polnisch", "polieren", "Hund"]),
        ("dog dog elephant dog", ["Hund", "Elefant"]),
        ("", []),
        (" \u00a0 ", []),
    ],
)
def test_what_is_found(text, expected):
    assert Terminology(TERMS).translations(text) == expected


def test_the_case_of_letters():
    terms = {"elephant": "E", "Straße": "S", "NATO": "N"}
    text = "Elephant. The ELEPHANT in the STRASSE: nato"
    found = {case: Terminology(terms, case).translations(text) for case in terminology.CASES}
    assert found == {"exact": [], "start": ["E"], "ignore": ["E", "S", "N"]}
    with pytest.raises(UserError, match=r"--terminology_case=any should be one of exact, start, ignore"):
        Terminology(terms, "any")


def test_the_longest_term_counts_and_none_inside_another():
    table = Terminology({"a b": "1", "a b c d": "2", "b": "3", "c": "4"})
    assert table.translations("a b c e") == ["1", "4"]
    assert table.translations("a b c d b") == ["2", "3"]
    assert table.counts == {"a b": 1, "a b c d": 1, "b": 1, "c": 1} and table.unmatched() == []


def test_terms_that_never_matched_are_known():
    table = Terminology({"a": "x", "b": "y", "c  d": "z", "c d": "z"})
    table.translations("a a"), table.translations("c d")
    assert table.counts == {"a": 2, "b": 0, "c  d": 1, "c d": 1} and table.unmatched() == ["b"]


@pytest.mark.parametrize(
    ("terms", "case", "message"),
    [
        ({"a  b": "x", "a b": "y"}, "exact", r"'a b', which is the same as 'a  b', is to be both 'x' and 'y'"),
        ({"Us": "x", "US": "y"}, "ignore", r"to be both 'x' and 'y' \(--terminology_case=ignore\)"),
        ({" ": "x"}, "exact", "should not be blank"),
        ({"\u00ad": "x"}, "exact", "should not be blank"),
        ({"a": " "}, "exact", "should not be blank"),
    ],
)
def test_tables_that_cannot_be(terms, case, message):
    with pytest.raises(UserError, match=message):
        Terminology(terms, case)


def test_files_of_terms(tmp_path):
    text = "# a comment\r\n#\r\n## another\tone\r\n\r\n  \r\nbig dog \t Köter\t\r\n\\#1 hit\tErster\r\nbig dog\tKöter\r\n"
    (tmp_path / "terms").write_bytes(text.encode())
    (tmp_path / "terms.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("terms", "terms.gz"):
        table = read_terms(str(tmp_path / name))
        assert table.translations("A #1 hit of a big dog") == ["Erster", "Köter"]
        assert list(table.counts) == ["big dog", "#1 hit"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no terms"),
        ("# dog\tHund\n\n", "has no terms"),
        ("a\tb\n#dog\tHund\n", r"line 2: '#dog\\tHund' begins with #: write '# ' for a comment, or \\# for a term"),
        ("a\n", r"line 1: expected a term, a tab and its translation, found 'a'"),
        (" \tb\n", "line 1: expected a term"),
        ("a\t\n", "line 1: expected a term"),
        ("a\tb\tc\n", "line 1: expected a term"),
        ("a\tb\n\na\tc\n", "line 3: 'a' has another translation above"),
        ("a b\tb\na  b\tc\n", "terms: terminology: 'a  b', which is the same as 'a b'"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    (tmp_path / "terms").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_terms(str(tmp_path / "terms"))


def test_a_table_is_compiled_once():
    terms = {"a": "x"}
    assert compiled(tuple(terms.items())) is compiled(tuple(terms.items()))
    terms["a"] = "y"
    assert compiled(tuple(terms.items())).translations("a") == ["y"]
