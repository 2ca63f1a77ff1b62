"""Phrases and clauses of the built-in corpus, in English and German at once; how clauses make sentences: `sentences.py`.

Words are built as pairs that share links, from which the alignment follows. English simple past is Präteritum, present perfect
is Perfekt, present is Präsens; in a clause the time comes first, then dative, accusative, "nicht" and prepositional phrases.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from transformer_jax.data.demo import inflection, lexicon
from transformer_jax.data.demo.lexicon import Noun, Verb, select

OWNED = {noun.en for noun in select(lexicon.OWNED_TABLE)}
COPULA = {  # by time: first person, third person, plural
    "past": (("was", "war"), ("was", "war"), ("were", "waren")),
    "present": (("am", "bin"), ("is", "ist"), ("are", "sind")),
}
DEGREES = {"very": "sehr", "too": "zu"}
TENSES = {"past": ["past"] * 8 + ["could", "wanted to"], "present": ["present"] * 6 + ["can", "must"] + ["perfect"] * 4}
FRAMES = "IIIIAAAAAAAAAAADDPPMMLLL"


class Word(NamedTuple):
    text: str
    links: tuple[int, ...] = ()


class Phrase(NamedTuple):
    en: list[Word]
    de: list[Word]
    person: str = "3s"  # 1s, 3s or p
    head: int = 0  # the link of its noun


class Clause(NamedTuple):
    """English in order; German in the fields that main and subordinate clauses put in different orders."""

    en: list[Word]
    subject: list[Word]
    finite: Word
    middle: list[Word]
    tail: list[Word]  # after the middle where the finite verb stands second
    final: list[Word]  # after the middle where all verbs stand last


class Draft:
    """One sentence in the making: the random draws, the links given out, the time of its verbs."""

    def __init__(self, rng: random.Random):
        self.random, self.links, self.used = rng.random, 0, []
        self.time = "past" if self.chance(0.68) else "present"

    def chance(self, share: float) -> bool:
        return self.random() < share

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random() * len(options))]

    def fresh(self, options: Sequence[Any]) -> Any:
        """A draw that avoids what the sentence has already: no "Maria dreamed of Maria"."""
        for _ in range(4):
            option = self.pick(options)
            if option not in self.used:
                break
        self.used.append(option)
        return option

    def link(self) -> int:
        self.links += 1
        return self.links


def linked(d: Draft, en: str, de: str, person: str = "3s") -> Phrase:
    """Words that all belong together: in front of, vor."""
    link = (d.link(),)
    return Phrase([Word(text, link) for text in en.split()], [Word(text, link) for text in de.split()], person)


# --- noun phrases -------------------------------------------------------------------------------------------------------------


def noun_phrase(
    d: Draft,
    noun: Noun,
    case: str,
    determiner: str,
    plural: bool = False,
    adjective: str = "",
    owner: Phrase | None = None,
    negation: int = 0,
) -> Phrase:
    """A noun with its determiner ("" for none, a name for "Anna's"), adjective and possessor in the genitive.

    `negation` is the link of "not", which German expresses in the article here: "not a dog", "keinen Hund".
    """
    head, key = d.link(), "p" if plural else noun.gender
    shown = "no" if negation else "the" if owner else determiner
    article, declension = inflection.determiner_form(shown, key, case)
    links = (head,) if owner else (d.link(),) if determiner else ()
    noun_en = noun.en_plural if plural else noun.en
    en = list(owner.en) if owner else []
    if determiner and not owner:
        en.append(Word(english_determiner(determiner, plural, adjective or noun_en), links))
    de = [Word(article, (*links, negation) if negation else links)] if article else []
    if adjective:
        link = (d.link(),)
        en.append(Word(adjective, link))
        de.append(Word(inflection.adjective_form(adjective, declension, key, case), link))
    en.append(Word(noun_en, (head,)))
    de.append(Word(inflection.noun_form(noun, case, plural), (head,)))
    return Phrase(en, de + owner.de if owner else de, "p" if plural else "3s", head)


def english_determiner(determiner: str, plural: bool, following: str) -> str:
    if determiner in lexicon.NAMES:
        return determiner + "'s"
    if determiner == "a" and following[0] in "aeiou":
        return "an"
    return "these" if determiner == "this" and plural else determiner


def some(d: Draft, spec: str, case: str, definite: bool = False, negation: int = 0) -> Phrase:
    """A random noun phrase of a class of nouns; `definite` where "a" or no article would be odd, as beside "not"."""
    noun = d.fresh(select(spec))
    if noun.group == "person" and not negation and d.chance(0.16):
        name = d.fresh(lexicon.NAMES)
        return linked(d, name, name)
    adjective = d.pick(lexicon.ATTRIBUTES[noun.group].split()) if d.chance(0.25) else ""
    if noun.group == "part":
        return noun_phrase(d, noun, case, "", adjective=adjective, owner=owner(d, "animal"))
    if noun.group == "drink" and not definite:
        return noun_phrase(d, noun, case, "", adjective=adjective)
    plural = bool(noun.en_plural) and d.chance(0.25)
    if negation and noun.group != "place":
        countable = noun.en_plural and not plural
        return noun_phrase(d, noun, case, "a" if countable else "", plural, adjective, negation=negation)
    if noun.group in ("animal", "thing") and d.chance(0.08):
        return noun_phrase(d, noun, case, "", plural, adjective, owner=owner(d, "person"))
    determiner = d.pick(["the"] * 5 + ["a"] * 3 + definite_determiners(d, noun))
    if determiner == "a" and (plural or definite or not noun.en_plural):
        determiner = "" if plural and not definite else "the"
    return noun_phrase(d, noun, case, determiner, plural, adjective)


def definite_determiners(d: Draft, noun: Noun) -> list[str]:
    """Four choices: nobody says "my gorge", "Anna's queen" or "our rain"."""
    if noun.group == "cause":
        return ["the"] * 4
    return ["this", "my", "our", d.fresh(lexicon.NAMES)] if noun.en in OWNED else ["the", "this"] * 2


def owner(d: Draft, group: str) -> Phrase:
    """the king's, des Königs"""
    phrase = noun_phrase(d, d.fresh(select(group)), "gen", d.pick(["the", "the", "my"]))
    *rest, (noun, links) = phrase.en
    return phrase._replace(en=[*rest, Word(noun + "'s", links)])


