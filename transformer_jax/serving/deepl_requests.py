"""What the requests of DeepL's API have in common: languages, glossaries, and options that a model cannot follow."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from transformer_jax.inference.terminology import Terminology
from transformer_jax.serving.bodies import read_fields
from transformer_jax.serving.errors import BadRequest, Forbidden, NotFound, RequestError
from transformer_jax.serving.fields import Fields
from transformer_jax.serving.glossaries import Glossaries
from transformer_jax.serving.glossary_entries import compiled_entries
from transformer_jax.serving.keys import Keys, key_in_headers
from transformer_jax.serving.languages import base_code, sources_of, targets_of, without_tags
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.service import LanguagePair, Service

__all__ = ["UNSUPPORTED", "DeepLServer", "deepl_error_body", "target_codes"]

# Fields of translations that ask for what a model of this project does not have.
UNSUPPORTED = ("style_id", "translation_memory_id", "translation_memory_threshold", "custom_instructions")
_VARIANTS = {"en": ("EN-GB", "EN-US"), "pt": ("PT-BR", "PT-PT")}
_FORMALITIES = ("default", "more", "less", "prefer_more", "prefer_less")
_MOST_GLOSSARIES = 5  # of one request


def deepl_error_body(error: RequestError) -> dict[str, Any]:
    """The JSON of an error: `message`, and for some of glossaries `detail`."""
    detail = getattr(error, "detail", None)
    return {"message": error.message, **({"detail": detail} if detail else {})}


def target_codes(code: str) -> tuple[str, ...]:
    """The codes of a language as DeepL lists them for targets.

    >>> target_codes("en"), target_codes("de")
    (('EN-GB', 'EN-US'), ('DE',))
    """
    return _VARIANTS.get(code, (code.upper(),))


@dataclass
class DeepLServer:
    """What the handlers of the API share."""

    service: Service
    limits: RequestLimits
    keys: Keys
    glossaries: Glossaries
    characters: int = 0  # translated since the start

    async def fields(self, request: Request, max_bytes: int, known: Sequence[str] | None) -> Fields:
        """The fields of a request, all of them `known` (None: any). Raises Forbidden without one of the server's keys."""
        self.require_key(request)
        fields = await read_fields(request, max_bytes)
        if known is not None:
            fields.refuse_unknown(known)
        return fields

    def require_key(self, request: Request) -> None:
        """Raises Forbidden if the request's header has none of the server's keys."""
        if not self.keys.allows(key_in_headers(request.headers)):
            raise Forbidden("Authorization failed: the header Authorization should be 'DeepL-Auth-Key KEY', with a valid key.")

    def languages(self, fields: Fields) -> tuple[str | None, str]:
        """The source, None where it is to be detected, and the target, both without their variants."""
        target, source = fields.text("target_lang"), fields.text("source_lang", "")
        targets = targets_of(self.service.pairs)
        if base_code(target) not in targets:
            codes = ", ".join(code for each in targets for code in target_codes(each))
            raise BadRequest(f"Value for 'target_lang' not supported: expected one of {codes}.")
        known = {*sources_of(self.service.pairs), base_code(target)}
        if source and base_code(source) not in known:
            codes = ", ".join(code.upper() for code in sources_of(self.service.pairs))
            raise BadRequest(f"Value for 'source_lang' not supported: expected one of {codes}.")
        if source:
            self.pair(base_code(source), base_code(target))
        return base_code(source) if source else None, base_code(target)

    def pair(self, source: str, target: str) -> LanguagePair:
        """The pair of two languages; the same one twice is one, whose texts stay as they are. Raises BadRequest."""
        pair = LanguagePair(source, target)
        if source != target and pair not in self.service.pairs:
            sources = ", ".join(code.upper() for code in sources_of(self.service.pairs, target))
            raise BadRequest(f"{source.upper()} cannot be translated into {target.upper()}: expected source_lang {sources}.")
        return pair

    def detected(self, text: str, target: str, markup: str) -> str:
        """The language of a text that is to be translated into `target`: the most probable one, `target` itself only if it is
        more probable than not, so that no text stays untranslated by chance; where nothing can be said, the only one that
        can be translated. Raises BadRequest where there are several."""
        plain = without_tags(text, markup)
        for code, probability in self.service.detect(plain) if plain.strip() else []:
            if probability > 0.5 or (probability > 0 and code != target):
                return code
        return self.service.pair(None, target).source

    def refuse_unsupported(self, fields: Fields) -> None:
        """Raises BadRequest for options that no model here has, as DeepL does for languages that do not have them."""
        if fields.choice("formality", _FORMALITIES, "default") in ("more", "less"):
            raise BadRequest("'formality' is not supported for given 'target_lang'.")
        for name in UNSUPPORTED:
            if name in fields:
                raise BadRequest(f"'{name}' is not supported by this server; leave it out.")

    async def terminology(self, fields: Fields, source: str | None, target: str) -> Terminology | None:
        """The glossary of a request, or all of up to five; of two translations of a term that of the first one counts."""
        identifiers = fields.names("glossary_ids")
        if "glossary_id" in fields:
            if identifiers:
                raise BadRequest("'glossary_id' and 'glossary_ids' cannot be used together.")
            identifiers = (fields.text("glossary_id"),)
        if not identifiers:
            return None
        if len(identifiers) > _MOST_GLOSSARIES:
            raise BadRequest(f"'glossary_ids' should have at most {_MOST_GLOSSARIES} glossaries.")
        if source is None:
            raise BadRequest("Use of a glossary requires the source_lang parameter to be specified")
        found = []
        for identifier in identifiers:
            dictionary = self._glossary(identifier).dictionaries.get(LanguagePair(source, target))
            if dictionary is None:
                raise BadRequest(f"Bad request. Reason: No dictionary found for language pair {source}-{target} in glossary")
            found.append(dictionary)
        if len(found) == 1:
            return found[0].terminology
        merged = {term: text for each in reversed(found) for term, text in each.entries.items()}
        return await asyncio.to_thread(compiled_entries, merged)

    def _glossary(self, identifier: str) -> Any:
        if not re.fullmatch(r"[0-9A-Fa-f-]{36}", identifier):
            raise BadRequest("Value for 'glossary_id' not supported: expected the glossary_id of a glossary.")
        try:
            return self.glossaries.get(identifier)
        except NotFound as error:
            raise NotFound(f"{error.message}: there is none with the glossary_id {identifier}.") from None
