"""The languages of a server, and their names in English."""

import re
from collections.abc import Sequence

from transformer_jax.serving.service import LanguagePair

__all__ = ["base_code", "has_words", "language_name", "sources_of", "targets_of", "without_tags"]

_NAMES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fi": "Finnish",
    "fr": "French",
    "ga": "Irish",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "nb": "Norwegian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


def has_words(text: str) -> bool:
    """Is there a letter or a digit in a text? Otherwise there is nothing to translate, and a model would make something up.

    >>> has_words("route 66"), has_words("\U0001f600 ...")
    (True, False)
    """
    return any(map(str.isalnum, text))


def language_name(code: str) -> str:
    """The name of a language in English; its code where it is not known.

    >>> language_name("de"), language_name("xx")
    ('German', 'xx')
    """
    return _NAMES.get(code, code)


def base_code(code: str) -> str:
    """A code without the part that says which variant of the language it is, in small letters; what is no code as it is.

    >>> base_code("EN-US"), base_code("de"), base_code("Engl.")
    ('en', 'de', 'Engl.')
    """
    found = re.fullmatch(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]{2,8})?", code)
    return found[1].lower() if found else code


def sources_of(pairs: Sequence[LanguagePair], target: str | None = None) -> list[str]:
    """The languages that can be translated, into `target` if that is given, in alphabetical order."""
    return sorted({pair.source for pair in pairs if target in (None, pair.target)})


def targets_of(pairs: Sequence[LanguagePair], source: str | None = None) -> list[str]:
    """The languages that can be translated into, from `source` if that is given, in alphabetical order."""
    return sorted({pair.target for pair in pairs if source in (None, pair.source)})


def without_tags(text: str, markup: str) -> str:
    """Text for a detector of languages, which knows nothing of tags; for nothing else: it does not read them as browsers do.

    >>> without_tags("<p>the <b>dog</b></p>", "html").split()
    ['the', 'dog']
    """
    return re.sub(r"<[^<>]*>", " ", text) if markup else text
