"""Training text of several sources: how often each comes, and what is cleaned from it."""

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from transformer_jax.config import Config, DataConfig, override, validate
from transformer_jax.data.corpus import Cleaning, Pairs, iter_pairs, split_options, text_files
from transformer_jax.data.spool import Spool
from transformer_jax.data.store import local_cache
from transformer_jax.errors import UserError
from transformer_jax.files import is_remote
from transformer_jax.version import __version__

__all__ = ["Source", "fetch", "parse_sources", "read_sources", "stamp"]

log = logging.getLogger(__name__)

_FILTERS = ("max_words", "max_ratio", "deduplicate")


class Source(NamedTuple):
    """One of the sources of `data.train`."""

    spec: str  # for `read_pairs`
    weight: float  # how often an epoch has each of its pairs
    filters: DataConfig  # of which `Cleaning` reads max_words, max_ratio and deduplicate


def parse_sources(data: DataConfig) -> list[Source]:
    """What `data.train` lists. Raises UserError where that cannot be: a weight that is none, an option that no source has.

    >>> for source in parse_sources(DataConfig(train="europarl, news * 2.5 (max_ratio=3 tag=<news>)")):
    ...     print(source.spec, source.weight, source.filters.max_ratio)
    europarl 1.0 9.0
    news (tag=<news>) 2.5 3.0
    """
    # At the commas that are not between parentheses.
    return [_parse(item.strip(), data) for item in re.split(r",(?![^()]*\))", data.train)]


def read_sources(data: DataConfig) -> tuple[Pairs, list[tuple[int, float]]]:
    """The cleaned pairs of all sources of `data.train`, one source after the other, and for each how many they are and their
    weight. Of pairs that several sources have the first source's is kept. They are not in memory, but in a file in the cache
    that goes with them. Raises UserError as `read_pairs` does."""
    folder = local_cache(data.cache_dir)
    together, parts, seen = Pairs(Spool(folder), Spool(folder)), [], set()
    for spec, weight, filters in parse_sources(data):
        cleaning = Cleaning(filters, seen)
        for source, target in iter_pairs(spec, data.source_language, data.target_language):
            if cleaning.keeps(source, target):
                together.source.append(source)
                together.target.append(target)
        often = f" * {weight:g}" if weight != 1 else ""
        told = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.counts.items())
        log.info("training text %s%s: %s", spec, often, told)
        parts.append((cleaning.counts["kept"], weight))
    return together, parts


def fetch(specs: Iterable[str]) -> None:
    """Downloads and prepares what these sources name and is not here yet, which several processes should not do at once.

    Raises UserError where it cannot be had.
    """
    for spec in specs:
        if spec.startswith("tfds:"):
            from transformer_jax.data.tfds_source import fetch_tfds

            fetch_tfds(split_options(spec)[0].removeprefix("tfds:"))


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


def _files(spec: str, data: DataConfig) -> Sequence[PathLike]:
    if spec.startswith("demo:"):
        return sorted(Path(__file__).parent.glob("demo*.py"))
    if spec.startswith("tfds:"):
        from transformer_jax.data.tfds_source import tfds_files

        return tfds_files(split_options(spec)[0].removeprefix("tfds:"))
    return text_files(spec, data.source_language, data.target_language)


def _parse(item: str, data: DataConfig) -> Source:
    name, options = split_options(item)
    spec, star, weight = map(str.strip, name.rpartition("*"))
    if not star:
        spec, weight = name, "1"
    try:
        times = float(weight)
    except ValueError:
        times = math.nan
    if not 0 < times < math.inf:
        raise UserError(f"data.train: {item}: the weight should be a number above 0, as in {spec} * 2")
    if not spec:
        raise UserError(f"data.train={data.train!r}: the name of a source is empty, expected NAME * WEIGHT, NAME, ...")
    tag = options.pop("tag", "")
    config = Config(data=dataclasses.replace(data))
    for key, value in options.items():
        if key not in _FILTERS:
            raise UserError(f"data.train: {item}: {key} is none of the options of a source: {', '.join(_FILTERS)}, tag")
        override(config, f"data.{key}", value)
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"data.train: {item}: {error}") from None
    return Source(f"{spec} (tag={tag})" if tag else spec, times, config.data)
