"""HTML pages of one file: a template with its style, its script and its data."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from transformer_jax.storage.files import finite_or_null
from transformer_jax.storage.text_files import open_output

__all__ = ["html_page", "inline_hashes", "write_html"]


def html_page(name: str, data: Any, *, room: str = "visualization", parts: Sequence[str] = ("scroll_edges",)) -> str:
    """The page of this `name`, which has its files in this room of the package, with `data`, which its script reads as JSON.

    Styles and scripts of the `parts`, those that there are, come before the page's own. The page loads no other file.
    """
    # A "<" inside a string could end the element that holds the data, or open a comment in it.
    text = json.dumps(finite_or_null(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", r"\u003c")
    folder = resources.files(f"transformer_jax.{room}")
    page = folder.joinpath(f"{name}.html").read_text(encoding="utf-8")
    for part, ending in (("style", "css"), ("script", "js")):
        files = [folder.joinpath(f"{file}.{ending}") for file in (*parts, name)]
        texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
        page = page.replace(f"{{{{{part}}}}}", "".join(texts))
    return page.replace("{{data}}", text)  # last: the data may hold anything


def write_html(file: str | Path, name: str, data: Any) -> None:
    """Writes the page of this `name`, `attention_page` or `report_page`, with `data`, which its script reads as JSON.

    The file is compressed if its name ends in `.gz`. It loads no other file and uses no network. Raises UserError if it cannot
    be written.
    """
    page = html_page(name, data)
    with open_output(file) as output:
        output.write(page)


def inline_hashes(page: str) -> dict[str, str]:
    """What a Content-Security-Policy calls the style and the script of a page, so that it allows these and no others.

    >>> inline_hashes("<style>p { margin: 0 }</style><script>1</script>")["script"]
    "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"
    """
    sources = {}
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)  # the data's element has a type
        sources[tag] = f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    return sources
