"""API keys: which there are, and where the two APIs have them in a request."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from transformer_jax.errors import UserError
from transformer_jax.serving.fields import Fields
from transformer_jax.storage.text_files import iter_lines

__all__ = ["Keys", "key_in_fields", "key_in_headers"]


class Keys:
    """The keys that clients may have; without any, the server is open.

    Raises UserError for a key that is empty or has other characters than visible ones of ASCII, which a header could not carry.

    >>> keys = Keys(["secret"])
    >>> keys.allows("secret"), keys.allows("other"), keys.allows(None), Keys().allows(None)
    (True, False, False, True)
    """

    def __init__(self, keys: Iterable[str] = ()):
        keys = list(keys)
        for number, key in enumerate(keys, 1):
            _check(key, f"API key {number}")
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, path: str, more: Iterable[str] = ()) -> "Keys":
        """The keys of a file, one a line, and `more`; blank lines and lines that begin with `#` are none. Raises UserError as
        the constructor does, naming the line, and for a file without keys: it would leave the server open."""
        keys = []
        for number, line in enumerate(iter_lines(path), 1):
            if line.strip() and not line.startswith("#"):
                _check(line.strip(), f"{path}: line {number}")
                keys.append(line.strip())
        if not keys:
            raise UserError(f"{path}: has no API keys, expected one a line; leave the file out for a server without keys")
        return cls([*keys, *more])

    @property
    def is_open(self) -> bool:
        """Are there no keys, so that nobody needs one?"""
        return not self._digests

    def allows(self, key: str | None) -> bool:
        """May somebody with this key, or without one, ask? How long the answer takes says nothing about the keys."""
        digest = _digest(key or "")
        matches = [hmac.compare_digest(digest, own) for own in self._digests]
        return self.is_open or any(matches)


def key_in_headers(headers: Mapping[str, str]) -> str | None:
    """The key in the header Authorization, as `DeepL-Auth-Key KEY` or as `Bearer KEY`; names in `headers` are in small letters.

    >>> key_in_headers({"authorization": "DeepL-Auth-Key secret"})
    'secret'
    """
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    return key.strip() or None if scheme.lower() in ("deepl-auth-key", "bearer") else None


def key_in_fields(fields: Fields) -> str | None:
    """The key in the field `api_key`, where clients of LibreTranslate have it. Raises BadRequest if that is no text."""
    return fields.text("api_key", "").strip() or None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _check(key: str, where: str) -> None:
    if not key or not all("!" <= character <= "~" for character in key):
        raise UserError(f"{where}: an API key should have visible characters of ASCII only, and at least one")
