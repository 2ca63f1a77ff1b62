"""LibreTranslate's API (github.com/LibreTranslate/LibreTranslate): its addresses, fields, answers, codes and errors."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from transformer_jax.serving.answers import answering
from transformer_jax.serving.bodies import read_fields
from transformer_jax.serving.errors import BadRequest, Forbidden, NotFound, RequestError
from transformer_jax.serving.fields import Fields
from transformer_jax.serving.kept import Kept
from transformer_jax.serving.keys import Keys, key_in_fields, key_in_headers
from transformer_jax.serving.languages import base_code, language_name, sources_of, targets_of, without_tags
from transformer_jax.serving.libretranslate_spec import openapi
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.service import LanguagePair, Service, TextOptions
from transformer_jax.serving.text_documents import EXTENSIONS, TextDocument, extension, read_document, translate_document

__all__ = ["libretranslate_routes"]

_MISSING = "Invalid request: missing {name} parameter"
_FRONTEND_TIMEOUT = 500  # milliseconds that LibreTranslate's page waits after a key press
_TRANSLATE_FIELDS = ("q", "source", "target", "format", "alternatives", "api_key", "secret")
_FILE_FIELDS = ("file", "source", "target", "api_key", "secret")
_DETECT_FIELDS = ("q", "api_key", "secret")


def libretranslate_routes(service: Service, limits: RequestLimits | None = None, keys: Keys | None = None) -> list[Route]:
    """The routes of the API. Where there are `keys`, it is checked here that a request has one of them: in the field `api_key`
    of its body, or in the header Authorization; `/languages`, `/health`, `/frontend/settings` and `/spec` need none."""
    api = _LibreTranslate(service, limits or RequestLimits(), keys or Keys())
    handlers = [
        ("/translate", api.translate, "POST"),
        ("/translate_file", api.translate_file, "POST"),
        ("/download_file/{filename}", api.download_file, "GET"),
        ("/detect", api.detect, "POST"),
        ("/languages", api.languages, "GET"),
        ("/suggest", api.suggest, "POST"),
        ("/health", api.health, "GET"),
        ("/frontend/settings", api.frontend_settings, "GET"),
        ("/spec", api.spec, "GET"),
    ]
    return [
        Route(path, answering(handler, _error_body), methods=[method], name=f"libretranslate_{handler.__name__}")
        for path, handler, method in handlers
    ]


def _error_body(error: RequestError) -> dict[str, Any]:
    return {"error": error.message}


class _LibreTranslate:
    """The handlers."""

    def __init__(self, service: Service, limits: RequestLimits, keys: Keys):
        self._service, self._limits, self._keys = service, limits, keys
        self._codes = sorted({code for pair in service.pairs for code in pair})
        self._files: Kept[TextDocument] = Kept(limits.kept_seconds, limits.kept_bytes, "translated file")

    async def translate(self, request: Request) -> Response:
        fields = await self._fields(request, self._limits.body_bytes, _TRANSLATE_FIELDS)
        q = fields.text_or_texts("q")
        source, target = _code(fields, "source"), _code(fields, "target")
        texts = [q] if isinstance(q, str) else q
        alternatives = max(0, fields.number("alternatives", 0))
        self._check_sizes(texts, alternatives)
        form = fields.text("format", "") or "text"
        if form not in ("text", "html"):
            raise BadRequest(f"{form[:40]} format is not supported")
        markup = form.removeprefix("text")
        detected = self._detected(texts, target, markup) if source == "auto" else None
        pair = self._pair(detected["language"] if detected else source, target)
        translated, others = await self._translations(texts, pair, markup, alternatives)
        answer: dict[str, Any] = {"translatedText": translated[0] if isinstance(q, str) else translated}
        if detected:
            answer["detectedLanguage"] = detected if isinstance(q, str) else [detected] * len(texts)
        if alternatives:
            answer["alternatives"] = others[0] if isinstance(q, str) else others
        return JSONResponse(answer)

    async def translate_file(self, request: Request) -> Response:
        fields = await self._fields(request, self._limits.file_bytes, _FILE_FIELDS)
        upload = fields.upload("file")
        source, target = _code(fields, "source"), _code(fields, "target")
        if not upload.name:
            raise BadRequest("Invalid request: empty file")
        if extension(upload.name) not in EXTENSIONS:
            raise BadRequest("Invalid request: file format not supported")
        document = read_document(upload)
        if source == "auto":
            source = self._detected([document.text], target, document.markup)["language"]
        pair = self._pair(source, target)
        if pair.source != pair.target:
            document = await translate_document(self._service, document, pair, TextOptions(markup=document.markup))
        document = document._replace(name=_name_in_address(document.name, pair.target))
        identifier = self._files.put(document, len(document.text.encode("utf-8")))
        url = request.url_for("libretranslate_download_file", filename=f"{identifier}.{document.name}")
        return JSONResponse({"translatedFileUrl": str(url)})

    async def download_file(self, request: Request) -> Response:
        identifier, _, name = request.path_params["filename"].partition(".")
        document = self._files.get(identifier)
        if name != document.name:
            raise NotFound("Translated file not found")
        return document.response()

    async def detect(self, request: Request) -> Response:
        fields = await self._fields(request, self._limits.body_bytes, _DETECT_FIELDS)
        q = fields.text_or_texts("q")
        texts = [q] if isinstance(q, str) else q
        self._check_sizes(texts, 0)
        return JSONResponse(self._detections(texts))

    async def languages(self, request: Request) -> Response:
        entries = []
        for code in sources_of(self._service.pairs):
            targets = sorted({*targets_of(self._service.pairs, code), code})
            entries.append({"code": code, "name": language_name(code), "targets": targets})
        only_targets = sorted(set(self._codes) - {entry["code"] for entry in entries})
        entries += [{"code": code, "name": language_name(code), "targets": [code]} for code in only_targets]
        return JSONResponse(sorted(entries, key=lambda entry: entry["code"]))

    async def suggest(self, request: Request) -> Response:
        raise Forbidden("Suggestions are disabled on this server.")

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def frontend_settings(self, request: Request) -> Response:
        target = targets_of(self._service.pairs)[0]
        return JSONResponse(
            {
                "charLimit": self._limits.characters,
                "frontendTimeout": _FRONTEND_TIMEOUT,
                "apiKeys": not self._keys.is_open,
                "keyRequired": not self._keys.is_open,
                "suggestions": False,
                "filesTranslation": True,
                "supportedFilesFormat": list(EXTENSIONS),
                "language": {
                    "source": {"code": "auto", "name": "Auto Detect"},
                    "target": {"code": target, "name": language_name(target)},
                },
            }
        )

    async def spec(self, request: Request) -> Response:
        return JSONResponse(openapi(self._codes, self._limits))

    async def _fields(self, request: Request, max_bytes: int, known: Sequence[str]) -> Fields:
        """The fields of a request that may be answered."""
        fields = await read_fields(request, max_bytes, _MISSING)
        key = key_in_fields(fields) or key_in_headers(request.headers)
        if not self._keys.allows(key):
            if key is None:
                raise BadRequest("Please contact the server operator to get an API key")
            raise Forbidden("Invalid API key")
        fields.refuse_unknown(known)
        return fields

    def _check_sizes(self, texts: Sequence[str], alternatives: int) -> None:
        limits = self._limits
        sizes = [(len(texts), limits.texts), *((len(text), limits.characters) for text in texts)]
        for size, limit in sizes:
            if size > limit:
                raise BadRequest(f"Invalid request: request ({size}) exceeds text limit ({limit})")
        if alternatives > limits.alternatives:
            raise BadRequest(f"Invalid request: alternatives parameter must be <= {limits.alternatives}")

    def _pair(self, source: str, target: str) -> LanguagePair:
        """The pair of these codes; a language with itself is one, and leaves texts as they are."""
        for code in (source, target):
            if base_code(code) not in self._codes:
                raise BadRequest(f"{code[:40]} is not supported")
        pair = LanguagePair(base_code(source), base_code(target))
        if pair.source == pair.target or pair in self._service.pairs:
            return pair
        names = [f"{language_name(code)} ({code})" for code in (pair.target, pair.source)]
        raise BadRequest(f"{names[0]} is not available as a target language from {names[1]}")

    async def _translations(
        self, texts: Sequence[str], pair: LanguagePair, markup: str, alternatives: int
    ) -> tuple[list[str], list[list[str]]]:
        """The translations, and the other ones of each text; those of HTML have none, as LibreTranslate has it."""
        if pair.source == pair.target:
            return list(texts), [[] for _ in texts]
        options = TextOptions(markup=markup, alternatives=0 if markup else alternatives)
        served = await self._service.translate(texts, pair, options)
        others = [[text for text in dict.fromkeys(one.alternatives) if text not in ("", one.text)] for one in served]
        return [one.text for one in served], others

    def _detections(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Which languages the texts may be in, all together: in the mean, a long text counts for more."""
        total, length = Counter(), sum(map(len, texts)) or 1
        for text in texts:
            for code, probability in self._service.detect(text):
                total[code] += probability * len(text) / length
        found = [{"confidence": float(round(100 * share)), "language": code} for code, share in total.most_common()]
        return found or [_nothing_detected(sources_of(self._service.pairs))]

    def _detected(self, texts: Sequence[str], target: str, markup: str) -> dict[str, Any]:
        """The language of the texts: the most probable one, `target` itself only if it is more probable than not, so that no
        text stays untranslated by chance; where nothing can be said, one that can be translated into `target`."""
        for found in self._detections([without_tags(text, markup) for text in texts]):
            if found["confidence"] > (50 if found["language"] == base_code(target) else 0):
                return found
        return _nothing_detected(sources_of(self._service.pairs, base_code(target)) or sources_of(self._service.pairs))


def _nothing_detected(sources: Sequence[str]) -> dict[str, Any]:
    """English with no confidence, as LibreTranslate has it, or another language where English is not translated."""
    return {"confidence": 0.0, "language": "en" if "en" in sources else sources[0]}


def _code(fields: Fields, name: str) -> str:
    """The code of a language in a field; an empty one is missing."""
    code = fields.text(name, "").strip()
    if not code:
        raise BadRequest(_MISSING.format(name=name))
    return code.lower()


def _name_in_address(name: str, target: str) -> str:
    """The name of a translated file, of characters that an address may have.

    >>> _name_in_address("my letter.txt", "de")
    'my_letter_de.txt'
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name[: -len(extension(name))].rsplit("/")[-1].rsplit("\\")[-1]).strip("_")
    return f"{stem[-80:] or 'file'}_{target}{extension(name)}"
