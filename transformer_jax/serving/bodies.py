"""Bodies of requests, JSON and forms, as fields."""

import json
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from transformer_jax.serving.errors import BadRequest, TooLarge
from transformer_jax.serving.fields import Fields, Upload, shown

__all__ = ["read_fields"]

_URL_ENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_MOST_FIELDS = 1000  # of a form: a body of tiny ones would keep the server's one thread busy for seconds
_EXPECTED = f"application/json, {_URL_ENCODED} or {_MULTIPART}"


async def read_fields(request: Request, max_bytes: int, missing: str | None = None) -> Fields:
    """The fields of a request: those of its body, which is JSON or a form, and where it is no JSON those of its address too.

    Reading ends with the first part of the body that is more than `max_bytes`. `missing` is the sentence for a field that is
    not there, as in `Fields`. Raises TooLarge, and BadRequest for a body of another type, one that is not UTF-8, and one that
    is not well-formed.
    """
    body = await _read(request, max_bytes)
    media_type, charset = _content_type(request.headers.get("content-type", ""))
    rest = {} if missing is None else {"missing": missing}
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise BadRequest("The body is compressed, which is not read; send it without Content-Encoding.")
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise BadRequest("The body's charset should be utf-8.")
    if media_type == "application/json" or media_type.endswith("+json"):
        return Fields(_json(body), False, **rest)
    values = _url_encoded(request.scope.get("query_string", b""), "address")
    uploads: dict[str, Upload] = {}
    if media_type == _MULTIPART:
        own, uploads = _multipart(request.headers["content-type"], body, max_bytes)
    elif media_type == _URL_ENCODED or not body.strip():
        own = _url_encoded(body, "body")
    else:
        raise BadRequest(f"The body's Content-Type should be {_EXPECTED}.")
    for name, some in own.items():
        values.setdefault(name, []).extend(some)
    return Fields(values, True, uploads, **rest)


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The request has more than {max_bytes:,} bytes; send less at once.")


def _content_type(header: str) -> tuple[str, str]:
    """The media type, and the charset if there is one, in small letters."""
    media_type, *parameters = header.lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return media_type.strip(), value.strip().strip('"')
    return media_type.strip(), ""


def _decoded(body: bytes, what: str = "body") -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The {what} should be UTF-8; its byte {error.start + 1:,} is not.") from None


def _json(body: bytes) -> dict[str, Any]:
    text = _decoded(body)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise BadRequest("The body is JSON with too many values in each other.") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"The body is no JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except ValueError as error:
        raise BadRequest(f"The body is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body should be an object of JSON, with the fields by name.")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{shown(name)} is there more than once")
        values[name] = value
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _url_encoded(body: bytes, what: str) -> dict[str, list[str]]:
    text = _decoded(body.strip(), what)
    try:
        pairs = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=_MOST_FIELDS)
    except UnicodeDecodeError:
        raise BadRequest(f"The {what} has escapes that are not UTF-8.") from None
    except ValueError:
        raise BadRequest(f"The {what} has more than {_MOST_FIELDS} fields.") from None
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def _multipart(content_type: str, body: bytes, max_bytes: int) -> tuple[dict[str, list[str]], dict[str, Upload]]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import FormParser, parse_options_header

    fields, files, ends = [], [], []

    def add(part: Any) -> None:
        if len(fields) + len(files) >= _MOST_FIELDS:
            raise FormParserError(f"it has more than {_MOST_FIELDS} fields")
        (files if hasattr(part, "file_object") else fields).append(part)

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    config = {"MAX_MEMORY_FILE_SIZE": max_bytes, "UPLOAD_ERROR_ON_BAD_CTE": True}  # nothing goes to the disk
    try:
        if not boundary:
            raise FormParserError("its Content-Type has no boundary")
        parser = FormParser(_MULTIPART, add, add, lambda: ends.append(True), boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"The body is no {_MULTIPART}: {error}.") from None
    if not ends:
        raise BadRequest(f"The body is no {_MULTIPART}: its last boundary is missing.")
    values: dict[str, list[str]] = {}
    for field in fields:
        name = _decoded(field.field_name or b"", "name of a field")
        values.setdefault(name, []).append(_decoded(field.value or b"", f"field {shown(name)}"))
    uploads: dict[str, Upload] = {}
    for file in files:
        name = _decoded(file.field_name or b"", "name of a field")
        if name in uploads:
            raise BadRequest(f"{shown(name)} has more than one file; send one at a time.")
        file.file_object.seek(0)
        uploads[name] = Upload(_decoded(file.file_name or b"", "name of a file"), file.file_object.read())
    return values, uploads
