"""Phrases that must occur in a translation, and the prefix that it must begin with: from text to the tokens that a search asks
for, and whether a text has them."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.tokenization.token_texts import Agreement, is_letter, may_precede_word
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["NO_PREFIX", "PHRASE_ENDS", "Phrase", "Prefix", "has_phrases", "read_phrases", "read_prefixes"]

PHRASE_ENDS = ("word", "anywhere")  # where a required phrase may end: at the end of a word, or inside one
# What stands before a phrase without a space: after a letter where the phrase is punctuation, else after punctuation.
_LETTERS, _SIGNS = "netrxa0", "(\u201e\u00bb\"-'/"


class Phrase(NamedTuple):
    """A phrase as it may occur in a translation.

    Its first and last words are whole: before it stands what may (`token_texts.may_precede_word`), and after it no letter
    (`token_texts.is_letter`). Words without any letter are punctuation and stand beside anything, as `?` and `(` in
    "Wo (hier)?".
    """

    text: str  # as the tokenizer gives it back: without spaces around it, one between two words
    after_space: np.ndarray  # int32 [tokens]: as a new word
    after_other: np.ndarray  # int32 [tokens]: without a space before it; empty where the vocabulary has no such spelling
    begins_word: bool  # not everything may stand before it
    ends_word: bool  # no letter may stand after it

    @property
    def size(self) -> int:
        """The tokens of its longer spelling."""
        return max(len(self.after_space), len(self.after_other))


class Prefix(NamedTuple):
    """What a translation begins with: first these tokens, then any that spell the text."""

    ids: np.ndarray  # int32 [tokens]
    ends_word: bool  # no letter may follow these
    text: bytes  # UTF-8; empty where the prefix ends with its tokens
    agreement: Agreement | None  # which tokens spell it; None where it is empty

    @property
    def size(self) -> int:
        """How many tokens it takes at most."""
        return len(self.ids) + len(self.text)


NO_PREFIX = Prefix(np.zeros(0, np.int32), False, b"", None)  # asks for nothing


def read_phrases(tokenizer: Tokenizer, rows: Sequence[Iterable[str]], ends: str = "word") -> list[list[Phrase]]:
    """The phrases of each row, each once; blank ones are left out. With `ends="anywhere"` letters may follow them.

    Raises UserError for another value of `ends`, and for a phrase with letters that the model does not know.
    """
    if ends not in PHRASE_ENDS:
        raise UserError(f"--phrase_ends={ends} should be one of {', '.join(PHRASE_ENDS)}")
    rows = [list(texts) for texts in rows]
    every = list(dict.fromkeys(text for texts in rows for text in texts))
    spelled = dict(zip(every, _spell(tokenizer, every, ends), strict=True))
    # Two texts may be one to the tokenizer, which makes one space of many.
    return [list({spelled[text].text: spelled[text] for text in texts if spelled[text].size}.values()) for texts in rows]


def read_prefixes(tokenizer: Tokenizer, texts: Sequence[str], complete_words: bool = False) -> list[Prefix]:
    """The prefixes of all rows; a blank one asks for nothing. No letter follows the last word directly, unless that is
    punctuation. With `complete_words` the last word may be unfinished, and the translation goes on where the text ends, after
    a letter or a space.

    Raises UserError for text with letters that the model does not know.
    """
    return [
        _prefix(tokenizer, text, ids, complete_words)
        for text, ids in zip(texts, tokenizer.encode_target(texts, add_eos=False), strict=True)
    ]


def has_phrases(text: str, phrases: Iterable[Phrase]) -> bool:
    """Does the text of a translation have all of them? One place may satisfy several.

    >>> def phrase(text):
    ...     return Phrase(text, np.array([5]), np.array([]), True, True)
    >>> has_phrases("Der Elefant.", [phrase("Elefant"), phrase("Der Elefant")]), has_phrases("Elefanten", [phrase("Elefant")])
    (True, False)
    """
    return all(_has_phrase(text, phrase) for phrase in phrases)


def _has_phrase(text: str, phrase: Phrase) -> bool:
    start = text.find(phrase.text)
    while start >= 0:
        before, after = text[:start][-1:], text[start + len(phrase.text) :][:1]
        begins = not (phrase.begins_word and before) or may_precede_word(before)
        if begins and not (phrase.ends_word and after and is_letter(after)):
            return True
        start = text.find(phrase.text, start + 1)
    return False


def _spell(tokenizer: Tokenizer, texts: list[str], ends: str) -> list[Phrase]:
    if not texts:
        return []
    ids = tokenizer.encode_target(texts, add_eos=False)
    for row in ids:
        _refuse_unknown(tokenizer, "phrase", row)
    texts = tokenizer.decode(ids)
    spaces = tokenizer.surfaces.has_spaces
    begin = [spaces and _has_letter(re.split(r"\s", text)[0]) for text in texts]
    end = [ends == "word" and spaces and _has_letter(re.split(r"\s", text)[-1]) for text in texts]
    others = _spell_after_other(tokenizer, texts, begin) if spaces else [ids[0][:0]] * len(texts)
    return [Phrase(*fields) for fields in zip(texts, ids, others, begin, end, strict=True)]


def _spell_after_other(tokenizer: Tokenizer, texts: list[str], begins_word: list[bool]) -> list[np.ndarray]:
    """Spellings without a space before them: what the tokenizer makes of them after one of several characters, from that
    character on, where its pieces do not reach over."""
    found = [np.zeros(0, np.int32)] * len(texts)
    for signs, letters in zip(_SIGNS, _LETTERS, strict=True):
        left = [i for i, text in enumerate(texts) if text and not len(found[i])]
        before = [signs if begins_word[i] else letters for i in left]
        alone = tokenizer.encode_target(before, add_eos=False)
        both = tokenizer.encode_target([sign + texts[i] for i, sign in zip(left, before, strict=True)], add_eos=False)
        for i, first, row in zip(left, alone, both, strict=True):
            rest = row[len(first) :]
            if tokenizer.surfaces.text(rest) == texts[i].encode() and tokenizer.unknown_id not in rest:
                found[i] = rest
    return found


def _prefix(tokenizer: Tokenizer, text: str, ids: np.ndarray, complete_words: bool) -> Prefix:
    if not len(ids):
        return Prefix(ids, False, b"", None)
    _refuse_unknown(tokenizer, "prefix", ids)
    surface = tokenizer.surfaces.text(ids)
    spelled = surface.decode("utf-8", errors="replace")
    if not complete_words:
        return Prefix(ids, tokenizer.surfaces.has_spaces and _has_letter(re.split(r"\s", spelled)[-1]), b"", None)
    if text[-1].isspace() and not spelled[-1].isspace():
        surface += b" "
    last = max(surface.rfind(b" "), 0)  # the last word with the space before it
    ends = np.cumsum(tokenizer.surfaces.sizes[ids])
    whole = int(np.searchsorted(ends, last, side="right"))
    rest = surface[ends[whole - 1] if whole else 0 :]
    agreement = tokenizer.surfaces.agreement(rest)
    if agreement is None:
        raise UserError(f"prefix {text}: the model has no pieces that spell it")
    return Prefix(ids[:whole], False, rest, agreement)


def _refuse_unknown(tokenizer: Tokenizer, what: str, ids: np.ndarray) -> None:
    if tokenizer.unknown_id in ids:
        raise UserError(f"{what} {' '.join(tokenizer.pieces(ids))}: has letters that the model does not know")


def _has_letter(word: str) -> bool:
    return any(map(is_letter, word))
