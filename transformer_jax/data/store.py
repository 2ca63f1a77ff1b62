"""The corpus as flat arrays of ids: tokenised once, memory-mapped from files, found by a hash of text and tokenizer."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from transformer_jax.data.corpus import Pairs
from transformer_jax.data.encode_pairs import PairsEncoder
from transformer_jax.data.id_arrays import map_array, write_ids
from transformer_jax.data.lines_on_disk import CHUNK, joined
from transformer_jax.data.noised_lines import clean_pairs, noise_identity
from transformer_jax.data.source_words import SourceWordCounts, SourceWords
from transformer_jax.data.token_blocks import BlockFiles
from transformer_jax.data.training_words import WordHashes
from transformer_jax.errors import UserError
from transformer_jax.storage.background_check import BackgroundCheck
from transformer_jax.storage.cache_folders import default_cache_dir, fill
from transformer_jax.storage.checksums import MANIFEST, find_damage, is_complete, write_manifest
from transformer_jax.storage.files import is_remote, to_path
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.text_arguments import refuse_bare_text
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = [
    "Store",
    "block_files",
    "identity",
    "is_tokenised_in_blocks",
    "load_store",
    "local_cache",
    "open_store",
    "put_share_of_blocks",
    "writing_cache",
]

log = logging.getLogger(__name__)

_FORMAT = 1  # goes into the hash: stores of another layout are not found, and so made anew
_ARRAYS = ("source_ids", "source_offsets", "target_ids", "target_offsets")
_WORDS = "words.npy"
_SOURCE_WORDS = "source_words.npz"
_CHECKED_AT_ONCE = 1 << 28  # bytes of arrays that are compared with their checksums before they are used, in some 0.3 s


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
    words: np.ndarray | None = None  # `vocabulary_of` the targets; None: an older version has not kept it
    source_words: SourceWords | None = None  # of the sources; None: they were not counted
    check: BackgroundCheck | None = None  # of the files, where they are large

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

    def require_whole(self, wait: bool = False) -> None:
        """Raises UserError if the files that this store is mapped from have been found damaged. The arrays of a large store are
        compared with their checksums while they are in use; with `wait`, this waits for the end of that."""
        if self.check:
            self.check.require_whole(wait)

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


def open_store(
    pairs: Pairs,
    tokenizer: Tokenizer,
    cache_dir: str | Path = "",
    sampling: Sampling | None = None,
    counts_words: bool = False,
) -> Store:
    """The store of `pairs`, tokenised now or, where all that goes into it is as in an earlier call, read from `cache_dir`.

    With `sampling` it has each pair `sampling.count` times over, each time segmented anew at random, and with its noise drawn
    anew where its source has any: first all pairs once, then all of them again. They are the same at each call.

    It is written to a temporary folder that gets its name, a hash of the text and the tokenizer, when it is complete: a store
    that is half written is never found, and of two processes that write the same store the second throws its own away. The text
    is hashed while it is tokenised, and before that only where the cache has a store of as many pairs. A store in a `cache_dir`
    on an object store is copied to `default_cache_dir()` first, to be mapped into memory.

    The ids of a large text are kept in `cache_dir` in blocks until the store is complete (`PairsEncoder`): those that an
    interrupted call or `put_share_of_blocks` has put there are taken. With `counts_words` a store that is made now has
    `source_words`: that takes a core two seconds a million pairs.

    Raises UserError if a cache cannot be written, TypeError where a side of `pairs` is a string.
    """
    for side, lines in (("source", pairs.source), ("target", pairs.target)):
        if isinstance(lines, str):
            refuse_bare_text(lines, side)
    remote, local = _remote_cache(cache_dir), local_cache(cache_dir)
    name, store = _find_store(pairs, tokenizer, cache_dir, sampling)
    if store is not None:  # it may have no pairs
        return store
    if name and (local / name).is_dir():
        log.warning("%s: %s; the text is tokenised again", local / name, find_damage(local / name))
    with writing_cache(cache_dir):
        if remote and is_complete(remote / name):
            folder = fill(local, lambda temporary: _copy(remote / name, temporary))
            store = load_store(folder, at_once=True) if folder else None  # a bucket's own damage would come again at each start
        else:
            encoder = _encoder(pairs, tokenizer, cache_dir, sampling)
            folder = fill(local, lambda temporary: _write(temporary, pairs, tokenizer, sampling, encoder, counts_words))
            store = _map_store(folder) if folder else None
            if remote and folder:
                _copy(epath.Path(folder), remote / name)
            if encoder.taken:
                log.info("tokenised before: %s of %s lines", f"{encoder.taken:,}", f"{encoder.taken + encoder.encoded:,}")
            if store is not None:
                files = block_files(cache_dir)
                files.remove(encoder.block_names)
                files.remove_leftovers()
    if store is None:
        raise UserError(f"{local / name}: the tokenised corpus was written but cannot be read back; set another data.cache_dir")
    return store


def is_tokenised_in_blocks(pairs: Pairs, tokenizer: Tokenizer, cache_dir: str | Path, sampling: Sampling | None) -> bool:
    """Will `open_store` tokenise these pairs, which are not in the cache yet and are enough for blocks?"""
    if not _encoder(pairs, tokenizer, cache_dir, sampling).keeps_blocks:
        return False
    remote, (name, store) = _remote_cache(cache_dir), _find_store(pairs, tokenizer, cache_dir, sampling)
    return store is None and not (remote and is_complete(remote / name))


def put_share_of_blocks(
    pairs: Pairs, tokenizer: Tokenizer, cache_dir: str | Path, sampling: Sampling | None, index: int, count: int
) -> None:
    """Tokenises the share of process number `index` of `count` that see the same cache, and puts it there in blocks, for
    `open_store`. Raises UserError if it cannot be written."""
    encoder = _encoder(pairs, tokenizer, cache_dir, sampling)
    with writing_cache(cache_dir):
        encoder.put_share(index, count)
    log.info(
        "tokenised: %s lines, the share of one of %d processes; before: %s", f"{encoder.encoded:,}", count, f"{encoder.taken:,}"
    )


def block_files(cache_dir: str | Path) -> BlockFiles:
    """The blocks of tokenised text in a cache."""
    return BlockFiles((_remote_cache(cache_dir) or local_cache(cache_dir)) / "blocks")


@contextlib.contextmanager
def writing_cache(cache_dir: str | Path) -> Iterator[None]:
    """Raises a UserError that names the cache in the place of an OSError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{cache_dir or local_cache()}: cannot write the tokenised corpus ({error}); free space or set data.cache_dir"
        ) from None


