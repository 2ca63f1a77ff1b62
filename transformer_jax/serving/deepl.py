"""DeepL's API (developers.deepl.com): its addresses, fields, answers, codes and errors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from transformer_jax.serving.answers import answering
from transformer_jax.serving.deepl_documents import document_handlers
from transformer_jax.serving.deepl_glossaries import glossary_handlers
from transformer_jax.serving.deepl_requests import UNSUPPORTED, DeepLServer, deepl_error_body, target_codes
from transformer_jax.serving.errors import BadRequest, TooLarge
from transformer_jax.serving.fields import Fields
from transformer_jax.serving.glossaries import Glossaries
from transformer_jax.serving.keys import Keys
from transformer_jax.serving.languages import language_name, sources_of, targets_of
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.service import Service, TextOptions

__all__ = ["deepl_routes"]

_CHARACTER_LIMIT = 10**12  # what DeepL says where there is no limit
_TAG_LISTS = ("ignore_tags", "splitting_tags", "non_splitting_tags")
_FIELDS = (
    *("text", "source_lang", "target_lang", "context", "show_billed_characters", "split_sentences", "preserve_formatting"),
    *("formality", "model_type", "glossary_id", "glossary_ids", "tag_handling", "tag_handling_version", "outline_detection"),
    *(*_TAG_LISTS, "enable_beta_languages", *UNSUPPORTED),
)
_MODEL_TYPES = ("quality_optimized", "prefer_quality_optimized", "latency_optimized")
_NAMES_OF_VARIANTS = {
    "EN-GB": "English (British)",
    "EN-US": "English (American)",
    "PT-BR": "Portuguese (Brazilian)",
    "PT-PT": "Portuguese (European)",
}


def deepl_routes(
    service: Service, limits: RequestLimits | None = None, keys: Keys | None = None, glossaries: Glossaries | None = None
) -> list[Route]:
    """The routes of the API. Where there are `keys`, it is checked here that the header Authorization of each request has one.
    Without `glossaries` those that clients make are gone when the server ends."""
    server = DeepLServer(service, limits or RequestLimits(), keys or Keys(), glossaries or Glossaries())
    texts = _Texts(server)
    handlers = [
        ("/v2/translate", texts.translate, ["POST"]),
        ("/v2/languages", texts.languages, ["GET", "POST"]),
        ("/v2/usage", texts.usage, ["GET", "POST"]),
        *glossary_handlers(server),
        *document_handlers(server),
    ]
    return [
        Route(path, answering(handler, deepl_error_body), methods=methods, name=f"deepl_{handler.__name__}")
        for path, handler, methods in handlers
    ]


@dataclass(frozen=True)
class _Translation:
    """A request for translations, checked."""

    texts: list[str]
    source: str | None  # None: it is detected
    target: str
    options: TextOptions
    billed: bool  # does the answer say how many characters there were?
    rest: dict[str, str]  # what the answer has for every text


class _Texts:
    """The handlers for texts, and for what the server can do."""

    def __init__(self, server: DeepLServer):
        self._server = server

    async def translate(self, request: Request) -> Response:
        fields = await self._server.fields(request, self._server.limits.body_bytes, _FIELDS)
        asked = await self._translation(fields)
        sources = [asked.source or self._server.detected(text, asked.target, asked.options.markup) for text in asked.texts]
        texts = await self._translated(asked, sources)
        self._server.characters += sum(map(len, asked.texts))
        answers: list[dict[str, Any]] = [
            {"detected_source_language": source.upper(), "text": text, **asked.rest}
            for source, text in zip(sources, texts, strict=True)
        ]
        if asked.billed:
            for answer, text in zip(answers, asked.texts, strict=True):
                answer["billed_characters"] = len(text)
        return JSONResponse({"translations": answers})

    async def languages(self, request: Request) -> Response:
        fields = await self._server.fields(request, self._server.limits.body_bytes, ("type",))
        kind = fields.text("type", "source")
        if kind not in ("source", "target"):
            raise BadRequest("Parameter 'type' is invalid. 'source' and 'target' are valid values.")
        pairs = self._server.service.pairs
        if kind == "source":
            return JSONResponse([{"language": code.upper(), "name": language_name(code)} for code in sources_of(pairs)])
        entries = [
            {"language": variant, "name": _NAMES_OF_VARIANTS.get(variant, language_name(code)), "supports_formality": False}
            for code in targets_of(pairs)
            for variant in target_codes(code)
        ]
        return JSONResponse(entries)

    async def usage(self, request: Request) -> Response:
        self._server.require_key(request)
        return JSONResponse({"character_count": self._server.characters, "character_limit": _CHARACTER_LIMIT})

    async def _translation(self, fields: Fields) -> _Translation:
        """What a request asks for. Raises BadRequest and TooLarge."""
        texts, limits = fields.texts("text"), self._server.limits
        if len(texts) > limits.texts:
            raise TooLarge(f"The request has {len(texts)} texts, and may have {limits.texts}; send them in parts.")
        if max(map(len, texts)) > limits.characters:
            raise TooLarge(f"A text has {max(map(len, texts))} characters, and may have {limits.characters}; split it.")
        source, target = self._server.languages(fields)
        self._server.refuse_unsupported(fields)
        for name, default in (("preserve_formatting", False), ("enable_beta_languages", False)):
            fields.flag(name, default)  # they have no effect here: nothing is corrected, and no language is in trial
        fields.text("context", "")  # read and checked; a model of sentences has no use for it
        options = _text_options(fields, texts)
        terminology = await self._server.terminology(fields, source, target)
        version = fields.choice("tag_handling_version", ("v1", "v2"), "v2")  # both are the same here: strict
        rest = {"tag_handling_version": version} if options.markup else {}
        if "model_type" in fields:
            rest["model_type_used"] = fields.choice("model_type", _MODEL_TYPES, "").removeprefix("prefer_")
        billed = fields.flag("show_billed_characters", False)
        return _Translation(texts, source, target, replace(options, terminology=terminology), billed, rest)

    async def _translated(self, asked: _Translation, sources: Sequence[str]) -> list[str]:
        """The translations; texts that are in the target language stay as they are."""
        translated = list(asked.texts)
        for source in sorted({*sources} - {asked.target}):
            pair = self._server.pair(source, asked.target)
            places = [place for place, own in enumerate(sources) if own == source]
            served = await self._server.service.translate([asked.texts[place] for place in places], pair, asked.options)
            for place, text in zip(places, served, strict=True):
                translated[place] = text.text
        return translated


def _text_options(fields: Fields, texts: Sequence[str]) -> TextOptions:
    """How a request wants its texts to be translated, without the glossary."""
    markup = fields.choice("tag_handling", ("xml", "html"), "") if "tag_handling" in fields else ""
    outline = fields.flag("outline_detection", True)
    ignore, splitting, non_splitting = (fields.names(name) for name in _TAG_LISTS)
    if not markup and (ignore or splitting or non_splitting):
        name = next(name for name in _TAG_LISTS if fields.names(name))
        raise BadRequest(f"'{name}' is for texts with tags: set tag_handling to xml or html.")
    if markup == "html" and (splitting or non_splitting or not outline):
        raise BadRequest(
            "'splitting_tags', 'non_splitting_tags' and outline_detection=0 are for tag_handling=xml: "
            "HTML says which elements separate sentences."
        )
    if markup == "xml" and not outline:
        non_splitting = (*non_splitting, *sorted(_tag_names(texts) - {*splitting, *non_splitting}))
    split = fields.choice("split_sentences", ("0", "1", "nonewlines"), "nonewlines" if markup == "html" else "1")
    return TextOptions(
        markup=markup,
        ignore_tags=ignore,
        splitting_tags=splitting,
        non_splitting_tags=non_splitting,
        split_sentences=split != "0",
        split_lines=split == "1",
    )


def _tag_names(texts: Sequence[str]) -> set[str]:
    """All names that elements in these texts can have.

    >>> sorted(_tag_names(["<a><b x='1'/>c</a>"]))
    ['a', 'b']
    """
    return {name for text in texts for name in re.findall(r"<([^\s<>/!?]+)", text)}
