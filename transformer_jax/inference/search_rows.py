"""The arrays of a search over rows of ids: sources, limits, and what each translation must be like, padded to few shapes."""

import bisect
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer_jax.config import DecodeConfig
from transformer_jax.data.batching import pad_rows
from transformer_jax.decoding.constraints import Phrases
from transformer_jax.decoding.rules import Continuations
from transformer_jax.inference.phrases import Phrase, Prefix

__all__ = ["Request", "SearchRows", "beam_of", "deal", "fewer_positions", "make_rows", "padded_length", "power_of_two"]

# Source lengths that batches are padded to: few, so that few shapes are compiled.
_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_WIDEST = 128  # no beam is wider for its phrases: a long text as a phrase would not fit into memory


class Request(NamedTuple):
    """A row to be translated, and what its translation must be like."""

    source: np.ndarray  # int32 [tokens], EOS included
    prefix: Prefix
    phrases: Sequence[Phrase] = ()


class SearchRows(NamedTuple):
    """What a search is told of each sentence."""

    source: np.ndarray  # int32 [B, S]
    segment: np.ndarray  # int32 [B, S]
    limit: np.ndarray  # int32 [B]: tokens at most
    number: np.ndarray  # uint32 [B]: what samples are drawn by
    min_length: np.ndarray | None  # int32 [B]: tokens at least
    prefix: np.ndarray | None  # int32 [B, P]: what it begins with
    prefix_length: np.ndarray | None  # int32 [B]
    whole: np.ndarray | None  # bool [B]: no letter may follow the prefix
    continuation: Continuations | None  # what the text goes on with after the prefix
    phrases: Phrases | None  # what must occur in it


def beam_of(phrases: Sequence[Phrase], decode: DecodeConfig) -> int:
    """The beam of a row with these phrases: more than they have tokens, for each bank of `constrained_search` a hypothesis."""
    tokens = sum(phrase.size for phrase in phrases)
    return max(decode.beam, min(power_of_two(tokens + 1), _WIDEST)) if tokens else decode.beam


def fewer_positions(tokens: int, decode: DecodeConfig) -> int:
    """`tokens`, or fewer where translations may be longer than by the usual ratio and extra: the memory of a search grows with
    the longest translation of a batch, and should not grow beyond bounds.

    >>> fewer_positions(4096, DecodeConfig()), fewer_positions(4096, DecodeConfig(max_length_ratio=1000.0))
    (4096, 12)
    """
    usual, ratio = (each.max_length_ratio + each.max_length_extra / _LENGTHS[0] for each in (DecodeConfig(), decode))
    return int(tokens * min(1, usual / ratio)) if ratio else tokens


