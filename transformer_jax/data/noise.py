r"""Noise: sentence pairs changed as people type them, for models that should translate such text, and for tests of how well.

Models that are trained on clean text break on natural and synthetic noise, and training on noised text repairs much of that
(Belinkov and Bisk 2018, "Synthetic and Natural Noise Both Break Neural Machine Translation", arXiv 1711.02173, whose noises
`swap` and `key` are among the `typos` here). Such noise is also drawn by OpusTrainer, with which the models of Firefox are
trained (Bogoychev et al. 2023, arXiv 2311.14838). A noise changes the source alone where the translation should be as without
it, and both sides where the translation should show it:

| noise | what it does | sides |
|---|---|---|
| `upper` | ALL LETTERS ARE CAPITALS | both |
| `title` | The First Letter Of Each Word Is A Capital | both |
| `lower` | all letters are small | source |
| `typos` | one word in ten has a letter more, a letter less, two exchanged, or one of a neighbouring key | source |
| `spaces` | at one word in ten a space is missing, is inside the word, or is before its punctuation mark | source |
| `quotes` | quotation marks of another style, and other characters for the apostrophe | source |
| `no_end_punctuation` | the marks at the end are missing | both |
| `emoji` | one to three emoji at the end or at the beginning, the same on both sides | both |

Words that must come out as they are (URLs, addresses, `{name}`, `%s`, `<b>`) are never changed, and numbers have no typos. A
letter is changed together with its accents: text is cut into grapheme clusters. Capitals are those of Unicode's general rules,
by which `ß` becomes `SS`; rules of single languages, such as that of the Turkish i, are not applied.
"""

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import regex

from transformer_jax.data.placeholders import placeholders
from transformer_jax.data.typing_errors import change_words, spaces, typos
from transformer_jax.errors import UserError

__all__ = [
    "DRAWN",
    "NOISES",
    "VERSION",
    "Noise",
    "capitalised",
    "change_pairs",
    "changes_target",
    "check_noises",
    "emoji",
    "lower",
    "no_end_punctuation",
    "quotes",
    "title",
    "upper",
]

VERSION = 1  # of these noises; stores of noised text have it in their names

Noise = Callable[[str, str, np.random.Generator], tuple[str, str]]  # source and target, and what they become

_BLOCK = 1000  # pairs whose chances are drawn together; which pairs have a noise depends on it
_END = regex.compile(r"\s*[.!?\u2026\u3002\uff01\uff1f]+\s*$")
_DOUBLE_QUOTES = regex.compile("[\"\u201c\u201d\u201e\u201f\u00ab\u00bb]|''")
_STYLES = (('"', '"'), ("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u00ab", "\u00bb"), ("\u00bb", "\u00ab"), ("''", "''"))
_APOSTROPHE = regex.compile("(?<=\\pL)['\u2019\u00b4`](?=\\pL)")
_APOSTROPHES = "'\u2019\u00b4`"
_HEART, _JOINER = "\u2764\ufe0f", "\u200d"
# Of those that are used most; a heart with its selector, a family, a tone of skin and flags for what is several characters.
_EMOJI = (
    *"😂🤣😍😭😊🙏💕🔥🥰😘👍😅😁👏🎉😢🥺🤔🙌💪😎👀😉💯🎂😆🤗😡✨😱💙💜😋🤩🎶😴🌹🙂😀😃😄🤦🤷👌💔🌞☕🍕🍺⚽🏆🐶🐱🚀🎁📷✅❌🥳😜🙄😏😔💀",
    _HEART,
    "\u263a\ufe0f",
    "\u2600\ufe0f",
    "\U0001f44d\U0001f3fd",
    "\U0001f64f\U0001f3fb",
    "\U0001f1e9\U0001f1ea",
    "\U0001f1ec\U0001f1e7",
    "\U0001f1ea\U0001f1fa",
    _JOINER.join("\U0001f468\U0001f469\U0001f467"),
    _JOINER.join(["\U0001f937", "\u2640\ufe0f"]),
)


