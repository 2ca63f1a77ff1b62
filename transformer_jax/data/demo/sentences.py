"""Sentences of the built-in corpus: one to six clauses, and those with an "it" that only the meaning resolves.

A pronoun sentence has two candidate nouns, an animal and a thing or place, of DIFFERENT genders, each uniform over der, die
and das; which of the two is meant is a fair coin, and only the meaning of the adjective tells. Guessing by position is right
half of the time, guessing a gender one time in three.
"""

from typing import NamedTuple

from transformer_jax.data.demo import lexicon
from transformer_jax.data.demo.grammar import (
    Clause,
    Draft,
    Phrase,
    Word,
    clause,
    copula,
    definite_determiners,
    joined,
    linked,
    noun_phrase,
    prepositional,
    random_clause,
    some,
    time_phrase,
    verb_final,
    verb_second,
    verbs_of,
)
from transformer_jax.data.demo.inflection import PRONOUNS, RELATIVE
from transformer_jax.data.demo.lexicon import NOUNS, VERBS, Noun, select

# verb | mode | objects | adjectives that can only mean the object here | ... only the subject
# "not": did not ... because it was too ...; "although": ... although it was very ...; "because": ... because it was very ...
# "big", "heavy", "full" mean now the one, now the other: the verb decides. Left out is what a reader could take either way:
# a bridge may be weak, and a place that is too cold, dark or dangerous would be "es", the weather or the situation.
PRONOUN_TABLE = """
überqueren | not | river stream square path street meadow field moor valley | wide | tired weak ill lazy afraid slow small
überqueren | not | river stream ditch gorge puddle moor valley sea | deep wide | tired weak ill lazy afraid old small
überqueren | although | river stream square street meadow gorge field moor valley | wide | tired hungry thirsty ill weak
betreten | not | stable cellar cave kitchen barn tent house room | small narrow full | big fat afraid nervous lazy
verlassen | because | stable cellar garden cave kitchen barn house room tent | narrow empty | hungry thirsty curious restless
erklimmen | not | mountain hill tower rock wall dune roof scaffold | high | tired afraid heavy fat lazy
erklimmen | not | mountain hill rock dune wall roof | steep | tired afraid heavy fat ill lazy
erklimmen | although | mountain hill rock wall dune roof scaffold | high | tired hungry ill thirsty
fressen | not | food | cold hot old big dry | full/satt ill tired nervous
fressen | although | apple cake cheese sausage pear carrot bread egg meat | cold hot dry | ill tired nervous
trinken | not | tea juice coffee milk lemonade water beer | hot cold dirty | ill tired nervous afraid
ziehen | not | cart sledge carriage box boat car barrel | heavy big full | weak tired lazy ill
tragen | not | suitcase sack basket table box bag bench ladder barrel bed parcel | heavy big | weak tired lazy ill
ziehen | although | cart sledge carriage box boat car barrel | heavy | weak tired ill
"""
PRONOUN_ROWS = lexicon.rows(PRONOUN_TABLE)
ACCUSATIVE = {verb.german[0]: verb for verb in VERBS if verb.frame == "A" and not verb.prefix}
COMMA = Word(",")
PAUSE = Phrase([], [COMMA])  # German alone has a comma here


class Marks(NamedTuple):
    """The links of "it" and of its two candidates, and the right form: er, sie or es."""

    it: int
    referent: int
    distractor: int
    form: str


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


def sentence(d: Draft, clauses: int, pronoun: bool) -> tuple[Phrase, Marks | None]:
    """Segments of one to three clauses, joined by "and" or "but"; at most one segment has an "it"."""
    parts, marks = [], None
    while clauses:
        most = min(3, clauses)
        size = most if clauses <= 3 and d.chance(0.7) else 1 + int(d.random() * most)
        if pronoun and not marks and size > 1:
            scene = random_scene(d, size)
            phrase, marks = pronoun_sentence(d, scene, d.pick(scene.row[3 + d.chance(0.5)].split()))
        else:
            phrase = segment(d, size)
        clauses -= size
        if parts:
            english, german = d.pick(["and und", "and und", "but aber"]).split()
            comma = [COMMA] if german == "aber" else []
            parts += [Phrase([COMMA], comma), linked(d, english, german)]
        parts.append(phrase)
    return joined(*parts), marks


# --- clauses together ---------------------------------------------------------------------------------------------------------


def segment(d: Draft, clauses: int) -> Phrase:
    """One to three clauses around one main clause."""
    if clauses == 1:
        return main_clause(d)
    words, event = conjunction_of(d)
    kind = d.pick("mmmsssrrw" if clauses == 2 else "rw")
    if kind == "s":
        dependent = subordinate(d, words)
        return main_after(dependent, random_clause(d, event=event)[0])
    if kind == "m":
        main = main_clause(d, event)
    else:
        main = reported(d, verb_final(random_clause(d)[0])) if kind == "r" else with_relative(d, event and clauses == 3)
    return main if clauses == 2 and kind != "m" else joined(main, PAUSE, subordinate(d, words))


def main_clause(d: Draft, event: bool = False) -> Phrase:
    """One main clause, now and then with an adverbial in front."""
    c, front = random_clause(d, event=event)
    if not front or d.chance(0.55):
        return verb_second(c)
    if d.chance(0.65):
        return verb_second(c, time_phrase(d, at_end=front == "end"))
    return verb_second(c, prepositional(d, lexicon.CIRCUMSTANCES))


