"""What a score of the whole set hides: numbers and addresses that change, loops, lengths, very short lines."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import regex
from sacrebleu.metrics import BLEU

from transformer_jax.data.training_words import words_of
from transformer_jax.evaluation.metrics import check_lines, score_with

__all__ = ["Checks", "Copied", "ShortLines", "check", "emails_in", "emoji_in", "loops", "numbers_in", "urls_in"]

_SHORT = 3  # words of a short line
_GRAM = 4  # words of the groups whose number of occurrences tells of a loop
_URL = regex.compile(r"(?:\w+://|\bwww\.)[^\s<>\"\u201c\u201d\u201e\u00ab\u00bb]+", regex.IGNORECASE)
_EMAIL = regex.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = regex.compile(r"\d+(?:[.,:/'\u2019-]\d+)*")
_EMOJI = regex.compile(r"\p{Emoji_Presentation}|\ufe0f")


@dataclasses.dataclass(frozen=True)
class Copied:
    """How many of the source's items of a kind are in the translations unchanged."""

    kind: str  # numbers | URLs | e-mail addresses | emoji
    expected: int  # items of the sources; of numbers, those that the references have too
    found: int  # of these, in the translation of their line as they are
    share: float  # found / expected


@dataclasses.dataclass(frozen=True)
class ShortLines:
    """The lines of which the source has 1 to 3 words, separated by white space, that have a letter or a digit."""

    lines: int
    bleu: float | None  # of these lines, with the orders of n-grams that they have; None: there are none
    signature: str | None  # sacreBLEU's, of this BLEU


@dataclasses.dataclass(frozen=True)
class Checks:
    """What `check` counts in the translations of a test set."""

    copied: list[Copied]  # of the kinds that the set has
    looping: list[int]  # the lines, from 1, whose translations loop
    length_ratio: float  # words of the translations over words of the references, those of `words_of`
    short: ShortLines

    @property
    def notable(self) -> bool:
        """Whether the set has items to copy, or a translation loops: then a short report tells of it."""
        return bool(self.copied or self.looping)

    def as_text(self) -> str:
        """One line for a person.

        >>> check(["Er hat 3."], ["He has 3."], ["Er hat 3."]).as_text()
        'unchanged: numbers 100.0% of 1; 0 translations loop; length ratio 1.00; 1 line of 1 to 3 words, BLEU 100.00'
        """
        kinds = ", ".join(f"{each.kind} {each.share:.1%} of {each.expected:,}" for each in self.copied)
        looping, short = len(self.looping), self.short
        parts = [f"unchanged: {kinds}"] if kinds else []
        parts += [f"{looping} translation{' loops' if looping == 1 else 's loop'}", f"length ratio {self.length_ratio:.2f}"]
        if short.bleu is not None:
            parts.append(f"{short.lines} line{'s' * (short.lines != 1)} of 1 to {_SHORT} words, BLEU {short.bleu:.2f}")
        return "; ".join(parts)


