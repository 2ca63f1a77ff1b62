"""Checksums of a folder's files, which show whether what is read is what was written."""

import fnmatch
import hashlib
import json
import logging
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from etils import epath

from transformer_jax.storage.files import bytes_of, is_remote, read_plain, write_whole

__all__ = ["MANIFEST", "find_damage", "is_complete", "write_manifest"]

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"  # the file in a folder that lists its files' sizes and checksums
_ITSELF = ""  # the entry for the other entries: no file has this name, and no flipped bit turns it into another name
_LARGEST = 1 << 24  # bytes of a manifest, which has about 100 for each file
# Files that file browsers and network file systems put into any folder; nothing here reads them.
_LITTER = (".DS_Store", "._*", "Thumbs.db", "desktop.ini", ".nfs*", "@eaDir")
_NAMED = 3  # most files that a message names


def write_manifest(folder: epath.PathLike) -> None:
    """Writes `manifest.json`, with the size and BLAKE2b hash of every file in `folder`, whole or not at all."""
    folder = epath.Path(folder)
    files = {name: _fingerprint(folder / name) for name in _files(folder) if name != MANIFEST and not _is_litter(name)}
    write_whole(folder / MANIFEST, json.dumps({_ITSELF: _hash_of(files), **files}, indent=1, sort_keys=True))


def is_complete(folder: epath.PathLike) -> bool:
    """Was `folder` written to its end? Its manifest comes last."""
    return (epath.Path(folder) / MANIFEST).exists()


def find_damage(folder: epath.PathLike, subfolders: Collection[str] | None = None, unread: Collection[str] = ()) -> str:
    """What is wrong with the files of `folder`, in a few words; "" if each is as it was when the manifest was written.

    With `subfolders`, files in other subfolders are left out. Of the files named in `unread` the size alone is compared. The
    folder may be a stranger's: no file is opened that is not a plain file inside the folder (links, devices and names such as
    `../x` are damage), and none is read beyond the size that the manifest says. A file in a subfolder that the manifest does
    not list is damage, because a program that reads the subfolder might read it. The log names other files that it does not
    list.
    """
    folder = epath.Path(folder)
    try:
        expected = _read_manifest(folder)
    except FileNotFoundError:
        return "has no checksums: it was not written to its end, or by an older version"
    except (OSError, ValueError, RecursionError):
        return f"{MANIFEST} is damaged"
    for name, (size, digest) in expected.items():
        if not _is_within(name, subfolders):
            continue
        try:
            wrong = _unusable(folder, name)
            if not wrong:
                path = folder / name
                is_same = bytes_of(path) == size if name in unread else _fingerprint(path, size) == [size, digest]
                wrong = "" if is_same else "is damaged"
        except FileNotFoundError:
            wrong = "is missing"
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        if wrong:
            return f"{name if name.isprintable() and len(name) < 200 else f'{name!r:.99}'} {wrong}"
    try:
        extra = sorted(name for name in _files(folder) if name not in expected and name != MANIFEST and not _is_litter(name))
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    extra = [name for name in extra if _is_within(name, subfolders)]
    inside = [name for name in extra if "/" in name]
    if inside:
        return f"has files that were not saved with it ({_some(inside)}): remove them"
    if extra:
        log.warning("%s: has files that were not saved with it and that are not read: %s", folder, _some(extra))
    return ""


def _is_within(name: str, subfolders: Collection[str] | None) -> bool:
    """Is the file in one of the subfolders, or in none?"""
    return subfolders is None or "/" not in name or name.partition("/")[0] in subfolders


def _read_manifest(folder: epath.Path) -> dict[str, tuple[int, str]]:
    """{name: (size, hash)}. Raises ValueError for anything else."""
    content = json.loads(read_plain(folder / MANIFEST, _LARGEST))
    if not isinstance(content, dict):
        raise ValueError("not an object")
    if content.pop(_ITSELF, None) not in (None, _hash_of(content)):  # manifests of older versions have no such entry
        raise ValueError("other entries than were written")
    for entry in content.values():
        if not isinstance(entry, list) or [type(value) for value in entry] != [int, str] or entry[0] < 0:
            raise ValueError("an entry that is not a size and a hash")
    return content


def _unusable(folder: epath.Path, name: str) -> str:
    """Why the file must not be opened; "" if it may be. Raises OSError if it does not exist."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == "." or set(name) & set("\\\0"):
        return f"(in {MANIFEST}) is not the name of a file in this folder"
    if is_remote(folder):  # an object store has no links and no devices
        return ""
    if os.path.realpath(folder / name) != os.path.join(os.path.realpath(folder), *path.parts):
        return "is a link: put the file itself in its place"
    return "" if stat.S_ISREG(os.stat(folder / name).st_mode) else "is not a plain file"


def _files(folder: epath.Path) -> Iterator[str]:
    """The names of all files in a folder and its subfolders, relative to it; links are not followed."""
    pending = [""]
    while pending:
        within = pending.pop()
        for name, is_folder in _entries(folder / within):
            if is_folder:
                pending.append(f"{within}{name}/")
            else:
                yield f"{within}{name}"


def _entries(folder: epath.Path) -> list[tuple[str, bool]]:
    if is_remote(folder):
        return [(path.name, path.is_dir()) for path in folder.iterdir()]
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _is_litter(name: str) -> bool:
    return any(fnmatch.fnmatchcase(part, pattern) for part in PurePosixPath(name).parts for pattern in _LITTER)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _hash_of(files: dict[str, list]) -> str:
    return hashlib.blake2b(json.dumps(files, sort_keys=True).encode(), digest_size=16).hexdigest()


def _fingerprint(path: epath.Path, expected: int | None = None) -> list:
    """[size, hash] of a file; the hash is not computed if another size is expected."""
    if expected is not None and (size := bytes_of(path)) != expected:
        return [size, ""]
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        size = 0
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return [size, digest.hexdigest()]
