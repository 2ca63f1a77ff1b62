"""Subword regularisation: text segmented at random, and the same in any process.

SentencePiece can sample too, but not reproducibly: what it draws for one seed differs from process to process (0.2.3).
"""

import abc
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as proto

from transformer_jax.errors import UserError
from transformer_jax.tokenization.word_table import SPACE, gather, read_model, splits_at_spaces

__all__ = ["Sampling", "make_sampler"]

_VARIANTS = 16  # segmentations that are drawn of one word in one call; its occurrences take one of these each
_BLOCK = 1 << 18  # letters that are worked on at once
_LONGEST = 500  # letters of a word that is segmented as a whole
_SURROGATE = 0xD800
_UNKNOWN_PENALTY = 10.0  # SentencePiece's: how much less likely an unknown letter is than the least likely piece


class Sampling(NamedTuple):
    """How training text is segmented: `count` times, each drawn at random with the parameter `alpha` (see `make_sampler`)."""

    count: int
    alpha: float  # above 0; of BPE at most 1


def make_sampler(model: bytes, alpha: float) -> "_Sampler":
    """Draws segmentations with the pieces of a SentencePiece model: `encode(lines, seed)` of what it returns gives the ids
    int32 [tokens] of all lines, one line after the other, and the number of each line's, int64 [lines].

    BPE: merges are made as always, best first, but at each step each that is possible is left out with probability `alpha`, and
    a word is done when all are left out (BPE-dropout; Provilkov et al. 2020, algorithm 1).

    Unigram: of all segmentations x of a word, one is drawn with probability P(x)^alpha / Z, by filtering forwards and sampling
    backwards (Kudo 2018, section 3.2, with l = infinity).

    Raises UserError if the model has pieces that reach over spaces, or changes the text.
    """
    spec = read_model(model)
    kinds = {proto.TrainerSpec.BPE: _BytePairs, proto.TrainerSpec.UNIGRAM: _Unigram}
    if spec.trainer_spec.model_type not in kinds or not splits_at_spaces(spec):
        raise UserError("tokenizer.samples: only for tokenizers as they are trained here; set it to 0")
    return kinds[spec.trainer_spec.model_type](spec, alpha)


