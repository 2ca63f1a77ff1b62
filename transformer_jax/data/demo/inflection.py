"""How the words of `lexicon.py` inflect: German nouns, articles, adjectives and verbs, and English verbs.

In all of it `case` is one of `CASES`, `gender` is m, f, n or p for the plural, `person` is 1s, 3s or p, and `tense` is past,
present, perfect or one of `MODALS`.
"""

from functools import cache

from transformer_jax.data.demo.lexicon import ADJECTIVES, Noun, Verb, with_s

CASES = ("nom", "acc", "dat", "gen")
PERSONS = ("1s", "3s", "p")
ARTICLES = {  # nominative, accusative, dative, genitive
    "the": {"m": "der den dem des", "f": "die die der der", "n": "das das dem des", "p": "die die den der"},
    "this": {"m": "er en em es", "f": "e e er er", "n": "es es em es", "p": "e e en er"},
    "a": {"m": "- en em es", "f": "e e er er", "n": "- - em es", "p": "e e en er"},
}
DETERMINERS = {"the": "", "this": "dies", "a": "ein", "no": "kein", "my": "mein", "our": "unser"}
ADJECTIVE_ENDINGS = {
    "weak": {"m": "e en en en", "f": "e e en en", "n": "e e en en", "p": "en en en en"},
    "mixed": {"m": "er en en en", "f": "e e en en", "n": "es es en en", "p": "en en en en"},
    "strong": {"m": "er en em en", "f": "e e er er", "n": "es es em en", "p": "e e en er"},
}
RELATIVE = {"m": "der den", "f": "die die", "n": "das das", "p": "die die"}
PRONOUNS = {"m": "er", "f": "sie", "n": "es"}
# German singular (first person as well), plural
MODALS = {
    "can": ("kann", "können"),
    "could": ("konnte", "konnten"),
    "must": ("muss", "müssen"),
    "wanted to": ("wollte", "wollten"),
}
AUXILIARIES = {"haben": ("habe", "hat", "haben"), "sein": ("bin", "ist", "sind")}


@cache
def noun_form(noun: Noun, case: str, plural: bool = False) -> str:
    """The German noun in a case and number.

    >>> from transformer_jax.data.demo.lexicon import NOUNS
    >>> noun_form(NOUNS["elephant"], "acc"), noun_form(NOUNS["child"], "gen"), noun_form(NOUNS["child"], "dat", plural=True)
    ('Elefanten', 'Kindes', 'Kindern')
    """
    if plural:
        return noun.plural + ("n" if case == "dat" and not noun.plural.endswith(("n", "s")) else "")
    weak = noun.gender == "m" and noun.genitive.endswith("n")
    return noun.genitive if case == "gen" or (weak and case != "nom") else noun.de


@cache
def determiner_form(determiner: str, gender: str, case: str) -> tuple[str, str]:
    """The German determiner ("" for none, a name for a possessor: Annas) and the adjective declension that it asks for.

    >>> determiner_form("the", "m", "dat"), determiner_form("no", "f", "acc"), determiner_form("Anna", "n", "nom")
    (('dem', 'weak'), ('keine', 'mixed'), ('Annas', 'strong'))
    """
    if determiner not in DETERMINERS:
        return (determiner + "s" if determiner else ""), "strong"
    table = ARTICLES[determiner if determiner in ("the", "this") else "a"]
    ending = table[gender].split()[CASES.index(case)].strip("-")
    return DETERMINERS[determiner] + ending, "weak" if determiner in ("the", "this") else "mixed"


@cache
def adjective_form(adjective: str, declension: str, gender: str, case: str) -> str:
    """The German for an English adjective before a noun.

    >>> adjective_form("dark", "mixed", "m", "nom"), adjective_form("high", "weak", "p", "acc")
    ('dunkler', 'hohen')
    """
    return ADJECTIVES[adjective][-1] + ADJECTIVE_ENDINGS[declension][gender].split()[CASES.index(case)]


def english_verb(verb: Verb, tense: str, person: str, negated: bool) -> list[tuple[str, str]]:
    """English verb words, each with its role: v the verb itself, a the auxiliary or modal, n the negation.

    >>> from transformer_jax.data.demo.lexicon import VERBS
    >>> english_verb(VERBS[5], "past", "3s", negated=True)
    [('did', 'n'), ('not', 'n'), ('sleep', 'v')]
    """
    base, past, participle = ([(word, "v") for word in form.split()] for form in verb.english)
    do_not = [("did" if tense in ("past", "wanted to") else "does" if person == "3s" else "do", "n"), ("not", "n")]
    if tense == "perfect":
        return [("has" if person == "3s" else "have", "a"), *(do_not[1:] if negated else []), *participle]
    if tense == "wanted to":
        return [*(do_not if negated else []), ("want" if negated else "wanted", "a"), ("to", "a"), *base]
    if tense in MODALS:
        return [(tense, "a"), *(do_not[1:] if negated else []), *base]
    if negated:
        return [*do_not, *base]
    if tense == "past":
        return past
    (word, role), *rest = base
    return [(word if person != "3s" else with_s(word), role), *rest]


def german_verb(verb: Verb, tense: str, person: str) -> tuple[tuple[str, str], list[tuple[str, str]], list[tuple[str, str]]]:
    """German verb words with roles: the finite verb in second place, what then ends the clause, and all of it verb-final.

    >>> from transformer_jax.data.demo.lexicon import VERBS
    >>> get_up = VERBS[7]
    >>> german_verb(get_up, "past", "3s")
    (('stand', 'v'), [('auf', 'v')], [('aufstand', 'v')])
    >>> german_verb(get_up, "can", "p")
    (('können', 'a'), [('aufstehen', 'v')], [('aufstehen', 'v'), ('können', 'a')])
    """
    infinitive, er_form, past, participle = verb.german
    which = PERSONS.index(person)
    if tense in ("past", "present"):
        plural_past = past + ("n" if past.endswith("e") else "en")
        present = (infinitive[:-1] if infinitive.endswith("en") else infinitive[:-1] + "e", er_form, infinitive)
        finite = present[which] if tense == "present" else plural_past if person == "p" else past
        return (finite, "v"), [(verb.prefix, "v")] if verb.prefix else [], [(verb.prefix + finite, "v")]
    form = AUXILIARIES[verb.auxiliary][which] if tense == "perfect" else MODALS[tense][person == "p"]
    rest = (verb.prefix + (participle if tense == "perfect" else infinitive), "v")
    return (form, "a"), [rest], [rest, (form, "a")]
