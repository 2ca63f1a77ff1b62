"""What `evaluate.py` counts beside its scores: items that must be copied, loops, lengths, short lines."""

import dataclasses
import json

import pytest
import sacrebleu

from transformer_jax.errors import UserError
from transformer_jax.evaluation.checks import check, emails_in, emoji_in, loops, numbers_in, urls_in

SOURCE = [
    "He paid 1,234.50 for 2 dogs and 2 cats.",
    "See https://example.org/7, or mail to a.b@example.org!",
    "Thanks 😂😂 👍\U0001f3fd",
    "hello there",
    "",
]
REFERENCES = [
    "Er hat 1.234,50 für 2 Hunde und 2 Katzen bezahlt.",
    "Siehe https://example.org/7, oder eine Mail an a.b@example.org!",
    "Danke 😂😂 👍\U0001f3fd",
    "Hallo",
    "",
]


def copied(hypotheses: list[str]) -> dict[str, tuple[int, int]]:
    return {each.kind: (each.found, each.expected) for each in check(hypotheses, SOURCE, REFERENCES).copied}


def test_what_is_expected_and_what_is_found():
    everything = {"numbers": (2, 2), "URLs": (1, 1), "e-mail addresses": (1, 1), "emoji": (3, 3)}
    assert copied(REFERENCES) == everything
    # The amount is written in another way by the reference, so that no translation is asked for it.
    assert copied(["2 und 3", *REFERENCES[1:]]) == everything | {"numbers": (1, 2)}
    # In another line it does not count, and more of a thing do not make up for one that is missing.
    changed = ["2 2 2", "Siehe https://example.org/8 https://example.org", "😂 👍 https://example.org/7", "Hallo 😂", "2"]
    assert copied(changed) == {"numbers": (2, 2), "URLs": (0, 1), "e-mail addresses": (0, 1), "emoji": (1, 3)}
    shares = {each.kind: each.share for each in check(changed, SOURCE, REFERENCES).copied}
    assert shares == {"numbers": 1.0, "URLs": 0.0, "e-mail addresses": 0.0, "emoji": 1 / 3}
    assert check(["a"], ["a"], ["a"]).copied == []


@pytest.mark.parametrize(
    ("line", "numbers", "urls", "emails"),
    [
        ("3. 3,5 1'000 10:30-11:00 A4 ½ x2y", ["3", "3,5", "1'000", "10:30-11:00", "4", "2"], [], []),
        ("(http://a.de/x_(1),2) ftp://b.c/3.", [], ["http://a.de/x_(1),2", "ftp://b.c/3"], []),
        ("x1@y2.de, <anna+1@a-b.co.uk>; @anna 5@", ["5"], [], ["x1@y2.de", "anna+1@a-b.co.uk"]),
        ("„www.a.de“ WWW.B.DE? http://", [], ["www.a.de", "WWW.B.DE"], []),
    ],
)
def test_items_of_a_line(line, numbers, urls, emails):
    assert (numbers_in(line), urls_in(line), emails_in(line)) == (numbers, urls, emails)


def test_emoji_are_seen_as_one_and_signs_are_none():
    family, flag, keycap = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3"
    assert emoji_in(f"a{family}{flag}! {keycap} \u00a9\u2122 \u2714 \u2714\ufe0f 1") == [family, flag, keycap, "\u2714\ufe0f"]


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("Hallo Hallo", "Hallo", True),
        ("Hallo, hallo!", "Hallo!", True),
        ("Hallo Hallo", "Hallo hallo", False),
        ("der Hund Hund Hund schläft", "der Hund schläft", True),
        ("ein sehr sehr alter Hund", "ein alter Hund", False),  # twice is emphasis
        ("der Hund und der Hund und schläft", "der Hund schläft", True),
        ("Die Frau, die die Katze sieht", "Die Frau, welche die Katze sieht", False),
        ("... ... ... --", "Ja", False),
        ("mit einer roten Jacke und mit einer roten Jacke", "er hat zwei rote Jacken", False),
        ("a b c d x a b c d y a b c d", "e f g h i", True),
        ("a b c d x a b c d y a b c d", "a b c d u a b c d v", False),
        ("", "", False),
        ("", "a a a", False),
    ],
)
def test_loops(hypothesis, reference, expected):
    assert loops(hypothesis, reference) is expected


def test_short_lines_and_the_length_ratio():
    source, references = ["Good morning!", "a - b", "one two three four", "..."], ["Guten Morgen!", "a - b", "x y z w", "..."]
    hypotheses = ["Guten Abend!", "a b", "x y", "..."]
    found = check(hypotheses, source, references)
    bleu = sacrebleu.BLEU(effective_order=True)
    assert found.short.lines == 2 and found.short.bleu == bleu.corpus_score(hypotheses[:2], [references[:2]]).score
    assert found.short.signature == str(bleu.get_signature())
    words = [len(bleu.tokenizer(" \n ".join(lines)).split()) for lines in (hypotheses, references)]
    assert found.length_ratio == words[0] / words[1]
    none = check(["x y z w"], ["one two three four"], ["x y z w"])
    assert (none.short.lines, none.short.bleu, none.short.signature) == (0, None, None) and not none.notable
    assert json.loads(json.dumps(dataclasses.asdict(none)))["short"]["bleu"] is None


def test_a_line_for_each():
    with pytest.raises(UserError, match="expected one for each"):
        check(["a"], ["a", "b"], ["a", "b"])
    with pytest.raises(UserError, match="expected one for each"):
        check(["a"], ["a", "b"], ["a"])


def test_the_line_of_a_report():
    text = check(["Er hat 2 Hunde und Hunde und Hunde", *REFERENCES[1:]], SOURCE, REFERENCES).as_text()
    assert text.startswith("unchanged: numbers 50.0% of 2, URLs 100.0% of 1, e-mail addresses 100.0% of 1, emoji 100.0% of 3; ")
    assert "; 1 translation loops; length ratio 0.92" in text and text.endswith("; 2 lines of 1 to 3 words, BLEU 100.00")
