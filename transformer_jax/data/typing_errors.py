"""Typing errors: wrong letters and wrong spaces in words."""

import itertools
import unicodedata
from collections.abc import Callable

import numpy as np
import regex

__all__ = ["SHARE", "change_words", "is_verbatim", "spaces", "split_words", "typos", "word_number"]

SHARE = 0.1  # of the words, how many have a typo

_FEWEST_LETTERS = 3  # of a word that gets a typo
_VERBATIM = regex.compile(r"://|^www\.|\S@\S|^@\w|[{}<>\\_]|%\w", regex.IGNORECASE)
_MARKS_BEFORE_SPACE = regex.compile(r"(?<=\pL)([,.;:!?\u2026]+)$")
# The rows of a keyboard: a neighbour is the next in the row, or above or below. z and y are where English and where German
# keyboards have them. Umlauts are where German ones have them, and beside each other alone: English ones have none.
_ROWS = (("qwertyuiop\u00fc", "asdfghjkl\u00f6\u00e4", "zxcvbnm"), ("qwertzuiop\u00fc", "asdfghjkl\u00f6\u00e4", "yxcvbnm"))


def typos(source: str, target: str, random: np.random.Generator) -> tuple[str, str]:
    """Typing errors in the source: n words with letters have `SHARE` n of them, rounded up or down at random so that this is
    the mean. A word with an error has at least three letters and no digits, and keeps its first letter. Equally likely are a
    letter more (of a neighbouring key), a letter less, two letters exchanged, and one of a neighbouring key instead.

    >>> typos("Yesterday the elephant slept.", "Gestern schlief der Elefant.", np.random.default_rng(7))[0]
    'Yesterday the elephant slepg.'
    """
    words = split_words(source)
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
    words = split_words(source)
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


def is_verbatim(word: str) -> bool:
    """Whether a word must come out as it is: a URL, an address, a placeholder, a tag.

    >>> [word for word in ("https://example.org", "a@b.de", "{name}", "%s", "<b>", "dog.") if not is_verbatim(word)]
    ['dog.']
    """
    return bool(_VERBATIM.search(word))


def split_words(line: str) -> list[str]:
    """Words and what is between them in turn: words are at even places.

    >>> split_words("a  dog")
    ['a', '  ', 'dog']
    """
    return regex.split(r"(\s+)", line)


def word_number(line: str, place: int) -> int:
    """The number, from 0, of the word of `split_words` in which the character at this place is, or before which, if it is white
    space.

    >>> word_number("a  dog", 0), word_number("a  dog", 1), word_number("a  dog", 4)
    (0, 1, 1)
    """
    return len(split_words(line[: place + 1])) // 2


def change_words(line: str, change: Callable[[str], str]) -> str:
    """The line with each of its words changed, but for those that must come out as they are.

    >>> change_words("to  a@b.de now", str.upper)
    'TO  a@b.de NOW'
    """
    return "".join(word if is_verbatim(word) else change(word) for word in split_words(line))


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
    return not is_verbatim(word) and not any(map(str.isnumeric, word)) and any(map(str.isalpha, word))


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