def load_store(folder: Path, at_once: bool = False) -> Store | None:
    """The store in `folder`, mapped into memory, if there is one and each of its bytes is as it was written; else None.

    Where its arrays have more than 256 MB, their bytes are compared on a thread, unless `at_once`: what uses such a store must
    ask it (`Store.require_whole`), as `BatchStream` does.
    """
    files = [f"{name}.npy" for name in _ARRAYS]
    with contextlib.suppress(OSError):
        at_once = at_once or sum((folder / name).stat().st_size for name in files) <= _CHECKED_AT_ONCE
    if find_damage(folder, unread=() if at_once else files):
        return None
    if at_once:
        return _map_store(folder)
    try:
        store = _map_store(folder)
        if not _is_consistent(store):
            return None
    except Exception:  # a damaged header makes NumPy raise errors of many kinds
        return None
    return dataclasses.replace(store, check=BackgroundCheck(folder))


def _is_consistent(store: Store) -> bool:
    """Can all sentences be read? Lengths below 0 are told where they are read (`length_counts.length_blocks`)."""
    sides = (store.source_ids, store.source_offsets), (store.target_ids, store.target_offsets)
    return all(
        ids.dtype in (np.uint16, np.int32)
        and offsets.dtype == np.int64
        and ids.ndim == offsets.ndim == 1
        and len(offsets) == len(store.source_offsets) > 0
        and (offsets[0], offsets[-1]) == (0, len(ids))
        for ids, offsets in sides
    )


def identity(tokenizer: Tokenizer, sampling: Sampling | None) -> str:
    """What a store depends on beside the text, in one line."""
    return f"{_FORMAT} {tokenizer.fingerprint}" + (f" {sampling.count} x {sampling.alpha!r}" if sampling else "")


