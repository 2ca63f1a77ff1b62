"""The entries of a glossary as DeepL's API has them: lines of a term and its translation, with tabs or commas between."""

import csv
import io
import itertools
import unicodedata
from collections.abc import Iterator, Mapping

from transformer_jax.errors import UserError
from transformer_jax.inference.terminology import Terminology
from transformer_jax.serving.errors import BadRequest
from transformer_jax.serving.languages import base_code
from transformer_jax.serving.service import LanguagePair

__all__ = ["DetailedBadRequest", "compiled_entries", "read_entries", "write_entries"]

_MAX_TERM_BYTES = 1024


class DetailedBadRequest(BadRequest):
    """A BadRequest with a general sentence, and one that says more: `message` and `detail` of DeepL's error bodies."""

    def __init__(self, message: str, detail: str):
        super().__init__(message)
        self.detail = detail


def read_entries(text: str, form: str, pair: LanguagePair) -> dict[str, str]:
    r"""The terms with their translations, in their order. Blank lines are passed over.

    A line of CSV may have two more columns, codes of languages: lines of another pair than `pair` are passed over too.
    Raises DetailedBadRequest for a line of another form, for a term that is there twice, is empty, has control characters or
    more than 1024 bytes, and where there are no entries.

    >>> read_entries("dog\tHund\n", "tsv", LanguagePair("en", "de"))
    {'dog': 'Hund'}
    """
    entries: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, (term, translation) in enumerate(_tsv(text) if form == "tsv" else _csv(text, pair)):
        for part, what in ((term, "term"), (translation, "translation")):
            _check(part, f"The {what} of the entry with the index {number}")
        if term in entries:
            raise _invalid(f"Key with the index {number} duplicates key with the index {numbers[term]}")
        entries[term], numbers[term] = translation, number
    if not entries:
        raise DetailedBadRequest("Bad request", "Missing or invalid argument: entries")
    return entries


def write_entries(entries: Mapping[str, str]) -> str:
    """The entries with tabs between, as DeepL's API returns them."""
    return "\n".join(f"{term}\t{translation}" for term, translation in entries.items())


def compiled_entries(entries: Mapping[str, str]) -> Terminology:
    """The entries as a terminology. Raises DetailedBadRequest where two terms that are the same to it have two translations."""
    try:
        return Terminology(entries)
    except UserError as error:
        raise _invalid(str(error)) from None


def _tsv(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(filter(str.strip, text.splitlines())):
        term, separator, translation = line.partition("\t")
        if not separator or "\t" in translation.strip():
            raise _invalid(f"Key with the index {number} should have one tab between the term and its translation")
        yield term.strip(), translation.strip()


def _csv(text: str, pair: LanguagePair) -> Iterator[tuple[str, str]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    for number in itertools.count(1):
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise _invalid(f"Line {rows.line_num or number} is no CSV: {error}") from None
        if row is None:
            return
        if not any(map(str.strip, row)):
            continue
        if len(row) not in (2, 4):
            raise _invalid(f"Line {rows.line_num} has {len(row)} columns, expected a term and its translation")
        if len(row) == 2 or tuple(base_code(code.strip()) for code in row[2:]) == pair:
            yield row[0].strip(), row[1].strip()


def _check(text: str, what: str) -> None:
    if not text:
        raise _invalid(f"{what} is empty")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise _invalid(f"{what} has a control character or a line break")
    if len(text.encode("utf-8")) > _MAX_TERM_BYTES:
        raise _invalid(f"{what} has more than {_MAX_TERM_BYTES} bytes")


def _invalid(detail: str) -> DetailedBadRequest:
    return DetailedBadRequest("Invalid glossary entries provided", detail)
