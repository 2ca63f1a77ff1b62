"""Terms and what must translate them: a table that is compiled once and looked up in every line."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import STANDARD, iter_lines
from transformer_jax.tokenization.normalization import normalize

__all__ = ["CASES", "Terminology", "compiled", "read_terms"]

CASES = ("exact", "start", "ignore")  # see `Terminology`

_END = ""  # the key in a node of the tree for the terms that end there; no token is empty
_SAME = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2019": "'", "\u02bc": "'"})
_STOPS = frozenset(".!?:\u2026\u3002\uff01\uff1f")  # after them and white space a sentence may start
_QUOTES = frozenset("\"'\u201c\u201d\u201e\u201f\u2018\u201a\u201b\u00ab\u00bb\u2039\u203a")
_OPENING = frozenset("([{\u00bf\u00a1")
_TITLES = frozenset("Mr Mrs Ms Dr Prof St Hr Fr".split())  # the full stop after them, or after an initial, ends no sentence


class _Token(NamedTuple):
    text: str
    spaced: bool  # is white space before it?
    kind: str | None  # "word", "markup" (which may stand between the words of a term) or None


class Terminology:
    """Finds terms in text: whole words, leftmost and longest first, none inside another.

    Text is compared as `tokenization.normalization.normalize` leaves it (any white space is one space, soft hyphens and
    zero-width spaces are nothing, accents are composed), with typographic hyphens and apostrophes as `-` and `'`. A word ends
    before a character that is no letter, digit or mark: `elephant` is in "<b>elephant</b>", "_elephant_", "elephant-shaped" and
    "elephant's", but not in "elephants" or "elephant_count"; `don` is not in "don't". Tags and the signs of emphasis `*` and
    `_` may stand between the words of a term.

    `case` says which letters are the same:

    * `exact`: none but themselves
    * `start`: the small letter that a term begins with is also a capital one where a sentence starts (at the start of a line,
      after the end of a sentence or a colon, after an opening quotation mark or bracket)
    * `ignore`: small and capital ones, by Unicode's case folding

    A translation is always as it is written in the table.

    Attributes:
        counts: how often each term of the table has been found so far
        words: those of all terms

    Raises UserError if a term or a translation is blank, or two terms that are the same have different translations; TypeError
    where `terms` is no mapping.

    >>> terminology = Terminology({"beam": "Strahl", "beam search": "Strahlsuche", "end": "Ende"})
    >>> terminology.translations("Beam  search ends.")
    ['Strahlsuche']
    >>> terminology.unmatched()
    ['beam', 'end']
    """

    def __init__(self, terms: Mapping[str, str], case: str = "start"):
        if case not in CASES:
            raise UserError(f"--terminology_case={case} should be one of {', '.join(CASES)}")
        if not isinstance(terms, Mapping):
            raise TypeError(f"terms should be a dict from terms to their translations, not {terms!r:.40}")
        self._case = case
        self._root: dict[str, Any] = {}
        self.counts = dict.fromkeys(terms, 0)
        self.words = frozenset(word for term in terms for word in normalize(term).split())
        for term, translation in terms.items():
            self._add(term, translation)

    @property
    def fingerprint(self) -> str:
        """A hash of the table and of `case`."""
        return hashlib.blake2b(repr((self._case, self._root)).encode(), digest_size=16).hexdigest()

    def translations(self, text: str) -> list[str]:
        """The translations of the terms in `text`, each once, in the order in which the terms come; they are counted."""
        tokens = self._tokens(text)
        starts = _sentence_starts(tokens) if self._case == "start" else [False] * len(tokens)
        translations, i = {}, 0
        while i < len(tokens):
            match = self._longest(tokens, i, starts[i])
            if match is None:
                i += 1
                continue
            i, (terms, translation) = match
            translations[translation] = None
            for term in terms:
                self.counts[term] += 1
        return list(translations)

    def unmatched(self) -> list[str]:
        """The terms that have not been found, in the order of the table."""
        return [term for term, count in self.counts.items() if not count]

    def _add(self, term: str, translation: str) -> None:
        tokens, translation = self._tokens(term), translation.strip()
        if not tokens or not translation:
            raise UserError(f"terminology: {term!r} -> {translation!r}: a term and its translation should not be blank")
        node = self._root
        for i, token in enumerate(tokens):
            node = node.setdefault(_key(token.text, i > 0 and token.spaced), {})
        same, other = node.setdefault(_END, ([], translation))
        if other != translation:
            as_well = "" if same[0] == term else f", which is the same as {same[0]!r},"
            raise UserError(
                f"terminology: {term!r}{as_well} is to be both {other!r} and {translation!r} "
                f"(--terminology_case={self._case}); leave one of them"
            )
        same.append(term)

    def _tokens(self, text: str) -> list[_Token]:
        text = _normal(text)
        return _tokens(_composed(text.casefold()) if self._case == "ignore" else text)

    def _longest(self, tokens: Sequence[_Token], start: int, begins: bool) -> tuple[int, tuple[list[str], str]] | None:
        """The end of the longest term that begins at token `start`, and its entry. Of two of the same length it is the one
        whose first letter has the case that it has in the text."""
        first = tokens[start].text
        match = self._follow(tokens, start, first)
        small = first[0].lower() + first[1:]
        if begins and small != first:
            other = self._follow(tokens, start, small)
            match = max(filter(None, (match, other)), key=lambda found: found[0], default=None)
        return match

    def _follow(self, tokens: Sequence[_Token], start: int, first: str) -> tuple[int, tuple[list[str], str]] | None:
        if first not in self._root or (start and not tokens[start].spaced and tokens[start - 1].kind == "word"):
            return None  # or ".NET" would be in "ASP.NET"
        node, match, passed = self._root, None, False
        for i in range(start, len(tokens)):
            text, spaced, kind = tokens[i]
            child = node.get(first if i == start else _key(text, spaced or passed))
            if child is None and kind == "markup":
                passed = True
                continue
            if child is None:
                break
            node, passed = child, False
            ends = i + 1 == len(tokens) or tokens[i + 1].spaced or tokens[i + 1].kind != "word"
            if _END in node and ends:
                match = i + 1, node[_END]
        return match


def read_terms(path: str, case: str = "start") -> Terminology:
    """The terms of a file, plain or `.gz`: lines of a term, a tab and its translation.

    Blank lines are passed over, and so are comments: lines that begin with `#`. A term that begins with it is written `\\#`; a
    line `#term`, tab, translation could be either and is refused.
    Raises UserError naming the line for any other line, for a term that has another translation above, and as `Terminology`.
    """
    terms: dict[str, str] = {}
    name = "standard input" if path == STANDARD else path
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip() or _is_comment(line, f"{name}: line {number}"):
            continue
        term, _, translation = (part.strip() for part in line.removeprefix("\\" * line.startswith("\\#")).partition("\t"))
        if not term or not translation or "\t" in translation:
            raise UserError(f"{name}: line {number}: expected a term, a tab and its translation, found {line!r}")
        if terms.setdefault(term, translation) != translation:
            raise UserError(f"{name}: line {number}: {term!r} has another translation above; leave one of them")
    if not terms:
        raise UserError(f"{name}: has no terms, expected lines of a term, a tab and its translation")
    try:
        return Terminology(terms, case)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


@functools.lru_cache(maxsize=4)
def compiled(terms: tuple[tuple[str, str], ...]) -> Terminology:
    """The `Terminology` of a table's items; the same object for the same items."""
    return Terminology(dict(terms))


