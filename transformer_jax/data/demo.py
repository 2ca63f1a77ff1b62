"""The built-in English-German corpus: a small grammar that also knows its own word alignments and what each "it" refers to.

Every English sentence has exactly one translation. English simple past is Präteritum, present perfect is Perfekt, present is
Präsens; in a clause the time comes first, then dative, accusative, "nicht" and prepositional phrases.

Alignment is by construction: words are built as pairs that share links. "did not" and "not" are linked with "nicht" or, with
"a" or nothing before the noun, with "kein"; all words of a verb with its particle or preposition with one another ("looked
at": "sah", "an"; "waited for": "wartete", "auf"); "in front of" with "vor";
"wanted to" with "wollte"; a contraction ("im") with the preposition and the article; in "the king's dog" (der Hund des
Königs) the article "der" with "dog". Punctuation belongs to its word. Every German word has at least one link.

A pronoun sentence has two candidate nouns, an animal and a thing or place, of DIFFERENT genders, each uniform over der, die
and das; which of the two is meant is a fair coin, and only the meaning of the adjective tells. Guessing by position is right
half of the time, guessing a gender one time in three.
"""

import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from transformer_jax.data import demo_lexicon as lexicon
from transformer_jax.data.demo_lexicon import NOUNS, VERBS, Noun, Verb, select

__all__ = ["SPLITS", "Example", "Pronoun", "generate", "minimal_pairs", "pronoun_accuracy", "pronoun_baselines"]

SPLITS = ("train", "dev", "test", "long", "beyond")
SIZES = {"train": 24_000, "dev": 500, "test": 1_000, "long": 500, "beyond": 300}
TRAIN_WORDS = 20  # the longest source in training; `beyond` starts above it
LONG_WORDS = 18  # where the longest 5% of training begin
PRONOUN_SHARE = 0.24  # of the drawn sentences
TIMES = [[column.strip() for column in row.split("|")] for row in lexicon.TIMES_TABLE.strip().splitlines()]
PRONOUN_ROWS = [[column.strip() for column in row.split("|")] for row in lexicon.PRONOUN_TABLE.strip().splitlines()]
ACCUSATIVE = {verb.german[0]: verb for verb in VERBS if verb.frame == "A" and not verb.prefix}


class Pronoun(NamedTuple):
    """Where the pronoun of a sentence is: positions of whitespace-separated words, from 0."""

    source: int  # the English "it"
    referent: int  # the English noun it stands for
    distractor: int  # the other candidate noun
    target: int  # the German pronoun
    form: str  # the right German pronoun: er, sie or es


class Example(NamedTuple):
    """A sentence pair; `alignment` holds sorted (source word, target word) positions over `text.split()`."""

    source: str
    target: str
    alignment: tuple[tuple[int, int], ...]
    pronoun: Pronoun | None


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


COMMA = Word(",")
PAUSE = Phrase([], [COMMA])  # German alone has a comma here
ANIMATE = ("animate", "person animal")
OWNED = {noun.en for noun in select(lexicon.OWNED_TABLE)}


class Draft:
    """One sentence in the making: the random draws, the links given out, the time of its verbs."""

    def __init__(self, rng: random.Random):
        self.rng, self.links, self.used = rng, 0, []
        self.time = "past" if self.chance(0.68) else "present"

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.random() * len(options))]

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


def _linked(d: Draft, en: str, de: str) -> Phrase:
    """Words that all belong together: in front of, vor."""
    link = (d.link(),)
    return Phrase([Word(text, link) for text in en.split()], [Word(text, link) for text in de.split()])


