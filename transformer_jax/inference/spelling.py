"""Words with a typing error, read as the training text spells them (`SearchOptions.spelling`)."""

import functools
from collections.abc import Collection, Iterator

from transformer_jax.data.source_words import SourceWords, word_of
from transformer_jax.data.typing_errors import is_verbatim, split_words
from transformer_jax.tokenization.normalization import visible

__all__ = ["Speller"]

_FEWEST_LETTERS, _MOST_LETTERS = 3, 30  # of a word that is corrected
_FEWEST, _SHARE = 2, 1e-5  # how often a text has the word that is read instead: so often, and this share of its words
_AT_START = 10  # times as often, for the first word of a sentence, which may be a name
_FOREIGN = 5  # more unknown words than so many, and than known ones: a line in another language
_KEPT = 1 << 16  # words that are remembered
_ENDS = (".", "!", "?", ":", "\u2026")  # of a sentence: a capital follows, in any language
_NOUNS_WITH_CAPITALS = "de", "lb"


class Speller:
    """Corrects the spelling of words that a training text does not have.

    Such a word becomes the most frequent one of the text that is one error away: a letter more, a letter less, two neighbours
    exchanged or a letter for another (Damerau 1964). It stays as it is

    * where there is no such word, or only one that the text has once, or less often than once in a hundred thousand words (ten
      thousand, where a sentence starts), or with a capital where this one has none
    * where it has fewer than three letters, capitals inside or digits
    * where it may be a name, with a capital that is not the sentence's; of languages whose nouns have one, these are corrected
    * in URLs, addresses and placeholders (`is_verbatim`)
    * in a line most of whose words are unknown, and more than five

    The first letter of a word is hardly ever the wrong one, an s at its end that is missing or too many is another form of the
    word, and an apostrophe or a hyphen is part of it: these are not corrected. Words that are `known` need not be in the text.

    >>> speller = Speller(SourceWords.of({"the": 90, "dog": 3, "sleeps": 2, "sleep": 4, "Bali": 8}), "en")
    >>> speller.corrected("Teh dgo slepes, balit, Tehran")
    'The dog sleeps, balit, Tehran'
    """

    def __init__(self, words: SourceWords, language: str, known: Collection[str] = ()):
        self._words, self._language = words, language
        self._known = {found[1].lower() for word in known for part in word.split() if (found := word_of(part))}
        self._fewest = max(_FEWEST, _SHARE * float(words.counts.sum()))
        self._has_names = language not in _NOUNS_WITH_CAPITALS
        self._is_known = functools.lru_cache(_KEPT)(self._find)
        self._spelled = functools.lru_cache(_KEPT)(self._spell)

    def knowing(self, words: Collection[str]) -> "Speller":
        """One for which these are words of the text, too."""
        return Speller(self._words, self._language, words)

    def corrected(self, text: str, begins: bool = True, kept: Collection[int] = ()) -> str:
        """The text with its words corrected, but for those whose numbers (`data.typing_errors.split_words`) are `kept`; their
        number stays. `begins` says whether its beginning is that of a sentence."""
        parts, words, starts = split_words(text), {}, begins
        for place in range(0, len(parts), 2):
            part = parts[place]
            seen = part if part.isascii() else visible(part)  # as a tokenizer that normalises sees it
            if place // 2 not in kept and not is_verbatim(part) and " " not in seen and (found := word_of(seen)):
                words[place] = seen, found, starts
            starts = part.endswith(_ENDS) if part else starts
        unknown = {place: word for place, word in words.items() if not self._is_known(word[1][1].lower())}
        if not len(words) / 2 < len(unknown) > _FOREIGN:
            for place, word in unknown.items():
                parts[place] = self._as_written(*word) or parts[place]
        return "".join(parts)

    def _as_written(self, seen: str, found: tuple[str, str, str], starts: bool) -> str:
        """The part `seen` of a text, in which a word was found, corrected; empty where it stays as it is."""
        before, word, after = found
        small, has_capital = word.lower(), word[0].isupper()
        may_be_name = has_capital and self._has_names
        if word[1:] != small[1:] or (may_be_name and not starts):
            return ""
        fewest = self._fewest * (_AT_START if may_be_name else 1)
        spelled = self._spelled(small, not has_capital or starts, has_capital and not self._has_names, fewest)
        if spelled == small:
            return ""
        if "\u2019" in seen[len(before) : len(seen) - len(after)]:
            spelled = spelled.replace("'", "\u2019")
        spelled = _with_capital(spelled) if has_capital else spelled
        return seen[: len(before)] + spelled + seen[len(seen) - len(after) :]

    def _find(self, word: str) -> bool:
        """Is this word, in small letters, in the text, with whatever capitals?"""
        return word in self._known or self._words.count([word, _with_capital(word), word.upper()]).any()

    def _spell(self, word: str, as_small: bool, as_capital: bool, fewest: float) -> str:
        """The spelling, in small letters, of a word that the text may have in small letters, with a capital, or either."""
        if not _FEWEST_LETTERS <= len(word) <= _MOST_LETTERS:
            return word
        near = sorted({other for other in self._one_error_away(word) if word + "s" != other != word.removesuffix("s")})
        counts = as_small * self._words.count(near) + as_capital * self._words.count(map(_with_capital, near))
        return near[counts.argmax()] if near and counts.max() >= fewest else word

    def _one_error_away(self, word: str) -> Iterator[str]:
        for i in range(1, len(word) + 1):
            before, after = word[:i], word[i:]
            is_letter = after[:1].isalpha()
            for letter in self._words.letters:
                yield before + letter + after
                if is_letter:
                    yield before + letter + after[1:]
            if is_letter:
                yield before + after[1:]
            if is_letter and after[1:2].isalpha():
                yield before + after[1] + after[0] + after[2:]


def _with_capital(word: str) -> str:
    return word[0].upper() + word[1:]
