"""The built-in corpus: German that agrees, one translation a source, disjoint splits, pronouns that need the meaning."""

import doctest
import hashlib
import random
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from transformer_jax.data.demo import corpus as demo
from transformer_jax.data.demo import grammar, inflection, lexicon, sentences

# Recorded once; a change of the grammar changes the corpus, and every figure measured on it.
FIRST_THOUSAND = "a45a02c49201140591ffd3c382cfa2d8834f7dba7bbd568a7fcbf68748fc58c2"
PHRASES = """
the big dog      | der große Hund    | den großen Hund    | dem großen Hund     | des großen Hundes
the big cat      | die große Katze   | die große Katze    | der großen Katze    | der großen Katze
the big horse    | das große Pferd   | das große Pferd    | dem großen Pferd    | des großen Pferdes
the big dogs     | die großen Hunde  | die großen Hunde   | den großen Hunden   | der großen Hunde
a big dog        | ein großer Hund   | einen großen Hund  | einem großen Hund   | eines großen Hundes
a big cat        | eine große Katze  | eine große Katze   | einer großen Katze  | einer großen Katze
a big horse      | ein großes Pferd  | ein großes Pferd   | einem großen Pferd  | eines großen Pferdes
no big dog       | kein großer Hund  | keinen großen Hund | keinem großen Hund  | keines großen Hundes
no big cats      | keine großen Katzen | keine großen Katzen | keinen großen Katzen | keiner großen Katzen
our big horse    | unser großes Pferd | unser großes Pferd | unserem großen Pferd | unseres großen Pferdes
this big dog     | dieser große Hund | diesen großen Hund | diesem großen Hund  | dieses großen Hundes
this big cat     | diese große Katze | diese große Katze  | dieser großen Katze | dieser großen Katze
this big horse   | dieses große Pferd | dieses große Pferd | diesem großen Pferd | dieses großen Pferdes
these big cats   | diese großen Katzen | diese großen Katzen | diesen großen Katzen | dieser großen Katzen
big horses       | große Pferde      | große Pferde       | großen Pferden      | großer Pferde
hot coffee       | heißer Kaffee     | heißen Kaffee      | heißem Kaffee       | heißen Kaffees
fresh milk       | frische Milch     | frische Milch      | frischer Milch      | frischer Milch
cold water       | kaltes Wasser     | kaltes Wasser      | kaltem Wasser       | kalten Wassers
Anna's big dog   | Annas großer Hund | Annas großen Hund  | Annas großem Hund   | Annas großen Hundes
the big elephant | der große Elefant | den großen Elefanten | dem großen Elefanten | des großen Elefanten
the old prince   | der alte Prinz    | den alten Prinzen  | dem alten Prinzen   | des alten Prinzen
a clever farmer  | ein kluger Bauer  | einen klugen Bauern | einem klugen Bauern | eines klugen Bauern
the young boy    | der junge Junge   | den jungen Jungen  | dem jungen Jungen   | des jungen Jungen
the high tower   | der hohe Turm     | den hohen Turm     | dem hohen Turm      | des hohen Turms
the dark houses  | die dunklen Häuser | die dunklen Häuser | den dunklen Häusern | der dunklen Häuser
"""
# Each is one draw of the grammar: verb, subject, tense, negated, verb-second, verb-final.
CLAUSES = [
    ("aufstehen", "past", False, "Der Bauer stand auf.", "der Bauer aufstand"),
    ("aufstehen", "present", True, "Der Bauer steht nicht auf.", "der Bauer nicht aufsteht"),
    ("aufstehen", "perfect", False, "Der Bauer ist aufgestanden.", "der Bauer aufgestanden ist"),
    ("aufstehen", "could", True, "Der Bauer konnte nicht aufstehen.", "der Bauer nicht aufstehen konnte"),
    ("lachen", "perfect", True, "Der Bauer hat nicht gelacht.", "der Bauer nicht gelacht hat"),
]