def _article(text: str, following: str) -> str:
    return "an" if text == "a" and following[0] in "aeiou" else text


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
    article, declension = lexicon.determiner_form(shown, key, case)
    links = (*([head] if owner else [d.link()] if determiner else []), *([negation] if negation else []))
    en, de = list(owner.en) if owner else [], [Word(article, links)] if article else []
    noun_en = Word(noun.en_plural if plural else noun.en, (head,))
    if determiner and not owner:
        word = determiner + "'s" if determiner in lexicon.NAMES else "these" if determiner == "this" and plural else determiner
        en.append(Word(_article(word, adjective or noun_en.text), links[:1]))
    if adjective:
        link = (d.link(),)
        en.append(Word(adjective, link))
        de.append(Word(lexicon.adjective_form(adjective, declension, key, case), link))
    de += [Word(lexicon.noun_form(noun, case, plural), (head,)), *(owner.de if owner else [])]
    return Phrase([*en, noun_en], de, "p" if plural else "3s", head)


def some(d: Draft, spec: str, case: str, definite: bool = False, negation: int = 0) -> Phrase:
    """A random noun phrase of a class of nouns; `definite` where "a" or no article would be odd, as beside "not"."""
    noun = d.fresh(select(spec))
    if noun.group == "person" and not negation and d.chance(0.16):
        return _linked(d, *[d.fresh(lexicon.NAMES)] * 2)
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
    return phrase._replace(en=[*phrase.en[:-1], phrase.en[-1]._replace(text=phrase.en[-1].text + "'s")])


def prepositional(d: Draft, table: dict[str, tuple[str, str, str]], key: str = "") -> Phrase:
    """A prepositional phrase: the table gives the German preposition, its case and the nouns that go with it.

    No "a" and no bare plural, so that it also stands beside "nicht".
    """
    english = key or d.pick(list(table))
    german, case, spec = table[english]
    preposition, phrase = _linked(d, english, german), some(d, spec, case, definite=True)
    return Phrase(preposition.en + phrase.en, contracted(preposition.de + phrase.de))


def contracted(words: list[Word]) -> list[Word]:
    """in dem -> im, zu der -> zur: one word with the links of both."""
    short = lexicon.CONTRACTIONS.get((words[0].text, words[1].text)) if len(words) > 2 else None
    return [Word(short, words[0].links + words[1].links), *words[2:]] if short else words


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
    if verb.frame == "L":
        return [], [prepositional(d, lexicon.PLACES)]
    return [], [prepositional(d, lexicon.PLACES)] if not verb.prefix and d.chance(0.3) else []


def clause(d: Draft, subject: Phrase, verb: Verb, tense: str, negated: bool = False, time: Phrase | None = None,
           parts: tuple[list[Phrase], list[Phrase]] | None = None) -> Clause:  # fmt: skip
    """A clause of a verb; `parts` are its objects and prepositional phrases where they are not to be drawn."""
    role = {name: d.link() for name in "van"}
    objects, phrases = parts or complements(d, verb, role["v"], role["n"] if negated else 0)
    in_article = any(role["n"] in word.links for phrase in objects for word in phrase.de)
    negation = [Word("nicht", (role["n"],))] if negated and not in_article else []

    def linked(words: list[tuple[str, str]]) -> list[Word]:
        return [Word(text, (role[name],)) for text, name in words]

    english = linked(lexicon.english_verb(verb, tense, subject.person, negated))
    finite, tail, final = lexicon.german_verb(verb, tense, subject.person)
    when = [time] if time else []
    middle = [word for phrase in when + objects for word in phrase.de] + negation + [w for p in phrases for w in p.de]
    en = subject.en + english + [word for phrase in objects + phrases + when for word in phrase.en]
    return Clause(en, subject.de, linked([finite])[0], middle, linked(tail), linked(final))


def copula(d: Draft, subject: Phrase, adjective: str, time: str, degree: str = "", negated: bool = False) -> Clause:
    """The street was (not) too wide; `degree` is "", "very" or "too"."""
    which = ("1s", "3s", "p").index(subject.person)
    forms = ((("am", "bin"), ("is", "ist"), ("are", "sind")), (("was", "war"), ("was", "war"), ("were", "waren")))
    verb = _linked(d, *forms[time == "past"][which])
    middle = [_linked(d, "not", "nicht")] if negated else []
    middle += [_linked(d, degree, {"very": "sehr", "too": "zu"}[degree])] if degree else []
    middle.append(_linked(d, adjective.split("/")[0], lexicon.ADJECTIVES[adjective][0]))
    en, de = ([word for phrase in middle for word in phrase[side]] for side in (0, 1))
    return Clause(subject.en + verb.en + en, subject.de, verb.de[0], de, [], verb.de)


