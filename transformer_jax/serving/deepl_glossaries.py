"""Glossaries in DeepL's API: those of version 2, with one pair of languages, and of version 3, with several."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from transformer_jax.serving.deepl_requests import DeepLServer
from transformer_jax.serving.errors import BadRequest, NotFound, RequestError
from transformer_jax.serving.fields import Fields
from transformer_jax.serving.glossaries import Dictionary, Glossary
from transformer_jax.serving.glossary_entries import DetailedBadRequest, compiled_entries, read_entries, write_entries
from transformer_jax.serving.languages import base_code
from transformer_jax.serving.service import LanguagePair

__all__ = ["glossary_handlers"]

_DICTIONARY_FIELDS = ("source_lang", "target_lang", "entries", "entries_format")
_TSV = "text/tab-separated-values"
_MAX_NAME_BYTES = 1024


class _NotAcceptable(RequestError):
    """The entries are wanted in another form than there is."""

    status = 415


def glossary_handlers(server: DeepLServer) -> list[tuple[str, Callable, list[str]]]:
    """The addresses, their handlers and methods."""
    two, three = _Version2(server), _Version3(server)
    return [
        ("/v2/glossary-language-pairs", two.language_pairs, ["GET"]),
        ("/v2/glossaries", two.create, ["POST"]),
        ("/v2/glossaries", two.glossaries, ["GET"]),
        ("/v2/glossaries/{glossary_id}", two.glossary, ["GET"]),
        ("/v2/glossaries/{glossary_id}", two.delete, ["DELETE"]),
        ("/v2/glossaries/{glossary_id}/entries", two.entries, ["GET"]),
        ("/v3/glossaries", three.create, ["POST"]),
        ("/v3/glossaries", three.glossaries, ["GET"]),
        ("/v3/glossaries/{glossary_id}", three.glossary, ["GET"]),
        ("/v3/glossaries/{glossary_id}", three.change, ["PATCH"]),
        ("/v3/glossaries/{glossary_id}", three.delete, ["DELETE"]),
        ("/v3/glossaries/{glossary_id}/entries", three.entries, ["GET"]),
        ("/v3/glossaries/{glossary_id}/dictionaries", three.replace_dictionary, ["PUT"]),
        ("/v3/glossaries/{glossary_id}/dictionaries", three.delete_dictionary, ["DELETE"]),
    ]


class _Version2:
    """The handlers of version 2, whose glossaries have one dictionary each."""

    def __init__(self, server: DeepLServer):
        self._server, self._all = server, server.glossaries

    async def language_pairs(self, request: Request) -> Response:
        self._server.require_key(request)
        pairs = [{"source_lang": pair.source, "target_lang": pair.target} for pair in self._server.service.pairs]
        return JSONResponse({"supported_languages": pairs})

    async def create(self, request: Request) -> Response:
        fields = await self._server.fields(request, self._server.limits.file_bytes, ("name", *_DICTIONARY_FIELDS))
        name = _name(fields)
        pair, entries = await _dictionary(self._server, fields)
        compiled = await asyncio.to_thread(compiled_entries, entries)
        glossary = await asyncio.to_thread(self._all.create, name, {pair: Dictionary(entries, compiled)})
        return JSONResponse(_information(glossary), 201)

    async def glossaries(self, request: Request) -> Response:
        self._server.require_key(request)
        own = [glossary for glossary in self._all.list() if len(glossary.dictionaries) == 1]
        return JSONResponse({"glossaries": [_information(glossary) for glossary in own]})

    async def glossary(self, request: Request) -> Response:
        return JSONResponse(_information(self._found(request)))

    async def delete(self, request: Request) -> Response:
        glossary = self._found(request)
        await asyncio.to_thread(self._all.remove, glossary.identifier)
        return Response(status_code=204)

    async def entries(self, request: Request) -> Response:
        glossary = self._found(request)
        accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
        if not {"*/*", "text/*", _TSV} & {*accepted}:
            raise _NotAcceptable(f"No supported media type specified in Accept header; there is {_TSV}.")
        (dictionary,) = glossary.dictionaries.values()
        return Response(write_entries(dictionary.entries), media_type=_TSV)

    def _found(self, request: Request) -> Glossary:
        self._server.require_key(request)
        glossary = self._all.get(request.path_params["glossary_id"])
        if len(glossary.dictionaries) != 1:
            raise NotFound("Glossary not found: it has not one pair of languages; ask /v3/glossaries for it.")
        return glossary


class _Version3:
    """The handlers of version 3."""

    def __init__(self, server: DeepLServer):
        self._server, self._all = server, server.glossaries

    async def create(self, request: Request) -> Response:
        fields = await self._server.fields(request, self._server.limits.file_bytes, ("name", "dictionaries"))
        name, dictionaries = _name(fields), {}
        for record in fields.records("dictionaries"):
            record.refuse_unknown(_DICTIONARY_FIELDS)
            pair, entries = await _dictionary(self._server, record)
            if pair in dictionaries:
                raise BadRequest(f"There are two dictionaries for the pair {pair.source}-{pair.target}; make them one.")
            dictionaries[pair] = Dictionary(entries, await asyncio.to_thread(compiled_entries, entries))
        if not dictionaries:
            raise BadRequest("Glossary dictionaries must be provided")
        glossary = await asyncio.to_thread(self._all.create, name, dictionaries)
        return JSONResponse(_summary(glossary), 201)

    async def glossaries(self, request: Request) -> Response:
        self._server.require_key(request)
        return JSONResponse({"glossaries": [_summary(glossary) for glossary in self._all.list()]})

    async def glossary(self, request: Request) -> Response:
        return JSONResponse(_summary(self._found(request)))

    async def change(self, request: Request) -> Response:
        identifier = self._found(request).identifier
        fields = await self._server.fields(request, self._server.limits.file_bytes, ("name", "dictionaries"))
        records = fields.records("dictionaries") if "dictionaries" in fields else []
        if len(records) > 1:
            raise BadRequest("'dictionaries' should have one dictionary at most; send one after the other.")
        added = {}
        for record in records:
            record.refuse_unknown(_DICTIONARY_FIELDS)
            pair, added_entries = await _dictionary(self._server, record)
            added[pair] = added_entries
        name = _name(fields) if "name" in fields else None
        return JSONResponse(_summary(await asyncio.to_thread(self._all.change, identifier, name, added, True)))

    async def delete(self, request: Request) -> Response:
        await asyncio.to_thread(self._all.remove, self._found(request).identifier)
        return Response(status_code=204)

    async def entries(self, request: Request) -> Response:
        glossary, pair = self._found(request), await self._pair_in_address(request)
        if pair not in glossary.dictionaries:
            raise NotFound("Dictionary not found")
        entries = write_entries(glossary.dictionaries[pair].entries)
        dictionary = {"source_lang": pair.source, "target_lang": pair.target, "entries": entries, "entries_format": "tsv"}
        return JSONResponse({"dictionaries": [dictionary]})

    async def replace_dictionary(self, request: Request) -> Response:
        identifier = self._found(request).identifier
        fields = await self._server.fields(request, self._server.limits.file_bytes, _DICTIONARY_FIELDS)
        pair, entries = await _dictionary(self._server, fields)
        glossary = await asyncio.to_thread(self._all.change, identifier, None, {pair: entries}, False)
        return JSONResponse(_dictionary_summary(pair, glossary.dictionaries[pair]))

    async def delete_dictionary(self, request: Request) -> Response:
        identifier, pair = self._found(request).identifier, await self._pair_in_address(request)
        await asyncio.to_thread(self._all.remove_dictionary, identifier, pair)
        return Response(status_code=204)

    def _found(self, request: Request) -> Glossary:
        self._server.require_key(request)
        return self._all.get(request.path_params["glossary_id"])

    async def _pair_in_address(self, request: Request) -> LanguagePair:
        return _pair(await self._server.fields(request, self._server.limits.body_bytes, ("source_lang", "target_lang")))


def _name(fields: Fields) -> str:
    name = fields.text("name").strip()
    if not name or len(name.encode("utf-8")) > _MAX_NAME_BYTES:
        raise DetailedBadRequest("Bad request", f"Missing or invalid argument: name; it has 1 to {_MAX_NAME_BYTES} bytes")
    return name


def _pair(fields: Fields) -> LanguagePair:
    return LanguagePair(base_code(fields.text("source_lang")), base_code(fields.text("target_lang")))


async def _dictionary(server: DeepLServer, fields: Fields) -> tuple[LanguagePair, dict[str, str]]:
    """The pair and the entries that a request has for a dictionary. Raises BadRequest for a pair without a model."""
    pair = _pair(fields)
    if pair not in server.service.pairs:
        pairs = ", ".join(f"{source}-{target}" for source, target in server.service.pairs)
        raise DetailedBadRequest("Unsupported glossary source and target language pair", f"There are {pairs}")
    form = fields.choice("entries_format", ("tsv", "csv"), "tsv")
    return pair, await asyncio.to_thread(read_entries, fields.text("entries"), form, pair)


def _dictionary_summary(pair: LanguagePair, dictionary: Dictionary) -> dict[str, Any]:
    return {"source_lang": pair.source, "target_lang": pair.target, "entry_count": len(dictionary.entries)}


def _information(glossary: Glossary) -> dict[str, Any]:
    """A glossary as version 2 has it."""
    ((pair, dictionary),) = glossary.dictionaries.items()
    names = {"glossary_id": glossary.identifier, "name": glossary.name, "ready": True, "creation_time": glossary.created}
    return {**names, **_dictionary_summary(pair, dictionary)}


def _summary(glossary: Glossary) -> dict[str, Any]:
    """A glossary as version 3 has it."""
    dictionaries = [_dictionary_summary(pair, dictionary) for pair, dictionary in glossary.dictionaries.items()]
    names = {"glossary_id": glossary.identifier, "name": glossary.name, "creation_time": glossary.created}
    return {**names, "dictionaries": dictionaries}
