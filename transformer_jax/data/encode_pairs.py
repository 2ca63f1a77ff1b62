"""Both sides of training text to ids, chunk by chunk; of large text in blocks, of which those made before are taken."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from transformer_jax.data.corpus import Pairs
from transformer_jax.data.encode_lines import Chunk, EncodedLines, encoders
from transformer_jax.data.lines_on_disk import CHUNK, joined
from transformer_jax.data.noised_lines import as_sample, clean_pairs, noise_identity
from transformer_jax.data.token_blocks import Block, BlockFiles
from transformer_jax.data.training_words import WordHashes
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["PairsEncoder"]

_FORMAT = 1  # goes into the names of blocks: those of another layout are not found
_CHUNK = CHUNK
_BLOCK = 10 * CHUNK  # lines of a block, which take a core some seconds


class _Lines(NamedTuple):
    """The lines of a block, or of a chunk where no blocks are kept."""

    time: int  # of which sample
    start: int
    stop: int
    name: str  # of their block; "" where none is kept
    texts: Iterator[bytes]  # their chunks, with the noise of the sample


def _ignore(_: bytes) -> None:
    pass


class PairsEncoder:
    """Encodes the sides of `pairs`, with `sampling` all pairs `sampling.count` times over, each time segmented anew at random
    and with the noise of that sample (`NoisedLines`); the same at each call.

    From 400,000 lines on each 200,000 lines are a block: it is taken from `files` if it is there, else its ids are put there.

        lines                0 ... 199,999   200,000 ... 399,999   400,000 ... 499,999
        killed in the third  in files        in files
        started again        taken           taken                 encoded, and put there

    A block is found by all that its ids depend on: its text, of which a text with noise needs both sides, and `settings`, which
    tell the tokenizer and the sampling.

    Attributes:
        block_names: of the blocks that were taken or put there so far
        taken: lines whose ids were taken from blocks so far
        encoded: lines that were encoded so far
    """

    def __init__(self, pairs: Pairs, tokenizer: Tokenizer, sampling: Sampling | None, settings: str, files: BlockFiles):
        self._pairs, self._clean = pairs, clean_pairs(pairs)
        self._tokenizer, self._sampling, self._settings = tokenizer, sampling, settings
        self._times = sampling.count if sampling else 1
        self._files = files if self._times * len(pairs.source) >= 2 * _BLOCK else None
        self.block_names: set[str] = set()
        self.taken = self.encoded = 0

    @property
    def keeps_blocks(self) -> bool:
        """Is the text large enough for blocks?"""
        return self._files is not None

    @property
    def id_type(self) -> np.dtype:
        """The type of ids on disk: uint16, or int32 from 65,536 pieces on."""
        few = max(self._tokenizer.vocab_size, self._tokenizer.source_vocab_size) < 1 << 16
        return np.dtype(np.uint16 if few else np.int32)

    def encode(
        self, side: str, on_text: Callable[[bytes], None] = _ignore, words: WordHashes | None = None
    ) -> Iterator[EncodedLines]:
        """The ids of a side, source or target, in the order of its lines.

        `on_text` is called with each chunk of the side's text (`lines_on_disk.joined`), without noise, once and in order. To
        `words` the words of the targets are added. Raises OSError if a block cannot be written.
        """
        return self._encode(side, (0, 1), on_text, words)

    def put_share(self, index: int, count: int) -> None:
        """Encodes, of each `count` blocks, the one of this index that is not in `files` yet, and puts it there. Raises OSError
        if it cannot be written."""
        for side in ("source", "target"):
            collections.deque(self._encode(side, (index, count), _ignore, None), maxlen=0)

    def _encode(
        self, side: str, share: tuple[int, int], on_text: Callable[[bytes], None], words: WordHashes | None
    ) -> Iterator[EncodedLines]:
        total = self._times * len(self._pairs.source) // share[1]
        found = ((lines, self._files.get(lines.name) if self._files else None) for lines in self._parts(side, share, on_text))
        bar = tqdm(total=total, desc=f"tokenising the {side}", unit=" lines", unit_scale=True, disable=None, leave=False)
        with bar, encoders(self._tokenizer, side, total) as encode:
            for is_there, group in itertools.groupby(found, lambda item: item[1] is not None):
                if is_there:
                    rows = self._take(side, group, words)
                else:
                    rows = self._make(encode, side, (lines for lines, _ in group), words)
                for row in rows:
                    bar.update(len(row.lengths))
                    yield row

    def _parts(self, side: str, share: tuple[int, int], on_text: Callable[[bytes], None]) -> Iterator[_Lines]:
        """The blocks of a side (without blocks its chunks), or each `count`-th from `index` on, in order."""
        (index, count), size, total = share, _BLOCK if self._files else _CHUNK, len(self._pairs.source)
        clean, hashes = getattr(self._clean, side), {}
        for time, start in itertools.islice(itertools.product(range(self._times), range(0, total, size)), index, None, count):
            stop = min(start + size, total)
            texts = _chunks(as_sample(getattr(self._pairs, side), time), start, stop)
            if start not in hashes:  # the text of all samples is the same
                read = collections.deque(_chunks(clean, start, stop))
                for text in read:
                    on_text(text)
                hashes[start] = self._hash(side, start, stop, read) if self._files else b""
                if self._clean is self._pairs:
                    texts = _drain(read)
            yield _Lines(time, start, stop, self._name(side, time, start, stop, hashes[start]) if self._files else "", texts)

    def _hash(self, side: str, start: int, stop: int, texts: Iterable[bytes]) -> bytes:
        """A hash of lines; noise is drawn by both sides of a pair."""
        digest = hashlib.blake2b(digest_size=16)
        if self._clean is not self._pairs:
            other = self._clean.target if side == "source" else self._clean.source
            texts = itertools.chain(texts, _chunks(other, start, stop))
        for text in texts:
            digest.update(text)
            digest.update(b"\n")
        return digest.digest()

    def _name(self, side: str, time: int, start: int, stop: int, text_hash: bytes) -> str:
        noise = noise_identity(self._pairs)
        drawn = f" {time} {start}{noise}" if noise or self._sampling else ""  # by these the random numbers are drawn
        settings = f"{_FORMAT} {self._settings} {side} {stop - start} {_CHUNK}{drawn}\n"
        name = hashlib.blake2b(settings.encode() + text_hash, digest_size=16).hexdigest()
        self.block_names.add(name)
        return name

    def _take(self, side: str, found: Iterable[tuple[_Lines, Block]], words: WordHashes | None) -> Iterator[EncodedLines]:
        for lines, block in found:
            if words is not None and _has_words(side, lines):
                for text in [block.words] if block.words else lines.texts:
                    words.add(text.decode("utf-8"))
            self.taken += len(block.lengths)
            yield EncodedLines(block.ids, block.lengths)

    def _make(
        self,
        encode: Callable[[Iterable[Chunk]], Iterator[EncodedLines]],
        side: str,
        parts: Iterable[_Lines],
        words: WordHashes | None,
    ) -> Iterator[EncodedLines]:
        """Encodes the lines of blocks, chunk by chunk, and puts each block into `files` when its last chunk is encoded."""
        begun: collections.deque[tuple[_Lines, set[str]]] = collections.deque()
        rows: list[EncodedLines] = []
        for ids, lengths in encode(self._draw(side, parts, begun, words)):
            row = EncodedLines(ids.astype(self.id_type), lengths)
            rows.append(row)
            self.encoded += len(lengths)
            lines, different = begun[0]
            if sum(len(each.lengths) for each in rows) == lines.stop - lines.start:
                if self._files:
                    block = Block(*map(np.concatenate, zip(*rows, strict=True)), "\n".join(different).encode("utf-8"))
                    self._files.put(lines.name, block)
                begun.popleft()
                rows = []
            yield row

    def _draw(
        self,
        side: str,
        parts: Iterable[_Lines],
        begun: collections.deque[tuple[_Lines, set[str]]],
        words: WordHashes | None,
    ) -> Iterator[Chunk]:
        """The chunks of the lines. Appends the lines to `begun`, and for who puts a share the different words of targets: they
        save the first process, which waits for all shares, time. Who makes all blocks adds them to `words` alone, which is
        faster."""
        for lines in parts:
            different: set[str] = set()
            begun.append((lines, different))
            for start, text in zip(range(lines.start, lines.stop, _CHUNK), lines.texts, strict=True):
                if _has_words(side, lines):
                    if words is None:
                        different.update(text.decode("utf-8").split())
                    else:
                        words.add(text.decode("utf-8"))
                yield Chunk(text, self._sampling and (self._sampling.alpha, _seed(lines.time, start)))


def _has_words(side: str, lines: _Lines) -> bool:
    """Words are counted in the targets of the first sample."""
    return side == "target" and not lines.time


def _chunks(lines: Sequence[str], start: int, stop: int) -> Iterator[bytes]:
    return (joined(lines, first, min(first + _CHUNK, stop)) for first in range(start, stop, _CHUNK))


def _drain(texts: collections.deque[bytes]) -> Iterator[bytes]:
    """One after the other, none of which is kept."""
    while texts:
        yield texts.popleft()


def _seed(time: int, start: int) -> int:
    """The seed of the segmentations of the chunk of lines from `start` on."""
    return int(np.random.SeedSequence([time, start]).generate_state(1)[0])
