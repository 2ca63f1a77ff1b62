"""Packing for the device: from pieces to the arrays of a search, padded to few shapes. NumPy alone."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer_jax.config import SearchOptions
from transformer_jax.data.batching import pad_rows
from transformer_jax.decoding.phrase_constraints import Phrases
from transformer_jax.decoding.token_constraints import Continuations, Prefixes
from transformer_jax.inference.length_batches import SEARCH_LENGTHS, padded_length, power_of_two
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.phrases import Phrase, Prefix
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["PackedRows", "SearchRows", "beam_of", "deal", "fewer_positions", "pack_rows"]

_WIDEST = 128  # no beam is wider for its phrases: a long text as a phrase would not fit into memory


class SearchRows(NamedTuple):
    """The arrays of a search, a row for each piece; None for what no row has."""

    source: np.ndarray  # int32 [B, S]
    segment: np.ndarray  # int32 [B, S]
    limit: np.ndarray  # int32 [B]: the most tokens of a translation
    number: np.ndarray  # uint32 [B]: what samples are drawn by
    min_length: np.ndarray | None  # int32 [B]: the fewest tokens
    prefixes: Prefixes | None
    phrases: Phrases | None
    placeholders: np.ndarray | None = None  # bool [B, P]: which of them the source has; a translation has no others, each once
    candidates: np.ndarray | None = None  # int32 [B, C], of `Shortlist.rows`: the only pieces that a translation may have


class PackedRows(NamedTuple):
    """The arrays of a search, and how long its translations may be."""

    rows: SearchRows
    max_length: int  # the longest limit that rows of this padded length may have
    short_length: int  # the length of a short cache, which most translations need not exceed


def beam_of(phrases: Sequence[Phrase], options: SearchOptions) -> int:
    """The beam of a row with these phrases: more than they have tokens, for each bank of `constrained_search` a hypothesis."""
    tokens = sum(phrase.size for phrase in phrases)
    return max(options.beam, min(power_of_two(tokens + 1), _WIDEST)) if tokens else options.beam


def fewer_positions(tokens: int, options: SearchOptions) -> int:
    """`tokens`, or fewer where translations may be longer than by the default ratio and extra: the memory of a search grows
    with the longest translation of a batch, and should not grow beyond bounds.

    >>> fewer_positions(4096, SearchOptions()), fewer_positions(4096, SearchOptions(max_length_ratio=1000.0))
    (4096, 10)
    """
    default, asked = (
        choice.max_length_ratio + choice.max_length_extra / SEARCH_LENGTHS[0] for choice in (SearchOptions(), options)
    )
    return int(tokens * min(1, default / asked)) if asked else tokens


def pack_rows(
    pieces: Sequence[Piece], length: int, max_positions: int, tokenizer: Tokenizer, options: SearchOptions
) -> PackedRows:
    """The arrays of these pieces, sources padded to `length`. `max_positions` is how many positions the model has."""
    pad_id, placeholder_ids = tokenizer.pad_id, tokenizer.placeholder_ids
    shortlist = tokenizer.shortlist if options.shortlist else None
    lengths = np.array([len(piece.ids) for piece in pieces])
    prefix_sizes = np.array([piece.prefix.size for piece in pieces])
    phrase_sizes = np.array([sum(phrase.size for phrase in piece.phrases) for piece in pieces])
    # A sentence's limits depend on its own length only, never on its batch mates'.
    limits = (options.max_length_ratio * lengths).astype(np.int32) + options.max_length_extra
    limits = np.minimum(np.maximum(limits, prefix_sizes + 1) + phrase_sizes, max_positions).astype(np.int32)
    min_lengths = (options.min_length_ratio * lengths).astype(np.int32) + options.min_length_extra
    prefix_room = padded_length(max(prefix_sizes)) if max(prefix_sizes) else 0
    phrase_room = power_of_two(max(phrase_sizes))
    max_length = int(options.max_length_ratio * length) + options.max_length_extra
    max_length = min(max(max_length, prefix_room + 1) + phrase_room, max_positions)
    short_length = max(length + max(length // 4, 8), prefix_room + 8) + phrase_room
    rows = SearchRows(
        source=pad_rows([piece.ids for piece in pieces], length, pad_id),
        segment=(np.arange(length)[None, :] < lengths[:, None]).astype(np.int32),
        limit=limits,
        number=np.array([zlib.crc32(piece.ids.tobytes()) for piece in pieces], np.uint32),
        min_length=np.minimum(min_lengths, limits) if min_lengths.any() else None,
        prefixes=_prefixes([piece.prefix for piece in pieces], prefix_room, tokenizer) if prefix_room else None,
        phrases=_phrases([piece.phrases for piece in pieces], pad_id),
        placeholders=np.array([np.isin(placeholder_ids, piece.ids) for piece in pieces]) if len(placeholder_ids) else None,
        candidates=shortlist.rows([piece.ids for piece in pieces], length, options.shortlist, tokenizer.special_ids)
        if shortlist
        else None,
    )
    return PackedRows(rows, max_length, min(short_length, max_length))


def _prefixes(prefixes: Sequence[Prefix], width: int, tokenizer: Tokenizer) -> Prefixes:
    return Prefixes(
        tokens=pad_rows([prefix.ids for prefix in prefixes], width, tokenizer.pad_id),
        length=np.array([len(prefix.ids) for prefix in prefixes], np.int32),
        ends_word=np.array([prefix.ends_word for prefix in prefixes]),
        continuation=_continuations(prefixes, tokenizer.vocab_size),
    )


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
    width = power_of_two(max(phrase.size for phrases in rows for phrase in phrases))
    tokens = np.full((len(rows), count, 2, width), pad_id, np.int32)
    sizes, begins_word = np.zeros((len(rows), count, 2), np.int32), np.zeros((len(rows), count, 2), bool)
    ends_word = np.zeros((len(rows), count), bool)
    for row, phrases in enumerate(rows):
        for number, phrase in enumerate(phrases):
            for which, ids in enumerate((phrase.after_space, phrase.after_other)):
                tokens[row, number, which, : len(ids)] = ids
                sizes[row, number, which] = len(ids)
            begins_word[row, number, 1], ends_word[row, number] = phrase.begins_word, phrase.ends_word
    return Phrases(tokens, sizes, begins_word, ends_word)


def deal(rows: Any, count: int, devices: int) -> tuple[Any, np.ndarray]:
    """Leaves [B, ...] filled up with zeros to `count` rows and dealt to the devices in turn, so that each has its share, the
    empty ones at its end. Returns them and where each of the B rows is."""
    places = np.arange(count).reshape(-1, devices).T.reshape(-1)

    def dealt(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, count - len(values)), *[(0, 0)] * (values.ndim - 1)])[places]

    return jax.tree.map(dealt, rows), np.argsort(places)[: len(rows.limit)]
