"""The pieces that stand for spans which must come out of a translation as they went in."""

import re

__all__ = ["MOST_PLACEHOLDERS", "PLACEHOLDERS", "PLACEHOLDER_TEXT", "numbers_in"]

MOST_PLACEHOLDERS = 8  # of a sentence

# One piece each, wherever a text has it, of tokenizers that are trained for text with the option `placeholders`. Brackets that
# no keyboard has; where a text has one all the same, it is a span that comes out as it is.
PLACEHOLDERS = tuple(f"\u27e6{number}\u27e7" for number in range(1, MOST_PLACEHOLDERS + 1))

# What such a piece looks like in a text; its number, from 1, is the first group.
PLACEHOLDER_TEXT = re.compile(rf"\u27e6([1-{MOST_PLACEHOLDERS}])\u27e7")


def numbers_in(text: str) -> list[int]:
    """The numbers of the placeholders in a text, from 0, in their order.

    >>> numbers_in(f"a {PLACEHOLDERS[2]} or {PLACEHOLDERS[0]}")
    [2, 0]
    """
    return [int(match[1]) - 1 for match in PLACEHOLDER_TEXT.finditer(text)]
