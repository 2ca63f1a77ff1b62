"""What was made of a training text before: its tokenizer and its store, found without reading the text again."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from etils import epath

from transformer_jax.config import TokenizerConfig
from transformer_jax.data.store import Store, identity, load_store, local_cache
from transformer_jax.storage.cache_folders import fill
from transformer_jax.storage.checksums import find_damage, write_manifest
from transformer_jax.storage.files import write_whole
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["PreparationCache"]


class PreparationCache:
    """The part of a cache folder for the text of one fingerprint (`sources.text_fingerprint`). It keeps and finds nothing where
    the fingerprint is empty. What cannot be kept is made again the next time."""

    def __init__(self, fingerprint: str, cache_dir: str):
        self._fingerprint = fingerprint
        self._folder = local_cache(cache_dir)

    def get_tokenizer(self, config: TokenizerConfig) -> Tokenizer | None:
        """The tokenizer that was trained on this text with these settings, if it is there and whole."""
        folder = self._tokenizer_folder(config)
        return Tokenizer.load(folder) if self._fingerprint and not find_damage(folder) else None

    def put_tokenizer(self, config: TokenizerConfig, tokenizer: Tokenizer) -> None:
        """Keeps a copy of a tokenizer that was trained on this text with these settings."""
        folder = self._tokenizer_folder(config)

        def copy(temporary: Path) -> str:
            tokenizer.copy_to(temporary)
            write_manifest(temporary)
            return folder.name

        if self._fingerprint:
            with contextlib.suppress(OSError):
                fill(folder.parent, copy)

    def get_store(self, tokenizer: Tokenizer, sampling: Sampling | None) -> tuple[Store, list[tuple[int, float]]] | None:
        """The store of this text with this tokenizer, if it is there and whole, and the number of pairs and the weight of each
        source (`sources.read_sources`)."""
        if not self._fingerprint:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note(tokenizer, sampling).read_text())
            counts = [(int(count), float(weight)) for count, weight in note["parts"]]
            store = load_store(self._folder / note["store"])
            return None if store is None else (store, counts)
        return None

    def put_store(
        self, tokenizer: Tokenizer, sampling: Sampling | None, store: Store, counts: Sequence[tuple[int, float]]
    ) -> None:
        """Notes which store `open_store` made of this text, and the number of pairs and the weight of each source."""
        if self._fingerprint:
            with contextlib.suppress(OSError):
                note = self._note(tokenizer, sampling)
                note.parent.mkdir(parents=True, exist_ok=True)
                write_whole(note, json.dumps({"store": store.fingerprint, "parts": counts}))

    def _tokenizer_folder(self, config: TokenizerConfig) -> Path:
        # The tokenizer does not depend on how text is segmented with it.
        trained = dataclasses.asdict(dataclasses.replace(config, samples=0, alpha=0.0))
        if not config.vocab_may_shrink:
            del trained["vocab_may_shrink"]  # so that what was kept before there was this field is found
        name = _hash(f"{sentencepiece.__version__} {json.dumps(trained)} {self._fingerprint}")
        return self._folder / "tokenizers" / name

    def _note(self, tokenizer: Tokenizer, sampling: Sampling | None) -> epath.Path:
        name = _hash(f"{identity(tokenizer, sampling)} {self._fingerprint}")
        return epath.Path(self._folder / "notes" / f"{name}.json")


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