def _is_comment(line: str, where: str) -> bool:
    # "#dog <tab> Hund" is a term that somebody took out, or one that begins with #: either guess may be wrong.
    if re.match(r"#[^#\s]", line) and "\t" in line:
        raise UserError(f"{where}: {line!r} begins with #: write '# ' for a comment, or \\# for a term that begins with it")
    return line.startswith("#")


def _key(text: str, spaced: bool) -> str:
    return f" {text}" if spaced else text


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _normal(text: str) -> str:
    return normalize(text).translate(_SAME)


def _tokens(text: str) -> list[_Token]:
    """The words, pieces of markup and other characters of normal text.

    "big <b>dog</b>!"  ->  "big" (word), "<b>" (markup, spaced), "dog" (word), "</b>" (markup), "!"
    """
    return [_Token(match[0].lstrip(), match[0][0] == " ", match.lastgroup) for match in _pattern().finditer(text)]


@functools.cache
def _pattern() -> re.Pattern[str]:
    # Python's \w has no combining marks, which are left where there is no composed letter.
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M")
    letter = f"[^\\W_][{re.escape(marks)}]*"
    word = f"(?:{letter})+(?:_+(?:{letter})+)*(?:(?<=[nN])'[tT](?!{letter}))?"
    tag = r"</?[^\W\d_][\w.:-]*(?=[^<>]*>)(?:\s[^<>]*=[^<>]*)?\s?/?>"
    return re.compile(rf" ?(?:(?P<markup>{tag}|[*_]+)|(?P<word>{word})|\S)")


def _sentence_starts(tokens: Sequence[_Token]) -> list[bool]:
    """Whether a sentence may start at each token."""
    starts, begins, ended, opened = [], True, False, True
    for i, (text, spaced, kind) in enumerate(tokens):
        if ended and (spaced or kind == "markup"):
            begins, ended = True, False
        opened = text in _OPENING or (text in _QUOTES and (spaced or opened))
        begins = begins or opened
        starts.append(begins)
        if kind == "word":
            begins = ended = False
        elif text in _STOPS:
            ended = text != "." or not i or not _is_abbreviation(tokens[i - 1].text)
    return starts


def _is_abbreviation(word: str) -> bool:
    return word in _TITLES or (len(word) == 1 and word.isalpha())