def verb_second(c: Clause, front: Phrase | None = None) -> Phrase:
    """A main clause: the finite verb is second, after the subject or after what stands in front."""
    if front:
        return Phrase(front.en + c.en, [*front.de, c.finite, *c.subject, *c.middle, *c.tail])
    return Phrase(c.en, [*c.subject, c.finite, *c.middle, *c.tail])


def verb_final(c: Clause) -> Phrase:
    return Phrase(c.en, c.subject + c.middle + c.final)


def time_phrase(d: Draft, at_end: bool) -> Phrase:
    """yesterday, gestern: one that fits the time of the sentence, and, `at_end`, the end of an English clause."""
    text = d.pick([row[0] for row in TIMES if row[1] == d.time and (row[2] == "end" or not at_end)])
    first, sides = d.links, [[word.split("/") for word in side.split()] for side in text.split(" = ")]
    d.links += 2
    return Phrase(*([Word(word, (first + int(number),)) for word, number in side] for side in sides))


def random_clause(
    d: Draft, subject: Phrase | None = None, group: str = "", simple: bool = False, event: bool = False
) -> tuple[Clause, str]:
    """A clause and what may go in front of it: "" nothing, "end" a time that also stands at the end, "any" any time.

    `subject` and its noun `group` are given for relative clauses; `simple` clauses have neither modals nor negation;
    an `event` is what fits before "while" or "when": neither a property nor the perfect.
    """
    if not (subject or simple or event) and d.chance(0.15):
        group = d.pick(list(lexicon.PREDICATIVES))
        adjective, degree = d.pick(lexicon.PREDICATIVES[group].split()), d.pick(["", "", "very", "too"])
        subject = some(d, group, "nom", definite=True)
        return copula(d, subject, adjective, d.time, degree, d.chance(0.2)), ""
    frame = d.pick("IIIIAAAAAAAAAAADDPPMMLLL" + ("" if group == "animal" else "GG"))
    verb = d.pick(verbs_of(frame, group))
    inert = "book" in verb.subjects
    negated = not simple and d.chance(0.2)
    if not subject:
        subject = random_subject(d, verb, negated)
    tenses = {"past": ["past"] * 8 + ["could", "wanted to"], "present": ["present"] * 6 + ["can", "must"] + ["perfect"] * 4}
    tense = d.time if simple or inert else d.pick(tenses[d.time])
    if tense == "perfect" and event:
        tense = d.time
    if tense == "present" and subject.person != "3s" and verb.english[0] == verb.english[1]:
        tense = "can"  # "we read" would be past as well
    if negated and tense in ("can", "must"):
        tense = "present" if verb.english[0] != verb.english[1] else "perfect"  # "must not" is "darf nicht"
    time = time_phrase(d, at_end=True) if not simple and tense != "perfect" and d.chance(0.15) else None
    return clause(d, subject, verb, tense, negated, time), "" if tense == "perfect" or time else "end" if negated else "any"


@cache
def verbs_of(frame: str, group: str) -> list[Verb]:
    """The verbs of a frame, with nouns of a group ("" for any) as their subjects."""
    return [verb for verb in VERBS if verb.frame == frame and group in verb.subjects.replace(*ANIMATE)]


def random_subject(d: Draft, verb: Verb, negated: bool) -> Phrase:
    if "person" in verb.subjects.replace(*ANIMATE) and d.chance(0.14):
        first = d.chance(0.5)
        return _linked(d, *(("I", "ich") if first else ("we", "wir")))._replace(person="1s" if first else "p")
    if not negated and d.chance(0.04):
        noun = d.fresh(select(verb.subjects))
        return noun_phrase(d, noun, "nom", "no", plural=bool(noun.en_plural) and d.chance(0.3))
    return some(d, verb.subjects, "nom", definite=negated)