def prepositional(d: Draft, table: dict[str, tuple[str, str, str]], english: str = "") -> Phrase:
    """A prepositional phrase. The table gives the German preposition, its case and its nouns; they have no "a" and no bare
    plural, so that the phrase also stands beside "nicht"."""
    english = english or d.pick(list(table))
    german, case, spec = table[english]
    preposition, phrase = linked(d, english, german), some(d, spec, case, definite=True)
    return Phrase(preposition.en + phrase.en, contracted(preposition.de + phrase.de))


def contracted(words: list[Word]) -> list[Word]:
    """in dem -> im, zu der -> zur: one word with the links of both."""
    short = lexicon.CONTRACTIONS.get((words[0].text, words[1].text)) if len(words) > 2 else None
    return [Word(short, words[0].links + words[1].links), *words[2:]] if short else words


def time_phrase(d: Draft, at_end: bool) -> Phrase:
    """yesterday, gestern: one that fits the time of the sentence, and, `at_end`, the end of an English clause."""
    text = d.pick([row[0] for row in lexicon.TIMES if row[1] == d.time and (row[2] == "end" or not at_end)])
    links = {number: (d.link(),) for number in "12"}
    sides = ([entry.split("/") for entry in side.split()] for side in text.split(" = "))
    return Phrase(*([Word(word, links[number]) for word, number in side] for side in sides))


# --- clauses ------------------------------------------------------------------------------------------------------------------


def complements(d: Draft, verb: Verb, link: int, negation: int) -> tuple[list[Phrase], list[Phrase]]:
    """The objects and the prepositional phrases of a verb; a preposition that belongs to the verb shares its link."""
    if verb.frame in "ADG":
        receiver = [some(d, "person", "dat", definite=bool(negation))] if verb.frame == "G" else []
        kein = negation if verb.frame != "D" and d.chance(0.4) else 0
        case = "dat" if verb.frame == "D" else "acc"
        return [*receiver, some(d, verb.objects, case, bool(negation), kein)], []
    if verb.frame == "P":
        german, case, spec = verb.objects.split(maxsplit=2)
        phrase = some(d, spec, case, definite=bool(negation))
        return [], [Phrase(phrase.en, contracted([Word(german, (link,)), *phrase.de]))]
    if verb.frame == "M":
        return [], [prepositional(d, lexicon.DIRECTIONS, d.pick(verb.objects.split()).replace("_", " "))]
    if verb.frame == "L" or (not verb.prefix and d.chance(0.3)):
        return [], [prepositional(d, lexicon.PLACES)]
    return [], []


