"""mkdocs' hook: on a narrow screen no line is broken inside the name of a flag, such as after the hyphens of `--config`."""

import re
from typing import Any

_CODE = re.compile(r"(<code(?: [^>]*)?>)(.*?)(</code>)", re.DOTALL)
_FLAG = re.compile(r"(?<![\w-])(--[A-Za-z][\w.]*)")


def on_page_content(html: str, **_: Any) -> str:
    """Wraps each flag in code; docs.css says how."""
    return _CODE.sub(lambda code: code[1] + _FLAG.sub(r'<span class="flag">\1</span>', code[2]) + code[3], html)
