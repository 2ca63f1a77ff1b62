"""Checksums of a folder's files: whether what is read is what was written."""

import hashlib
import json

from etils import epath

from transformer_jax.files import write_whole

__all__ = ["MANIFEST", "problem", "sealed", "write_manifest"]

MANIFEST = "manifest.json"  # the file in a folder that has its files' checksums
_ITSELF = ""  # the entry for the other entries: no file has this name, and no flipped bit leads from it to another name


def write_manifest(folder: epath.PathLike) -> None:
    """Writes `manifest.json`, the size and BLAKE2b hash of every file in `folder`; it is there as a whole or not at all."""
    folder = epath.Path(folder)
    files = {str(path.relative_to(folder)): _fingerprint(path) for path in _files(folder) if path != folder / MANIFEST}
    write_whole(folder / MANIFEST, json.dumps({_ITSELF: _hash_of(files), **files}, indent=1, sort_keys=True))


def sealed(folder: epath.PathLike) -> bool:
    """Has a manifest been written in `folder`?"""
    return (epath.Path(folder) / MANIFEST).exists()


def problem(folder: epath.PathLike) -> str:
    """What is wrong with the files of `folder`, in a few words; empty if each is as it was when the manifest was written."""
    folder = epath.Path(folder)
    try:
        expected = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return "has no checksums: it was not written to its end, or by an older version"
    except (OSError, ValueError):
        return f"{MANIFEST} is damaged"
    if expected.pop(_ITSELF, None) not in (None, _hash_of(expected)):  # manifests of older versions have no such entry
        return f"{MANIFEST} is damaged"
    for name, fingerprint in expected.items():
        try:
            if _fingerprint(folder / name) != fingerprint:
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def _files(folder: epath.Path) -> list[epath.Path]:
    entries = list(folder.iterdir())
    return [path for entry in entries for path in (_files(entry) if entry.is_dir() else [entry])]


def _hash_of(files: dict[str, list]) -> str:
    return hashlib.blake2b(json.dumps(files, sort_keys=True).encode(), digest_size=16).hexdigest()


def _fingerprint(path: epath.Path) -> list:
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        size = 0
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return [size, digest.hexdigest()]