def check(
    hypotheses: Sequence[str],
    source: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> Checks:
    """Counts what users complain of, over all lines; `tokenize` and `lowercase` are those of BLEU.

    Items are counted line by line, each as often as it is there. A number that the reference writes in another way (1,234.5 and
    1.234,5) or in words is not expected in the translation; URLs, e-mail addresses and emoji always are. Raises UserError
    unless there is one line of each for each reference.
    """
    check_lines(hypotheses, references, "translations")
    check_lines(source, references, "source lines")
    kinds = [("numbers", numbers_in), ("URLs", urls_in), ("e-mail addresses", emails_in), ("emoji", emoji_in)]
    copied = [_copied(kind, find, hypotheses, source, references) for kind, find in kinds]
    short = [i for i, line in enumerate(source) if 1 <= _real_words(line) <= _SHORT]
    bleu = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scored = score_with(bleu, [hypotheses[i] for i in short], [references[i] for i in short]) if short else None
    words, expected = (sum(len(words_of(line)) for line in lines) for lines in (hypotheses, references))
    return Checks(
        copied=[each for each in copied if each.expected],
        looping=[number for number, pair in enumerate(zip(hypotheses, references, strict=True), 1) if loops(*pair)],
        length_ratio=words / max(1, expected),
        short=ShortLines(len(short), scored and scored.value, scored and scored.signature),
    )


def numbers_in(line: str) -> list[str]:
    """The numbers of a line as they are written, outside of URLs and e-mail addresses: digits, and marks between two of them.

    >>> numbers_in("At 10:30 he paid 1,234.50 euros for 2 of https://example.org/7, on 2020-01-31.")
    ['10:30', '1,234.50', '2', '2020-01-31']
    """
    return _NUMBER.findall(_EMAIL.sub(" ", _URL.sub(" ", line)))


def urls_in(line: str) -> list[str]:
    """The URLs of a line, without the punctuation after them.

    >>> urls_in("See (https://example.org/a?b=1), or www.example.org.")
    ['https://example.org/a?b=1', 'www.example.org']
    """
    return [url.rstrip(".,;:!?'\u2019)]}\u2026") for url in _URL.findall(line)]


def emails_in(line: str) -> list[str]:
    """The e-mail addresses of a line.

    >>> emails_in("Write to anna.b+c@mail.example.org.")
    ['anna.b+c@mail.example.org']
    """
    return _EMAIL.findall(_URL.sub(" ", line))


def emoji_in(line: str) -> list[str]:
    """The emoji of a line, each with its tone of skin or its other parts: characters that are shown as pictures by themselves,
    or by the variation selector after them.

    >>> emoji_in("Ja 😂😂 \u00a9 \u2764\ufe0f")
    ['😂', '😂', '❤️']
    """
    return [cluster for cluster in regex.findall(r"\X", line) if _EMOJI.search(cluster)] if not line.isascii() else []


def loops(hypothesis: str, reference: str) -> bool:
    """Whether a translation repeats words as models do that do not come to an end, and the reference does not. Words are those
    of `words_of`, without regard to case. Either

    * a group of two or more words, one of them not a mark, stands twice in a row, or a word three times, or the translation is
      one word twice; and nothing of the kind is in the reference; or
    * the number of occurrences of the most frequent group of 4 words is larger than that of the reference, by at least 2
      (Raunak et al. 2021, arXiv 2104.06683, and Guerreiro et al. 2023, arXiv 2208.05309, who compare with the source).

    >>> [loops(line, "Hallo") for line in ("Hallo", "Hallo Hallo", "der Hund der Hund schläft", "sehr, sehr gut", "...")]
    [False, True, True, False, False]
    """
    words, expected = words_of(hypothesis.lower()), words_of(reference.lower())
    if _most_often(words) >= _most_often(expected) + 2:
        return True
    return _repeats(words) and not _repeats(expected)


def _most_often(words: Sequence[str]) -> int:
    groups = Counter(tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1))
    return max((count for group, count in groups.items() if any(map(_has_letter, group))), default=0)


def _repeats(words: Sequence[str]) -> bool:
    letters = list(map(_has_letter, words))
    if sum(letters) == 2 and len({word for word, has in zip(words, letters, strict=True) if has}) == 1:
        return True
    for size in range(1, len(words) // 2 + 1):
        same = 0  # words in a row that are those `size` places before
        for i in range(size, len(words)):
            same = same + 1 if words[i] == words[i - size] else 0
            if same >= (2 if size == 1 else size) and any(letters[i - size + 1 : i + 1]):
                return True
    return False


def _copied(
    kind: str,
    find: Callable[[str], list[str]],
    hypotheses: Sequence[str],
    source: Sequence[str],
    references: Sequence[str],
) -> Copied:
    expected = found = 0
    for hypothesis, line, reference in zip(hypotheses, source, references, strict=True):
        items = Counter(find(line))
        if kind == "numbers":
            items &= Counter(find(reference))
        if items:
            expected += items.total()
            found += (items & Counter(find(hypothesis))).total()
    return Copied(kind, expected, found, found / max(1, expected))


def _real_words(line: str) -> int:
    return sum(map(_has_letter, line.split()))


def _has_letter(word: str) -> bool:
    """Whether a word is more than marks: it has a letter or a digit."""
    return any(map(str.isalnum, word))
