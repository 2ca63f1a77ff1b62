"""The special ids of a tokenizer, which the searches take: no other module holds the literal 0 or 2 for one."""

from typing import NamedTuple

__all__ = ["SpecialIds"]


class SpecialIds(NamedTuple):
    """Token ids that are no text."""

    start: int  # what the decoder sees before its first token
    eos: int
    pad: int
    never_generated: tuple[int, ...] = ()  # ids that a translation never has
