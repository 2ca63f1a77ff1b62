"""From the training text to the stream of batches: read, clean, train the tokenizer, tokenise."""

import logging

from transformer_jax.data.corpus import clean, read_pairs
from transformer_jax.data.store import open_store
from transformer_jax.data.stream import BatchStream
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.run import Run

__all__ = ["prepare"]

log = logging.getLogger(__name__)


def prepare(run: Run) -> tuple[Tokenizer, BatchStream]:
    """The run's tokenizer, trained now if the run is new, and its stream of training batches. Raises UserError."""
    config = run.config
    data = config.data
    pairs, counts = clean(read_pairs(data.train, data.source_language, data.target_language), data)
    log.info("training text %s: %s", data.train, ", ".join(f"{count:,} {reason}" for reason, count in counts.items()))
    if not run.tokenizer_file.exists():
        Tokenizer.train([*pairs.source, *pairs.target], config.tokenizer, run.tokenizer_folder)
    tokenizer = run.tokenizer()
    stream = BatchStream(open_store(pairs, tokenizer, data.cache_dir), config.batch, tokenizer, config.train.seed)
    log.info(
        "%s pairs of at most %d tokens (%s longer ones dropped), %d pieces, batches of %s",
        f"{stream.pairs:,}",
        config.batch.max_length,
        f"{stream.dropped:,}",
        tokenizer.vocab_size,
        ", ".join("x".join(map(str, shape)) for shape in stream.shapes),
    )
    return tokenizer, stream