class _Sampler(abc.ABC):
    def __init__(self, spec: proto.ModelProto, alpha: float):
        kinds = proto.ModelProto.SentencePiece
        self._alpha = alpha
        self._size = len(spec.pieces)
        self._pieces = {piece.piece: i for i, piece in enumerate(spec.pieces) if piece.type == kinds.NORMAL}
        # A piece that no text loses to others is one letter here: a surrogate, which no text has.
        own = [(i, piece.piece) for i, piece in enumerate(spec.pieces) if piece.type == kinds.USER_DEFINED]
        self._letters = {piece: chr(_SURROGATE + number) for number, (_, piece) in enumerate(own)}
        self._pieces |= {self._letters[piece]: i for i, piece in own}
        self._scores = np.array([piece.score for piece in spec.pieces])
        self._bytes = [i for i, piece in enumerate(spec.pieces) if piece.type == kinds.BYTE]
        self._unknown = spec.trainer_spec.unk_id

    def encode(self, lines: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids int32 [tokens] of all lines, one line after the other, and the number of each line's [lines]."""
        random = np.random.default_rng(seed)
        for piece, letter in self._letters.items():
            lines = [line.replace(piece, letter) for line in lines]
        split = [[part for word in line.split(" ") if word for part in _parts(SPACE + word)] for line in lines]
        numbers: dict[str, int] = {}
        words = np.fromiter((numbers.setdefault(word, len(numbers)) for word in itertools.chain(*split)), np.int64)
        variants = np.minimum(np.bincount(words, minlength=len(numbers)), _VARIANTS)
        first = np.cumsum(variants) - variants
        drawn = self._segment(list(numbers), np.repeat(np.arange(len(numbers)), variants), random)
        ids, offsets = self._expand(*drawn)
        rows = first[words] + (random.random(len(words)) * variants[words]).astype(np.int64)
        flat, ends = gather(ids, offsets, rows)
        ends_of_lines = np.concatenate([[0], ends])[np.cumsum(np.fromiter(map(len, split), np.int64))]
        return flat, np.diff(ends_of_lines, prepend=0)

    def _segment(self, words: list[str], rows: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each of `rows`, a number of a word, a segmentation of it: all ids, and where each begins (and the last ends).
        A letter that is no piece has the id `size` + its code point."""
        letters = np.frombuffer("".join(words).encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.int64)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        blocks = list(_blocks(lengths[rows]))
        ids_of_blocks, counts = [letters[:0]], [lengths[:0]]
        for block in blocks:
            block_rows = rows[block]
            inside = np.arange(lengths[block_rows[-1]]) < lengths[block_rows][:, None]
            text = np.full(inside.shape, -1, np.int64)
            text[inside] = gather(letters, starts, block_rows)[0]
            symbols = self._draw([words[row] for row in block_rows], text, random)
            ids_of_blocks.append(symbols[symbols >= 0])
            counts.append((symbols >= 0).sum(axis=1))
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        # The blocks are ordered by length; back to the order of `rows`.
        ids, ends = gather(np.concatenate(ids_of_blocks), offsets, np.argsort(np.concatenate([lengths[:0], *blocks])))
        return ids, np.concatenate([[0], ends])

    @abc.abstractmethod
    def _draw(self, words: list[str], text: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`text` [words, letters] are the words' code points, -1 after the last: ids [words, letters], with -1 for none."""

    def _expand(self, ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """With the bytes of letters that are no piece, or the unknown id, in their place."""
        strange = np.flatnonzero(ids >= self._size)
        if len(strange):
            parts = (
                [[self._bytes[byte] for byte in chr(ids[i] - self._size).encode()] for i in strange]
                if self._bytes
                else [[self._unknown] for _ in strange]
            )
            lengths = np.ones(len(ids), np.int64)
            lengths[strange] = list(map(len, parts))
            expanded = np.repeat(ids, lengths)
            expanded[np.repeat(ids >= self._size, lengths)] = list(itertools.chain(*parts))
            ids, offsets = expanded, np.concatenate([[0], np.cumsum(lengths)])[offsets]
        return ids.astype(np.int32), offsets


class _BytePairs(_Sampler):
    def __init__(self, spec: proto.ModelProto, alpha: float):
        super().__init__(spec, alpha)
        self._base = self._size + 0x110000  # above every symbol
        merges = {}
        for piece, i in self._pieces.items():
            for cut in range(1, len(piece)):
                left, right = self._pieces.get(piece[:cut]), self._pieces.get(piece[cut:])
                if left is not None and right is not None:
                    merges[left * self._base + right] = i
        self._keys = np.array(sorted(merges), np.int64)
        self._merged = np.array([merges[key] for key in self._keys.tolist()], np.int64)

    def _draw(self, words: list[str], text: np.ndarray, random: np.random.Generator) -> np.ndarray:
        distinct, inverse = np.unique(text, return_inverse=True)
        symbol = [-1 if i < 0 else self._pieces.get(chr(i), self._size + i) for i in distinct.tolist()]
        symbols = np.array(symbol, np.int64)[inverse].reshape(text.shape)
        result, active = symbols.copy(), np.arange(len(symbols))
        while symbols.shape[1] > 1 and len(active) and len(self._keys):
            keys = symbols[:, :-1] * self._base + symbols[:, 1:]
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            possible = (self._keys[at] == keys) & (random.random(keys.shape) >= self._alpha)
            scores = np.where(possible, self._scores[self._merged[at]], -np.inf)
            best = scores.argmax(axis=1)
            going = possible.any(axis=1)
            active, symbols, best, at = active[going], symbols[going], best[going], at[going]
            # Each word that goes on merges two of its symbols, so that all become shorter by one.
            row = np.arange(len(active))
            symbols[row, best] = self._merged[at[row, best]]
            symbols = symbols[np.arange(symbols.shape[1]) != best[:, None] + 1].reshape(len(active), symbols.shape[1] - 1)
            result[active, : symbols.shape[1]] = symbols
            result[active, symbols.shape[1]] = -1
        return result


class _Unigram(_Sampler):
    def __init__(self, spec: proto.ModelProto, alpha: float):
        super().__init__(spec, alpha)
        self._longest = max(map(len, self._pieces), default=1)
        self._unknown_score = min((self._scores[i] for i in self._pieces.values()), default=0.0) - _UNKNOWN_PENALTY

    def _draw(self, words: list[str], text: np.ndarray, random: np.random.Generator) -> np.ndarray:
        count, width = text.shape
        longest = min(self._longest, width)
        # Of the piece that ends before letter e and has m letters: its id at [word, e, m - 1], and alpha times its score.
        ids = np.full((count, width + 1, longest), -1, np.int64)
        for i, word in enumerate(words):
            for end in range(1, len(word) + 1):
                for length in range(1, min(longest, end) + 1):
                    ids[i, end, length - 1] = self._pieces.get(word[end - length : end], -1)
        scores = self._alpha * np.where(ids >= 0, self._scores[ids], -np.inf)
        strange = (ids[:, 1:, 0] < 0) & (text >= 0)
        ids[:, 1:, 0][strange] = self._size + text[strange]
        scores[:, 1:, 0][strange] = self._alpha * self._unknown_score
        forward = np.full((count, width + 1), -np.inf)
        forward[:, 0] = 0.0
        for end in range(1, width + 1):
            letters = min(longest, end)
            before = forward[:, end - letters : end][:, ::-1]
            forward[:, end] = np.logaddexp.reduce(before + scores[:, end, :letters], axis=1)
        result = np.full((count, width), -1, np.int64)
        end, row = (text >= 0).sum(axis=1), np.arange(count)
        for place in range(width - 1, -1, -1):
            going = row[end > 0]
            if not len(going):
                break
            ends = end[going]
            starts = ends[:, None] - np.arange(1, longest + 1)
            logits = np.where(starts >= 0, forward[going[:, None], np.maximum(starts, 0)], -np.inf) + scores[going, ends]
            length = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
            result[going, place] = ids[going, ends, length]
            end[going] -= length + 1
        return result


def _parts(word: str) -> list[str]:
    """The time that BPE takes grows with the square of the letters. What is cut here is two pieces at least."""
    return [word] if len(word) <= _LONGEST else [word[i : i + _LONGEST] for i in range(0, len(word), _LONGEST)]


def _blocks(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """All places in `lengths`, shortest first, as many at once as make a rectangle of `_BLOCK`, and at least one."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, int(np.searchsorted(lengths[order[start:]] * np.arange(1, len(order) - start + 1), _BLOCK)))
        yield order[start:stop]
        start = stop