# --- sentences ----------------------------------------------------------------------------------------------------------------


def main_clause(d: Draft, event: bool = False) -> Phrase:
    """One main clause, now and then with an adverbial in front."""
    c, front = random_clause(d, event=event)
    if not front or d.chance(0.55):
        return verb_second(c)
    if d.chance(0.65):
        return verb_second(c, time_phrase(d, at_end=front == "end"))
    return verb_second(c, prepositional(d, lexicon.CIRCUMSTANCES))


def with_relative(d: Draft, event: bool = False) -> Phrase:
    """The man who saw the dog laughed; the dog that the man saw slept."""
    group = d.pick(["person", "animal"])
    noun, plural = d.fresh(select(group)), d.chance(0.25)
    plural = plural and bool(noun.en_plural)
    head = noun_phrase(d, noun, "nom", "the", plural)
    of_subject, link = d.chance(0.65), (d.link(),)
    german = lexicon.RELATIVE["p" if plural else noun.gender].split()[0 if of_subject else 1]
    pronoun = Phrase([Word("who" if group == "person" and of_subject else "that", link)], [Word(german, link)], head.person)
    if of_subject:
        relative = verb_final(random_clause(d, pronoun, group, simple=True)[0])
    else:
        verb = ACCUSATIVE[d.pick(["sehen", "hören", "suchen", "finden" if group == "animal" else "sehen"])]
        inner = verb_final(clause(d, some(d, "person", "nom"), verb, d.time, parts=([], [])))
        relative = Phrase(pronoun.en + inner.en, pronoun.de + inner.de)
    subject = Phrase(head.en + relative.en, [*head.de, COMMA, *relative.de, COMMA], head.person)
    return verb_second(random_clause(d, subject, group, d.chance(0.5), event)[0])


def conjunction_of(d: Draft) -> tuple[str, bool]:
    """A conjunction in English and German, and whether it is one of time or condition."""
    options = ["because weil", "because weil", "although obwohl", "although obwohl", "while während", "before bevor"]
    words = d.pick(options + (["when als"] * 2 if d.time == "past" else ["when wenn", "if wenn"]))
    return words, words not in options[:4]


def subordinate(d: Draft, words: str) -> Phrase:
    """because ..., weil ...: a verb-final clause behind its conjunction."""
    simple = words.split()[0] in ("while", "before", "when")
    return joined(_linked(d, *words.split()), verb_final(random_clause(d, simple=simple)[0]), PAUSE)


def joined(*parts: Phrase) -> Phrase:
    return Phrase([word for part in parts for word in part.en], [word for part in parts for word in part.de])


def reported(d: Draft, content: Phrase) -> Phrase:
    """Anna said that ..., Anna sagte, dass ...: the content is verb-final already."""
    verb = d.pick(verbs_of("R", "person"))
    subject = some(d, "person", "nom") if d.chance(0.9) else _linked(d, "we", "wir")._replace(person="p")
    main = verb_second(clause(d, subject, verb, d.time, parts=([], [])))
    return joined(main, PAUSE, _linked(d, *verb.objects.split()), content, PAUSE)


class Scene(NamedTuple):
    """A pronoun sentence but for the deciding adjective."""

    row: list[str]  # of PRONOUN_ROWS
    nouns: tuple[Noun, Noun]  # the subject, the object
    determiners: tuple[str, str] = ("the", "the")
    color: str = ""
    modal: bool = False
    conjunction: str = "because weil"
    shape: str = "plain"  # or "front": a time in front; "subordinate first"; "reported"


ELEPHANT = Scene(PRONOUN_ROWS[0], (NOUNS["elephant"], NOUNS["street"]))


