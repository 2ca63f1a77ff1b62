"""Numbers as the readers of a language write them: `1,234.56` in English is `1.234,56` in German."""

import re
from typing import NamedTuple

from transformer_jax.errors import UserError

__all__ = ["NUMBERS", "NumberRewriter", "number_rewriter"]

NUMBERS = ("keep", "locale")  # how the numbers of a line are written in its translation

_SPACE, _NARROW = "\u00a0", "\u202f"  # between the thousands; neither ends a line
# The decimal mark and what stands between the thousands, by the Common Locale Data Repository.
_MARKS = {
    **dict.fromkeys(("en", "ga", "he", "hi", "ja", "ko", "mt", "th", "zh"), (".", ",")),
    **dict.fromkeys(
        ("ca", "da", "de", "el", "es", "hr", "id", "is", "it", "nl", "pt", "ro", "sl", "sr", "tr", "vi"), (",", ".")
    ),
    **dict.fromkeys(("bg", "cs", "et", "fi", "hu", "lt", "lv", "nb", "no", "pl", "ru", "sk", "sv", "uk"), (",", _SPACE)),
    "fr": (",", _NARROW),
}
_THREE_LETTERS = {"eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "nld": "nl"}


class NumberRewriter(NamedTuple):
    """Writes the numbers of one language as those of another."""

    pattern: re.Pattern[str]  # a number of the source
    marks: tuple[str, str]  # the target's: decimal, and between thousands

    def rewritten(self, number: str) -> str:
        """The number as the target writes it; as it is where the source would not write it so (dates, versions, times).

        >>> rewriter = number_rewriter("en", "de")
        >>> [rewriter.rewritten(number) for number in ("1,234.56", "-0.5", "2024", "10:30", "1.2.3", "12,34")]
        ['1.234,56', '-0,5', '2024', '10:30', '1.2.3', '12,34']
        """
        match = self.pattern.fullmatch(number)
        if not match:
            return number
        whole = re.sub(r"[^\d]", self.marks[1], match["whole"])
        return f"{match['sign']}{whole}" + (f"{self.marks[0]}{match['part']}" if match["part"] else "")


def number_rewriter(source: str, target: str) -> NumberRewriter:
    """What writes numbers of the language `source` as those of `target`; codes as in `DataConfig` (en, eng, en_US). Raises
    UserError for a language of which it is not known how it writes numbers."""
    marks = []
    for code in (source, target):
        language = re.split("[-_]", code.lower())[0]
        language = _THREE_LETTERS.get(language, language)
        if language not in _MARKS:
            raise UserError(f"--numbers=locale: how {code} writes numbers is not known here; there are {', '.join(_MARKS)}")
        marks.append(_MARKS[language])
    decimal, group = marks[0]
    between = f"[{_SPACE}{_NARROW}]" if group in (_SPACE, _NARROW) else re.escape(group)
    whole = rf"(?P<whole>\d{{1,3}}(?:{between}\d{{3}})+|\d+)"
    return NumberRewriter(re.compile(rf"(?P<sign>[+\-\u2212]?){whole}(?:{re.escape(decimal)}(?P<part>\d+))?"), marks[1])
