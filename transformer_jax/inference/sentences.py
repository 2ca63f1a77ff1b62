"""Where sentences end, and how a line becomes spans that a model of single sentences can translate."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Span", "split_line", "split_sentences"]

_OPENING = "\"'([{\u00ab\u00bb\u2018\u201a\u201c\u201e\u2039\u203a\u00bf\u00a1"
_CLOSING = "\"')\\]}\u00ab\u00bb\u2018\u2019\u201c\u201d\u2039\u203a"
_QUOTES = frozenset("\"'\u00ab\u00bb\u2018\u2019\u201c\u201d\u2039\u203a")
# What may end a sentence: its marks, quotes and brackets after them, and white space, which Chinese and Japanese do without.
_END = re.compile(
    rf"(?P<mark>[.!?\u2026]+)(?P<close>[{_CLOSING}]*)\s+(?=\S)"
    rf"|[\u3002\uff01\uff1f\uff61]+[{_CLOSING}\u300d\u300f\uff09]*\s*(?=\S)"
)
_START = re.compile(rf"[{re.escape(_OPENING)}\u2013\u2014-]*\s?(?P<word>\w*)(?P<after>\S?)")
_ACRONYM = re.compile(r"(?:\w{1,2}\.)+\w{1,2}")  # what is before the last dot of U.S., e.g., Ph.D., z.B.
_WORD = 100  # letters of the longest word that is looked at
_ROMAN = re.compile("[IVX]{2,}")

_TWO_LETTERS = dict(eng="en", deu="de", ger="de", fra="fr", fre="fr", spa="es", ita="it", nld="nl", dut="nl")
# Languages that write ordinal numbers with a dot: am 3. Oktober.
_ORDINALS = frozenset("cs da de et fi hr hu is lv nb nn no pl sk sl sr tr".split())
# Abbreviations that Moses' lists do not have.
_ABBREVIATIONS = {
    "en": (
        "Ave Blvd Ch Chap Co Dept Ed Eds Eq Eqs Est Fig Figs Inc Jr Ltd Mt Sec Sect Sept Univ Vol al chap co dept ed eds eq "
        "eqs esp est etc fig figs inc p sec sect vol"
    ),
    "de": (
        "Abb Abs Abt Apr Aug Bd Bde Bsp Dez Dipl Fa Feb Fr Hr Hrn Hrsg Ing Inh Jan Jh Jhd Jul Jun Kap Nov Okt Prov Sept Std "
        "Str Tab Tel Verf Ziff al bes dt einschl engl entspr erg franz geb gest inkl insb insbes jmd kath max min mind rd "
        "st\u00e4dt stellv tgl ugs urspr zus"
    ),
}
# Abbreviations that often end a sentence, ...
_FINAL = frozenset("Bros Corp Inc Jr Ltd Sr etc ff usf usw u.s.w a.m p.m".split())
# ... and abbreviations that never do, because what they introduce follows.
_INTRODUCING = frozenset("approx bspw bzgl bzw ca cf d.h e.g evtl ggf i.d.R i.e sog u.a v vgl viz vs z.B z.T zzgl".split())
# Words that have a capital letter at the start of a sentence and hardly elsewhere.
_STARTERS = {
    "en": (
        "A After All Although An And Another As At Because Before But By During Each Even For From He Her Here His How However "
        "If In It Its Later Many Most My Not Now On Once One Only Our She Since So Some Soon Still Such That The Their Then "
        "There These They This Those Though Thus To Today Under Until We What When Where Which While Who Why With Yet You Your"
    ),
    "de": (
        "Aber Alle Als Am An Auch Auf Aus Bei Beim Bis Da Dabei Damals Dann Danach Darauf Das Dem Den Denn Der Deshalb "
        "Die Dies Diese Dieser Dieses Doch Dort Du Durch Ein Eine Einem Einen Einer Er Erst Es F\u00fcr Gestern Heute "
        "Hier Ich Ihr Ihre Im Immer In Jede Jeder Jedes Jedoch Jetzt Kein Keine Man Manche Mein Meine Mit Nach Nachdem "
        "Nicht Noch Nun Nur Ob Obwohl Oder Sein Seine Seit Sie So Sp\u00e4ter Trotzdem \u00dcber Um Und Unser Unter Viele "
        "Vom Von Vor W\u00e4hrend Wann Warum Was Weil Wenn Wer Wie Wir Wo Zu Zum Zur"
    ),
}


class Span(NamedTuple):
    """A part of a line that is translated by itself."""

    text: str  # without white space at its ends
    gap: str = ""  # the white space between it and the next span; empty where a word was cut, and at the end
    cut: bool = False  # does its sentence go on in the next span?


class _Rules(NamedTuple):
    """What full stops mean in a language."""

    abbreviations: frozenset[str]  # words whose full stop ends no sentence
    before_digits: frozenset[str]  # words whose full stop ends no sentence where a number follows
    starters: frozenset[str]
    ordinals: bool


def split_sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, each with the white space after it: joined they are the text. A text without words is one.

    A sentence ends at a full stop, question or exclamation mark or ellipsis, and the quotes and brackets after it, where white
    space follows and then no small letter; in Chinese and Japanese without white space. A full stop ends none

    * after an abbreviation of Moses' list (Koehn et al. 2007; in sacremoses) or of ours for `language`, an acronym (U.S.,
      z. B.), an initial or, in languages that write them so, an ordinal number (am 3. Oktober, Ludwig XIV.); but it does where
      a word follows that has a capital letter at the start of a sentence alone (p.m. The);
    * after the number or letter of a list that the sentence begins with (1. Open the door.).

    In a text without capital letters small ones say nothing. `language` is a code of two or three letters (en, eng, en_US);
    where there is no list for it, the rest is as in English.

    >>> split_sentences("Mr. Smith came at 5 p.m. He left.  Why?")
    ['Mr. Smith came at 5 p.m. ', 'He left.  ', 'Why?']
    >>> split_sentences("Am 3. Oktober ist z. B. Berlin voll. Warum?", "de")
    ['Am 3. Oktober ist z. B. Berlin voll. ', 'Warum?']
    """
    ends = list(_ends(text, _rules(re.split("[-_]", language.lower())[0])))
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def split_line(
    text: str,
    count: Callable[[str], int],
    longest: int,
    *,
    split: str = "long",
    usual: int = 0,
    language: str = "en",
) -> list[Span]:
    """The spans of a line that are translated one by one; none of a blank line. Joined with their gaps they are the line
    without the white space at its ends.

    `split` is never, long or always. With `never` the line is one span. With `long` it is where it has at most `longest`
    tokens by `count`; else each span is as many whole sentences as have at most `usual` tokens together (0: `longest`), and
    at least one. With `always` each sentence is a span. A sentence of more than `longest` tokens is cut at spaces, and a word
    inside, into spans of at most `usual` tokens; one letter may be more.

    >>> split_line("A dog. A cat sleeps.  A cow", lambda text: len(text.split()), 5)
    [Span(text='A dog. A cat sleeps.', gap='  ', cut=False), Span(text='A cow', gap='', cut=False)]
    >>> [span.text for span in split_line("A dog. A cat", lambda text: len(text.split()), 5, split="always")]
    ['A dog.', 'A cat']
    >>> split_line("  ", len, 5)
    []
    """
    text = text.strip()
    if not text:
        return []
    if split == "never" or (split == "long" and count(text) <= longest):
        return [Span(text)]
    sentences, usual = split_sentences(text, language), min(usual or longest, longest)
    if split == "long":
        sentences = _join_short(sentences, count, usual)
    return [span for sentence in sentences for span in _cut(sentence, count, longest, usual)]