@cache
def corpus(split: str) -> list[demo.Example]:
    return demo.generate(split)


def draft() -> grammar.Draft:
    return grammar.Draft(random.Random(0))


def phrase(d: grammar.Draft, english: str, case: str, negation: int = 0) -> grammar.Phrase:
    """The phrase of the grammar for "the big dogs"."""
    *rest, noun = english.split()
    found = next(n for n in lexicon.NOUNS.values() if noun in (n.en, n.en_plural))
    adjective = rest.pop() if rest and rest[-1] in lexicon.ADJECTIVES else ""
    determiner = {"these": "this", "an": "a"}.get(rest[0], rest[0].removesuffix("'s")) if rest else ""
    return grammar.noun_phrase(d, found, case, determiner, noun == found.en_plural, adjective, negation=negation)


def text(words: list[grammar.Word]) -> str:
    return " ".join(word.text for word in words)


def test_doctests():
    for module in (demo, grammar, inflection, lexicon, sentences):
        assert doctest.testmod(module).failed == 0


def test_recorded_corpus():
    rows = "".join(f"{example.source}\t{example.target}\n" for example in demo.generate("train", 1000))
    assert hashlib.sha256(rows.encode()).hexdigest() == FIRST_THOUSAND


def test_a_pure_function_of_split_size_and_seed():
    assert demo.generate("dev", 40) == corpus("dev")[:40]
    assert demo.generate("dev", 40, seed=1) != corpus("dev")[:40]
    assert demo.generate("dev", 0) == []


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        demo.generate("valid")
    with pytest.raises(ValueError, match="negative"):
        demo.generate("dev", -1)
    with pytest.raises(ValueError, match="at least one"):
        demo.pronoun_baselines([])


@pytest.mark.slow
def test_sizes_and_distinct_sources():
    sizes = {split: len({example.source for example in corpus(split)}) for split in demo.SPLITS}
    assert sizes == {"train": 24_000, "dev": 500, "test": 1_000, "long": 500, "beyond": 300}


@pytest.mark.slow
def test_one_translation_for_every_source():
    translation: dict[str, str] = {}
    rows = [*demo.generate("train", 6000, seed=7), *(example for pair in demo.minimal_pairs() for example in pair)]
    for example in [*rows, *(example for split in demo.SPLITS for example in corpus(split))]:
        assert translation.setdefault(example.source.lower(), example.target.lower()) == example.target.lower()


def test_splits_are_disjoint():
    seen = [{example.source for example in corpus(split)} for split in demo.SPLITS]
    seen.append({example.source for pair in demo.minimal_pairs() for example in pair})
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_lengths():
    lengths = {split: sorted(len(example.source.split()) for example in corpus(split)) for split in demo.SPLITS}
    longest = [length for length in lengths["train"] if length >= demo.LONG_WORDS]
    assert 0.04 < len(longest) / 24_000 < 0.07
    assert lengths["train"][-1] == demo.TRAIN_WORDS
    assert demo.LONG_WORDS <= lengths["long"][0] and lengths["long"][-1] <= demo.TRAIN_WORDS < lengths["beyond"][0]
    assert sum(4 <= length <= 16 for length in lengths["train"]) > 0.85 * 24_000


@pytest.mark.parametrize("split", demo.SPLITS)
def test_alignment_is_complete_and_in_range(split):
    for example in corpus(split):
        source, target = range(len(example.source.split())), range(len(example.target.split()))
        assert list(example.alignment) == sorted(set(example.alignment))
        assert {i for i, _ in example.alignment} == set(source) and {j for _, j in example.alignment} == set(target)


def test_alignment_of_the_elephant():
    example = demo.minimal_pairs(1)[0][0]
    en, de = example.source.split(), example.target.split()
    assert [f"{en[i]}-{de[j]}" for i, j in example.alignment] == (
        "The-Der elephant-Elefant did-nicht, not-nicht, cross-überquerte the-die street-Straße because-weil it-er was-war. "
        "too-zu tired.-müde"
    ).split()


