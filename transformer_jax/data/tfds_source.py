"""Translation data sets of TensorFlow Datasets (TFDS), read without TensorFlow."""

import difflib
import importlib.util
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

from transformer_jax.errors import UserError, pip_install

__all__ = ["fetch_tfds", "iter_tfds", "tfds_files"]

log = logging.getLogger(__name__)

_CHUNK = 10_000  # pairs; one at a time takes forty times as long
_DISK_FACTOR = 4  # times the size of the download: archives, their content, and the records made of it
_NETWORK_TIMEOUT = 10.0  # seconds
_ENTITIES = {"&quot;": '"', "&apos;": "'"}  # beside &amp; &lt; &gt;


def iter_tfds(name: str, source_language: str, target_language: str) -> Iterator[tuple[str, str]]:
    """The pairs of `NAME/CONFIG[:VERSION][#SPLIT]`, or of a prepared data set's folder, in TFDS's order.

        wmt14_translate/de-en                        its training split
        wmt14_translate/de-en#validation             another
        wmt14_translate/de-en#train[:10%]+test       any expression that TFDS knows

    What is not yet in $TFDS_DATA_DIR (or ~/tensorflow_datasets) is downloaded and prepared first. XML's entities (`&amp;`,
    `&quot;`), which the test sets' files have, become characters, and a line break inside a sentence a space.

    Raises UserError where there is no such data set or split, it lacks a language, or it cannot be had.
    """
    name, _, split = name.partition("#")
    builder = fetch_tfds(name)
    sides = list(builder.info.features)
    for language in (source_language, target_language):
        if language not in sides:
            raise UserError(f"tfds:{name}: has no side {language!r}, only {', '.join(sides)}")
    try:
        pairs = builder.as_data_source(split=split or "train")
    except (ValueError, KeyError, AssertionError) as error:
        there = ", ".join(builder.info.splits)
        raise UserError(
            f"tfds:{name}#{split or 'train'}: no such split; there are {there}, and parts as in train[:10%]"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"tfds:{name}: {builder.data_path} has TFRecords, which only TensorFlow reads; set TFDS_DATA_DIR to "
            "another folder, where it is prepared anew"
        ) from error
    for start in range(0, len(pairs), _CHUNK):
        for row in pairs.__getitems__(range(start, min(start + _CHUNK, len(pairs)))):
            yield _text(row[source_language]), _text(row[target_language])


def fetch_tfds(name: str) -> Any:
    """The TFDS builder of a data set, which is downloaded and prepared if it is not on this disk yet. Raises UserError as
    `iter_tfds` does."""
    name = name.partition("#")[0]
    try:
        import tensorflow_datasets as tfds
        import tensorflow_datasets.translate  # else `builder` may say that there is none of these
    except ImportError as error:
        raise UserError(
            f"tfds:{name}: reading it needs more ({error}); {pip_install('transformer_jax[wmt]')} (where it is prepared "
            "already, [tfds] will do)"
        ) from None
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "dataset_info.json")):
            raise UserError(f"tfds:{name}: no prepared data set, whose folder (its version's) has a dataset_info.json")
        return tfds.builder_from_directory(name)
    _check_name(tfds, name)
    builder = tfds.builder(name, file_format="array_record")
    if not builder.is_prepared():
        _prepare(tfds, builder, name)
    return builder


def tfds_files(name: str) -> list[Path]:
    """The files of a data set, which is downloaded and prepared if it is not on this disk yet. Raises UserError as `iter_tfds`
    does."""
    return sorted(Path(os.fspath(fetch_tfds(name).data_path)).iterdir())


def _check_name(tfds: Any, name: str) -> None:
    base, config = re.match(r"([^/:]*)/?([^:]*)", name).groups()
    known = tfds.list_builders(with_community_datasets=False)  # whose list is on the network
    if base not in known:
        near = difflib.get_close_matches(base, known, n=3, cutoff=0.5)
        raise UserError(
            f"tfds:{name}: TFDS has no data set {base!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    configs = [known_config.name for known_config in tfds.builder_cls(base).BUILDER_CONFIGS]
    if configs and config not in configs:
        near = difflib.get_close_matches(config, configs, n=3, cutoff=0.5) or configs[:20]
        raise UserError(
            f"tfds:{name}: {base} has no part {config!r}; name one, such as {', '.join(f'{base}/{part}' for part in near)}"
        )


def _prepare(tfds: Any, builder: Any, name: str) -> None:
    folder = Path(os.fspath(builder.data_path))
    urls, size = _downloads(builder)
    amount = f"{size / 1e9:.1f} GB" if size else "an unknown number of GB"
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"tfds:{name}: is not in {folder} yet; downloading ({amount}) and preparing it, once, needs TensorFlow; "
            f"{pip_install('transformer_jax[wmt]')}"
        )
    log.info("tfds:%s is not in %s yet: downloading %s, and preparing it, once", name, folder, amount)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if size and free < _DISK_FACTOR * size:
        raise UserError(
            f"tfds:{name}: needs some {_DISK_FACTOR * size / 1e9:.0f} GB in {existing}, which has {free / 1e9:.0f} GB free; "
            "free some or set TFDS_DATA_DIR"
        )
    if urls:
        _check_network(name, urls[0])
    try:
        builder.download_and_prepare()
    except Exception as error:
        problem = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"tfds:{name}: cannot be downloaded and prepared ({problem})") from error


def _downloads(builder: Any) -> tuple[list[str], int]:
    """The addresses of the download, none if unknown, and its size in bytes, 0 if unknown."""
    from tensorflow_datasets.translate import wmt

    if not isinstance(builder, wmt.WmtTranslate):
        return sorted(builder.url_infos), int(builder.info.download_size or 0)
    language = builder.builder_config.language_pair[0]
    parts = [wmt.DATASET_MAP[part] for parts in builder.subsets.values() for part in parts]
    urls = list(dict.fromkeys(url for part in parts for url in part.get_url(language)))
    return urls, sum(builder.url_infos[url].size for url in urls if url in builder.url_infos)


def _check_network(name: str, url: str) -> None:
    """TFDS tries again for minutes before it says that there is no network."""
    address = urlsplit(url)
    if (
        any(os.environ.get(proxy) for proxy in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"))
        or not address.hostname
    ):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=_NETWORK_TIMEOUT).close()
    except OSError as error:
        raise UserError(
            f"tfds:{name}: not here, and {address.hostname} cannot be reached ({error}); connect and try again"
        ) from None


def _text(data: bytes) -> str:
    return re.sub(r"[\r\n]+", " ", unescape(data.decode("utf-8"), _ENTITIES))