def clause(d: Draft, subject: Phrase, verb: Verb, tense: str, negated: bool = False, time: Phrase | None = None,
           parts: tuple[list[Phrase], list[Phrase]] | None = None) -> Clause:  # fmt: skip
    """A clause of a verb; `parts` are its objects and prepositional phrases where they are not to be drawn."""
    role = {name: d.link() for name in "van"}
    objects, phrases = parts or complements(d, verb, role["v"], role["n"] if negated else 0)
    in_article = negated and any(role["n"] in word.links for phrase in objects for word in phrase.de)

    def words(forms: list[tuple[str, str]]) -> list[Word]:
        return [Word(text, (role[name],)) for text, name in forms]

    english = words(inflection.english_verb(verb, tense, subject.person, negated))
    finite, tail, final = inflection.german_verb(verb, tense, subject.person)
    negation = words([("nicht", "n")]) if negated and not in_article else []
    when = [time] if time else []
    en = subject.en + english + [word for phrase in objects + phrases + when for word in phrase.en]
    middle = [*joined(*when, *objects).de, *negation, *joined(*phrases).de]
    return Clause(en, subject.de, words([finite])[0], middle, words(tail), words(final))


def copula(d: Draft, subject: Phrase, adjective: str, time: str, degree: str = "", negated: bool = False) -> Clause:
    """The street was (not) too wide; `degree` is "", "very" or "too"."""
    verb = linked(d, *COPULA[time][inflection.PERSONS.index(subject.person)])
    middle = [linked(d, "not", "nicht")] if negated else []
    middle += [linked(d, degree, DEGREES[degree])] if degree else []
    rest = joined(*middle, linked(d, adjective.split("/")[0], lexicon.ADJECTIVES[adjective][0]))
    return Clause(subject.en + verb.en + rest.en, subject.de, verb.de[0], rest.de, [], verb.de)


def joined(*parts: Phrase) -> Phrase:
    return Phrase([word for part in parts for word in part.en], [word for part in parts for word in part.de])


def verb_second(c: Clause, front: Phrase | None = None) -> Phrase:
    """A main clause: the finite verb is second, after the subject or after what stands in front."""
    if front:
        return Phrase(front.en + c.en, [*front.de, c.finite, *c.subject, *c.middle, *c.tail])
    return Phrase(c.en, [*c.subject, c.finite, *c.middle, *c.tail])


def verb_final(c: Clause) -> Phrase:
    return Phrase(c.en, c.subject + c.middle + c.final)


# --- random clauses -----------------------------------------------------------------------------------------------------------


def random_clause(
    d: Draft, subject: Phrase | None = None, group: str = "", simple: bool = False, event: bool = False
) -> tuple[Clause, str]:
    """A clause and what may go in front of it: "" nothing, "end" a time that also stands at the end, "any" any time.

    `subject` and its noun `group` are given for relative clauses; `simple` clauses have neither modals nor negation;
    an `event` is what fits before "while" or "when": neither a property nor the perfect.
    """
    if not (subject or simple or event) and d.chance(0.15):
        return random_property(d), ""
    verb = d.pick(verbs_of(d.pick(FRAMES if group == "animal" else FRAMES + "GG"), group))
    negated = not simple and d.chance(0.2)
    subject = subject or random_subject(d, verb, negated)
    inert = "book" in verb.subjects
    tense = d.time if simple or inert else d.pick(TENSES[d.time])
    tense = unambiguous(d.time if tense == "perfect" and event else tense, verb, subject.person, negated)
    time = time_phrase(d, at_end=True) if not simple and tense != "perfect" and d.chance(0.15) else None
    return clause(d, subject, verb, tense, negated, time), "" if tense == "perfect" or time else "end" if negated else "any"


def random_property(d: Draft) -> Clause:
    group = d.pick(list(lexicon.PREDICATIVES))
    adjective, degree = d.pick(lexicon.PREDICATIVES[group].split()), d.pick(["", "", *DEGREES])
    return copula(d, some(d, group, "nom", definite=True), adjective, d.time, degree, d.chance(0.2))


def unambiguous(tense: str, verb: Verb, person: str, negated: bool) -> str:
    """The tense, or another where it could be misread: "we read" would be past as well, "must not" is "darf nicht"."""
    like_past = verb.english[0] == verb.english[1]
    if tense == "present" and person != "3s" and like_past:
        tense = "can"
    if negated and tense in ("can", "must"):
        return "perfect" if like_past else "present"
    return tense


@cache
def verbs_of(frame: str, group: str) -> list[Verb]:
    """The verbs of a frame, with nouns of a group ("" for any) as their subjects."""
    return [verb for verb in lexicon.VERBS if verb.frame == frame and group in verb.subjects]


def random_subject(d: Draft, verb: Verb, negated: bool) -> Phrase:
    if "person" in verb.subjects and d.chance(0.14):
        return linked(d, "I", "ich", "1s") if d.chance(0.5) else linked(d, "we", "wir", "p")
    if not negated and d.chance(0.04):
        noun = d.fresh(select(verb.subjects))
        return noun_phrase(d, noun, "nom", "no", plural=bool(noun.en_plural) and d.chance(0.3))
    return some(d, verb.subjects, "nom", definite=negated)
