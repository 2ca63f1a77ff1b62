"""Which rows of ids are decoded together: few shapes, so that few programs are compiled, and equal work for all devices."""

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["SEARCH_LENGTHS", "RowGroup", "fill_devices", "length_batches", "padded_length", "power_of_two", "search_groups"]

# Source lengths that batches are padded to: few, so that few shapes are compiled.
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Of a search fewer: its program takes seconds to compile, and most of a step does not depend on the length of the sources.
SEARCH_LENGTHS = LENGTHS[1::2]
QUEUE = 512  # sentences of one search on each device; those beyond the slots wait for a free one


class RowGroup(NamedTuple):
    """Rows that are searched together."""

    numbers: list[int]  # of the rows
    length: int  # they are padded to so many ids
    slots: int  # so many are decoded at a time, on all devices together
    room: int  # for so many rows the program is made


def search_groups(
    lengths: Sequence[int], tokens: int, devices: int, workers: int, least: int = 0, of: int = 0
) -> Iterator[RowGroup]:
    """Groups of all rows, longest first, so that what is too large for memory shows at once. In each group as many rows are
    decoded at a time as have `tokens` positions.

    Rows of one padded length are together, with shorter ones where they are fewer than can be searched at a time. They are
    divided into groups of equal work, for every worker (a process, or a thread of one) one or more. `least` above 0 is the
    fewest rows of which a step with half as many would not take half the time. Then fewer rows are decoded at a time, but no
    fewer than that, where there are not three for each slot: one that is empty while the last rows end costs as much as others.

    The rows may be a few `of` so many, 0: of themselves, whose other groups have made their programs: then theirs are not made
    for fewer rows than those are.
    """
    of = max(of, len(lengths))
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    padded = [padded_length(lengths[i], SEARCH_LENGTHS) for i in order]
    start = 0
    while start < len(order):
        slots = _rows_within(tokens, padded[start], devices)
        end = max(start + slots, bisect.bisect_right(padded, -padded[start], key=lambda length: -length))
        if len(order) - end < slots // 2:
            end = len(order)
        together = order[start:end]
        groups = -(-len(together) // (devices * QUEUE))
        groups = -(-groups // workers) * workers
        in_group = -(-len(together) // groups)
        slots = min(slots, fill_devices(max(in_group, min(least, of)), devices))  # of all alike: one program
        while least and slots // 2 >= least and 3 * slots > in_group:
            slots //= 2
        room = slots if of <= slots else devices * max(QUEUE, slots // devices)
        for group in range(min(groups, len(together))):
            yield RowGroup(together[group::groups], padded[start], slots, room)
        start = end


def length_batches(lengths: Sequence[int], tokens: int, devices: int) -> Iterator[tuple[list[int], int]]:
    """The numbers of the rows of each batch and the length it is padded to: longest first, at most `tokens` positions each.

    >>> list(length_batches([3, 40, 5], 64, devices=1))
    [([1], 48), ([2, 0], 16)]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        length = padded_length(lengths[order[start]])
        rows = _rows_within(tokens, length, devices)
        yield order[start : start + rows], length
        start += rows


def fill_devices(rows: int, devices: int) -> int:
    """The least number of rows, not below `rows`, that is the same power of two on each device.

    >>> fill_devices(5, devices=1), fill_devices(5, devices=4)
    (8, 8)
    """
    return devices * (1 << (-(-rows // devices) - 1).bit_length())


def power_of_two(count: int) -> int:
    """The power of two that has room for so many, or 0.

    >>> [power_of_two(count) for count in (0, 1, 2, 3, 4, 5)]
    [0, 1, 2, 4, 4, 8]
    """
    return 1 << (int(count) - 1).bit_length() if count else 0


def padded_length(length: int, lengths: Sequence[int] = LENGTHS) -> int:
    """The length that a row of so many ids is padded to: the next of `lengths`, or of the multiples of the last of them.

    >>> padded_length(9), padded_length(1025), padded_length(9, SEARCH_LENGTHS)
    (16, 2048, 24)
    """
    index = bisect.bisect_left(lengths, length)
    return lengths[index] if index < len(lengths) else -(-length // lengths[-1]) * lengths[-1]


def _rows_within(tokens: int, length: int, devices: int) -> int:
    """How many rows of this length have at most `tokens` positions: a power of two on each device."""
    return devices * (1 << (max(tokens // length // devices, 1).bit_length() - 1))