def _cut(text: str, count: Callable[[str], int], longest: int, usual: int) -> list[Span]:
    """A sentence, with the white space after it: whole, or where it has more than `longest` tokens cut into at most `usual`."""
    bare = text.rstrip()
    # One letter can be several tokens (bytes); it is translated however long it is.
    if len(bare) <= 1 or count(bare) <= longest:
        return [Span(bare, text[len(bare) :])]
    words = re.findall(r"\S+\s*", text)
    parts = _join_short(words, count, usual) if len(words) > 1 else [text[: len(bare) // 2], text[len(bare) // 2 :]]
    *before, last = (span for part in parts for span in _cut(part, count, usual, usual))
    return [*(span._replace(cut=True) for span in before), last]


def _join_short(units: list[str], count: Callable[[str], int], most: int) -> list[str]:
    """Neighbouring units joined as long as they have at most `most` tokens."""
    joined = units[:1]
    for unit in units[1:]:
        longer = joined[-1] + unit
        if count(longer.rstrip()) <= most:
            joined[-1] = longer
        else:
            joined.append(unit)
    return joined


def _ends(text: str, rules: _Rules) -> Iterator[int]:
    """Where sentences end, but for the last: each with the white space after it."""
    cased = text.lower() != text
    start = 0
    for end in _END.finditer(text):
        # No more than a word matters, whatever the length of the text.
        before, after = text[max(start, end.start() - _WORD) : end.start()], text[end.end() : end.end() + _WORD]
        if end["mark"] is None or _is_end(before, end["mark"], end["close"], after, cased, rules):
            start = end.end()
            yield start


def _is_end(before: str, mark: str, close: str, after: str, cased: bool, rules: _Rules) -> bool:
    """Does a sentence, of which `before` has come, end with `mark` and `close`, where `after` follows?"""
    next_word = _START.match(after)
    first = (next_word["word"] or next_word["after"])[:1]
    small = cased and first.islower() and not next_word["word"][1:2].isupper()  # iPhone
    if small or first in ".,;:!?\u2026%)":
        return False
    if mark != ".":
        return not before.endswith(("[", "("))  # not [...], which stands for what is left out
    word = before.split()[-1:] if before[-1:].strip() else []
    word = word[0].lstrip(_OPENING) if word else ""
    if not word:
        return bool(before.strip())
    if before.strip() == word and (word.isdecimal() or len(word) == 1 or _ROMAN.fullmatch(word)):
        return False  # the number of a list
    follows = next_word["word"]
    # A word that is written with a capital at the start of a sentence alone, such as The or Z.B.
    starts = (follows in rules.starters and next_word["after"] != ".") or (follows[1:] and _small(follows) in _INTRODUCING)
    if word.isdecimal() or _ROMAN.fullmatch(word):
        return not rules.ordinals or starts or (len(word) > 2 and word.isdecimal())
    if word in _INTRODUCING or _small(word) in _INTRODUCING:
        return False
    if _ACRONYM.fullmatch(word) or (len(word) == 1 and word.isalpha()) or word in rules.abbreviations:
        return starts or (word in _FINAL and not first.isdecimal()) or not _QUOTES.isdisjoint(close)
    # Hauptstr. 5: the name of a street and its number.
    return not (first.isdecimal() and (word in rules.before_digits or (rules.ordinals and word.endswith("str"))))


def _small(word: str) -> str:
    return word[:1].lower() + word[1:]


@functools.cache
def _rules(language: str) -> _Rules:
    from sacremoses.corpus import NonbreakingPrefixes

    language = _TWO_LETTERS.get(language, language)
    lists = NonbreakingPrefixes()
    listed = list(lists.words(language)) if language in lists.available_langs else []
    plain = {word for word in listed if "#" not in word and not word.isdecimal()}
    return _Rules(
        frozenset(plain | set(_ABBREVIATIONS.get(language, "").split())),
        frozenset(word.partition(" #")[0] for word in listed if "#NUMERIC_ONLY#" in word),
        frozenset(_STARTERS.get(language, "").split()),
        language in _ORDINALS,
    )
