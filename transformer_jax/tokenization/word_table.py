"""A cache of the ids of words: text repeats its words, and looking one up takes a twentieth of the time of segmenting it."""

import itertools
import os
import threading
from collections.abc import Sequence

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

__all__ = [
    "FEW",
    "SPACE",
    "WordTable",
    "encode_texts",
    "gather",
    "read_model",
    "splits_at_spaces",
    "user_defined",
    "words_are_independent",
]

FEW = 16  # so few texts take less time one by one than the start of SentencePiece's threads, 0.2 ms
SPACE = "\u2581"  # SentencePiece's sign for a space; in text it would begin a word without a space


def words_are_independent(model: bytes) -> bool:
    """Whether the segmentation of a line is that of its words between spaces, one after the other.

    So it is with BPE pieces that do not reach over spaces, as `Tokenizer.train` makes them, and without normalisation. It is
    not so with a unigram model, whose scores are rounded sums over the line, nor for text with U+2581.
    """
    spec = read_model(model)
    return spec.trainer_spec.model_type == proto.TrainerSpec.BPE and splits_at_spaces(spec)


def read_model(model: bytes) -> proto.ModelProto:
    """The content of a SentencePiece model's file: pieces, scores, how it was trained, how it normalises."""
    spec = proto.ModelProto()
    spec.ParseFromString(model)
    return spec


def splits_at_spaces(spec: proto.ModelProto) -> bool:
    """Whether no piece reaches over a space, and the model does not change the text."""
    trainer, normalizer = spec.trainer_spec, spec.normalizer_spec
    return (
        trainer.split_by_whitespace
        and not trainer.treat_whitespace_as_suffix
        and not normalizer.precompiled_charsmap
        and normalizer.add_dummy_prefix
        and normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
        and not any(SPACE in piece.piece[1:] for piece in spec.pieces)
    )


def user_defined(model: bytes, pieces: Sequence[str]) -> tuple[int, ...]:
    """The ids of these pieces, which text never loses to others; none where one of them is not such a piece."""
    kind = proto.ModelProto.SentencePiece.USER_DEFINED
    ids = {piece.piece: i for i, piece in enumerate(read_model(model).pieces) if piece.type == kind}
    return tuple(ids[piece] for piece in pieces) if ids.keys() >= set(pieces) else ()


class WordTable:
    """Encodes lines with `model`, of which `words_are_independent`, a word at a time, and each word once.

    It keeps at most `capacity` words, or as many as one call has, and is then emptied.
    """

    def __init__(self, model: sentencepiece.SentencePieceProcessor, capacity: int = 1_000_000):
        self._model, self._capacity = model, capacity
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._row: dict[str, int] = {}
        # Word r's ids are ids[offsets[r] : offsets[r + 1]].
        self._ids = np.zeros(0, np.int32)
        self._offsets = np.zeros(1, np.int64)

    def encode(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids int32 [tokens] of all lines, one line after the other, and the number of each line's [lines]."""
        split = [line.split(" ") for line in lines]
        words = list(itertools.chain.from_iterable(split))
        with self._lock:
            flat, ends = self._encode_words(words)
        last_words = np.cumsum([len(line_words) for line_words in split]) - 1
        return flat, np.diff(ends[last_words], prepend=0)

    def _encode_words(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all words, and where each word's end."""
        rows = self._find(words)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            missing = [words[i] for i in unknown]
            if len(self._row) + len(new := set(missing)) > self._capacity:
                self._clear()
                missing, new, unknown = words, set(words), slice(None)
            self._learn(list(new))
            rows[unknown] = self._find(missing)
        return gather(self._ids, self._offsets, rows)

    def _find(self, words: list[str]) -> np.ndarray:
        return np.fromiter(map(self._row.get, words, itertools.repeat(-1)), np.int64, len(words))

    def _learn(self, new: list[str]) -> None:
        ids = encode_texts(self._model, new)
        self._row.update(zip(new, range(len(self._row), len(self._row) + len(new)), strict=True))
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        added = np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(lengths.sum()))
        self._offsets = np.concatenate([self._offsets, self._offsets[-1] + np.cumsum(lengths)])
        self._ids = np.concatenate([self._ids, added])


def encode_texts(model: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text."""
    if len(texts) <= FEW:
        return [model.encode(text, out_type=int) for text in texts]
    return model.encode(list(texts), out_type=int, num_threads=os.cpu_count() or 1)


def gather(ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with these numbers, int [n], one after the other, [tokens], and where each of them ends, int64 [n]. Row r is
    ids[offsets[r] : offsets[r + 1]].

    >>> gather(np.array([5, 6, 7]), np.array([0, 1, 3]), np.array([1, 0, 1]))
    (array([6, 7, 5, 6, 7]), array([2, 3, 5]))
    """
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    # Token t of the result is of row r: it is as far from r's start in `ids` as from r's start in the result.
    return ids[np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)], ends
