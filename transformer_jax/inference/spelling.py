"""Words with a typing error, read as the training text spells them (`SearchOptions.spelling`)."""

import functools
from collections.abc import Collection, Iterator

from transformer_jax.data.source_words import SourceWords, word_of
from transformer_jax.data.typing_errors import is_verbatim, split_words
from transformer_jax.tokenization.normalization import visible

__all__ = ["Speller"]

_FEWEST_LETTERS, _MOST_LETTERS = 3, 30  # of a word that is corrected
_FEWEST, _SHARE = 2, 1e-5  # how often a text has the word that is read instead: so often, and this share of its words
_KEPT = 1 << 16  # words whose correction is remembered
_ENDS = (".", "!", "?", ":", "\u2026")  # of a sentence: a capital follows, in any language
_NOUNS_WITH_CAPITALS = "de", "lb"


class Speller:
    """Corrects the spelling of words that a training text does not have.

    Such a word becomes the most frequent one of the text that is one error away: a letter more, a letter less, two neighbours
    exchanged or a letter for another (Damerau 1964). It stays as it is where there is no such word, or only one that the text
    has once, or less often than once in a hundred thousand words, or with a capital where this one has none; where it has fewer
    than three letters, capitals inside or digits; where it is a name, with a capital that is not the sentence's (but for German
    nouns); and in URLs, addresses and placeholders (`is_verbatim`). The first letter of a word is hardly ever
    the wrong one, and an s at its end that is missing or too many is another form of the word: neither is corrected.

    >>> speller = Speller(SourceWords.of({"the": 9, "dog": 3, "sleeps": 2, "sleep": 4, "Bali": 8}), "en")
    >>> speller.corrected("Teh dgo slepes, balit, Tehran")
    'The dog sleeps, balit, Tehran'
    """

    def __init__(self, words: SourceWords, language: str):
        self._words = words
        self._fewest = max(_FEWEST, _SHARE * float(words.counts.sum()))
        self._has_names = language not in _NOUNS_WITH_CAPITALS
        self._spelled = functools.lru_cache(_KEPT)(self._spell)

    def corrected(self, text: str, begins: bool = True, kept: Collection[int] = ()) -> str:
        """The text with its words corrected, but for those whose numbers (`data.typing_errors.split_words`) are `kept`.
        `begins` says whether its beginning is that of a sentence."""
        parts = split_words(text)
        for place in range(0, len(parts), 2):
            part = parts[place]
            if place // 2 in kept or is_verbatim(part):
                continue
            seen = part if part.isascii() else visible(part)  # the words were counted so
            if found := word_of(seen):
                before, word, after = found
                starts = begins if place == 0 else parts[place - 2].endswith(_ENDS)
                spelled = self._as_written(word, starts)
                parts[place] = part if spelled == word else before + spelled + after
        return "".join(parts)

    def _as_written(self, word: str, starts: bool) -> str:
        small, has_capital = word.lower(), word[0].isupper()
        if word[1:] != small[1:] or (has_capital and self._has_names and not starts):
            return word
        spelled = self._spelled(small, not has_capital or starts, has_capital and not self._has_names)
        if spelled == small:
            return word
        return _with_capital(spelled) if has_capital else spelled

    def _spell(self, word: str, as_small: bool, as_capital: bool) -> str:
        """The spelling, in small letters, of a word that the text may have in small letters, with a capital, or either."""
        if not _FEWEST_LETTERS <= len(word) <= _MOST_LETTERS or self._words.count([word, _with_capital(word)]).any():
            return word
        near = sorted({other for other in self._one_error_away(word) if word + "s" != other != word.removesuffix("s")})
        counts = as_small * self._words.count(near) + as_capital * self._words.count(map(_with_capital, near))
        return near[counts.argmax()] if near and counts.max() >= self._fewest else word

    def _one_error_away(self, word: str) -> Iterator[str]:
        for i in range(1, len(word) + 1):
            before, after = word[:i], word[i:]
            for letter in self._words.letters:
                yield before + letter + after
                yield before + letter + after[1:]
            yield before + after[1:]
            yield before + after[1:2] + after[:1] + after[2:]


def _with_capital(word: str) -> str:
    return word[0].upper() + word[1:]
