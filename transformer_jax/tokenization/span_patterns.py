r"""Spans of text that must come out of a translation as they are, and how they are found.

| name | what it finds |
|---|---|
| `url` | `https://example.org/a?b=1`, `www.example.org`, without the punctuation that ends the sentence |
| `email` | `ann@example.org` |
| `number` | `7`, `1,234.56`, `10:30`, `2024-05-01`, with a sign before it; no digits of a word, as in `A5` or `5th` |
| `placeholder` | `{x}`, `{{x}}`, `${x}`, `%s`, `%(x)d`, `%1$s`, `$1`, elements that are empty such as `<x id="1"/>` |
| `emoji` | emoji, several in a row together |
| `code` | what stands between backticks, with them |
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import regex

from transformer_jax.errors import UserError
from transformer_jax.tokenization.placeholders import PLACEHOLDER_TEXT

__all__ = ["SPAN_PATTERNS", "FoundSpan", "SpanPatterns", "find_spans", "read_patterns"]

_URL_SIGN = r"""[^\s<>"`{}()\u201c\u201d\u201e\u00ab\u00bb]"""
_URL_GROUP = rf"\({_URL_SIGN}*\)|\{{{_URL_SIGN}*\}}"  # brackets that are closed
_EMOJI = (
    r"(?:\p{Regional_Indicator}{2}|[0-9#*]\ufe0f?\u20e3"
    r"|(?![\u00a9\u00ae\u2122])\p{Extended_Pictographic}(?:\ufe0f|\p{Emoji_Modifier})?[\U000e0020-\U000e007f]*"
    r"(?:\u200d\p{Extended_Pictographic}(?:\ufe0f|\p{Emoji_Modifier})?)*)"
)
# The built-in patterns, by their names. None takes more than linear time, whatever the text: a server gets any.
SPAN_PATTERNS = {
    "url": rf"(?<![\w@])(?:[A-Za-z][A-Za-z0-9+.\-]{{0,63}}+://|www\.)(?:{_URL_GROUP}|{_URL_SIGN})*(?:{_URL_GROUP}"
    r"""|[^\s<>"`{}()\u201c\u201d\u201e\u00ab\u00bb.,;:!?'\u2019\u2026\]*])""",
    "email": r"(?<![\w.+%\-])[\w+%\-][\w.+%\-]*@[\w\-]+(?:\.[\w\-]+)+(?!\w)",
    "number": r"(?<![\w.,:/\-][+\-\u2212])(?<!\w|\d[.,:/\-'\u2019\u00a0\u202f])(?:[+\-\u2212](?<!\w[+\-\u2212]))?"
    r"\d+(?:[.,:/\-'\u2019]\d+|[\u00a0\u202f]\d{3}(?!\d))*(?!\w)",
    "placeholder": r"\{\{[^{}\n]*\}\}|\$?\{[^{}\n]*\}|%\([^()\s]*\)[#0+\-]*+\d*+(?:\.\d+)?[diouxXeEfFgGcrsa]"
    r"|(?<![\d%])%(?:\d+\$)?[#0+\-]*+\d*+(?:\.\d+)?(?:hh|h|ll|l|L|z|j|t)?[diouxXeEfFgGcrsa@]|(?<![\w$])\$\d{1,2}(?![\d]|[.,]\d)"
    r"|<[A-Za-z][\w:.\-]*(?:\s[^<>\n]*)?/>",
    "emoji": f"{_EMOJI}+",
    "code": r"(?<!`)(`{1,63})(?!`)[^\n]*?[^`\n]\1(?!`)",
}


class FoundSpan(NamedTuple):
    """A span of a text."""

    start: int  # characters, from 0
    end: int
    name: str  # of its pattern: one of `SPAN_PATTERNS`, or the regular expression itself

    def of(self, text: str) -> str:
        """The span of its text."""
        return text[self.start : self.end]


class SpanPatterns(NamedTuple):
    """What is protected: names and regular expressions, compiled."""

    patterns: tuple[tuple[str, regex.Pattern[str]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names and the regular expressions."""
        return tuple(name for name, _ in self.patterns)


def read_patterns(values: str | Iterable[str]) -> SpanPatterns:
    r"""The patterns of a flag that is given any number of times. A value is names of `SPAN_PATTERNS` with commas between; from
    the first item on that is none of them, the rest of the value, commas and all, is one regular expression.

    Raises UserError for a value that is empty or looks like a name with a typing error, for what is not a regular expression,
    and for one that matches the empty text.

    >>> read_patterns(["url,email,[A-Z]{2,5}-[0-9]+", r"\bFirefox\b"]).names
    ('url', 'email', '[A-Z]{2,5}-[0-9]+', '\\bFirefox\\b')
    """
    names: dict[str, None] = {}
    for value in [values] if isinstance(values, str) else values:
        names |= dict.fromkeys(_items(value))
    return SpanPatterns(tuple((name, _compiled(name)) for name in names))


def find_spans(text: str, patterns: SpanPatterns, at: int = 0) -> list[FoundSpan]:
    """The spans of a text, from the character `at` on: the leftmost first, of those that begin together the longest, and the
    next after its end. A text that looks like a placeholder of the model is a span, too.

    >>> text = "Write to ann@example.org, or see https://example.org/7 (page 12)."
    >>> [span.of(text) for span in find_spans(text, read_patterns("number,email,url"))]
    ['ann@example.org', 'https://example.org/7', '12']
    """
    spans: list[FoundSpan] = []
    searched = [("placeholder of the model", PLACEHOLDER_TEXT), *patterns.patterns]
    following = [_next(pattern, text, at) for _, pattern in searched]
    while any(following):
        for number, (_, pattern) in enumerate(searched):
            if following[number] and following[number][0] < at:
                following[number] = _next(pattern, text, at)
        candidates = [(found[0], -found[1], number) for number, found in enumerate(following) if found]
        if candidates:
            start, end, number = min(candidates)
            spans.append(FoundSpan(start, -end, searched[number][0]))
            at = -end
    return spans


def _next(pattern: regex.Pattern[str], text: str, at: int) -> tuple[int, int] | None:
    match = next((match for match in pattern.finditer(text, at) if match.end() > match.start()), None)
    return match.span() if match else None


def _items(value: str) -> Sequence[str]:
    if not isinstance(value, str):
        raise TypeError(f"protect should be names and regular expressions, not {value!r:.40}")
    names, rest = [], value
    while rest:
        name, comma, after = rest.partition(",")
        if name.strip() not in SPAN_PATTERNS:
            break
        names.append(name.strip())
        rest = after
        if comma and not rest:
            raise UserError(f"--protect={value}: ends with a comma; name another pattern after it, or leave it out")
    if not value.strip():
        raise UserError(f"--protect is empty; expected names ({', '.join(SPAN_PATTERNS)}) or a regular expression")
    if not rest:
        return names
    near = difflib.get_close_matches(rest.split(",")[0].strip(), SPAN_PATTERNS, n=1, cutoff=0.75)
    if near and regex.fullmatch(r"[\w\s,]+", rest):
        raise UserError(f"--protect={value}: did you mean {near[0]}? to protect the text itself, write it as ({rest})")
    return [*names, rest]


def _compiled(name: str) -> regex.Pattern[str]:
    try:
        pattern = regex.compile(SPAN_PATTERNS.get(name, name))
    except regex.error as error:
        names = ", ".join(SPAN_PATTERNS)
        raise UserError(f"--protect={name}: is none of {names}, and not a regular expression ({error})") from None
    if pattern.fullmatch(""):
        raise UserError(f"--protect={name}: matches the empty text; expected a regular expression of one character or more")
    return pattern