@pytest.mark.parametrize("row", PHRASES.strip().splitlines())
def test_agreement(row):
    english, *expected = (column.strip() for column in row.split("|"))
    assert [text(phrase(draft(), english, case).de) for case in inflection.CASES] == expected
    assert text(phrase(draft(), english, "nom").en) == english


def test_an_before_a_vowel():
    assert text(phrase(draft(), "an old elephant", "nom").en) == "an old elephant"
    assert text(phrase(draft(), "an elephant", "nom").en) == "an elephant"


@pytest.mark.parametrize(("infinitive", "tense", "negated", "second", "final"), CLAUSES)
def test_verb_second_verb_final_and_separable_verbs(infinitive, tense, negated, second, final):
    d = draft()
    verb = next(verb for verb in lexicon.VERBS if verb.prefix + verb.german[0] == infinitive and verb.frame == "I")
    clause = grammar.clause(d, phrase(d, "the farmer", "nom"), verb, tense, negated, parts=([], []))
    assert demo._written(grammar.verb_second(clause).de) == second
    assert text(grammar.verb_final(clause).de) == final


def test_whatever_stands_in_front_the_verb_is_second():
    d = draft()
    d.time = "past"
    see = sentences.ACCUSATIVE["sehen"]
    clause = grammar.clause(d, phrase(d, "the dog", "nom"), see, "past", parts=([phrase(d, "the elephant", "acc")], []))
    front = grammar.linked(d, "yesterday", "gestern")
    assert demo._written(grammar.verb_second(clause, front).de) == "Gestern sah der Hund den Elefanten."
    because = grammar.joined(grammar.linked(d, "because", "weil"), grammar.verb_final(clause))
    both = sentences.main_after(because, clause)
    assert demo._written(both.de) == "Weil der Hund den Elefanten sah, sah der Hund den Elefanten."
    assert demo._written(both.en) == "Because the dog saw the elephant, the dog saw the elephant."


def test_kein_and_nicht():
    d = draft()
    see = sentences.ACCUSATIVE["sehen"]
    clause = grammar.clause(d, phrase(d, "the dog", "nom"), see, "past", True, parts=([phrase(d, "the cat", "acc")], []))
    assert text(grammar.verb_second(clause).de) == "der Hund sah die Katze nicht"
    assert text(phrase(d, "a cat", "acc", negation=99).de) == "keine Katze"
    assert text(phrase(d, "a cat", "acc", negation=99).en) == "a cat"
    for example in corpus("train"):
        words = example.source.replace("did not want", "wanted not").split()
        target = example.target.split()
        assert ("not" in words or "no" in [word.lower() for word in words]) == any(
            word.strip(",.").lower() == "nicht" or word.lower().startswith("kein") for word in target
        )


def test_contractions_are_always_used():
    text = " ".join(example.target for example in corpus("train")).lower() + " "
    for long in ("in dem", "in das", "zu dem", "zu der", "von dem"):
        assert f" {long} " not in text
    for short in ("im", "ins", "zum", "zur", "vom"):
        assert f" {short} " in text


def test_subordinate_clauses_are_between_commas():
    for example in (*corpus("train"), *corpus("beyond")):
        words = example.target.split()
        for before, word in pairwise(words):
            if word in ("weil", "dass", "obwohl", "als", "wenn", "bevor", "ob", "denn", "aber"):
                assert before.endswith(",") or before in ("und", "aber"), example.target


def test_pronouns_agree_with_their_referents():
    for split in demo.SPLITS:
        for example in corpus(split):
            en, de = ([word.strip(",.") for word in line.split()] for line in example[:2])
            pronouns = [word.lower() for word in de if word.lower() in ("er", "sie", "es")]
            if example.pronoun is None:
                assert not pronouns and "it" not in en
                continue
            place, referent, distractor, target, form = example.pronoun
            genders = [lexicon.NOUNS[en[i]].gender for i in (referent, distractor)]
            assert genders[0] != genders[1] and pronouns == [form] == [inflection.PRONOUNS[genders[0]]]
            assert en[place].lower() == "it" and de[target].lower() == form and (place, target) in example.alignment


