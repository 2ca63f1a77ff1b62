"""Training text of several sources: how often each comes, and what is cleaned from it."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from transformer_jax.config import Config, DataConfig, override, validate
from transformer_jax.data.corpus import Cleaning, Pairs, iter_pairs, text_files
from transformer_jax.data.source_names import FILTERS, Spec, parse_list, parse_spec
from transformer_jax.data.spool import Spool
from transformer_jax.data.store import local_cache
from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote
from transformer_jax.tokenization.normalization import normalize
from transformer_jax.version import __version__

__all__ = ["Source", "fetch", "is_on_this_disk", "parse_sources", "read_sources", "stamp"]

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """One of the sources of `data.train`."""

    spec: Spec  # for `read_pairs`
    weight: float  # how often an epoch has each of its pairs
    filters: DataConfig  # of which `Cleaning` reads max_words, max_ratio and deduplicate


def parse_sources(data: DataConfig) -> list[Source]:
    """What `data.train` lists. Raises UserError where that cannot be: a weight that is none, an option that no source has.

    >>> for source in parse_sources(DataConfig(train="europarl, news * 2.5 (max_ratio=3 tag=<news>)")):
    ...     print(source.spec.name, source.spec.tag, source.weight, source.filters.max_ratio)
    europarl  1.0 9.0
    news <news> 2.5 3.0
    """
    return [Source(spec, spec.weight, _filters(spec, data)) for spec in parse_list(data.train)]


def read_sources(data: DataConfig, normalized: bool = False) -> tuple[Pairs, list[tuple[int, float]]]:
    """The cleaned pairs of all sources of `data.train`, one source after the other, and for each how many they are and their
    weight. Of pairs that several sources have the first source's is kept. If `normalized`, they are what `normalize` leaves of
    them, and that before they are cleaned: a sentence of invisible characters is empty, and pairs that differ in these alone
    are duplicates. They are not in memory, but in a file in the cache that goes with them. Raises UserError as `read_pairs`
    does."""
    folder = local_cache(data.cache_dir)
    together, parts, seen = Pairs(Spool(folder), Spool(folder)), [], set()
    for spec, weight, filters in parse_sources(data):
        cleaning = Cleaning(filters, seen)
        for source, target in iter_pairs(spec, data.source_language, data.target_language):
            if normalized:
                source, target = normalize(source), normalize(target)
            if cleaning.keeps(source, target):
                together.source.append(source)
                together.target.append(target)
        told = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.counts.items())
        log.info("training text %s: %s", spec.text, told)
        parts.append((cleaning.counts["kept"], weight))
    return together, parts


def fetch(specs: Iterable[str | Spec]) -> None:
    """Downloads and prepares what these sources name and is not here yet, which several processes should not do at once.

    Raises UserError where it cannot be had.
    """
    for spec in specs:
        if isinstance(spec, str) and spec.lstrip(' "').startswith("tfds:"):
            spec = parse_spec(spec)
        if isinstance(spec, Spec) and spec.name.startswith("tfds:"):
            from transformer_jax.data.tfds_source import fetch_tfds

            fetch_tfds(spec.name.removeprefix("tfds:"))


def is_on_this_disk(data: DataConfig) -> bool:
    """Can all of `data.train` be read without a download? Raises UserError as `parse_sources` and `text_files` do."""
    for spec, *_ in parse_sources(data):
        if is_remote(spec.name) or spec.name.startswith(("tfds:", "sacrebleu:")):
            return False
        text_files(spec, data.source_language, data.target_language)
    return True


def stamp(data: DataConfig) -> str:
    """Tells without reading them whether the files of `data.train`, or what is made of them, have changed: a hash of their
    names, sizes, inodes and times of change, and of the settings. (The built-in corpus is its program's files.) Empty where
    there is a source that is not in local files. Raises UserError as `parse_sources` does."""
    facts: list = [__version__, {**dataclasses.asdict(data), "dev": "", "cache_dir": ""}]
    for source in parse_sources(data):
        files = _files(source.spec, data)
        if not files or any(map(is_remote, files)):
            return ""
        for path in map(Path, files):
            if not path.is_file():
                return ""  # reading it says what is wrong
            status = path.stat()
            times = status.st_mtime_ns, status.st_ctime_ns
            facts.append([str(path.resolve()), status.st_dev, status.st_ino, status.st_size, *times])
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def _files(spec: Spec, data: DataConfig) -> Sequence[PathLike]:
    if spec.name.startswith("demo:"):
        return sorted(Path(__file__).parent.glob("demo*.py"))
    if spec.name.startswith("tfds:"):
        from transformer_jax.data.tfds_source import tfds_files

        return tfds_files(spec.name.removeprefix("tfds:"))
    return text_files(spec, data.source_language, data.target_language)


def _filters(spec: Spec, data: DataConfig) -> DataConfig:
    config = Config(data=dataclasses.replace(data))
    try:
        for key in FILTERS:
            if key in spec.options:
                override(config, f"data.{key}", spec.options[key])
        return validate(config).data
    except UserError as error:
        raise UserError(f"data.train: {spec.text}: {error}") from None
