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
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import regex

from transformer_jax.errors import UserError

__all__ = [
    "NOISES",
    "SHARE",
    "VERSION",
    "Noise",
    "change_pairs",
    "changes_target",
    "check_noises",
    "emoji",
    "lower",
    "no_end_punctuation",
    "quotes",
    "spaces",
    "title",
    "typos",
    "upper",
]

VERSION = 1  # of these noises; stores of noised text have it in their names
SHARE = 0.1  # of the words, how many have a typo

Noise = Callable[[str, str, np.random.Generator], tuple[str, str]]  # source and target, and what they become

_BLOCK = 1000  # pairs whose chances are drawn together; which pairs have a noise depends on it
_FEWEST_LETTERS = 3  # of a word that gets a typo
_VERBATIM = regex.compile(r"://|^www\.|\S@\S|^@\w|[{}<>\\_]|%\w", regex.IGNORECASE)
_END = regex.compile(r"\s*[.!?\u2026\u3002\uff01\uff1f]+\s*$")
_MARKS_BEFORE_SPACE = regex.compile(r"(?<=\pL)([,.;:!?\u2026]+)$")
_DOUBLE_QUOTES = regex.compile("[\"\u201c\u201d\u201e\u201f\u00ab\u00bb]|''")
_STYLES = (('"', '"'), ("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u00ab", "\u00bb"), ("\u00bb", "\u00ab"), ("''", "''"))
_APOSTROPHE = regex.compile("(?<=\\pL)['\u2019\u00b4`](?=\\pL)")
_APOSTROPHES = "'\u2019\u00b4`"
# The rows of a keyboard: a neighbour is the next in the row, or above or below. z and y are where English and where German
# keyboards have them. Umlauts are where German ones have them, and beside each other alone: English ones have none.
_ROWS = (("qwertyuiop\u00fc", "asdfghjkl\u00f6\u00e4", "zxcvbnm"), ("qwertzuiop\u00fc", "asdfghjkl\u00f6\u00e4", "yxcvbnm"))
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
    return _each_word(source, str.upper), _each_word(target, str.upper)


