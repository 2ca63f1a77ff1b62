"""What translations and attention show of themselves in a notebook."""

import base64
import re
import zlib
from html.parser import HTMLParser

import numpy as np

from transformer_jax.inference.attention import Attention, AttentionMap
from transformer_jax.inference.notebook_html import alignment_html
from transformer_jax.inference.translation import Translation

VOID = {"img"}


class Balanced(HTMLParser):
    """Fails where an element is not closed; keeps the text, and the tags that there were."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_translation_shows_its_words_and_the_links_between_them():
    translation = Translation("ein <b>", -1.0, -1.0, (5, 6), alignment=((0, 0), (1, 1), (1, 0)), source="a <script>")
    page = Balanced(translation._repr_html_())
    assert page.tags.count("path") == 3 and page.tags.count("text") == 4
    assert not {"script", "b"} & set(page.tags) and {"ein", "<b>", "a", "<script>"} <= set(page.text)
    assert "http" not in translation._repr_html_()


def test_a_translation_without_links_says_how_to_get_them():
    page = Balanced(Translation("ein", -1.0, -1.0, (5,), source="a & b")._repr_html_())
    assert page.text == ["a & b", "ein", "translate(..., align=True) shows which word became which"]
    assert Balanced(Translation("", 0.0, 0.0, (), 0, ())._repr_html_()).tags == ["div", "svg"]


def test_wide_letters_have_their_width():
    first, second = re.findall(r'textLength="(\d+)"', alignment_html("\u4f60\u597d", "ab", ()))
    assert int(first) == 2 * int(second)


def test_attention_shows_the_mean_with_its_words_and_each_head():
    weights = np.array([[[[1.0, 0.0], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]], np.float32)
    maps = {kind: AttentionMap(kind, ("<i>", "(end)"), ("a", "(end)"), weights) for kind in ("cross", "encoder")}
    html = Attention("a", "<i>", maps, maps)._repr_html_()
    page = Balanced(html)
    assert page.tags.count("details") == 2 and html.count("<details open>") == 1
    assert page.tags.count("td") == 2 * (4 + 1) and "i" not in page.tags
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", html)]
    assert len(pictures) == 4 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    size = int.from_bytes(pictures[0][33:37], "big")
    pixels = np.frombuffer(zlib.decompress(pictures[0][41 : 41 + size]), np.uint8).reshape(2, 9)[:, 1:]  # without filter bytes
    assert pixels[:, 3::4].tolist() == [[255, 0], [51, 204]]
