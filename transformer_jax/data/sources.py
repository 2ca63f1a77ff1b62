"""Training text of several sources: how often each comes, and what is cleaned from it."""

import dataclasses
import hashlib
import json
import logging
import math
import re
from pathlib import Path
from typing import NamedTuple

from transformer_jax.config import Config, DataConfig, override, validate
from transformer_jax.data.corpus import Pairs, clean, read_pairs, split_options, text_files
from transformer_jax.errors import UserError
from transformer_jax.files import is_remote
from transformer_jax.version import __version__

__all__ = ["Source", "fetch", "parse_sources", "read_sources", "stamp"]

log = logging.getLogger(__name__)

_FILTERS = ("max_words", "max_ratio", "deduplicate")


class Source(NamedTuple):
    spec: str  # for `read_pairs`
    weight: float  # how often an epoch has each of its pairs
    filters: DataConfig


def parse_sources(data: DataConfig) -> list[Source]:
    """What `data.train` lists. Raises UserError.

    >>> for source in parse_sources(DataConfig(train="europarl, news * 2.5 (max_ratio=3 tag=<news>)")):
    ...     print(source.spec, source.weight, source.filters.max_ratio)
    europarl 1.0 9.0
    news (tag=<news>) 2.5 3.0
    """
    # At the commas that are not between parentheses.
    return [_parse(item.strip(), data) for item in re.split(r",(?![^()]*\))", data.train)]


def read_sources(data: DataConfig) -> tuple[Pairs, list[tuple[int, float]]]:
    """The cleaned pairs of all sources of `data.train`, one source after the other, and for each how many they are and their
    weight. Of pairs that several sources have the first source's is kept. Raises UserError."""
    together, parts, seen = Pairs([], []), [], set()
    for spec, weight, filters in parse_sources(data):
        pairs, counts = clean(read_pairs(spec, data.source_language, data.target_language), filters, seen)
        often = f" * {weight:g}" if weight != 1 else ""
        log.info("training text %s%s: %s", spec, often, ", ".join(f"{count:,} {reason}" for reason, count in counts.items()))
        together.source.extend(pairs.source)
        together.target.extend(pairs.target)
        parts.append((len(pairs.source), weight))
    return together, parts


def fetch(data: DataConfig) -> None:
    """Downloads and prepares what `data` names and is not here yet, which several processes should not do at once."""
    for spec in (*(source.spec for source in parse_sources(data)), data.dev):
        if spec.startswith("tfds:"):
            from transformer_jax.data.tfds_source import fetch_tfds

            fetch_tfds(split_options(spec)[0].removeprefix("tfds:"))


def stamp(data: DataConfig) -> str:
    """Tells without reading them whether the files of `data.train`, or what is made of them, have changed: a hash of their
    names, sizes, inodes and times of change, and of the settings. Empty where there is a source that is not in local files."""
    facts: list = [__version__, {**dataclasses.asdict(data), "dev": "", "cache_dir": ""}]
    for source in parse_sources(data):
        files = text_files(source.spec, data.source_language, data.target_language)
        if not files or any(map(is_remote, files)):
            return ""
        for path in map(Path, files):
            if not path.is_file():
                return ""  # reading it says what is wrong
            status = path.stat()
            times = status.st_mtime_ns, status.st_ctime_ns
            facts.append([str(path.resolve()), status.st_dev, status.st_ino, status.st_size, *times])
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


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
