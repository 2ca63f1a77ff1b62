"""Filters that compare the two sides of a pair: what should be the same in both languages."""

import re
import unicodedata

__all__ = ["currencies_agree", "is_translated", "numbers_agree", "urls_agree"]

_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"[0-9]+")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
# What separates thousands: 1,234 and 1.234, 1'234, 1 234.
_THOUSANDS = re.compile(r"(?<=\d)[.,'\u2019\u00a0\u202f\u2009](?=\d{3}(?!\d))")
_THOUSANDS_OR_SPACE = re.compile(r"(?<=\d)[ .,'\u2019\u00a0\u202f\u2009](?=\d{3}(?!\d))")
_OFTEN_WORD = re.compile(r"[1-9]|1[0-2]|[1-9]0+")  # two | 2, forty | 40, zehntausend | 10,000
_CLOCK = re.compile(r"\d:\d\d|\d\s?[ap]\.?m\b|\bUhr\b|o.clock", re.IGNORECASE)

_URL = re.compile(r"(?:https?|ftp)://(?:www\.)?([\w-]+[.:/]\S+)|www\.(\S+)|([\w.+-]+@[\w-]+(?:\.[\w-]+)+)", re.IGNORECASE)
_AROUND_URL = ".,:;!?'\"()[]{}<>/\u2019\u201c\u201d\u201e\u00ab\u00bb\u2026"

# The sign of a currency, and what else a text may have for it: names in English and German, ISO codes.
_CURRENCIES = {
    "$": r"dollar|peso|\busd\b",
    "\u20ac": r"euro|\beur\b",
    "\u00a3": r"pound|pfund|sterling|\bgbp\b",
    "\u00a5": r"\byen\b|yuan|renminbi|\b(?:jpy|cny)\b",
    "\u20b9": r"rupee|rupie|\binr\b",
    "\u20bd": r"rou?ble|rubel|\brub\b",
    "\u20a9": r"\bwon\b|\bkrw\b",
    "\u20ba": r"\blira\b|\btry\b",
    "\u20aa": r"sche[ck]el|shekel|\bils\b",
    "\u20b4": r"hryvnia|hrywnja|griwna|\buah\b",
}
_SIGN = re.compile(r"([{0}])(?=\s?\d)|(?<=\d)\s?([{0}])(?!\w)".format("".join(_CURRENCIES)))  # of an amount
_ANY_SIGN = re.compile(f"[{''.join(_CURRENCIES)}]")
_NAMES = {sign: re.compile(names, re.IGNORECASE) for sign, names in _CURRENCIES.items()}


def numbers_agree(source: str, target: str) -> bool:
    """Whether the sides have the same numbers, in any order and number of times. What separates thousands is left out, a comma
    or full stop before other digits parts two numbers, and zeros do not count, alone or at a number's start. What is often a
    word may be missing on one side: numbers up to 12, and those of one digit and zeros. Where a time of day is told, an hour
    and the one 12 later are the same.

    >>> numbers_agree("It costs 1,234.50 on 5/12/2010.", "Am 5.12.2010 kostet es 1.234,50.")
    True
    >>> numbers_agree("at 8:00, 2 dogs", "um 8 Uhr, zwei Hunde"), numbers_agree("at 5:15 pm", "um 17.15 Uhr")
    (True, True)
    >>> numbers_agree("page 12", "Seite 21"), numbers_agree("It costs 35.", "Es kostet etwas.")
    (False, False)

    What is counted in another way is not seen as the same: `3:30` and `halb vier`, `2.5 million` and `2.500.000`, `1990s` and
    `90er`, 25 and `fünfundzwanzig`, miles and kilometres.
    """
    if not (_DIGIT.search(source) or _DIGIT.search(target)):
        return True
    return any(_same_numbers(source, target, separator) for separator in (_THOUSANDS, _THOUSANDS_OR_SPACE))


def urls_agree(source: str, target: str) -> bool:
    """Whether the sides have the same addresses, on the web (with `http://` or `www.`, which are not compared) and of e-mail,
    case and punctuation around them aside.

    >>> urls_agree("See http://a.org/B.", "(Siehe http://a.org/B)"), urls_agree("Mail me@a.org", "Schreiben Sie")
    (True, False)
    """
    both = source + target
    if "@" not in both and "://" not in both and "www." not in both.lower():
        return True
    return _addresses(source) == _addresses(target)


def currencies_agree(source: str, target: str) -> bool:
    """Whether a currency whose sign is at a number on one side is on the other, as its sign, its ISO code, or its name in
    English or German.

    >>> currencies_agree("$5", "5 Dollar"), currencies_agree("$5", "5 \u20ac")
    (True, False)
    """
    return _has_currencies(source, target) and _has_currencies(target, source)


def is_translated(source: str, target: str) -> bool:
    """False where the target is the source, all but letters aside, and has three words or more that do not begin with a
    capital: names, numbers and titles are often the same in both languages (on copies, Khayrallah and Koehn 2018,
    arXiv 1805.12282).

    >>> is_translated("Click here to start", "Click here to start."), is_translated("Hotel Berlin", "Hotel Berlin")
    (False, True)
    """
    if source[:1] != target[:1] or _NO_LETTER.sub("", source) != _NO_LETTER.sub("", target):
        return True
    return len(_PLAIN_WORD.findall(source)) < _LEAST_COPIED


_LEAST_COPIED = 3
_PLAIN_WORD = re.compile(r"\b(?![A-Z])[^\W\d_]{2,}")
_NO_LETTER = re.compile(r"[\W\d_]+")


def _same_numbers(source: str, target: str, separator: re.Pattern[str]) -> bool:
    sides = _numbers(source, separator), _numbers(target, separator)
    more, less = sides[0] - sides[1], sides[1] - sides[0]
    if (more or less) and _CLOCK.search(f"{source} {target}"):
        more, less = _without_hours_of(more, sides[1]), _without_hours_of(less, sides[0])
    return not (more and less) and all(map(_OFTEN_WORD.fullmatch, more | less))


def _without_hours_of(numbers: set[str], others: set[str]) -> set[str]:
    """
    >>> sorted(_without_hours_of({"5", "17", "99"}, {"17", "9", "21"}))
    ['17', '99']
    """
    return {n for n in numbers if len(n) > 2 or not {str(int(n) + 12), str(int(n) - 12)} & others}


def _numbers(text: str, separator: re.Pattern[str]) -> set[str]:
    if not text.isascii():
        text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.digit(digit[0])), text)
    return {number.lstrip("0") for number in _DIGITS.findall(separator.sub("", text))} - {""}


def _addresses(text: str) -> set[str]:
    return {"".join(parts).strip(_AROUND_URL).lower() for parts in _URL.findall(text)}


def _has_currencies(text: str, of: str) -> bool:
    if not _ANY_SIGN.search(of):
        return True
    signs = {before or after for before, after in _SIGN.findall(of)}
    return all(sign in text or _NAMES[sign].search(text) for sign in signs)
