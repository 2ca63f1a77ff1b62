"""Training text of several sources: how often each comes, and what is cleaned from it."""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from transformer_jax.config import Config, DataConfig, override, validate
from transformer_jax.config.text_filters import parse_filters
from transformer_jax.config.text_sources import train_text
from transformer_jax.data.corpus import Pairs, iter_pairs, iter_scored_pairs, text_files
from transformer_jax.data.filters import RULES, Cleaned, Cleaning, held_out_form
from transformer_jax.data.lines_on_disk import CHUNK, Spool
from transformer_jax.data.noised_lines import Part, with_noise
from transformer_jax.data.seen_hashes import SeenHashes
from transformer_jax.data.source_syntax import FILTERS, Spec, parse_list, parse_sets, parse_spec, without_join
from transformer_jax.data.store import local_cache
from transformer_jax.data.text_checks import identifier_version
from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote
from transformer_jax.tokenization.normalization import normalize
from transformer_jax.version import __version__
from transformer_jax.worker_processes import worker_processes

__all__ = [
    "Source",
    "cleaned_text",
    "cleaning_of",
    "fetch",
    "held_out_sentences",
    "is_on_this_disk",
    "parse_sources",
    "read_sources",
    "text_fingerprint",
]

log = logging.getLogger(__name__)

_FEW_CHUNKS = 5  # that this process cleans while others would still be starting


class Source(NamedTuple):
    """A source of training text, with its weight and its own filters."""

    spec: Spec  # for `read_pairs`
    weight: float  # how often an epoch has each of its pairs
    filters: DataConfig  # of which `Cleaning` reads max_words, max_ratio, deduplicate, filters and the languages


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
    pairs, counts, seen, parts = Pairs(Spool(folder), Spool(folder)), [], SeenHashes(), []
    held_out = held_out_sentences(data)
    for source in parse_sources(data):
        spec, cleaning = source.spec, cleaning_of(source, held_out, normalized)
        of_source = dict.fromkeys(cleaning.reasons, 0)
        for some in cleaned_text(source, cleaning):
            some = some.without_duplicates(seen)
            for side, text in zip(pairs, some[:2], strict=True):
                side.extend(text, some.counts["kept"])
            for reason, count in some.counts.items():
                of_source[reason] += count
        log.info("training text %s: %s", spec.text, ", ".join(f"{count:,} {reason}" for reason, count in of_source.items()))
        counts.append((of_source["kept"], source.weight))
        parts.append(Part(of_source["kept"], spec.noise, normalize(spec.tag) if normalized else spec.tag))
    return with_noise(pairs, parts), counts


def held_out_sentences(data: DataConfig) -> frozenset[str]:
    """The sentences of both sides of `data.held_out`, in `held_out_form`. Raises UserError as `read_pairs` does."""
    languages = data.source_language, data.target_language
    sides = (
        side for spec in parse_sets(data.held_out, "data.held_out") for pair in iter_pairs(spec, *languages) for side in pair
    )
    return frozenset(map(held_out_form, sides)) - {""}


def cleaned_text(source: Source, cleaning: Cleaning) -> Iterator[Cleaned]:
    """What `cleaning` leaves of the pairs of a source, without its noise, some after the other; of large text on all cores.
    Raises UserError as `read_pairs` does."""
    spec, languages = source.spec.without_noise, (source.filters.source_language, source.filters.target_language)
    rows = iter_pairs(spec, *languages) if spec.min_score is None else iter_scored_pairs(spec, *languages)
    chunks = iter(lambda: list(itertools.islice(rows, CHUNK)), [])
    # Two lists of lines are sent in a third of the time of one of pairs.
    columns = ([[row[i] for row in chunk] for i in range(len(chunk[0]))] for chunk in chunks)
    with worker_processes(cleaning, "cleans text", alone=_FEW_CHUNKS) as clean:
        yield from clean(columns)


def cleaning_of(source: Source, held_out: Collection[str] = (), normalized: bool = False) -> Cleaning:
    """The filters of a source; with `normalized` its text is normalised first."""
    spec = source.spec
    options = dict(tag=spec.tag, swap=spec.swap, held_out=held_out, min_score=spec.min_score, normalized=normalized)
    return Cleaning(source.filters, str(spec.noise or ""), **options)


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
    """Can all of `data.train`, and what it is filtered by, be read without a download? Raises UserError as `parse_sources` and
    `text_files` do."""
    for spec in [source.spec for source in parse_sources(data)] + parse_sets(data.held_out, "data.held_out"):
        if is_remote(spec.scores) or is_remote(spec.name) or spec.name.startswith(("tfds:", "sacrebleu:")):
            return False
        text_files(spec, data.source_language, data.target_language)
    return True


def text_fingerprint(data: DataConfig) -> str:
    """A hash of the names, sizes, inodes and times of change of the files of `data.train`, of their scores and of the held-out
    sets, and of the settings and the filters' rules: it changes with the text and is made without reading it. The option `join`
    is left out, which changes no pair. The files of the built-in corpus are those of its program. Empty where a source is not
    in local files. Raises UserError as `parse_sources` does."""
    settings = dataclasses.asdict(data) | {"train": without_join(train_text(data.train)), "dev": "", "cache_dir": ""}
    del settings["watch"]
    # Without what is not used, so that what was kept before there were these fields is found.
    facts: list = [__version__, {key: value for key, value in settings.items() if value or key not in ("filters", "held_out")}]
    sources = parse_sources(data)
    if filters := {name for source in sources for name in parse_filters(source.filters.filters)}:
        facts.append([RULES, identifier_version() if "language" in filters else ""])
    held_out = parse_sets(data.held_out, "data.held_out")
    specs = [source.spec for source in sources]
    specs += [spec for spec in held_out if not spec.name.startswith("sacrebleu:")]  # whose sets never change
    files = [_files(spec, data) for spec in specs]
    files += [[source.spec.scores] for source in sources if source.spec.scores]
    for paths in files:
        if not paths or any(map(is_remote, paths)):
            return ""
        for path in map(Path, paths):
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
