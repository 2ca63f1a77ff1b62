"""Draws the pictures of docs/guides/serving_page.md, with a browser, of a server that runs:

python serve.py --workdir=RUN
python tests/draw_page.py http://127.0.0.1:5000 "A sentence." "Another." FOLDER
"""

import sys
import tempfile
from pathlib import Path

from browser import Browser
from helpers import BROWSER

LOOKS = {"desk": {"height": 600}, "dark": {"height": 600, "dark": True}, "phone": {"width": 390, "height": 780, "touch": True}}


def draw(address: str, sentences: list[str], folder: Path) -> None:
    """A picture of each look: the sentences, with a word that the model is not sure of pointed at."""
    with tempfile.TemporaryDirectory() as profile, Browser(BROWSER, Path(profile)) as browser:
        for look, how in LOOKS.items():
            page = browser.open(address, **{"width": 1000} | how)
            page.type("#text", "\n".join(sentences))
            page.wait("document.querySelector('[data-word]')")
            doubtful = page.run("[...document.querySelectorAll('[data-word]')].findIndex((word) => word.className !== 'sure')")
            if how.get("touch"):
                page.tap("[data-word]", max(doubtful, 0))
            else:
                page.hover(**page.centre("[data-word]", max(doubtful, 0)))
            page.wait("document.querySelector('.linked')")
            page.run("document.activeElement.blur()")
            page.picture(folder / f"page_{look}.png", whole=False)
            page.close()


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2:-1], Path(sys.argv[-1]))
