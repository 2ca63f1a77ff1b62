"""The OpenAPI document of LibreTranslate's API as this server has it."""

from collections.abc import Sequence
from typing import Any

from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.version import __version__

__all__ = ["openapi"]

_FORMS = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")


def openapi(codes: Sequence[str], limits: RequestLimits) -> dict[str, Any]:
    """The document, for a server with the languages `codes`."""
    q = {
        "description": f"What is translated: a text of at most {limits.characters} characters, or in JSON a list of at most "
        f"{limits.texts} of them",
        "oneOf": [_text(), {"type": "array", "items": _text(), "maxItems": limits.texts, "minItems": 1}],
    }
    source = {"type": "string", "description": "The language of the text; auto: it is detected", "enum": ["auto", *codes]}
    target = {"type": "string", "description": "The language to translate into", "enum": list(codes)}
    key = {"type": "string", "description": "The API key, where the server wants one"}
    markup = {"type": "string", "enum": ["text", "html"], "default": "text", "description": "What the text is"}
    alternatives = {"type": "integer", "minimum": 0, "maximum": limits.alternatives, "default": 0}
    alternatives["description"] = "How many other translations; HTML has none"
    file = {"type": "string", "format": "binary", "description": "A file .txt, .html or .htm in UTF-8"}
    translate = {"q": q, "source": source, "target": target, "format": markup, "alternatives": alternatives, "api_key": key}
    return {
        "openapi": "3.0.3",
        "info": {"title": "LibreTranslate's API, served by transformer_jax", "version": __version__},
        "paths": {
            "/translate": _post("Translates text", translate, ["q", "source", "target"], _FORMS, _translation()),
            "/translate_file": _post(
                "Translates a file; the answer says where the result is",
                {"file": file, "source": source, "target": target, "api_key": key},
                ["file", "source", "target"],
                _FORMS[2:],
                _object({"translatedFileUrl": {"type": "string", "format": "uri"}}),
            ),
            "/download_file/{filename}": _download(),
            "/detect": _post(
                "Says which languages a text may be in", {"q": q, "api_key": key}, ["q"], _FORMS, _array(_detection())
            ),
            "/languages": _get("Says which languages there are", _array(_language())),
            "/suggest": {"post": {"summary": "Refused: suggestions are disabled", "responses": {"403": _error("Always")}}},
            "/health": _get("Says that the server answers", _object({"status": {"type": "string", "enum": ["ok"]}})),
            "/frontend/settings": _get("What a page needs to know", _settings()),
            "/spec": _get("This document", {"type": "object"}),
        },
        "components": {"schemas": {"Error": _object({"error": _text()})}},
    }


def _text() -> dict[str, Any]:
    return {"type": "string"}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _detection() -> dict[str, Any]:
    return _object({"confidence": {"type": "number", "minimum": 0, "maximum": 100}, "language": _text()})


def _language() -> dict[str, Any]:
    return _object({"code": _text(), "name": _text(), "targets": _array(_text())})


def _translation() -> dict[str, Any]:
    return _object(
        {
            "translatedText": {"oneOf": [_text(), _array(_text())]},
            "detectedLanguage": {"oneOf": [_detection(), _array(_detection())]},
            "alternatives": {"oneOf": [_array(_text()), _array(_array(_text()))]},
        },
        optional=("detectedLanguage", "alternatives"),
    )


def _settings() -> dict[str, Any]:
    language = _object({"code": _text(), "name": _text()})
    properties = {name: {"type": "integer"} for name in ("charLimit", "frontendTimeout")}
    properties |= {name: {"type": "boolean"} for name in ("apiKeys", "keyRequired", "suggestions", "filesTranslation")}
    properties["supportedFilesFormat"] = _array(_text())
    return _object({**properties, "language": _object({"source": language, "target": language})})


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    return _json(description, {"$ref": "#/components/schemas/Error"})


def _get(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": _json("The answer", schema)}}}


def _post(
    summary: str, properties: dict[str, Any], required: list[str], media_types: Sequence[str], schema: dict[str, Any]
) -> dict[str, Any]:
    body = {"type": "object", "properties": properties, "required": required}
    responses = {
        "200": _json("The answer", schema),
        "400": _error("The request is not understood, asks for what there is not, or lacks the API key"),
        "403": _error("The API key is wrong"),
        "413": _error("The body is too large"),
        "500": _error("A bug of the server"),
        "503": _error("The server is busy; Retry-After says when to come again"),
        "504": _error("It took longer than the server may take"),
    }
    content = {media_type: {"schema": body} for media_type in media_types}
    return {"post": {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": responses}}


def _download() -> dict[str, Any]:
    parameter = {"name": "filename", "in": "path", "required": True, "schema": _text()}
    content = {media_type: {"schema": {"type": "string"}} for media_type in ("text/plain", "text/html")}
    responses = {
        "200": {"description": "The translated file", "content": content},
        "404": _error("There is none, or no longer"),
    }
    return {"get": {"summary": "A translated file", "parameters": [parameter], "responses": responses}}