def main_after(dependent: Phrase, c: Clause) -> Phrase:
    """A subordinate clause, then its main clause, which begins with the finite verb in German."""
    return verb_second(c, Phrase([*dependent.en, COMMA], [*dependent.de, COMMA]))


def with_relative(d: Draft, event: bool = False) -> Phrase:
    """The man who saw the dog laughed; the dog that the man saw slept."""
    group = d.pick(["person", "animal"])
    noun, plural = d.fresh(select(group)), d.chance(0.25)
    plural = plural and bool(noun.en_plural)
    head = noun_phrase(d, noun, "nom", "the", plural)
    of_subject = d.chance(0.65)
    nominative, accusative = RELATIVE["p" if plural else noun.gender].split()
    if of_subject:
        pronoun = linked(d, "who" if group == "person" else "that", nominative, head.person)
        relative = verb_final(random_clause(d, pronoun, group, simple=True)[0])
    else:
        pronoun = linked(d, "that", accusative)
        verb = ACCUSATIVE[d.pick(["sehen", "hören", "suchen", "finden" if group == "animal" else "sehen"])]
        relative = joined(pronoun, verb_final(clause(d, some(d, "person", "nom"), verb, d.time, parts=([], []))))
    subject = joined(head, PAUSE, relative, PAUSE)._replace(person=head.person)
    return verb_second(random_clause(d, subject, group, d.chance(0.5), event)[0])


def conjunction_of(d: Draft) -> tuple[str, bool]:
    """A conjunction in English and German, and whether it is one of time or condition."""
    reasons = ["because weil", "because weil", "although obwohl", "although obwohl"]
    times = ["when als", "when als"] if d.time == "past" else ["when wenn", "if wenn"]
    words = d.pick([*reasons, "while während", "before bevor", *times])
    return words, words not in reasons


def subordinate(d: Draft, words: str) -> Phrase:
    """because ..., weil ...: a verb-final clause behind its conjunction."""
    simple = words.split()[0] in ("while", "before", "when")
    return joined(linked(d, *words.split()), verb_final(random_clause(d, simple=simple)[0]), PAUSE)


def reported(d: Draft, content: Phrase) -> Phrase:
    """Anna said that ..., Anna sagte, dass ...: the content is verb-final already."""
    verb = d.pick(verbs_of("R", "person"))
    subject = some(d, "person", "nom") if d.chance(0.9) else linked(d, "we", "wir", "p")
    main = verb_second(clause(d, subject, verb, d.time, parts=([], [])))
    return joined(main, PAUSE, linked(d, *verb.objects.split()), content, PAUSE)


# --- pronouns -----------------------------------------------------------------------------------------------------------------


def random_scene(d: Draft, clauses: int) -> Scene:
    row = d.pick(PRONOUN_ROWS)
    verb, mode, objects, *_ = row
    genders = d.pick(["mf", "mn", "fm", "fn", "nm", "nf"])
    candidates = [select("strong" if verb in ("ziehen", "tragen") else "animal"), select(objects)]
    nouns = [d.pick([noun for noun in side if noun.gender == gender]) for side, gender in zip(candidates, genders, strict=True)]
    determiners = [d.pick(["the"] * 6 + definite_determiners(d, noun)) for noun in nouns]
    color = d.pick(["brown", "black", "white", "gray"]) if d.chance(0.2) else ""
    shape = "reported" if clauses == 3 else d.pick(["plain"] * 5 + ["front"] * 3 + ["subordinate first"] * 2)
    conjunctions = ["although obwohl"] if mode == "although" else ["because weil"] * 4 + ["since da"] * 2
    if mode != "although" and shape != "subordinate first":
        conjunctions += ["for denn"] * 2
    modal = mode == "not" and d.chance(0.25)
    return Scene(row, tuple(nouns), tuple(determiners), color, modal, d.pick(conjunctions), shape)


def pronoun_sentence(d: Draft, scene: Scene, adjective: str) -> tuple[Phrase, Marks]:
    d.time = "past"
    infinitive, mode, *_, of_subject = scene.row
    subject = noun_phrase(d, scene.nouns[0], "nom", scene.determiners[0], adjective=scene.color)
    thing = noun_phrase(d, scene.nouns[1], "acc", scene.determiners[1])
    tense = "could" if scene.modal else "past"
    c = clause(d, subject, ACCUSATIVE[infinitive], tense, mode == "not", parts=([thing], []))
    which = 0 if adjective in of_subject.split() else 1
    form = PRONOUNS[scene.nouns[which].gender]
    it = linked(d, "it", form)
    reason = copula(d, it, adjective, "past", "too" if mode == "not" else "very")
    conjunction = linked(d, *scene.conjunction.split())
    if scene.conjunction == "for denn":
        dependent = joined(Phrase([COMMA], []), conjunction, verb_second(reason))
    else:
        dependent = joined(conjunction, verb_final(reason))
    marks = Marks(it.en[0].links[0], (subject, thing)[which].head, (thing, subject)[which].head, form)
    if scene.shape == "subordinate first":
        return main_after(dependent, c), marks
    if scene.shape == "reported":
        return reported(d, joined(verb_final(c), PAUSE, dependent)), marks
    front = time_phrase(d, at_end=mode == "not") if scene.shape == "front" else None
    return joined(verb_second(c, front), PAUSE, dependent, PAUSE), marks
