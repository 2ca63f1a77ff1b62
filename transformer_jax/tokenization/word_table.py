"""A cache of the ids of words: text repeats its words, and looking one up takes a twentieth of the time of segmenting it."""

import itertools
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

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
_MANY = 100  # lines whose words are sorted
_SHORT = 8  # bytes of a short word: a number's
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(_SHORT + 1)], np.uint64)  # that keep so many bytes of a number
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
        self._row: dict[bytes, int] = {}
        # Word r's ids are ids[offsets[r] : offsets[r + 1]].
        self._ids = np.zeros(0, np.int32)
        self._offsets = np.zeros(1, np.int64)

    def encode(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids int32 [tokens] of all lines, one line after the other, and the number of each line's [lines]."""
        words = _words_of(lines)
        with self._lock:
            rows = self._rows(words.texts)[words.numbers]
            flat, ends = gather(self._ids, self._offsets, rows)
        return flat, np.diff(ends[words.last], prepend=0)

    def _rows(self, words: list[bytes]) -> np.ndarray:
        """The row of each word; those that are not known are learned."""
        rows = self._find(words)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            missing = [words[i] for i in unknown]
            if len(self._row) + len(new := set(missing)) > self._capacity:
                self._clear()
                missing, new, unknown = words, set(words), slice(None)
            self._learn(list(new))
            rows[unknown] = self._find(missing)
        return rows

    def _find(self, words: list[bytes]) -> np.ndarray:
        return np.fromiter(map(self._row.get, words, itertools.repeat(-1)), np.int64, len(words))

    def _learn(self, new: list[bytes]) -> None:
        ids = encode_texts(self._model, [word.decode("utf-8") for word in new])
        self._row.update(zip(new, range(len(self._row), len(self._row) + len(new)), strict=True))
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        added = np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(lengths.sum()))
        self._offsets = np.concatenate([self._offsets, self._offsets[-1] + np.cumsum(lengths)])
        self._ids = np.concatenate([self._ids, added])


class _Words(NamedTuple):
    """The words of some lines, between spaces; of an empty line one empty word."""

    texts: list[bytes]  # UTF-8
    numbers: np.ndarray  # int64 [words]: which of the texts each word is, of all lines one after the other
    last: np.ndarray  # int64 [lines]: the place of each line's last word in `numbers`


def _words_of(lines: Sequence[str]) -> _Words:
    """Of many lines each short word is among the texts once, since looking a word up takes longer than sorting it."""
    text = "\n".join(lines).encode("utf-8")
    if len(lines) < _MANY or b"\0" in text or text.count(b"\n") != len(lines) - 1:
        split = [line.encode("utf-8").split(b" ") for line in lines]
        words = list(itertools.chain.from_iterable(split))
        return _Words(words, np.arange(len(words)), np.cumsum(list(map(len, split))) - 1)
    padded = text + bytes(_SHORT)
    characters = np.frombuffer(text, np.uint8)
    ends = np.append(np.flatnonzero((characters == ord(" ")) | (characters == ord("\n"))), len(text))
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts
    is_short = sizes <= _SHORT
    short, long = np.flatnonzero(is_short), np.flatnonzero(~is_short)
    # A short word as a number: its bytes, and zeros, which are in no word.
    from_each_place = np.ndarray(len(text) + 1, "<u8", padded, strides=(1,))
    keys = from_each_place[starts[short]] & _FIRST_BYTES[sizes[short]]
    order = np.argsort(keys)
    is_first = np.diff(keys[order], prepend=~keys[order[:1]]) != 0
    numbers = np.empty(len(ends), np.int64)
    numbers[short[order]] = np.cumsum(is_first) - 1
    numbers[long] = np.count_nonzero(is_first) + np.arange(len(long))
    chosen = np.concatenate([short[order[is_first]], long])
    texts = [text[start:end] for start, end in zip(starts[chosen].tolist(), ends[chosen].tolist(), strict=True)]
    return _Words(texts, numbers, np.append(np.flatnonzero(characters[ends[:-1]] == ord("\n")), len(ends) - 1))


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