def make_rows(
    requests: Sequence[Request], length: int, room: int, pad_id: int, vocab_size: int, decode: DecodeConfig
) -> tuple[SearchRows, int, int]:
    """The arrays of these rows, sources padded to `length`; of how many tokens a translation is at most, and of how many most
    are. `room` is how many positions the model has."""
    sources, prefixes, phrases = zip(*requests, strict=True)
    lengths = np.array([len(source) for source in sources])
    sizes = np.array([prefix.size for prefix in prefixes])
    extra = np.array([sum(phrase.size for phrase in of_row) for of_row in phrases])
    # A sentence's limits depend on its own length only, never on its batch mates'.
    limits = (decode.max_length_ratio * lengths).astype(np.int32) + decode.max_length_extra
    limits = np.minimum(np.maximum(limits, sizes + 1) + extra, room).astype(np.int32)
    least = (decode.min_length_ratio * lengths).astype(np.int32) + decode.min_length_extra
    prefix_room = padded_length(max(sizes)) if max(sizes) else 0
    more = power_of_two(max(extra))
    longest = int(decode.max_length_ratio * length) + decode.max_length_extra
    longest = min(max(longest, prefix_room + 1) + more, room)
    usual = max(length + max(length // 4, 8), prefix_room + 8) + more
    rows = SearchRows(
        source=pad_rows(sources, length, pad_id),
        segment=(np.arange(length)[None, :] < lengths[:, None]).astype(np.int32),
        limit=limits,
        number=np.array([zlib.crc32(source.tobytes()) for source in sources], np.uint32),
        min_length=np.minimum(least, limits) if least.any() else None,
        prefix=pad_rows([prefix.ids for prefix in prefixes], prefix_room, pad_id) if prefix_room else None,
        prefix_length=np.array([len(prefix.ids) for prefix in prefixes], np.int32) if prefix_room else None,
        whole=np.array([prefix.ends_word for prefix in prefixes]) if prefix_room else None,
        continuation=_continuations(prefixes, vocab_size),
        phrases=_phrases(phrases, pad_id),
    )
    return rows, longest, min(usual, longest)


def _continuations(prefixes: Sequence[Prefix], vocab_size: int) -> Continuations | None:
    """[B, ...] of each leaf. None where no prefix has text."""
    sizes = np.array([len(prefix.text) for prefix in prefixes], np.int32)
    if not sizes.any():
        return None
    length = power_of_two(max(sizes))
    most = max(len(ids) for prefix in prefixes if prefix.agreement for ids in prefix.agreement.within)
    low, high = np.zeros((2, len(prefixes), length), np.int32)
    within = np.full((len(prefixes), length, max(power_of_two(most), 1)), vocab_size, np.int32)
    for row, prefix in enumerate(prefixes):
        if prefix.agreement:
            low[row, : sizes[row]], high[row, : sizes[row]] = prefix.agreement.low, prefix.agreement.high
            for place, ids in enumerate(prefix.agreement.within):
                within[row, place, : len(ids)] = ids
    return Continuations(sizes, low, high, within)


def _phrases(rows: Sequence[Sequence[Phrase]], pad_id: int) -> Phrases | None:
    """[B, ...] of each leaf. None where no row has phrases."""
    if not any(rows):
        return None
    count = power_of_two(max(map(len, rows)))
    width = power_of_two(max(phrase.size for of_row in rows for phrase in of_row))
    tokens = np.full((len(rows), count, 2, width), pad_id, np.int32)
    sizes, begins_word = np.zeros((len(rows), count, 2), np.int32), np.zeros((len(rows), count, 2), bool)
    ends_word = np.zeros((len(rows), count), bool)
    for row, of_row in enumerate(rows):
        for number, phrase in enumerate(of_row):
            for which, ids in enumerate((phrase.after_space, phrase.after_other)):
                tokens[row, number, which, : len(ids)] = ids
                sizes[row, number, which] = len(ids)
            begins_word[row, number, 1], ends_word[row, number] = phrase.begins_word, phrase.ends_word
    return Phrases(tokens, sizes, begins_word, ends_word)


def deal(rows: Any, count: int, devices: int) -> tuple[Any, np.ndarray]:
    """Leaves [B, ...] filled up with zeros to `count` rows, which go to the devices as cards are dealt: each has its share, the
    empty ones at its end. With them where each of the B rows is."""
    places = np.arange(count).reshape(-1, devices).T.reshape(-1)

    def of_leaf(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, count - len(values)), *[(0, 0)] * (values.ndim - 1)])[places]

    return jax.tree.map(of_leaf, rows), np.argsort(places)[: len(rows.limit)]


def power_of_two(count: int) -> int:
    """The power of two that has room for so many, or 0.

    >>> [power_of_two(count) for count in (0, 1, 2, 3, 4, 5)]
    [0, 1, 2, 4, 4, 8]
    """
    return 1 << (int(count) - 1).bit_length() if count else 0


def padded_length(length: int) -> int:
    """
    >>> padded_length(9), padded_length(1025)
    (16, 2048)
    """
    index = bisect.bisect_left(_LENGTHS, length)
    return _LENGTHS[index] if index < len(_LENGTHS) else -(-length // _LENGTHS[-1]) * _LENGTHS[-1]
