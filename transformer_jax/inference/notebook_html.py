"""How translations and attention show themselves in a notebook: small pieces of HTML without scripts, files or network, whose
text has the notebook's own colour, light or dark."""

import base64
import struct
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

__all__ = ["alignment_html", "attention_html"]

_COLOUR = 37, 99, 235  # of links and weights: readable on white and on black
_CELL, _GAP, _HEIGHT = 9, 14, 96  # pixels: the width of a letter, between two words, of the whole drawing
_THUMBNAIL = 84  # the width of a head's heat map in pixels


def alignment_html(source: str, target: str, links: Sequence[tuple[int, int]] | None) -> str:
    """The words of a line above those of its translation, and lines between those that are linked. Without links (None) both
    texts, and how to get links.

    >>> alignment_html("a dog", "ein Hund", ((0, 0), (1, 1))).count("<path")
    2
    """
    if links is None:
        hint = "translate(..., align=True) shows which word became which"
        texts = "".join(f"<div>{escape(text)}</div>" for text in (source, target))
        return f'<div>{texts}<div style="opacity:.6;font-size:85%">{hint}</div></div>'
    words, others = source.split(), target.split()
    (above, width), (below, other_width) = _centres(words), _centres(others)
    lines = [
        f'<path d="M{above[s]} 28C{above[s]} 52 {below[t]} 44 {below[t]} 68" fill="none" stroke="rgb{_COLOUR}" '
        f'stroke-width="2"><title>{escape(words[s])} - {escape(others[t])}</title></path>'
        for s, t in links
    ]
    texts = [_word(word, x, 20) for word, x in zip(words, above, strict=True)]
    texts += [_word(word, x, 84) for word, x in zip(others, below, strict=True)]
    size = max(width, other_width, 1)
    return (
        f'<div style="overflow-x:auto"><svg width="{size}" height="{_HEIGHT}" viewBox="0 0 {size} {_HEIGHT}" role="img" '
        f'aria-label="{escape(source)}: {escape(target)}" font-family="monospace" font-size="15" fill="currentColor">'
        f"{''.join(lines)}{''.join(texts)}</svg></div>"
    )


def attention_html(source: str, translation: str, maps: Mapping[tuple[str, str], Any]) -> str:
    """Heat maps of attention: for each kind, of which `maps` has the sides (queries, keys) and the `AttentionMap` of words, the
    mean of all layers and heads with its words, and a small one of each head. The kinds after the first are folded away."""
    blocks = []
    for number, ((queries, keys), attention) in enumerate(maps.items()):
        title = f"{queries} &rarr; {keys}: mean of all layers and heads, then each head"
        blocks.append(f"<details{' open' * (number == 0)}><summary>{title}</summary>{_heat_map(attention)}</details>")
    return f"<div><div>{escape(source)}</div><div>{escape(translation)}</div>{''.join(blocks)}</div>"


def _heat_map(attention: Any) -> str:
    mean = attention.weights.mean(axis=(0, 1))
    cell = "padding:2px 4px;text-align:center;border:none;font-size:12px"
    head = "".join(
        f'<th style="{cell};writing-mode:vertical-rl;vertical-align:bottom">{escape(key)}</th>' for key in attention.keys
    )
    rows = [f"<tr><td></td>{head}</tr>"]
    for query, weights in zip(attention.queries, mean, strict=True):
        cells = "".join(
            f'<td title="{escape(query)} &rarr; {escape(key)}: {weight:.3f}" '
            f'style="{cell};background:rgba{(*_COLOUR, round(float(weight), 3))}">{_short(weight)}</td>'
            for key, weight in zip(attention.keys, weights, strict=True)
        )
        rows.append(f'<tr style="background:none"><th style="{cell};text-align:right">{escape(query)}</th>{cells}</tr>')
    heads = [_thumbnails(number, of_layer) for number, of_layer in enumerate(attention.weights, 1)]
    table = f'<table style="border-collapse:collapse;margin:6px 0">{"".join(rows)}</table>'
    return f'<div style="overflow-x:auto">{table}{"".join(heads)}</div>'


def _short(weight: float) -> str:
    return f"{weight:.1f}" if weight >= 0.05 else ""


def _thumbnails(layer: int, weights: np.ndarray) -> str:
    """A row of pictures, one for each head of a layer: weights [H, queries, keys]."""
    style = f"width:{_THUMBNAIL}px;image-rendering:pixelated;border:1px solid rgba{(*_COLOUR, 0.4)};margin:2px;display:inline"
    pictures = [
        f'<img alt="layer {layer}, head {head}" title="layer {layer}, head {head}" style="{style}" '
        f'src="data:image/png;base64,{base64.b64encode(_png(of_head)).decode()}">'
        for head, of_head in enumerate(weights, 1)
    ]
    return f'<div style="white-space:nowrap;font-size:12px">layer {layer} {"".join(pictures)}</div>'


def _png(weights: np.ndarray) -> bytes:
    """A picture with a pixel for each weight in [0, 1], which is its opacity: weights [queries, keys]."""
    rows, columns = weights.shape
    pixels = np.empty((rows, columns, 4), np.uint8)
    pixels[..., :3] = _COLOUR
    pixels[..., 3] = np.rint(255 * np.clip(weights, 0, 1))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 9)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)  # 8 bits each of red, green, blue and opacity
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _centres(words: Sequence[str]) -> tuple[list[float], int]:
    """Where the middle of each word is in a row of them, and how wide the row is."""
    centres, x = [], 0
    for word in words:
        width = _width(word)
        centres.append(x + width / 2)
        x += width + _GAP
    return centres, x


def _width(word: str) -> int:
    """In pixels: Chinese and Japanese characters are twice as wide, combining marks have no width."""
    cells = sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in word
    )
    return max(cells, 1) * _CELL


def _word(word: str, x: float, y: int) -> str:
    # With `textLength` a word has the width that its place was computed from, whatever the font.
    return (
        f'<text x="{x}" y="{y}" text-anchor="middle" textLength="{_width(word)}" '
        f'lengthAdjust="spacingAndGlyphs">{escape(word)}</text>'
    )
