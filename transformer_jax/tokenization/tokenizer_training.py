"""Training a SentencePiece model."""

import collections
import dataclasses
import functools
import io
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece

from transformer_jax.config import TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.storage.text_hashes import text_hashes
from transformer_jax.tokenization import normalization
from transformer_jax.worker_processes import worker_processes

__all__ = ["train_model", "usual_vocabulary"]

log = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 16  # bytes; SentencePiece leaves longer lines out of its training
_CHUNK = 20_000  # lines that are hashed together
_ERRORS_ONLY = 2  # SentencePiece's log level; it still logs errors that it also raises


# Pieces for a text of so many pairs or more. 8,000 at 29,000 pairs is measured (docs/guides/little_text.md); for millions it is
# what is usual (Gowda and May 2020); below, what the recipe own_text has.
_USUAL = ((0, 1000), (3_000, 2000), (20_000, 8000), (2_000_000, 32_000))


def usual_vocabulary(pairs: int) -> int:
    """How many pieces a text of so many pairs gets where `tokenizer.vocab_size` is 0.

    >>> [usual_vocabulary(pairs) for pairs in (1, 3_000, 29_000, 1_000_000, 4_500_000)]
    [1000, 2000, 8000, 8000, 32000]
    """
    return [pieces for fewest, pieces in _USUAL if fewest <= pairs][-1]


def train_model(lines: Iterable[str], config: TokenizerConfig, symbols: Sequence[str] = ()) -> bytes:
    """The SentencePiece model of `lines`, as `Tokenizer.train` describes it: pad 0, EOS 1, unknown 2, BOS 3.
    `symbols` are pieces, wherever a text has them.

    With a `config.vocab_size` of 0 the model has `usual_vocabulary` pieces, for half as many pairs as there are lines, as far
    as the corpus has so many, and more where it has more characters; the log says how many. Where the corpus is too small for
    another `config.vocab_size`, the model has the most pieces that it can have if `config.vocab_may_shrink`, and the log says
    how many. Else that raises UserError, as do more characters than pieces.
    """
    counted = _Counted(lines)
    kept = _sample(counted, 2 * config.sample_lines, config.normalize)
    kept = sorted(map(normalization.normalize, kept) if config.normalize else kept)
    if not any(line.strip() for line in kept):
        raise UserError("tokenizer: no text to train on, expected at least one line that is not empty")
    if not config.vocab_size:
        return _train_usual(kept, config, symbols, counted.count // 2)
    try:
        return _train(kept, config, symbols)
    except RuntimeError as error:
        largest = _largest_size(str(error))
        if not (largest and config.vocab_may_shrink):
            raise _training_error(str(error), config) from None
    asked = f"{config.vocab_size:,}"
    log.info("tokenizer: %s pieces, because this text has no more; tokenizer.vocab_size=%s", f"{largest:,}", asked)
    return _train(kept, dataclasses.replace(config, vocab_size=largest), symbols)


def _train_usual(lines: list[str], config: TokenizerConfig, symbols: Sequence[str], pairs: int) -> bytes:
    usual, because = usual_vocabulary(pairs), ""
    size = usual
    while True:
        try:
            model = _train(lines, dataclasses.replace(config, vocab_size=size), symbols)
            break
        except RuntimeError as error:
            largest, smallest = _largest_size(str(error)), _smallest_size(str(error))
            # Each may happen once: a text of many characters and hardly more words has a size between the two.
            if smallest > size:
                size, because = smallest + usual, f", for its {smallest:,} characters too"
            elif largest and largest < size:
                size, because = largest, ", because it has no more"
            else:
                raise _training_error(str(error), config) from None
    log.info("tokenizer: %s pieces for a text of %s pairs%s (tokenizer.vocab_size=0)", f"{size:,}", f"{pairs:,}", because)
    return model


def _train(lines: list[str], config: TokenizerConfig, symbols: Sequence[str]) -> bytes:
    """SentencePiece's training, with its own errors (RuntimeError)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=config.algorithm,
        vocab_size=config.vocab_size,
        character_coverage=config.character_coverage,
        byte_fallback=config.byte_fallback,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        input_sentence_size=0,
        shuffle_input_sentence=False,
        max_sentence_length=_LONGEST_LINE,
        num_threads=16,  # written into the model, so a fixed number whatever the machine
        minloglevel=_ERRORS_ONLY,
        **({"user_defined_symbols": list(symbols)} if symbols else {}),  # a model without any is as it always was
    )
    return model.getvalue()


class _Counted:
    """An iterable that knows, after it was read, how many there were."""

    def __init__(self, lines: Iterable[str]):
        self._lines, self.count = lines, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.count += 1
            yield line


def _sample(lines: Iterable[str], count: int, normalized: bool) -> list[str]:
    """The `count` lines of smallest hash, as they are, in memory for twice as many; with `normalized` the hashes are those of
    the normalised lines. Lines are hashed on all cores."""
    lines = iter(lines)
    kept, hashes = list(itertools.islice(lines, 2 * count)), np.zeros(0, np.uint64)
    if len(kept) <= count:
        return kept
    lines, kept, largest = itertools.chain(kept, lines), [], np.iinfo(np.uint64).max
    sent: collections.deque[list[str]] = collections.deque()

    def chunks() -> Iterator[list[str]]:
        while chunk := list(itertools.islice(lines, _CHUNK)):
            sent.append(chunk)
            yield chunk

    with worker_processes(functools.partial(_hashes, normalized), "hashes text") as hashes_of:
        for of_chunk in hashes_of(chunks()):
            chunk, small = sent.popleft(), np.flatnonzero(of_chunk <= largest)
            kept += [chunk[i] for i in small.tolist()]
            hashes = np.append(hashes, of_chunk[small])
            if len(kept) >= 2 * count:
                kept, hashes = _smallest(kept, hashes, count)
                largest = hashes.max()
    return _smallest(kept, hashes, count)[0]


def _smallest(lines: list[str], hashes: np.ndarray, count: int) -> tuple[list[str], np.ndarray]:
    """The `count` lines of smallest hash, and their hashes."""
    first = np.argpartition(hashes, count - 1)[:count]
    return [lines[i] for i in first.tolist()], hashes[first]


def _hashes(normalized: bool, lines: list[str]) -> np.ndarray:
    """The hashes of lines, or of the normalised lines, uint64 [lines]."""
    return text_hashes(map(normalization.normalize, lines) if normalized else lines)


def _largest_size(message: str) -> int:
    """The vocabulary size that SentencePiece names where there is too little text for another; 0 for any other error."""
    match = re.search(r"size too high .*<= (\d+)", message)
    return int(match[1]) if match else 0


def _smallest_size(message: str) -> int:
    """The vocabulary size that the characters of a text need, where SentencePiece names it; 0 for any other error."""
    match = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    return int(match[1]) if match else 0


def _training_error(message: str, config: TokenizerConfig) -> Exception:
    # SentencePiece has no other sign of these two errors than the words of its message.
    size = config.vocab_size
    if largest := _largest_size(message):
        return UserError(
            f"tokenizer.vocab_size={size} is too large for this corpus, use at most {largest}, add text, or set "
            "tokenizer.vocab_may_shrink=true"
        )
    if smallest := _smallest_size(message):
        return UserError(
            f"tokenizer.vocab_size={size} is smaller than this corpus's characters, raise it to at least {smallest}"
        )
    return UserError(f"tokenizer: SentencePiece cannot train on this corpus ({' '.join(message.split())})")
