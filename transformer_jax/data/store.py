"""The corpus tokenised once: flat arrays of ids on disk, memory-mapped, found again by a hash of what went into them."""

import contextlib
import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from transformer_jax.data.corpus import Pairs
from transformer_jax.data.encoders import encode_lines
from transformer_jax.data.known_words import vocabulary_of
from transformer_jax.data.spool import CHUNK, joined
from transformer_jax.errors import UserError
from transformer_jax.storage.cache_folders import default_cache_dir
from transformer_jax.storage.checksums import MANIFEST, problem, sealed, write_manifest
from transformer_jax.storage.files import is_remote, to_path
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Store", "fill", "identity", "load_store", "local_cache", "open_store"]

log = logging.getLogger(__name__)

_FORMAT = 1  # goes into the hash: stores of another layout are not found, and so made anew
_ARRAYS = ("source_ids", "source_offsets", "target_ids", "target_offsets")
_WORDS = "words.npy"


@dataclass(frozen=True)
class Store:
    """Sentence i's source is `source_ids[source_offsets[i] : source_offsets[i + 1]]`, EOS included; likewise its target.

        "a dog", "a cat sleeps"    ->    ids      5 9 1 5 7 8 1
                                         offsets  0     3       7

    What `load_store` gives cannot be written to: it is mapped from files.
    """

    source_ids: np.ndarray  # uint16 (int32 from 65,536 pieces on) [tokens]
    source_offsets: np.ndarray  # int64 [pairs + 1]
    target_ids: np.ndarray  # the same, of the targets
    target_offsets: np.ndarray
    fingerprint: str = ""  # of the text and the tokenizer
    words: np.ndarray | None = None  # `words.vocabulary_of` the targets; None: an older version has not kept it

    @classmethod
    def of(cls, source: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> "Store":
        """In memory, from the ids of each sentence, int [tokens], EOS included.

        >>> store = Store.of([np.array([5, 9, 1]), np.array([5, 7, 8, 1])], [np.array([6, 1]), np.array([4, 1])])
        >>> store.source_ids.tolist(), store.source_offsets.tolist(), store.target_lengths.tolist()
        ([5, 9, 1, 5, 7, 8, 1], [0, 3, 7], [2, 2])
        """
        sides = [(np.concatenate(rows), np.cumsum([0, *map(len, rows)])) for rows in (source, target)]
        return cls(*sides[0], *sides[1])

    def __len__(self) -> int:  # pairs
        return len(self.source_offsets) - 1

    @property
    def source_lengths(self) -> np.ndarray:
        """int64 [pairs]: tokens of each source, EOS included."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        """int64 [pairs]: tokens of each target, EOS included."""
        return np.diff(self.target_offsets)


def local_cache(cache_dir: str | Path = "") -> Path:
    """The folder on this disk that stands for `data.cache_dir`: itself, or `default_cache_dir()` where that is empty or on an
    object store."""
    return Path(cache_dir) if cache_dir and not is_remote(cache_dir) else default_cache_dir()


def open_store(pairs: Pairs, tokenizer: Tokenizer, cache_dir: str | Path = "", sampling: Sampling | None = None) -> Store:
    """The store of `pairs`, tokenised now or, where all that goes into it is as in an earlier call, read from `cache_dir`.

    With `sampling` it has each pair `sampling.count` times over, each time segmented anew at random: first all pairs once, then
    all of them again. They are the same at each call.

    It is written to a temporary folder that gets its name, the hash, when it is complete: one that is half there is never
    found, and of two processes that write the same store the second throws its own away. A store in a `cache_dir` on an object
    store is copied to `default_cache_dir()` first, to be mapped into memory.

    Raises UserError if a cache cannot be written.
    """
    remote = to_path(cache_dir) if cache_dir and is_remote(cache_dir) else None
    local = local_cache(cache_dir)
    name = _hash(pairs, tokenizer, sampling)
    store = load_store(local / name)
    if store:
        return store
    if (local / name).is_dir():
        log.warning("%s: %s; the text is tokenised again", local / name, problem(local / name))
    try:
        if remote and sealed(remote / name):
            fill(local / name, lambda folder: _copy(remote / name, folder))
        else:
            fill(local / name, lambda folder: _write(folder, pairs, tokenizer, sampling))
            if remote:
                _copy(epath.Path(local / name), remote / name)
    except OSError as error:
        raise UserError(
            f"{cache_dir or local}: cannot write the tokenised corpus ({error}); free space or set data.cache_dir"
        ) from None
    store = load_store(local / name)
    if not store:
        raise UserError(f"{local / name}: the tokenised corpus was written but cannot be read back; set another data.cache_dir")
    return store


def identity(tokenizer: Tokenizer, sampling: Sampling | None) -> str:
    """What a store depends on beside the text, in one line."""
    return f"{_FORMAT} {tokenizer.fingerprint}" + (f" {sampling.count} x {sampling.alpha!r}" if sampling else "")


def _hash(pairs: Pairs, tokenizer: Tokenizer, sampling: Sampling | None) -> str:
    digest = hashlib.blake2b(f"{identity(tokenizer, sampling)} {len(pairs.source)}\n".encode(), digest_size=16)
    for lines in pairs:
        for start in range(0, len(lines), CHUNK):
            # A line has no "\n", so that the joined text says where each ends.
            digest.update(joined(lines, start, min(start + CHUNK, len(lines))) + b"\n")
    return digest.hexdigest()


def fill(folder: Path, write: Callable[[Path], None]) -> None:
    """Has `write` fill a temporary folder, its manifest included, which then becomes `folder`, as a whole or not at all."""
    # Not tempfile's mkdtemp, whose folders no other user of a shared cache could read.
    temporary = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        with contextlib.suppress(OSError):
            temporary.rename(folder)
            return
        if problem(folder):  # not another writer's, which would be as good as ours, but a damaged one
            damaged = temporary.with_name(f"{temporary.name}-damaged")
            with contextlib.suppress(OSError):
                folder.rename(damaged)
                temporary.rename(folder)
            shutil.rmtree(damaged, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, pairs: Pairs, tokenizer: Tokenizer, sampling: Sampling | None) -> None:
    kind = np.dtype(np.uint16 if tokenizer.vocab_size < 1 << 16 else np.int32)
    for side, lines in pairs._asdict().items():
        lengths = [np.zeros(1, np.int64)]
        # The header of an .npy file tells the size, which is known at the end; all ids at once would double the memory.
        unsized = folder / f"{side}_ids"
        with unsized.open("wb") as file:
            for ids, of_lines in encode_lines(tokenizer, side, lines, sampling=sampling):
                file.write(ids.astype(kind).data)
                lengths.append(of_lines)
        np.save(folder / f"{side}_ids.npy", np.memmap(unsized, kind, "r") if unsized.stat().st_size else np.zeros(0, kind))
        unsized.unlink()
        np.save(folder / f"{side}_offsets.npy", np.cumsum(np.concatenate(lengths)))
    np.save(folder / _WORDS, vocabulary_of(pairs.target))
    write_manifest(folder)


def _copy(folder: epath.PathLike, to: epath.PathLike) -> None:
    folder, to = epath.Path(folder), epath.Path(to)
    to.mkdir(parents=True, exist_ok=True)
    words = [_WORDS] if (folder / _WORDS).exists() else []
    for name in (*(f"{name}.npy" for name in _ARRAYS), *words, MANIFEST):  # last what says that all are there
        (folder / name).copy(to / name, overwrite=True)


def load_store(folder: Path) -> Store | None:
    """The store in `folder`, mapped into memory, if there is one and each of its bytes is as it was written; else None."""
    if problem(folder):
        return None
    # Views as plain arrays: indexing through numpy's memmap class costs several times as much.
    words = np.asarray(_map(folder / _WORDS)) if (folder / _WORDS).exists() else None
    return Store(*(np.asarray(_map(folder / f"{name}.npy")) for name in _ARRAYS), folder.name, words)


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # no mapping of an array without elements
        return np.load(path, allow_pickle=False)
