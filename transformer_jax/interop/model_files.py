"""The files of a model that is in a folder or in a zip file, such as an Argos package."""

import json
import zipfile
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.interop.foreign_model import parse_json, read_file

__all__ = ["ModelFiles", "is_ctranslate2"]

_MODEL = "model.bin"
_BELOW = "model"  # the folder of the model in an Argos package
_PACKED = (".argosmodel", ".zip")
_LARGEST_RATIO = 1000  # of what a file in a zip file is to what it takes there: more is a bomb


def is_ctranslate2(path: Path) -> bool:
    """Is it a folder with a CTranslate2 model, or an Argos package, packed or unpacked?"""
    return path.suffix in _PACKED if path.is_file() else bool(_folders(path))


class ModelFiles:
    """The files beside a `model.bin`, and in the folder above it where that is an Argos package; to be used with `with`.

    Attributes:
        given: the folder or zip file
    """

    def __init__(self, given: Path):
        self.given, self._zip = given, None
        if given.is_dir():
            self._folders: list[Any] = _folders(given)
            return
        try:
            self._zip = zipfile.ZipFile(given)
            entries = [name for name in self._zip.namelist() if name.rpartition("/")[2] == _MODEL]
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise UserError(f"{given}: not a whole zip file ({error}); download it again") from None
        if len(entries) != 1:
            raise UserError(f"{given}: has {len(entries)} files {_MODEL}; expected a package of one CTranslate2 model")
        folder = entries[0].removesuffix(_MODEL)
        above = [folder.removesuffix(f"{_BELOW}/")] if folder.endswith(f"{_BELOW}/") else []
        self._folders = list(dict.fromkeys([folder, *above]))

    def __enter__(self) -> "ModelFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()

    def has(self, name: str) -> bool:
        """Is there such a file?"""
        return self._find(name) is not None

    def where(self, name: str) -> str:
        """The file as errors name it."""
        found = self._find(name)
        if self._zip:
            return f"{self.given}: {found or self._folders[0] + name}"
        return str(found or self._folders[0] / name)

    def names(self) -> list[str]:
        """The names of all files."""
        if self._zip:
            inner = [(folder, entry) for folder in self._folders for entry in self._zip.namelist() if entry.startswith(folder)]
            names = {entry.removeprefix(folder) for folder, entry in inner}
            return sorted(name for name in names if name and "/" not in name)
        return sorted({path.name for folder in self._folders for path in folder.iterdir() if path.is_file()})

    def folder(self, name: str) -> Path | None:
        """A folder beside the model; None where there is none, and in a zip file."""
        path = None if self._zip else self._folders[0] / name
        return path if path and path.is_dir() else None

    def read(self, name: str, what: str) -> bytes:
        """The bytes of a file. Raises UserError, saying `what` it should hold, if it cannot be read."""
        found = self._find(name)
        if not self._zip:
            return read_file(found or self._folders[0] / name, what)
        if found is None:
            raise UserError(f"{self.where(name)}: no such file; expected {what} there")
        try:
            entry = self._zip.getinfo(found)
            if entry.file_size > _LARGEST_RATIO * max(entry.compress_size, 1):
                raise zipfile.BadZipFile(f"{entry.compress_size:,} bytes would become {entry.file_size:,}")
            return self._zip.read(entry)
        except Exception as error:  # zipfile and zlib raise many types for damaged files
            raise UserError(f"{self.where(name)}: cannot be read ({error}); download the package again") from None

    def read_json(self, name: str, what: str) -> dict[str, Any]:
        """The object in a file. Raises UserError if it cannot be read or is not JSON."""
        return parse_json(self.read(name, what), self.where(name))

    def read_list(self, name: str, what: str) -> list[str]:
        """The list of texts in a file. Raises UserError if it cannot be read or is not such JSON."""
        try:
            content = json.loads(self.read(name, what))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.where(name)}: damaged, expected JSON ({error}); download it again") from None
        if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
            raise UserError(f"{self.where(name)}: damaged, expected a list of texts; download it again")
        return content

    def _find(self, name: str) -> Any:
        if self._zip:
            entries = {*self._zip.namelist()}
            return next((folder + name for folder in self._folders if folder + name in entries), None)
        return next((path for folder in self._folders if (path := folder / name).is_file()), None)


def _folders(given: Path) -> list[Path]:
    """The folder of the model, and the one above it in an Argos package; none where there is no model."""
    if (given / _MODEL).is_file():
        is_below = given.resolve().name == _BELOW and not list(given.glob("*.spm")) and not (given / "tokenizer").is_dir()
        return [given, given.resolve().parent] if is_below else [given]
    return [given / _BELOW, given] if (given / _BELOW / _MODEL).is_file() else []
