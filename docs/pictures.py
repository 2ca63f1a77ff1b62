"""mkdocs' hook for pictures that are not in docs/: those of benchmarks/, which stay beside the scripts that draw them.

A page names them as a reader of the repository needs it, `../../benchmarks/pictures/NAME.png`; the built page has a copy.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PICTURES = Path(__file__).parents[1] / "benchmarks" / "pictures"


def on_files(files: Any, config: Any) -> Any:
    """Adds the pictures to the files of the documentation."""
    for picture in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"benchmarks/pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the copies."""
    return markdown.replace("](../../benchmarks/pictures/", "](../benchmarks/pictures/")