def title(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """A capital at the beginning of each word of both sides, as in headings. Words that have a capital stay.

    >>> title("an iPhone for the 2nd dog", "ein iPhone für den 2. Hund", np.random.default_rng(0))
    ('An iPhone For The 2nd Dog', 'Ein iPhone Für Den 2. Hund')
    """
    return _each_word(source, _capitalised), _each_word(target, _capitalised)


def lower(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """The source without capitals; its translation has those that it should.

    >>> lower("I saw Anna.", "Ich sah Anna.", np.random.default_rng(0))
    ('i saw anna.', 'Ich sah Anna.')
    """
    return _each_word(source, str.lower), target


def typos(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """Typing errors in the source: n words with letters have `SHARE` n of them, rounded up or down at random so that this is
    the mean. A word with an error has at least three letters and no digits, and keeps its first letter. Equally likely are a
    letter more (of a neighbouring key), a letter less, two letters exchanged, and one of a neighbouring key instead.

    >>> typos("Yesterday the elephant slept.", "Gestern schlief der Elefant.", np.random.default_rng(7))[0]
    'Yesterday the elephant slepg.'
    """
    words = _words(source)
    for place in _drawn_places(words, random, lambda i: _can_be_mistyped(words[i])):
        words[place] = _mistyped(words[place], random)
    return "".join(words), target


def spaces(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """Wrong spaces in the source, as many as `typos` has: the space after a word is missing, there is one inside, or one before
    the punctuation mark at its end; those that are possible are equally likely. Two spaces for one are no noise: a model sees
    one.

    >>> spaces("The old elephant slept.", "Der alte Elefant schlief.", np.random.default_rng(0))[0]
    'The old elephant slept .'
    """
    words = _words(source)
    for place in _drawn_places(words, random, lambda i: bool(_wrong_spaces(words, i))):
        kinds = _wrong_spaces(words, place)
        if not kinds:  # a neighbour has taken the space
            continue
        kind = kinds[random.integers(len(kinds))]
        if kind == "missing":
            words[place + 1] = ""
        elif kind == "before mark":
            words[place] = _MARKS_BEFORE_SPACE.sub(r" \1", words[place])
        else:
            clusters = _clusters(words[place])
            cut = int(random.integers(1, len(clusters)))
            words[place] = "".join([*clusters[:cut], " ", *clusters[cut:]])
    return "".join(words), target


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


NOISES: Mapping[str, Noise] = {
    "no_end_punctuation": no_end_punctuation,
    "quotes": quotes,
    "typos": typos,
    "lower": lower,
    "title": title,
    "upper": upper,
    "spaces": spaces,
    "emoji": emoji,
}  # in the order in which a pair gets them: of capitals and small letters the last one is seen
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
    """Each pair (source, target) with the noises that are drawn for it, each of `chances` with its chance, independently. What
    is drawn is a function of the noise, the pair's number (the first has `first`) and the number of the sample: the same at
    each call, in any process, and whatever other noises there are.

    >>> list(change_pairs({"upper": 0.5}, [("a", "b")] * 4))
    [('A', 'B'), ('a', 'b'), ('A', 'B'), ('a', 'b')]
    """
    names = [name for name in NOISES if chances.get(name, 0) > 0]
    for number, (source, target) in enumerate(pairs, first):
        row = number % _BLOCK
        for name in names:
            draws, keys = _draws(name, number // _BLOCK, sample)
            if draws[row] < chances[name]:
                random = np.random.Generator(np.random.Philox(key=int(keys[row])))
                source, target = NOISES[name](source, target, random)
        yield source, target


@functools.lru_cache(maxsize=2 * len(NOISES))
def _draws(name: str, block: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of a block, what is compared with a noise's chance, float64 [pairs], and a key of what else is drawn."""
    random = np.random.default_rng([VERSION, *name.encode(), block, sample])
    return random.random(_BLOCK), random.integers(1 << 63, size=_BLOCK)


def _words(line: str) -> list[str]:
    """Words and what is between them in turn: words are at even places."""
    return regex.split(r"(\s+)", line)


def _each_word(line: str, change: Callable[[str], str]) -> str:
    return "".join(word if _VERBATIM.search(word) else change(word) for word in _words(line))


def _capitalised(word: str) -> str:
    at = next((i for i, letter in enumerate(word) if letter.isalnum()), None)
    if at is None or any(letter.isupper() for letter in word):
        return word
    return word[:at] + word[at].title() + word[at + 1 :]


def _drawn_places(words: list[str], random: np.random.Generator, can: Callable[[int], bool]) -> list[int]:
    """The places of `SHARE` of the words, among those that `can`."""
    with_letters = sum(any(map(str.isalpha, word)) for word in words)
    count = int(SHARE * with_letters + random.random())
    places = filter(can, random.permutation(np.arange(0, len(words), 2)).tolist()) if count else []
    return list(itertools.islice(places, count))


def _clusters(word: str) -> list[str]:
    """Its characters as they are seen: a letter with its combining marks is one."""
    return regex.findall(r"\X", word)


def _is_of_letters(word: str) -> bool:
    return not _VERBATIM.search(word) and not any(map(str.isnumeric, word)) and any(map(str.isalpha, word))


def _can_be_mistyped(word: str) -> bool:
    return _is_of_letters(word) and sum(map(_is_letter, _clusters(word))) >= _FEWEST_LETTERS


def _is_letter(cluster: str) -> bool:
    return cluster[0].isalpha()


def _mistyped(word: str, random: np.random.Generator) -> str:
    clusters = _clusters(word)
    places = [i for i, cluster in enumerate(clusters) if _is_letter(cluster)][1:]
    place, kind = int(random.choice(places)), ("more", "less", "exchanged", "neighbour")[random.integers(4)]
    exchangeable = [i for i in places if i + 1 in places and clusters[i] != clusters[i + 1]]
    key = _key_beside(clusters[place], random)
    if kind == "less":
        del clusters[place]
    elif kind == "exchanged" and exchangeable:
        place = int(random.choice(exchangeable))
        clusters[place : place + 2] = clusters[place + 1], clusters[place]
    elif kind == "neighbour" and key != clusters[place]:
        clusters[place] = key
    else:
        clusters.insert(place + int(random.integers(2)), key)
    return "".join(clusters)


def _key_beside(cluster: str, random: np.random.Generator) -> str:
    """A letter whose key is beside; the same one where the keyboards here do not have it."""
    composed = unicodedata.normalize("NFC", cluster)
    small = composed.lower()
    beside = _NEIGHBOURS.get(small) or _NEIGHBOURS.get(unicodedata.normalize("NFD", small)[0])
    if not beside:
        return cluster
    key = beside[random.integers(len(beside))]
    return key.upper() if composed[0].isupper() else key


def _neighbours() -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for rows in _ROWS:
        for number, row in enumerate(rows):
            for i, key in enumerate(row):
                # A row begins half a key to the right of the one above: above are keys i and i + 1, below i - 1 and i.
                others = [(row, i - 1), (row, i + 1)]
                others += [(rows[number - 1], i), (rows[number - 1], i + 1)] if number else []
                others += [(rows[number + 1], i - 1), (rows[number + 1], i)] if number + 1 < len(rows) else []
                found.setdefault(key, set()).update(of[j] for of, j in others if 0 <= j < len(of))
    return {key: "".join(sorted(each for each in keys if each.isascii() or not key.isascii())) for key, keys in found.items()}


_NEIGHBOURS = _neighbours()


def _wrong_spaces(words: list[str], place: int) -> list[str]:
    """The kinds of wrong space that are possible at a word. Numbers and what must come out as it is are not joined or cut."""
    word, following = words[place], words[place + 2] if place + 2 < len(words) else ""
    if not _is_of_letters(word):
        return []
    possible = {
        "missing": following and words[place + 1] and _is_of_letters(following),
        "inside": len(_clusters(word)) > _FEWEST_LETTERS and all(map(_is_letter, _clusters(word))),
        "before mark": _MARKS_BEFORE_SPACE.search(word),
    }
    return [kind for kind, is_possible in possible.items() if is_possible]
