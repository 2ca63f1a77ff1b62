"""An interactive HTML page of the attention weights of one translated sentence."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.storage.files import finite_or_null
from transformer_jax.storage.text_files import open_output
from transformer_jax.visualization.attention_maps import KINDS, AttentionMap

__all__ = ["write_page"]

PLACEHOLDER = "{{data}}"  # replaced in attention_page.html by the data of a page


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

    `pieces` and `words` hold the same kinds of attention, between the tokenizer's pieces and between words. The page shows
    `kind`, `layer` and `head` first; as in `AttentionMap.mean`, layers and heads count from 1 and 0 is the mean of all. A kind
    that is missing is replaced by the first that is there, a layer or head that the kind does not have by 0. Weights are
    rounded to three decimals. Raises UserError if the file cannot be written.
    """
    data = {
        "source": source,
        "translation": translation,
        "start": {"kind": kind, "layer": layer, "head": head, "unit": "words"},
        "sides": {name: sides for name, sides in KINDS.items() if name in pieces},
        "maps": {unit: {name: _plain(maps[name]) for name in maps} for unit, maps in (("pieces", pieces), ("words", words))},
    }
    # A "<" inside a string could end the element that holds the data, or open a comment in it.
    text = json.dumps(finite_or_null(data), separators=(",", ":"), allow_nan=False).replace("<", r"\u003c")
    template = resources.files("transformer_jax.visualization").joinpath("attention_page.html").read_text(encoding="utf-8")
    with open_output(file) as page:
        page.write(template.replace(PLACEHOLDER, text))


def _plain(attention: AttentionMap) -> dict[str, Any]:
    # Integers take half the space of decimals.
    thousandths = np.rint(1000 * attention.weights.astype(np.float64)).astype(int)
    return {"queries": attention.queries, "keys": attention.keys, "thousandths": thousandths.tolist()}
