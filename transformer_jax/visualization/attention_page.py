"""An interactive HTML page of the attention weights of one translated sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.visualization.attention_maps import KINDS, AttentionMap
from transformer_jax.visualization.page_template import html_page, write_html

__all__ = ["attention_html", "write_page"]


def write_page(
    file: str | Path,
    pieces: Mapping[str, AttentionMap],
    words: Mapping[str, AttentionMap],
    *,
    source: str,
    translation: str,
    layer: int = 0,
    head: int = 0,
    kind: str = "cross",
) -> None:
    """Writes one self-contained HTML file, compressed if its name ends in `.gz`. It loads no other file and uses no network.

    `pieces` and `words` hold the same kinds of attention, between the tokenizer's pieces and between words. The page has a
    small map of every head, and shows `kind`, `layer` and `head` first; as in `AttentionMap.mean`, layers and heads count from
    1 and 0 is the mean of all. A kind that is missing is replaced by the first that is there, a layer or head that the kind
    does not have by 0. Weights are rounded to three decimals. Raises UserError if the file cannot be written.
    """
    start = {"kind": kind, "layer": layer, "head": head, "unit": "words"}
    write_html(file, "attention_page", _data(pieces, words, source, translation, start))


def attention_html(
    pieces: Mapping[str, AttentionMap], words: Mapping[str, AttentionMap], *, source: str, translation: str
) -> str:
    """The page of `write_page` as a text, with the mean of all heads shown first."""
    start = {"kind": "cross", "layer": 0, "head": 0, "unit": "words"}
    return html_page("attention_page", _data(pieces, words, source, translation, start))


def _data(
    pieces: Mapping[str, AttentionMap],
    words: Mapping[str, AttentionMap],
    source: str,
    translation: str,
    start: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "source": source,
        "translation": translation,
        "start": start,
        "sides": {name: sides for name, sides in KINDS.items() if name in pieces},
        "maps": {unit: {name: _plain(maps[name]) for name in maps} for unit, maps in (("pieces", pieces), ("words", words))},
    }


def _plain(attention: AttentionMap) -> dict[str, Any]:
    # Integers take half the space of decimals.
    thousandths = np.rint(1000 * attention.weights.astype(np.float64)).astype(int)
    return {"queries": attention.queries, "keys": attention.keys, "thousandths": thousandths.tolist()}