def test_neither_position_nor_gender_nor_adjective_tells_the_pronoun():
    """With two genders that differ, one position or the other is right: half and half is the lowest that both can be."""
    pronouns = [example for example in corpus("train") if example.pronoun]
    assert 0.2 <= len(pronouns) / 24_000 <= 0.25
    baselines = demo.pronoun_baselines(pronouns)
    assert baselines["majority"] < 0.36 and baselines["adjective alone"] < 0.40
    assert abs(baselines["first candidate"] - 0.5) < 0.02 and abs(baselines["second candidate"] - 0.5) < 0.02
    pairs = Counter()
    for example in pronouns:
        words = [word.strip(",.") for word in example.source.split()]
        pairs[tuple(lexicon.NOUNS[words[i]].gender for i in example.pronoun[1:3])] += 1
    assert len(pairs) == 6 and all(abs(count / len(pronouns) - 1 / 6) < 0.02 for count in pairs.values())


def test_minimal_pairs():
    pairs = demo.minimal_pairs()
    assert len(pairs) == 300 and pairs == demo.minimal_pairs(300, seed=0) and pairs[:20] == demo.minimal_pairs(20)
    assert [example.source for example in pairs[0]] == [
        f"The elephant did not cross the street because it was too {adjective}." for adjective in ("tired", "wide")
    ]
    training = {tuple(sorted(example.source.split())) for example in corpus("train")}
    for subject, thing in pairs:
        words = [example.source.split() for example in (subject, thing)]
        assert [i for i, (a, b) in enumerate(zip(*words, strict=True)) if a != b] == [subject.pronoun.source + 3]
        assert subject.pronoun.form != thing.pronoun.form and not training & {tuple(sorted(w)) for w in words}
        assert (subject.pronoun.referent, subject.pronoun.distractor) == (thing.pronoun.distractor, thing.pronoun.referent)


def test_pronoun_accuracy_on_free_output():
    pair = demo.minimal_pairs(1)[0]  # er, sie
    right = [example.target for example in pair]
    assert demo.pronoun_accuracy(pair, right) == (2, 2)
    assert demo.pronoun_accuracy(pair, right[::-1]) == (0, 2)
    assert demo.pronoun_accuracy(pair, ["Er schlief", "weil die Straße breit war, sie"]) == (0, 2)
    assert demo.pronoun_accuracy(pair, ["Da er groß ist, sah sie", "Sie ging, weil, denn Sie war."]) == (2, 2)
    assert demo.pronoun_accuracy(corpus("dev"), [example.target for example in corpus("dev")])[0] == sum(
        example.pronoun is not None for example in corpus("dev")
    )
    with pytest.raises(ValueError):
        demo.pronoun_accuracy(pair, right[:1])


def test_every_lexeme_is_frequent():
    """At least 30 times in training, in any of its forms."""
    english = [word.strip(",.").lower() for example in corpus("train") for word in example.source.split()]
    counts = Counter(word.removesuffix("'s") for word in english)
    german = Counter(word.strip(",.") for example in corpus("train") for word in example.target.split())
    rare = {}
    for noun in lexicon.NOUNS.values():
        rare[noun.en] = sum(counts[form] for form in {noun.en, noun.en_plural} - {""})
    for adjective, forms in lexicon.ADJECTIVES.items():
        rare[adjective] = german[forms[0]] + sum(german[forms[-1] + end] for end in ("e", "er", "en", "em", "es"))
    for verb in lexicon.VERBS:
        base, past, participle = (form.split()[0] for form in verb.english)
        rare[verb.german[0]] = sum(counts[form] for form in {base, lexicon.with_s(base), past, participle})
    assert {word: count for word, count in rare.items() if count < 30} == {}