def random_scene(d: Draft, clauses: int) -> Scene:
    row = d.pick(PRONOUN_ROWS)
    genders = d.pick(["mf", "mn", "fm", "fn", "nm", "nf"])
    candidates = [select("strong" if row[0] in ("ziehen", "tragen") else "animal"), select(row[2])]
    nouns = [d.pick([noun for noun in side if noun.gender == gender]) for side, gender in zip(candidates, genders, strict=True)]
    determiners = [d.pick(["the"] * 6 + definite_determiners(d, noun)) for noun in nouns]
    color = d.pick(["brown", "black", "white", "gray"]) if d.chance(0.2) else ""
    shape = "reported" if clauses == 3 else d.pick(["plain"] * 5 + ["front"] * 3 + ["subordinate first"] * 2)
    conjunctions = ["although obwohl"] if row[1] == "although" else ["because weil"] * 4 + ["since da"] * 2
    if row[1] != "although" and shape != "subordinate first":
        conjunctions += ["for denn"] * 2
    modal = row[1] == "not" and d.chance(0.25)
    return Scene(row, tuple(nouns), tuple(determiners), color, modal, d.pick(conjunctions), shape)


def pronoun_sentence(d: Draft, scene: Scene, adjective: str) -> tuple[Phrase, tuple[int, int, int, str]]:
    """The sentence, and the links of "it", referent and distractor with the right form."""
    d.time = "past"
    verb, mode = ACCUSATIVE[scene.row[0]], scene.row[1]
    subject = noun_phrase(d, scene.nouns[0], "nom", scene.determiners[0], adjective=scene.color)
    thing = noun_phrase(d, scene.nouns[1], "acc", scene.determiners[1])
    c = clause(d, subject, verb, "could" if scene.modal else "past", mode == "not", parts=([thing], []))
    which = 0 if adjective in scene.row[4].split() else 1
    form = lexicon.PRONOUNS[scene.nouns[which].gender]
    it = _linked(d, "it", form)
    reason = copula(d, it, adjective, "past", "too" if mode == "not" else "very")
    conjunction = _linked(d, *scene.conjunction.split())
    if scene.conjunction == "for denn":
        conjunction = joined(Phrase([COMMA], []), conjunction)
    dependent = joined(conjunction, verb_second(reason) if scene.conjunction == "for denn" else verb_final(reason))
    marks = (it.en[0].links[0], (subject, thing)[which].head, (thing, subject)[which].head, form)
    if scene.shape == "subordinate first":
        return main_after(dependent, c), marks
    if scene.shape == "reported":
        return reported(d, joined(verb_final(c), PAUSE, dependent)), marks
    front = time_phrase(d, at_end=mode == "not") if scene.shape == "front" else None
    return joined(verb_second(c, front), PAUSE, dependent, PAUSE), marks


def main_after(dependent: Phrase, c: Clause) -> Phrase:
    """A subordinate clause, then its main clause, which begins with the finite verb in German."""
    return verb_second(c, Phrase([*dependent.en, COMMA], [*dependent.de, COMMA]))


def segment(d: Draft, clauses: int, pronoun: bool) -> tuple[Phrase, tuple | None]:
    """One to three clauses around one main clause."""
    if pronoun:
        scene = random_scene(d, clauses)
        return pronoun_sentence(d, scene, d.pick(scene.row[3 + d.chance(0.5)].split()))
    if clauses == 1:
        return main_clause(d), None
    words, event = conjunction_of(d)
    kind = d.pick("mmmsssrrw" if clauses == 2 else "rw")
    if kind == "s":
        dependent = subordinate(d, words)
        return main_after(dependent, random_clause(d, event=event)[0]), None
    if kind == "m":
        main = main_clause(d, event)
    else:
        main = reported(d, verb_final(random_clause(d)[0])) if kind == "r" else with_relative(d, event and clauses == 3)
    return (main if clauses == 2 and kind != "m" else joined(main, PAUSE, subordinate(d, words))), None