def _find_store(
    pairs: Pairs, tokenizer: Tokenizer, cache_dir: str | Path, sampling: Sampling | None
) -> tuple[str, Store | None]:
    """The name of the store of `pairs`, where it had to be known, and the store, if it is on this disk and whole."""
    local = local_cache(cache_dir)
    if not _remote_cache(cache_dir) and not _has_store_of(local, len(pairs.source) * (sampling.count if sampling else 1)):
        return "", None
    name = _hash(pairs, tokenizer, sampling)
    return name, load_store(local / name)


def _remote_cache(cache_dir: str | Path) -> epath.Path | None:
    return to_path(cache_dir) if cache_dir and is_remote(cache_dir) else None


def _encoder(pairs: Pairs, tokenizer: Tokenizer, cache_dir: str | Path, sampling: Sampling | None) -> PairsEncoder:
    return PairsEncoder(pairs, tokenizer, sampling, identity(tokenizer, sampling), block_files(cache_dir))


def _has_store_of(cache: Path, pairs: int) -> bool:
    """May there be a store of so many pairs? A damaged one may be."""
    if not cache.is_dir():
        return False
    for folder in cache.iterdir():
        if re.fullmatch("[0-9a-f]{32}", folder.name):
            try:
                if len(np.load(folder / f"{_ARRAYS[1]}.npy", mmap_mode="r")) == pairs + 1:
                    return True
            except (OSError, ValueError, EOFError):
                return True
    return False


def _hash(pairs: Pairs, tokenizer: Tokenizer, sampling: Sampling | None) -> str:
    digest = _start_hash(pairs, tokenizer, sampling)
    for lines in clean_pairs(pairs):
        for start in range(0, len(lines), CHUNK):
            _add_block(digest, joined(lines, start, min(start + CHUNK, len(lines))))
    return digest.hexdigest()


def _start_hash(pairs: Pairs, tokenizer: Tokenizer, sampling: Sampling | None) -> Any:
    settings = f"{identity(tokenizer, sampling)} {len(pairs.source)}{noise_identity(pairs)}\n"
    return hashlib.blake2b(settings.encode(), digest_size=16)


def _add_block(digest: Any, block: bytes) -> None:
    digest.update(block + b"\n")  # a line has no "\n", so that the joined text says where each ends


def _write(
    folder: Path,
    pairs: Pairs,
    tokenizer: Tokenizer,
    sampling: Sampling | None,
    encoder: PairsEncoder,
    counts_words: bool,
) -> str:
    """Writes the store of `pairs`, whose text is passed over once (with `sampling`, once for each sample). Returns its name: a
    hash of the clean text, and of what its noise depends on."""
    digest, words, source_words = _start_hash(pairs, tokenizer, sampling), WordHashes(), SourceWordCounts()

    def on_source(text: bytes) -> None:
        _add_block(digest, text)
        if counts_words:
            source_words.add(text.decode("utf-8"))

    for side, on_text in (("source", on_source), ("target", functools.partial(_add_block, digest))):
        rows = encoder.encode(side, on_text, words)
        lengths = write_ids(folder / f"{side}_ids.npy", encoder.id_type, rows)
        np.save(folder / f"{side}_offsets.npy", np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])))
    np.save(folder / _WORDS, words.hashes())
    if counts_words:
        (folder / _SOURCE_WORDS).write_bytes(source_words.words().to_bytes())
    write_manifest(folder)
    return digest.hexdigest()


def _copy(folder: epath.PathLike, to: epath.PathLike) -> str:
    """Copies a store. Returns its name."""
    folder, to = epath.Path(folder), epath.Path(to)
    to.mkdir(parents=True, exist_ok=True)
    words = [name for name in (_WORDS, _SOURCE_WORDS) if (folder / name).exists()]
    for name in (*(f"{name}.npy" for name in _ARRAYS), *words, MANIFEST):  # last what says that all are there
        (folder / name).copy(to / name, overwrite=True)
    return folder.name


def _map_store(folder: Path) -> Store:
    words = map_array(folder / _WORDS) if (folder / _WORDS).exists() else None
    source = folder / _SOURCE_WORDS
    source_words = SourceWords.from_bytes(source.read_bytes()) if source.exists() else None
    return Store(*(map_array(folder / f"{name}.npy") for name in _ARRAYS), folder.name, words, source_words)
