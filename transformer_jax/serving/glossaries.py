"""Glossaries that clients make: in memory, or in a folder, where a restart finds them again."""

import datetime
import json
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.inference.terminology import Terminology
from transformer_jax.serving.errors import NotFound, RequestError
from transformer_jax.serving.glossary_entries import compiled_entries
from transformer_jax.serving.service import LanguagePair
from transformer_jax.storage.files import read_plain, to_path, write_whole

__all__ = ["Dictionary", "Glossaries", "Glossary", "QuotaExceeded"]

_MOST = 1000  # glossaries, as DeepL has it
_LARGEST_FILE = 64 << 20
_IDENTIFIER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class QuotaExceeded(RequestError):
    """There are as many as there may be."""

    status = 456


@dataclass(frozen=True)
class Dictionary:
    """The entries of a glossary for one pair of languages."""

    entries: Mapping[str, str]
    terminology: Terminology


@dataclass(frozen=True)
class Glossary:
    """A glossary: a name, and a dictionary for each of some pairs of languages."""

    identifier: str
    name: str
    created: str  # ISO 8601, in UTC
    dictionaries: Mapping[LanguagePair, Dictionary]


class Glossaries:
    """The glossaries of a server.

    Args:
        folder: where each has a file; without one they are gone when the server ends

    Raises UserError for a folder that cannot be used, and for a file in it that is not as the server writes it.
    """

    def __init__(self, folder: str | None = None):
        self._folder = to_path(folder) if folder else None
        self._lock = threading.Lock()
        self._glossaries: dict[str, Glossary] = {}
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(path for path in self._folder.iterdir() if path.suffix == ".json")
        except OSError as error:
            raise UserError(
                f"--glossaries={folder}: {error.strerror}; expected a folder, or the name of one that can be made"
            ) from None
        for path in paths:
            glossary = _read(path)
            self._glossaries[glossary.identifier] = glossary

    def list(self) -> list[Glossary]:
        """All of them, the oldest first."""
        return sorted(self._glossaries.values(), key=lambda glossary: glossary.created)

    def get(self, identifier: str) -> Glossary:
        """One of them. Raises NotFound."""
        glossary = self._glossaries.get(identifier.lower())
        if glossary is None:
            raise NotFound("Glossary not found")
        return glossary

    def create(self, name: str, dictionaries: Mapping[LanguagePair, Dictionary]) -> Glossary:
        """Makes a new one. Raises QuotaExceeded where there are a thousand."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        with self._lock:
            if len(self._glossaries) >= _MOST:
                raise QuotaExceeded(f"There are {_MOST} glossaries, and there may be no more; delete some.")
            return self._put(Glossary(str(uuid.uuid4()), name, now, dict(dictionaries)))

    def change(
        self, identifier: str, name: str | None, added: Mapping[LanguagePair, Mapping[str, str]], keep_entries: bool
    ) -> Glossary:
        """Sets the name, if one is given, and adds dictionaries: to those of the same pair where `keep_entries`, or else in
        their place. Raises NotFound, and DetailedBadRequest where entries contradict each other."""
        with self._lock:
            glossary = self.get(identifier)
            dictionaries = dict(glossary.dictionaries)
            for pair, entries in added.items():
                before = dictionaries[pair].entries if keep_entries and pair in dictionaries else {}
                merged = {**before, **entries}
                dictionaries[pair] = Dictionary(merged, compiled_entries(merged))
            return self._put(replace(glossary, name=name or glossary.name, dictionaries=dictionaries))

    def remove_dictionary(self, identifier: str, pair: LanguagePair) -> None:
        """Takes the dictionary of a pair out. Raises NotFound."""
        with self._lock:
            glossary = self.get(identifier)
            if pair not in glossary.dictionaries:
                raise NotFound("Dictionary not found")
            rest = {other: dictionary for other, dictionary in glossary.dictionaries.items() if other != pair}
            self._put(replace(glossary, dictionaries=rest))

    def remove(self, identifier: str) -> None:
        """Deletes a glossary. Raises NotFound."""
        with self._lock:
            glossary = self.get(identifier)
            if self._folder is not None:
                (self._folder / f"{glossary.identifier}.json").unlink(missing_ok=True)
            del self._glossaries[glossary.identifier]

    def _put(self, glossary: Glossary) -> Glossary:
        if self._folder is not None:
            write_whole(self._folder / f"{glossary.identifier}.json", json.dumps(_to_json(glossary), ensure_ascii=False))
        self._glossaries[glossary.identifier] = glossary
        return glossary


def _to_json(glossary: Glossary) -> dict[str, Any]:
    dictionaries = [
        {"source_lang": pair.source, "target_lang": pair.target, "entries": dict(dictionary.entries)}
        for pair, dictionary in glossary.dictionaries.items()
    ]
    names = {"glossary_id": glossary.identifier, "name": glossary.name, "creation_time": glossary.created}
    return {**names, "dictionaries": dictionaries}


def _read(path: Any) -> Glossary:
    try:
        value = json.loads(read_plain(path, _LARGEST_FILE).decode("utf-8"))
        identifier, name, created = (str(value[key]) for key in ("glossary_id", "name", "creation_time"))
        if not _IDENTIFIER.fullmatch(identifier) or path.name != f"{identifier}.json":
            raise ValueError("its name should be its glossary_id")
        dictionaries = {}
        for entry in value["dictionaries"]:
            entries = {str(term): str(translation) for term, translation in entry["entries"].items()}
            pair = LanguagePair(str(entry["source_lang"]), str(entry["target_lang"]))
            dictionaries[pair] = Dictionary(entries, compiled_entries(entries))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RequestError) as error:
        raise UserError(f"{path}: is no glossary of this server: {type(error).__name__}: {error}; take it away") from None
    return Glossary(identifier, name, created, dictionaries)
