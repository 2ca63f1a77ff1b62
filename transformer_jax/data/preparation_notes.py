"""Notes in the cache of what became of text, by its stamp (`sources.stamp`): who finds one need not read the text again."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from etils import epath

from transformer_jax.config import TokenizerConfig
from transformer_jax.data.store import Store, fill, identity, load_store, local_cache
from transformer_jax.storage.checksums import problem, write_manifest
from transformer_jax.storage.files import write_whole
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["recall_store", "recall_tokenizer", "remember_store", "remember_tokenizer"]


def remember_store(
    stamp: str,
    tokenizer: Tokenizer,
    sampling: Sampling | None,
    cache_dir: str,
    store: Store,
    parts: Sequence[tuple[int, float]],
) -> None:
    """Notes that this text has become `store` with this tokenizer, and `parts` of its sources (`sources.read_sources`)."""
    with contextlib.suppress(OSError):  # then it is read again
        note = _note(local_cache(cache_dir), identity(tokenizer, sampling), stamp)
        write_whole(note, json.dumps({"store": store.fingerprint, "parts": parts}))


def recall_store(
    stamp: str, tokenizer: Tokenizer, sampling: Sampling | None, cache_dir: str
) -> tuple[Store, list[tuple[int, float]]] | None:
    """What `remember_store` was given, if the store is still there and whole."""
    cache = local_cache(cache_dir)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(_note(cache, identity(tokenizer, sampling), stamp).read_text())
        parts = [(int(count), float(weight)) for count, weight in found["parts"]]
        store = load_store(cache / found["store"])
        return (store, parts) if store else None
    return None


def remember_tokenizer(stamp: str, config: TokenizerConfig, cache_dir: str, tokenizer: Tokenizer) -> None:
    """Keeps a copy of what was trained on this text as `config` says."""

    def copy(folder: Path) -> None:
        tokenizer.copy_to(folder)
        write_manifest(folder)

    with contextlib.suppress(OSError):
        fill(_tokenizer_folder(stamp, config, cache_dir), copy)


def recall_tokenizer(stamp: str, config: TokenizerConfig, cache_dir: str) -> Tokenizer | None:
    """What `remember_tokenizer` has kept, if it is still there and whole."""
    kept = _tokenizer_folder(stamp, config, cache_dir)
    return None if problem(kept) else Tokenizer.load(kept)


def _tokenizer_folder(stamp: str, config: TokenizerConfig, cache_dir: str) -> Path:
    # How text is segmented afterwards is none of its business.
    trained = dataclasses.asdict(dataclasses.replace(config, samples=0, alpha=0.0))
    name = _hash(f"{sentencepiece.__version__} {json.dumps(trained)} {stamp}")
    return local_cache(cache_dir) / "tokenizers" / name


def _note(cache: Path, *facts: str) -> epath.Path:
    folder = cache / "notes"
    folder.mkdir(parents=True, exist_ok=True)
    return epath.Path(folder / f"{_hash(' '.join(facts))}.json")


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
