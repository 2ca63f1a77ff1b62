"""What the page's script sends, read and checked."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.requests import Request

from transformer_jax.errors import UserError
from transformer_jax.inference.terminology import Terminology, compiled
from transformer_jax.serving.errors import BadRequest
from transformer_jax.serving.service import LanguagePair, Service, TextOptions

__all__ = ["PageRequest", "read_page_request"]


class PageRequest(NamedTuple):
    """A text to translate."""

    text: str
    pair: LanguagePair
    options: TextOptions


async def read_page_request(request: Request, service: Service) -> PageRequest:
    """The request of a JSON body:

    * `text`: what is translated
    * `source`, `target`: codes of languages
    * `alternatives`: how many other translations; 0 where it is missing
    * `terms`: pairs of a term and its translation
    * `markup`: html or xml, where the text is a document; empty: it is none
    * `words`: should each word have its places in the source and its probability? true where it is missing

    Raises BadRequest, also for what the service does not know.
    """
    fields = _fields(request.headers.get("content-type", ""), await request.body())
    pair = service.pair(fields["source"], fields["target"])
    # A long table takes a while, in which others are answered.
    terminology = await asyncio.to_thread(_terminology, fields.get("terms", []))
    options = TextOptions(
        markup=fields.get("markup", ""),
        alternatives=fields.get("alternatives", 0),
        terminology=terminology,
        words=fields.get("words", True),
    )
    return PageRequest(fields["text"], pair, options)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in value
    )


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda value: isinstance(value, str)),
    "source": ("the code of a language", lambda value: isinstance(value, str)),
    "target": ("the code of a language", lambda value: isinstance(value, str)),
    "alternatives": ("a whole number from 0", _is_count),
    "terms": ("a list of pairs, a term and its translation", _is_pairs),
    "markup": ("html, xml or empty", lambda value: value in ("", "html", "xml")),
    "words": ("true or false", lambda value: isinstance(value, bool)),
}
_NEEDED = ("text", "source", "target")


def _fields(media_type: str, body: bytes) -> dict[str, Any]:
    # Another site's page can send a form or plain text here without being asked whether it may, but not JSON.
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("the request's Content-Type should be application/json")
    try:
        text = body.decode("utf-8")
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request should be JSON in UTF-8 ({error})") from None
    if not isinstance(fields, dict):
        raise BadRequest(f"the request should be a JSON object with {', '.join(_NEEDED)}")
    if missing := [name for name in _NEEDED if name not in fields]:
        raise BadRequest(f"the request has no {missing[0]}")
    for name, value in fields.items():
        if name not in _KINDS:
            raise BadRequest(f"the request has {name!r:.40}, which should be one of {', '.join(_KINDS)}")
        expected, is_right = _KINDS[name]
        if not is_right(value):
            raise BadRequest(f"{name} should be {expected}, not {value!r:.40}")
    if not _is_unicode(json.dumps(fields, ensure_ascii=False)):
        raise BadRequest("the request has half a surrogate pair, which is no character")
    return fields


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _terminology(pairs: list[list[str]]) -> Terminology | None:
    terms: dict[str, str] = {}
    for term, translation in pairs:
        if terms.setdefault(term, translation) != translation:
            raise BadRequest(f"{term!r} has two translations in the terminology; leave one of them")
    try:
        return compiled(tuple(terms.items())) if terms else None
    except UserError as error:
        raise BadRequest(str(error)) from None