def sentence(rng: random.Random, clauses: int, pronoun: bool) -> "Example":
    """Segments of one to three clauses, joined by "and" or "but"; at most one segment has an "it"."""
    d, parts, marks = Draft(rng), [], None
    while clauses:
        most = min(3, clauses)
        size = most if clauses <= 3 and d.chance(0.7) else 1 + int(d.rng.random() * most)
        has_pronoun = pronoun and not marks and size > 1
        phrase, found = segment(d, size, has_pronoun)
        marks, clauses = marks or found, clauses - size
        if parts:
            english, german = d.pick(["and und", "and und", "but aber"]).split()
            comma = [COMMA] if german == "aber" else []
            parts.append(joined(Phrase([COMMA], comma), _linked(d, english, german)))
        parts.append(phrase)
    return finished(joined(*parts), marks)


def finished(phrase: Phrase, marks: tuple[int, int, int, str] | None) -> Example:
    """Words to text: commas go to the word before them, a capital at the start, a full stop at the end."""
    texts, places = [], []
    for words in phrase[:2]:
        text, place = [], {}
        for word in words:
            if word == COMMA:
                text[-1] = text[-1].rstrip(",") + ","
                continue
            for link in word.links:
                place.setdefault(link, []).append(len(text))
            text.append(word.text)
        line = " ".join(text).rstrip(",") + "."
        texts.append(line[0].upper() + line[1:])
        places.append(place)
    en, de = places
    pairs = {(i, j) for link in en.keys() & de.keys() for i in en[link] for j in de[link]}
    pronoun = Pronoun(*(en[link][0] for link in marks[:3]), de[marks[0]][0], marks[3]) if marks else None
    return Example(texts[0], texts[1], tuple(sorted(pairs)), pronoun)


# --- the corpus ---------------------------------------------------------------------------------------------------------------


# The first and last remainder of each held-out split; the others are training. Few candidates are as long as `long` asks.
BUCKETS = {"dev": (0, 0), "test": (1, 1), "pairs": (2, 2), "long": (3, 5), "train": (6, 23), "beyond": (0, 23)}


def _bucket(example: Example) -> int:
    """0-23 from the source, without the deciding adjective: both readings of a pronoun sentence are held out together."""
    words = example.source.split()
    if example.pronoun:
        del words[example.pronoun.source + 3]
        if words == "The elephant did not cross the street because it was too".split():
            return BUCKETS["pairs"][0]
    return zlib.crc32(" ".join(words).encode()) % 24


def _drawn(split: str, rng: random.Random) -> Iterator[Example]:
    """Candidates for a split, without end; long and beyond are made of more clauses."""
    clauses = {"long": [2, 3, 3], "beyond": [4, 4, 5, 5, 6]}.get(split, [1] * 10 + [2] * 6 + [3] * 2)
    pronoun_clauses = {"long": [3], "beyond": clauses}.get(split, [2, 2, 2, 3])
    share = 2 * PRONOUN_SHARE if split == "long" else PRONOUN_SHARE  # few of them are long enough
    lengths = {"long": (LONG_WORDS, TRAIN_WORDS), "beyond": (TRAIN_WORDS + 1, 1000)}.get(split, (1, TRAIN_WORDS))
    while True:
        pronoun = rng.random() < share
        options = pronoun_clauses if pronoun else clauses
        example = sentence(rng, options[int(rng.random() * len(options))], pronoun)
        if not lengths[0] <= len(example.source.split()) <= lengths[1]:
            continue
        first, last = BUCKETS[split]
        if first <= _bucket(example) <= last:
            yield example


def _random(name: str, seed: int) -> random.Random:
    return random.Random(zlib.crc32(f"{name} {seed}".encode()))


