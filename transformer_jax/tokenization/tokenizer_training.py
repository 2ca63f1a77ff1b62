"""Training a SentencePiece model."""

import dataclasses
import hashlib
import io
import logging
import re
from collections.abc import Iterable

import sentencepiece

from transformer_jax.config import TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.tokenization import normalization

__all__ = ["train_model"]

log = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 16  # bytes; SentencePiece leaves longer lines out of its training
_ERRORS_ONLY = 2  # SentencePiece's log level; it still logs errors that it also raises


def train_model(lines: Iterable[str], config: TokenizerConfig) -> bytes:
    """The SentencePiece model of `lines`, as `Tokenizer.train` describes it: pad 0, EOS 1, unknown 2, BOS 3.

    Where the corpus is too small for `config.vocab_size`, the model has the most pieces that it can have if
    `config.vocab_may_shrink`, and the log says how many. Else that raises UserError, as do more characters than pieces.
    """
    if config.normalize:
        lines = map(normalization.normalize, lines)
    kept = sorted(_sample(lines, 2 * config.sample_lines))
    if not any(line.strip() for line in kept):
        raise UserError("tokenizer: no text to train on, expected at least one line that is not empty")
    try:
        return _train(kept, config)
    except RuntimeError as error:
        largest = _largest_size(str(error))
        if not (largest and config.vocab_may_shrink):
            raise _training_error(str(error), config) from None
    asked = f"{config.vocab_size:,}"
    log.info("tokenizer: %s pieces, because this text has no more; tokenizer.vocab_size=%s", f"{largest:,}", asked)
    return _train(kept, dataclasses.replace(config, vocab_size=largest))


def _train(lines: list[str], config: TokenizerConfig) -> bytes:
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
    )
    return model.getvalue()


def _sample(lines: Iterable[str], count: int) -> list[str]:
    """The `count` lines of smallest hash, in memory for twice as many."""
    kept, largest = [], None
    for line in lines:
        if largest is None or _hash(line) < largest:
            kept.append(line)
        if len(kept) == 2 * count:
            kept = sorted(kept, key=_hash)[:count]
            largest = _hash(kept[-1])
    return sorted(kept, key=_hash)[:count] if len(kept) > count else kept


def _hash(line: str) -> bytes:
    return hashlib.blake2b(line.encode("utf-8"), digest_size=8).digest()[::-1]


def _largest_size(message: str) -> int:
    """The vocabulary size that SentencePiece names where there is too little text for another; 0 for any other error."""
    match = re.search(r"size too high .*<= (\d+)", message)
    return int(match[1]) if match else 0


def _training_error(message: str, config: TokenizerConfig) -> Exception:
    # SentencePiece has no other sign of these two errors than the words of its message.
    size = config.vocab_size
    if largest := _largest_size(message):
        return UserError(
            f"tokenizer.vocab_size={size} is too large for this corpus, use at most {largest}, add text, or set "
            "tokenizer.vocab_may_shrink=true"
        )
    smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if smallest:
        return UserError(
            f"tokenizer.vocab_size={size} is smaller than this corpus's characters, raise it to at least {smallest[1]}"
        )
    return UserError(f"tokenizer: SentencePiece cannot train on this corpus ({' '.join(message.split())})")
