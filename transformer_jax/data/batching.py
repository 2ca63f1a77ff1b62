"""From tokenised sentences to arrays of few static shapes: bucketed (one sentence a row) or packed (many)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.data.batch_shapes import Shape
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError
from transformer_jax.tokenization.text_arguments import list_of_texts, require_one_for_each
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Batch", "bucketed_batch", "pack", "packed_batch", "pad_rows"]


class Batch(NamedTuple):
    """What every model takes; int32, NumPy on the host. Being a NamedTuple it is a JAX pytree as it is.

    One packed row of two sentences (pad 0, EOS 1, decoder start 3):

        source           5  9  1  7  1  0        target_input     3  6  8  3  4  0
        source_segment   1  1  1  2  2  0        target_output    6  8  1  4  1  0
        source_position  0  1  2  0  1  0        target_segment   1  1  1  2  2  0
                                                 target_position  0  1  2  0  1  0
    """

    source: np.ndarray  # [B, S]  source + EOS, the pad id where padded
    source_segment: np.ndarray  # [B, S]  0: padding; 1..: which sentence of the row
    source_position: np.ndarray  # [B, S]  position inside its sentence
    target_input: np.ndarray  # [B, T]  decoder start + target, shifted inside each segment
    target_output: np.ndarray  # [B, T]  target + EOS
    target_segment: np.ndarray  # [B, T]
    target_position: np.ndarray  # [B, T]

    @classmethod
    def of(cls, sources: Iterable[str], targets: Iterable[str], tokenizer: Tokenizer) -> "Batch":
        """One batch of these pairs of lines, a row for each in their order, as long as the longest: what `model.apply` takes.

        Raises TypeError for a string where a list of strings belongs, UserError where there is not one target for each source,
        or no pair at all.

        >>> batch = Batch.of(["The dog sleeps."], ["Der Hund schläft."], translator.tokenizer)          # doctest: +SKIP
        >>> logits = translator.model.apply({"params": translator.params}, batch, train=False)          # doctest: +SKIP
        """
        sources, targets = list_of_texts(sources, "sources"), list_of_texts(targets, "targets")
        require_one_for_each(targets, "targets", sources, "sources")
        if not sources:
            raise UserError("a batch needs one pair of lines or more, and there is none")
        rows = tokenizer.encode_source(sources), tokenizer.encode_target(targets)
        shape = Shape(len(sources), *(max(map(len, side)) for side in rows))
        return bucketed_batch(Store.of(*rows), np.arange(len(sources)), shape, tokenizer.pad_id, tokenizer.decoder_start_id)


def bucketed_batch(
    store: Store, pairs: np.ndarray, shape: Shape, pad_id: int, decoder_start_id: int, examples: np.ndarray | None = None
) -> Batch:
    """The pairs with these numbers [at most shape.rows], one a row, in this order; rows that are left stay empty (segment 0).

    `examples`, int [pairs], joins pairs: those with the same number are one row and one sentence, of which the last pair alone
    has its EOS. The numbers ascend, by 0 or 1.

    Raises ValueError if a pair, or what is joined, does not fit the shape.

    >>> store = Store.of([np.array([5, 9, 1]), np.array([7, 1])], [np.array([6, 8, 1]), np.array([4, 1])])
    >>> batch = bucketed_batch(store, np.array([0, 1]), Shape(2, 3, 4), pad_id=0, decoder_start_id=3)
    >>> batch.source.tolist(), batch.target_input.tolist(), batch.target_output.tolist()
    ([[5, 9, 1], [7, 1, 0]], [[3, 6, 8, 0], [3, 4, 0, 0]], [[6, 8, 1, 0], [4, 1, 0, 0]])
    >>> batch = bucketed_batch(store, np.array([0, 1]), Shape(1, 4, 4), 0, 3, examples=np.array([0, 0]))
    >>> batch.source.tolist(), batch.target_input.tolist(), batch.target_output.tolist()
    ([[5, 9, 7, 1]], [[3, 6, 8, 4]], [[6, 8, 4, 1]])
    """
    rows, source_length, target_length = shape
    source = _one_a_row(store.source_ids, store.source_offsets, pairs, examples, (rows, source_length), pad_id)
    target = _one_a_row(store.target_ids, store.target_offsets, pairs, examples, (rows, target_length), pad_id)
    return Batch(*source, _shift_right(*target, pad_id, decoder_start_id), *target)


def pack(source_lengths: np.ndarray, target_lengths: np.ndarray, shape: Shape) -> np.ndarray:
    """The row int64 [pairs] (from 0 on, none empty) that each pair goes to, so that few rows of `shape` hold all pairs.

    Packing by histogram (after Krell et al. 2021, "Efficient sequence packing without cross-contamination"), in two dimensions:
    pairs of equal lengths are placed together, largest first, so that the work grows with the kinds of pairs and not with the
    pairs. As many rows are opened at once as the tokens need at least; each pair goes where the room that is left on the two
    sides is then most alike, since a row is full as soon as one side is. More rows are opened only for what fits nowhere.

    Raises ValueError if a pair is longer than the shape.

    >>> pack(np.array([4, 1, 3, 2]), np.array([3, 1, 2, 4]), Shape(2, 5, 6)).tolist()
    [0, 0, 1, 1]
    """
    _, width, height = shape
    _require_fit(1, source_lengths.max(initial=0), (1, width))
    _require_fit(1, target_lengths.max(initial=0), (1, height))
    kinds, kind_of, counts = np.unique(source_lengths * (height + 1) + target_lengths, return_inverse=True, return_counts=True)
    sources, targets = np.divmod(kinds, height + 1)
    members = np.split(np.argsort(kind_of, kind="stable"), np.cumsum(counts)[:-1])
    # Of each row: room for source tokens, room for target tokens, and how unlike the two are: source / width - target / height,
    # times width * height to have whole numbers.
    empty = np.array([[width], [height], [0]], np.int32)
    room = np.repeat(empty, max(-(-source_lengths.sum() // width), -(-target_lengths.sum() // height)), axis=1)
    row_of = np.empty(len(source_lengths), np.int64)
    for kind in np.argsort(-(sources / width + targets / height), kind="stable"):
        source, target, waiting = int(sources[kind]), int(targets[kind]), members[kind]
        takes = np.array([[source], [target], [source * height - target * width]], np.int32)
        while len(waiting):
            fits = np.flatnonzero((room[0] >= source) & (room[1] >= target))
            if not len(fits):
                needed = -(-len(waiting) // min(width // source, height // target))
                room = np.concatenate([room, np.repeat(empty, needed, axis=1)], axis=1)
                continue
            if len(fits) > len(waiting):  # one to a row; where there are fewer rows, the rest comes in the next round
                unlike = np.abs(room[2, fits] - takes[2])
                fits = fits[np.argpartition(unlike, len(waiting) - 1)[: len(waiting)]]
            placed, waiting = waiting[: len(fits)], waiting[len(fits) :]
            row_of[placed] = fits
            room[:, fits] -= takes
    return np.unique(row_of, return_inverse=True)[1]


def packed_batch(
    store: Store,
    pairs: np.ndarray,
    rows: np.ndarray,
    shape: Shape,
    pad_id: int,
    decoder_start_id: int,
    examples: np.ndarray | None = None,
) -> Batch:
    """Pair `pairs[i]` goes to row `rows[i]`, both int [pairs]; `rows` ascends. In a row, sentences stand one after the other in
    the order given.

    `examples`, int [pairs], joins pairs of a row: those with the same number are one sentence, of which the last pair alone has
    its EOS; segment and position run through it. The numbers ascend, by 0 or 1. Without it, each pair is a sentence.

    Raises ValueError if a row's sentences do not fit the shape.

    >>> store = Store.of([np.array([5, 9, 1]), np.array([7, 1])], [np.array([6, 8, 1]), np.array([4, 1])])
    >>> batch = packed_batch(store, np.array([0, 1]), np.array([0, 0]), Shape(1, 6, 6), pad_id=0, decoder_start_id=3)
    >>> batch.source.tolist(), batch.source_segment.tolist(), batch.target_input.tolist()
    ([[5, 9, 1, 7, 1, 0]], [[1, 1, 1, 2, 2, 0]], [[3, 6, 8, 3, 4, 0]])
    >>> batch = packed_batch(store, np.array([0, 1]), np.array([0, 0]), Shape(1, 6, 6), 0, 3, examples=np.array([0, 0]))
    >>> batch.source.tolist(), batch.source_segment.tolist(), batch.target_input.tolist()
    ([[5, 9, 7, 1, 0, 0]], [[1, 1, 1, 1, 0, 0]], [[3, 6, 8, 4, 0, 0]])
    """
    size = shape.rows
    source = _many_a_row(store.source_ids, store.source_offsets, pairs, rows, examples, (size, shape.source_length), pad_id)
    target = _many_a_row(store.target_ids, store.target_offsets, pairs, rows, examples, (size, shape.target_length), pad_id)
    return Batch(*source, _shift_right(*target, pad_id, decoder_start_id), *target)


def pad_rows(rows: Sequence[np.ndarray], length: int, pad_id: int) -> np.ndarray:
    """Rows of ids as one int32 array [B, length], padded at the end. Raises ValueError if one is longer.

    >>> pad_rows([np.array([5, 1]), np.array([7, 8, 1])], 4, 0)
    array([[5, 1, 0, 0],
           [7, 8, 1, 0]], dtype=int32)
    """
    padded = np.full((len(rows), length), pad_id, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _one_a_row(
    ids: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, examples: np.ndarray | None, shape: tuple[int, int], pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, lengths = _starts_and_lengths(offsets, pairs, examples)
    filled = lengths if examples is None else _sums(lengths, examples - examples[:1], 0)  # of each row
    _require_fit(len(filled), filled.max(initial=0), shape)
    columns = np.arange(shape[1], dtype=np.int32)
    real = np.zeros(shape, bool)
    np.less(columns, filled[:, None], out=real[: len(filled)])
    tokens = np.full(shape, pad_id, np.int32)
    if examples is not None:
        tokens[real] = _read(ids, starts, lengths)
        return tokens, real.astype(np.int32), columns * real
    # Reading past a sentence's end is harmless (it is masked) as long as it is not past the array's.
    read = ids.take(starts[:, None] + columns, mode="clip")
    np.copyto(tokens[: len(pairs)], read, where=real[: len(pairs)])
    return tokens, real.astype(np.int32), columns * real


def _many_a_row(
    ids: np.ndarray,
    offsets: np.ndarray,
    pairs: np.ndarray,
    rows: np.ndarray,
    examples: np.ndarray | None,
    shape: tuple[int, int],
    pad_id: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, lengths = _starts_and_lengths(offsets, pairs, examples)
    first = np.searchsorted(rows, rows)  # of each pair's row
    before = np.cumsum(lengths) - lengths  # tokens of this batch before each pair
    if examples is None:
        segments, begin = np.arange(len(rows)) - first + 1, before
    else:
        segments, begin = examples - examples[first] + 1, before[np.searchsorted(examples, examples)]
    filled = _sums(lengths, rows, shape[0])
    _require_fit(len(filled), filled.max(initial=0), shape)
    # A row is filled from its first column on, so that the tokens in their order are the filled places in theirs.
    real = np.arange(shape[1]) < filled[:, None]
    tokens = np.full(shape, pad_id, np.int32)
    tokens[real] = _read(ids, starts, lengths)
    segment, position = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    segment[real] = np.repeat(segments.astype(np.int32), lengths)
    position[real] = np.arange(lengths.sum()) - np.repeat(begin, lengths)
    return tokens, segment, position


def _starts_and_lengths(offsets: np.ndarray, pairs: np.ndarray, examples: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Where each pair's tokens start, and how many they are: without EOS, where the next pair is joined to it."""
    starts = offsets[pairs]
    lengths = offsets[pairs + 1] - starts
    if examples is not None:
        lengths[:-1] -= examples[1:] == examples[:-1]
    return starts, lengths


def _read(ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The tokens of all pairs, one pair after the other."""
    ends = np.cumsum(lengths)
    return ids[np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)]


def _sums(lengths: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """The sum of each row's lengths, int64 [rows], of so many rows at least."""
    return np.bincount(rows, lengths, count).astype(np.int64)


def _require_fit(rows: int, tokens: int, shape: tuple[int, int]) -> None:
    if rows > shape[0] or tokens > shape[1]:
        raise ValueError(f"{rows} rows of up to {tokens} tokens do not fit {shape[0]} rows of {shape[1]}")


def _shift_right(target: np.ndarray, segment: np.ndarray, position: np.ndarray, pad_id: int, start_id: int) -> np.ndarray:
    """Decoder start, then the segment's tokens but its last: output 6 8 1 4 1 . -> input 3 6 8 3 4 ."""
    shifted = np.empty_like(target)
    shifted[:, 1:] = target[:, :-1]
    shifted[:, 0] = pad_id
    shifted[segment == 0] = pad_id
    shifted[(position == 0) & (segment > 0)] = start_id
    return shifted