def generate(split: str, size: int | None = None, seed: int = 0) -> list[Example]:
    """The first `size` distinct examples of a split, a pure function of its arguments.

    No source of one split is a source of another, whatever the sizes and seeds: which split a sentence may be in is a hash of
    the sentence. `long` is as long as the longest 5% of training, `beyond` (4 to 6 clauses) is longer than all of it.

    Raises ValueError for an unknown split or a negative size.

    >>> generate("train", 1)[0] == generate("train", 500)[0]
    True
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    size = SIZES[split] if size is None else size
    if size < 0:
        raise ValueError(f"size must not be negative, not {size}")
    examples: dict[str, Example] = {}
    drawn = _drawn(split, _random(split, seed))
    while len(examples) < size:
        example = next(drawn)
        examples.setdefault(example.source, example)
    return list(examples.values())


def minimal_pairs(size: int = 300, seed: int = 0) -> list[tuple[Example, Example]]:
    """Held-out pairs that differ in one adjective: "it" is the subject in the first, the object in the second.

    The nouns differ in gender, so the right pronouns do. The elephant that did not cross the street comes first.

    >>> [example.target for example in minimal_pairs(1)[0]][1]
    'Der Elefant überquerte die Straße nicht, weil sie zu breit war.'
    """
    rng, scene, pairs = _random("pairs", seed), ELEPHANT, {}
    adjectives = ("tired", "wide")
    while len(pairs) < size:
        pair = tuple(finished(*pronoun_sentence(Draft(random.Random(0)), scene, adjective)) for adjective in adjectives)
        if _bucket(pair[0]) == BUCKETS["pairs"][0] and all(example.source not in pairs for example in pair):
            pairs[pair[0].source] = pair
        d = Draft(rng)
        scene = random_scene(d, clauses=2)
        adjectives = (d.pick(scene.row[4].split()), d.pick(scene.row[3].split()))
    return list(pairs.values())


def pronoun_baselines(examples: Sequence[Example]) -> dict[str, float]:
    """How often a guess without understanding is right, over the examples with a pronoun.

    "majority": the commonest form; "first candidate", "second candidate": the gender of that noun in the English sentence;
    "adjective alone": the commonest form for each deciding adjective. The commonest are counted on these same examples.

    Raises ValueError if no example has a pronoun.
    """
    rows = [(example.source.split(), example.pronoun) for example in examples if example.pronoun]
    if not rows:
        raise ValueError("pronoun_baselines needs at least one example with a pronoun")

    def of_noun(words: list[str], place: int) -> str:
        return lexicon.PRONOUNS[NOUNS[words[place].strip(",.")].gender]

    by_adjective: dict[str, Counter[str]] = {}
    for words, pronoun in rows:
        by_adjective.setdefault(words[pronoun.source + 3].strip(",."), Counter())[pronoun.form] += 1
    right = {
        "majority": max(Counter(pronoun.form for _, pronoun in rows).values()),
        "first candidate": sum(of_noun(words, min(p.referent, p.distractor)) == p.form for words, p in rows),
        "second candidate": sum(of_noun(words, max(p.referent, p.distractor)) == p.form for words, p in rows),
        "adjective alone": sum(max(forms.values()) for forms in by_adjective.values()),
    }
    return {name: count / len(rows) for name, count in right.items()}


def pronoun_accuracy(examples: Sequence[Example], translations: Sequence[str]) -> tuple[int, int]:
    """(right, total) over the examples with a pronoun; works on any output of a model.

    A clause here is what stands from weil, da, obwohl or denn (upper or lower case) up to the next comma, semicolon or end of
    sentence. The pronoun of a translation is the first er, sie or es inside such a clause, and it is right if it is the
    reference's form. Whatever else the translation gets wrong does not count; a translation without such a pronoun is wrong.

    Raises ValueError if there are not as many translations as examples.

    >>> pair = minimal_pairs(1)[0]
    >>> pronoun_accuracy(pair, ["Er ging nicht, weil er zu müde war.", "Die Straße, weil er breit war."])
    (1, 2)
    """
    forms = [(e.pronoun.form, _pronoun_of(text)) for e, text in zip(examples, translations, strict=True) if e.pronoun]
    return sum(expected == found for expected, found in forms), len(forms)


def _pronoun_of(translation: str) -> str:
    inside = False
    for word in translation.lower().split():
        bare = word.strip(",.;!?:")
        if inside and bare in ("er", "sie", "es"):
            return bare
        inside = (inside or bare in ("weil", "da", "obwohl", "denn")) and word == word.rstrip(",.;!?:")
    return ""
