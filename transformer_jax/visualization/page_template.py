"""HTML pages of one file: a template with its style, its script and its data."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from transformer_jax.storage.files import finite_or_null
from transformer_jax.storage.text_files import open_output

__all__ = ["write_html"]


def write_html(file: str | Path, name: str, data: Any) -> None:
    """Writes the page of this `name`, `attention_page` or `report_page`, with `data`, which its script reads as JSON.

    The file is compressed if its name ends in `.gz`. It loads no other file and uses no network. Raises UserError if it cannot
    be written.
    """
    # A "<" inside a string could end the element that holds the data, or open a comment in it.
    text = json.dumps(finite_or_null(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", r"\u003c")
    page = _read(f"{name}.html")
    parts = {"style": ("scroll_edges.css", f"{name}.css"), "script": ("scroll_edges.js", f"{name}.js")}
    for part, files in parts.items():
        page = page.replace(f"{{{{{part}}}}}", "".join(map(_read, files)))
    with open_output(file) as output:
        output.write(page.replace("{{data}}", text))  # last: the data may hold anything


def _read(name: str) -> str:
    return resources.files("transformer_jax.visualization").joinpath(name).read_text(encoding="utf-8")
