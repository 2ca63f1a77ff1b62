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
from transformer_jax.config.text_sources import train_text
from transformer_jax.data.corpus import Pairs, iter_pairs, text_files
from transformer_jax.data.filters import Cleaning
from transformer_jax.data.lines_on_disk import Spool
from transformer_jax.data.noised_lines import Part, with_noise
from transformer_jax.data.source_syntax import FILTERS, Spec, parse_list, parse_spec, without_join
from transformer_jax.data.store import local_cache
from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote
from transformer_jax.tokenization.normalization import normalize
from transformer_jax.version import __version__

__all__ = ["Source", "fetch", "is_on_this_disk", "parse_sources", "read_sources", "text_fingerprint"]

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """A source of training text, with its weight and its own filters."""

    spec: Spec  # for `read_pairs`
    weight: float  # how often an epoch has each of its pairs
    filters: DataConfig  # of which `Cleaning` reads max_words, max_ratio and deduplicate


def parse_sources(data: DataConfig) -> list[Source]:
    """The sources of `data.train`. Raises UserError for a weight that is none, and for an option that no source has.

    >>> for source in parse_sources(DataConfig(train="europarl, news * 2.5 (max_ratio=3 tag=<news>)")):
    ...     print(source.spec.name, source.spec.tag, source.weight, source.filters.max_ratio)
    europarl  1.0 9.0
    news <news> 2.5 3.0
    """
    return [Source(spec, spec.weight, _filters(spec, data)) for spec in parse_list(train_text(data.train))]


def read_sources(data: DataConfig, normalized: bool = False) -> tuple[Pairs, list[tuple[int, float]]]:
    """The cleaned pairs of all sources of `data.train`, one source after the other, and for each source the number of its pairs
    and its weight. A pair that several sources have is kept in the first of them. If `normalized`, sentences are normalised
    (`normalize`) before they are cleaned: a sentence of invisible characters is empty, and pairs that differ in these alone are
    duplicates. Filters see the text without noise; it is drawn after them, and pairs of sources with other noise are no
    duplicates. The pairs are not in memory, but in a temporary file in the cache. Raises UserError as `read_pairs` does."""
    folder = local_cache(data.cache_dir)
    pairs, counts, seen, parts = Pairs(Spool(folder), Spool(folder)), [], set(), []
    for spec, weight, filters in parse_sources(data):
        cleaning = Cleaning(filters, seen, str(spec.noise or ""))
        for source, target in iter_pairs(spec.without_noise, data.source_language, data.target_language):
            if normalized:
                source, target = normalize(source), normalize(target)
            if cleaning.keeps(source, target):
                pairs.source.append(source)
                pairs.target.append(target)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.counts.items())
        log.info("training text %s: %s", spec.text, reasons)
        counts.append((cleaning.counts["kept"], weight))
        parts.append(Part(cleaning.counts["kept"], spec.noise, normalize(spec.tag) if normalized else spec.tag))
    return with_noise(pairs, parts), counts


def fetch(specs: Iterable[str | Spec]) -> None:
    """Downloads and prepares those of these sources that are data sets of TFDS and not on this disk yet. Several processes
    should not do so at once. Raises UserError where a data set cannot be had.
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


def text_fingerprint(data: DataConfig) -> str:
    """A hash of the names, sizes, inodes and times of change of the files of `data.train`, and of the settings: it changes with
    the text and is made without reading it. The option `join` is left out, which changes no pair. The files of the built-in
    corpus are those of its program. Empty where a source is not in local files. Raises UserError as `parse_sources` does."""
    settings = dataclasses.asdict(data) | {"train": without_join(train_text(data.train)), "dev": "", "cache_dir": ""}
    del settings["watch"]
    facts: list = [__version__, settings]
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
        return sorted((Path(__file__).parent / "demo").glob("*.py"))
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
