"""The fields of a request, with their types checked."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformer_jax.serving.errors import BadRequest

__all__ = ["Fields", "Upload", "shown"]

_FLAGS = {"0": False, "1": True, "false": False, "true": True}


class Upload(NamedTuple):
    """A file in a form."""

    name: str
    content: bytes


class Fields:
    """What stands in the body of a request (and, for forms, in its address), by name.

    Every method raises BadRequest, in one sentence that names the field, where a value has another type than it asks for; those
    without a default also where there is none. A null of JSON is no value.

    Args:
        values: what JSON has, or of a form a list of the texts under each name
        is_form: are they those of a form?
        uploads: the files of a form
        missing: the sentence for a field that is not there; {name} in it is the field's
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        is_form: bool,
        uploads: Mapping[str, Upload] | None = None,
        missing: str = "Parameter '{name}' not specified.",
    ):
        self._values = {name: value for name, value in values.items() if value is not None}
        self._is_form, self._uploads, self._missing = is_form, dict(uploads or {}), missing

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._uploads

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Raises BadRequest if there is a field that is not `known`: one that is misspelt would have no effect."""
        known = sorted(known)
        unknown = [name for name in (*self._values, *self._uploads) if name not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0][:40], known, 1)
            raise BadRequest(
                f"Parameter {shown(unknown[0])} is not known; {f'did you mean {near[0]}?' if near else 'leave it out.'}"
            )

    def text(self, name: str, default: str | None = None) -> str:
        """One text."""
        value = self._one(name)
        if value is None and default is not None:
            return default
        return self._checked(name, value, "text")

    def texts(self, name: str) -> list[str]:
        """A list of texts, with at least one; in a form it is the values of all fields of this name."""
        value = self._values.get(name)
        if not isinstance(value, list):
            if value is None:
                raise self._missing_error(name)
            raise BadRequest(f"'{name}' should be a list of texts, found {_kind(value)}.")
        if not value:
            raise self._missing_error(name)
        return [self._checked(name, text, "a list of texts") for text in value]

    def text_or_texts(self, name: str) -> str | list[str]:
        """One text, or, in JSON, a list of texts; where it is empty, it is missing."""
        value = self._one(name)
        if not isinstance(value, list):
            text = self._checked(name, value, "text or a list of texts")
            if not text:
                raise self._missing_error(name)
            return text
        return self.texts(name)

    def flag(self, name: str, default: bool) -> bool:
        """True or false, in a form as 1 or 0."""
        value = self._one(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        found = _FLAGS.get(str(value).lower()) if isinstance(value, str | int) else None
        if found is None:
            raise BadRequest(f"Value for '{name}' not supported: expected true, false, 1 or 0.")
        return found

    def number(self, name: str, default: int) -> int:
        """A whole number. BadRequest says it as LibreTranslate does."""
        value = self._one(name)
        if value is None:
            return default
        digits = isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value)
        if not digits and (isinstance(value, bool) or not isinstance(value, int)):
            raise BadRequest(f"Invalid request: {name} parameter is not a number")
        return int(value)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of some words."""
        value = self._one(name)
        if value is None:
            return default
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
        if text not in choices:
            raise BadRequest(f"Value for '{name}' not supported: expected one of {', '.join(choices)}.")
        return text

    def names(self, name: str) -> tuple[str, ...]:
        """Names in a list, or in a text with commas between them."""
        value = self._values.get(name, [])
        values = value if isinstance(value, list) else [value]
        parts = (self._checked(name, text, "a list of names").split(",") for text in values)
        return tuple(part.strip() for some in parts for part in some if part.strip())

    def records(self, name: str) -> list["Fields"]:
        """The objects of a list in JSON, each with fields of its own."""
        value = self._values.get(name)
        if value is None:
            raise self._missing_error(name)
        if self._is_form or not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise BadRequest(f"'{name}' should be a list of objects, in a body of JSON.")
        return [Fields(entry, False, missing=self._missing) for entry in value]

    def upload(self, name: str) -> Upload:
        """A file."""
        if name not in self._uploads:
            if name in self._values:
                raise BadRequest(f"'{name}' should be a file with a name, in a body of multipart/form-data.")
            raise self._missing_error(name)
        return self._uploads[name]

    def _one(self, name: str) -> Any:
        value = self._values.get(name)
        if not self._is_form or value is None:
            return value
        if len(value) > 1:
            raise BadRequest(f"'{name}' is there {len(value)} times; once is expected.")
        return value[0]

    def _checked(self, name: str, value: Any, expected: str) -> str:
        if value is None:
            raise self._missing_error(name)
        if not isinstance(value, str):
            raise BadRequest(f"'{name}' should be {expected}, found {_kind(value)}.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRequest(f"'{name}' has half of a surrogate pair, which is no character.") from None
        return value

    def _missing_error(self, name: str) -> BadRequest:
        return BadRequest(self._missing.format(name=name))


def shown(text: str) -> str:
    """Text for a message, in quotation marks and not longer than 40 characters.

    >>> shown("xx"), len(shown("x" * 1000000))
    ("'xx'", 45)
    """
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _kind(value: Any) -> str:
    """What a value of JSON is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}[type(value)]
