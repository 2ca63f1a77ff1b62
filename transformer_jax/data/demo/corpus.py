"""The built-in English-German corpus: a small grammar that also knows its own word alignments and what each "it" refers to.

Every English sentence has exactly one translation. The words are in `lexicon.py`, their forms in `inflection.py`,
phrases and clauses in `grammar.py`, sentences (and what makes a pronoun hard) in `sentences.py`.

Alignment is by construction: words are built as pairs that share links. "did not" and "not" are linked with "nicht" or, with
"a" or nothing before the noun, with "kein"; all words of a verb with its particle or preposition with one another ("looked
at": "sah", "an"; "waited for": "wartete", "auf"); "in front of" with "vor";
"wanted to" with "wollte"; a contraction ("im") with the preposition and the article; in "the king's dog" (der Hund des
Königs) the article "der" with "dog". Punctuation belongs to its word. Every German word has at least one link.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformer_jax.data.demo.grammar import Draft, Phrase, Word
from transformer_jax.data.demo.inflection import PRONOUNS
from transformer_jax.data.demo.lexicon import NOUNS
from transformer_jax.data.demo.sentences import COMMA, ELEPHANT, Marks, pronoun_sentence, random_scene, sentence

__all__ = ["SPLITS", "Example", "Pronoun", "generate", "minimal_pairs", "pronoun_accuracy", "pronoun_baselines"]

TRAIN_WORDS = 20  # the longest source in training; `beyond` starts above it
LONG_WORDS = 18  # where the longest 5% of training begin
PRONOUN_SHARE = 0.24  # of the drawn sentences


class Recipe(NamedTuple):
    """How a split is drawn: from candidates with so many clauses, those of a length whose source falls into its buckets."""

    size: int
    buckets: range  # of 24; all but `beyond`, which no other can meet, have their own
    words: range = range(1, TRAIN_WORDS + 1)
    clauses: Sequence[int] = (1,) * 10 + (2,) * 6 + (3,) * 2
    pronoun_clauses: Sequence[int] = (2, 2, 2, 3)
    pronoun_share: float = PRONOUN_SHARE


RECIPES = {
    "train": Recipe(24_000, range(6, 24)),
    "dev": Recipe(500, range(0, 1)),
    "test": Recipe(1_000, range(1, 2)),
    # Few candidates, and fewer with a pronoun, are long enough: hence three buckets and a double share.
    "long": Recipe(500, range(3, 6), range(LONG_WORDS, TRAIN_WORDS + 1), (2, 3, 3), (3,), 2 * PRONOUN_SHARE),
    "beyond": Recipe(300, range(24), range(TRAIN_WORDS + 1, 1000), (4, 4, 5, 5, 6), (4, 4, 5, 5, 6)),
}
PAIRS_BUCKET = 2
SPLITS = tuple(RECIPES)  # train, dev, test, long, beyond


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
    size = RECIPES[split].size if size is None else size
    if size < 0:
        raise ValueError(f"size must not be negative, not {size}")
    examples: dict[str, Example] = {}
    candidates = _candidates(RECIPES[split], _random(split, seed))
    while len(examples) < size:
        source, phrase, marks = next(candidates)
        if source not in examples:
            examples[source] = _example(source, phrase, marks)
    return list(examples.values())


def minimal_pairs(size: int = 300, seed: int = 0) -> list[tuple[Example, Example]]:
    """Held-out pairs that differ in one adjective: "it" is the subject in the first, the object in the second.

    The nouns differ in gender, so the right pronouns do. The elephant that did not cross the street comes first.

    >>> [example.target for example in minimal_pairs(1)[0]][1]
    'Der Elefant überquerte die Straße nicht, weil sie zu breit war.'
    """
    rng, scene, adjectives = _random("pairs", seed), ELEPHANT, ("tired", "wide")
    pairs: dict[str, tuple[Example, Example]] = {}
    while len(pairs) < size:
        drafts = [pronoun_sentence(Draft(random.Random(0)), scene, adjective) for adjective in adjectives]
        sources = [_written(phrase.en) for phrase, _ in drafts]
        if _bucket(sources[0], *drafts[0]) == PAIRS_BUCKET and not pairs.keys() & set(sources):
            pairs[sources[0]] = tuple(_example(source, *draft) for source, draft in zip(sources, drafts, strict=True))
        d = Draft(rng)
        scene = random_scene(d, clauses=2)
        adjectives = (d.pick(scene.row[4].split()), d.pick(scene.row[3].split()))
    return list(pairs.values())


def _random(name: str, seed: int) -> random.Random:
    return random.Random(zlib.crc32(f"{name} {seed}".encode()))


def _candidates(recipe: Recipe, rng: random.Random) -> Iterator[tuple[str, Phrase, Marks | None]]:
    """Sources with what they are written from, without end; what the buckets leave out is not written in German."""
    while True:
        pronoun = rng.random() < recipe.pronoun_share
        options = recipe.pronoun_clauses if pronoun else recipe.clauses
        clauses = options[int(rng.random() * len(options))]
        phrase, marks = sentence(Draft(rng), clauses, pronoun)
        if len(phrase.en) - phrase.en.count(COMMA) in recipe.words:
            source = _written(phrase.en)
            if _bucket(source, phrase, marks) in recipe.buckets:
                yield source, phrase, marks


def _bucket(source: str, phrase: Phrase, marks: Marks | None) -> int:
    """0-23 from the source, without the deciding adjective: both readings of a pronoun sentence are held out together."""
    if marks:
        words = source.split()
        del words[_places(phrase.en, marks.it)[0] + 3]
        source = " ".join(words)
        if source == "The elephant did not cross the street because it was too":
            return PAIRS_BUCKET
    return zlib.crc32(source.encode()) % 24


def _written(words: list[Word]) -> str:
    """Words to text: commas go to the word before them, a capital at the start, a full stop at the end."""
    line = re.sub("( ,)+", ",", " ".join([word.text for word in words])).rstrip(",") + "."
    return line[0].upper() + line[1:]


def _places(words: list[Word], link: int) -> list[int]:
    """The positions of the words with a link; a comma is none of its own."""
    return [position for position, word in enumerate(_spoken(words)) if link in word.links]


def _spoken(words: list[Word]) -> list[Word]:
    return [word for word in words if word is not COMMA]


def _example(source: str, phrase: Phrase, marks: Marks | None) -> Example:
    by_link: dict[int, list[int]] = {}
    for j, (_, links) in enumerate(_spoken(phrase.de)):
        for link in links:
            by_link.setdefault(link, []).append(j)
    pairs = {(i, j) for i, (_, links) in enumerate(_spoken(phrase.en)) for link in links for j in by_link.get(link, ())}
    pronoun = None
    if marks:
        pronoun = Pronoun(*(_places(phrase.en, link)[0] for link in marks[:3]), by_link[marks.it][0], marks.form)
    return Example(source, _written(phrase.de), tuple(sorted(pairs)), pronoun)


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
        return PRONOUNS[NOUNS[words[place].strip(",.")].gender]

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