def upper(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """Both sides in capitals, as people write them who mean it.

    >>> upper("See the street.", "Sieh die Straße.", np.random.default_rng(0))
    ('SEE THE STREET.', 'SIEH DIE STRASSE.')
    """
    return change_words(source, str.upper), change_words(target, str.upper)


def title(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """A capital at the beginning of each word of both sides, as in headings. Words that have a capital stay.

    >>> title("an iPhone for the 2nd dog", "ein iPhone für den 2. Hund", np.random.default_rng(0))
    ('An iPhone For The 2nd Dog', 'Ein iPhone Für Den 2. Hund')
    """
    return change_words(source, capitalised), change_words(target, capitalised)


def lower(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """The source without capitals; its translation has those that it should.

    >>> lower("I saw Anna.", "Ich sah Anna.", np.random.default_rng(0))
    ('i saw anna.', 'Ich sah Anna.')
    """
    return change_words(source, str.lower), target


def quotes(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """The source's double quotation marks in another style, and its apostrophes as another of the characters that are typed for
    them; the translation has the marks of its language. A line with an odd number of marks keeps them: they may be inches.

    >>> quotes('She said "yes".', "Sie sagte „ja“.", np.random.default_rng(1))
    ('She said «yes».', 'Sie sagte „ja“.')
    """
    marks = _DOUBLE_QUOTES.findall(source)
    if marks and len(marks) % 2 == 0:
        styles = [style for style in _STYLES if style != tuple(marks[:2])]
        new = iter(styles[random.integers(len(styles))] * (len(marks) // 2))
        source = _DOUBLE_QUOTES.sub(lambda _: next(new), source)
    found = _APOSTROPHE.search(source)
    if found:
        others = _APOSTROPHES.replace(found[0], "")
        source = _APOSTROPHE.sub(others[random.integers(len(others))], source)
    return source, target


def no_end_punctuation(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """Both sides without the marks at their end (. ! ? and the like), unless nothing else is there.

    >>> no_end_punctuation("Who is it?", "Wer ist das?!", np.random.default_rng(0))
    ('Who is it', 'Wer ist das')
    """
    return _END.sub("", source) or source, _END.sub("", target) or target


def emoji(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """The same emoji, one to three times, at the end of both sides (in one pair of five at the beginning), mostly with a space.

    >>> emoji("I am tired.", "Ich bin müde.", np.random.default_rng(0))
    ('😔 I am tired.', '😔 Ich bin müde.')
    """
    if not source.strip() or not target.strip():
        return source, target
    signs = _EMOJI[random.integers(len(_EMOJI))] * int(random.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))
    space = " " * (random.random() < 0.8)
    if random.random() < 0.2:
        return f"{signs}{space}{source}", f"{signs}{space}{target}"
    return f"{source}{space}{signs}", f"{target}{space}{signs}"


NOISES: dict[str, Noise] = {
    "no_end_punctuation": no_end_punctuation,
    "quotes": quotes,
    "typos": typos,
    "lower": lower,
    "title": title,
    "upper": upper,
    "spaces": spaces,
    "emoji": emoji,
}  # in the order in which a pair gets them: of capitals and small letters the last one is seen
# All that a source draws for each pair: placeholders after the noises, so that these never change one.
DRAWN: Mapping[str, Noise] = NOISES | {"placeholders": placeholders}
_OF_BOTH_SIDES = ("upper", "title", "no_end_punctuation", "emoji")


def changes_target(name: str) -> bool:
    """Whether a noise changes the target too, so that a translation should show it.

    >>> changes_target("upper"), changes_target("typos")
    (True, False)
    """
    return name in _OF_BOTH_SIDES


def check_noises(names: Iterable[str], where: str) -> None:
    """Raises UserError if one of the names, which were given as `where`, is none of `NOISES`."""
    for name in names:
        if name not in NOISES:
            near = difflib.get_close_matches(name, NOISES, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{where}: {name} is none of the noises {', '.join(NOISES)}{hint}")


def change_pairs(
    chances: Mapping[str, float], pairs: Iterable[tuple[str, str]], first: int = 0, sample: int = 0
) -> Iterator[tuple[str, str]]:
    """Each pair (source, target) with what is drawn for it of `DRAWN`, each of `chances` with its chance, independently. What
    is drawn is a function of the noise, the pair's number (the first has `first`) and the number of the sample: the same at
    each call, in any process, and whatever other noises there are.

    >>> list(change_pairs({"upper": 0.5}, [("a", "b")] * 4))
    [('A', 'B'), ('a', 'b'), ('A', 'B'), ('a', 'b')]
    """
    names = [name for name in DRAWN if chances.get(name, 0) > 0]
    for number, (source, target) in enumerate(pairs, first):
        row = number % _BLOCK
        for name in names:
            draws, keys = _draws(name, number // _BLOCK, sample)
            if draws[row] < chances[name]:
                random = np.random.Generator(np.random.Philox(key=int(keys[row])))
                source, target = DRAWN[name](source, target, random)
        yield source, target


@functools.lru_cache(maxsize=2 * len(DRAWN))
def _draws(name: str, block: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of a block, what is compared with a noise's chance, float64 [pairs], and a key of what else is drawn."""
    random = np.random.default_rng([VERSION, *name.encode(), block, sample])
    return random.random(_BLOCK), random.integers(1 << 63, size=_BLOCK)


def capitalised(word: str) -> str:
    """The word with a capital, unless it has one already.

    >>> [capitalised(word) for word in ("dog", "iPhone", "(an", "2nd")]
    ['Dog', 'iPhone', '(An', '2nd']
    """
    at = next((i for i, letter in enumerate(word) if letter.isalnum()), None)
    if at is None or any(letter.isupper() for letter in word):
        return word
    return word[:at] + word[at].title() + word[at + 1 :]
