"""The models and batches of `train_speed.py`, which both of its systems share.

This module does not import JAX, so that it takes no memory in PyTorch's processes.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transformer_jax.config import Config, DataConfig, TokenizerConfig, override, validate
from transformer_jax.data.batching import Batch, Shape, bucketed_batch
from transformer_jax.data.sources import read_sources
from transformer_jax.data.store import Store, open_store
from transformer_jax.data.stream import BatchStream
from transformer_jax.errors import UserError
from transformer_jax.tokenization.tokenizer import Tokenizer

_SIZES = {
    "tiny": {"num_layers": 4, "width": 128, "feed_forward_width": 256, "heads": 4, "dropout": 0.3},
    "base": {},
    "big": {"width": 1024, "feed_forward_width": 4096, "heads": 16, "dropout": 0.3},
    "lstm": {"family": "lstm", "num_layers": 2, "width": 512, "attention": "none", "direction": "backward"},
    "lstm_attention": {"family": "lstm", "num_layers": 2, "width": 512},
}
MODELS = tuple(_SIZES)


class Job(NamedTuple):
    """The job of one process."""

    model: str
    precision: str
    data: str  # a corpus's prefix, or "random:ROWSxLENGTH"
    vocab_size: int
    share: float  # of an epoch's batches
    threads: int
    cache: str  # a folder
    overrides: tuple[str, ...]  # KEY=VALUE of the config


def config_of(job: Job) -> Config:
    config = Config()
    for name, value in _SIZES[job.model].items():
        setattr(config.model, name, value)
    config.model.compute_dtype = job.precision
    config.batch.row_multiple = 8
    # PyTorch's too, so that their losses can be compared.
    config.optimizer.schedule, config.optimizer.learning_rate, config.optimizer.warmup_steps = "constant", 1e-4, 1
    for item in job.overrides:
        override(config, *item.split("=", 1))
    return validate(config)


def corpus(job: Job) -> tuple[Store, Tokenizer]:
    pairs, _ = read_sources(DataConfig(train=job.data))
    folder = f"{job.cache}/tokenizer-{job.vocab_size}-{job.data.replace('/', '_')}"
    try:
        tokenizer = Tokenizer.load(folder)
    except UserError:
        tokenizer = Tokenizer.train(itertools.chain(*pairs), TokenizerConfig(vocab_size=job.vocab_size), folder)
    return open_store(pairs, tokenizer, job.cache), tokenizer


def random_batch(job: Job) -> Batch:
    """Rows without padding, of random ids."""
    rows, _, length = job.data.removeprefix("random:").partition("x")
    if not (rows.isdecimal() and length.isdecimal() and int(rows) and int(length)):
        raise UserError(f"--data={job.data}: expected random:ROWSxLENGTH, such as random:64x32")
    shape, draw = (int(rows), int(length)), np.random.default_rng(0)
    source, target_input, target_output = draw.integers(4, job.vocab_size, (3, *shape), dtype=np.int32)
    ones, position = np.ones(shape, np.int32), np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape).copy()
    return Batch(source, ones, position, target_input, target_output, ones, position)


def our_batches(job: Job) -> tuple[Iterator[Batch], int, list[Batch]]:
    """An endless iterator of batches, the number of batches in the job's share of an epoch, and one batch of each shape."""
    if job.data.startswith("random:"):
        batch = random_batch(job)
        return itertools.repeat(batch), 0, [batch]
    store, tokenizer = corpus(job)
    stream = BatchStream(store, config_of(job).batch, tokenizer, seed=0)
    first = [batch for batch, _ in itertools.takewhile(lambda at: at[1].epoch == 0, stream.batches())]
    shapes = {batch.source.shape + batch.target_output.shape: batch for batch in first}
    every = round(1 / job.share)
    return (
        (batch for batch, _ in itertools.islice(stream.batches(), 0, None, every)),
        len(first) // every,
        list(shapes.values()),
    )


def snug_batches(job: Job, multiple: int = 1) -> tuple[Iterator[Batch], int]:
    """The batching that serves eager PyTorch best: pairs sorted by length, each batch as long as its own longest pair (rounded
    up to `multiple`) and as many rows as have room in `batch.tokens`; the batches in random order. Endless, with the number
    that is the job's share of an epoch."""
    if job.data.startswith("random:"):
        return itertools.repeat(random_batch(job)), 0
    store, tokenizer = corpus(job)
    source, target, config = store.source_lengths, store.target_lengths, config_of(job).batch
    kept = np.flatnonzero(np.maximum(source, target) <= config.max_length)
    order = kept[np.lexsort((source[kept], target[kept], np.maximum(source, target)[kept]))]
    cuts, longest, begin = [0], 0, 0
    for place, pair in enumerate(order):
        longest = max(longest, source[pair], target[pair])
        if (place + 1 - begin) * longest > config.tokens:
            begin, longest = place, max(source[pair], target[pair])
            cuts.append(place)
    parts = np.split(order, cuts[1:])
    every = round(1 / job.share)

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            for part in np.random.default_rng(epoch).permutation(len(parts))[::every]:
                chosen = parts[part]
                lengths = (-(-int(side[chosen].max()) // multiple) * multiple for side in (source, target))
                yield bucketed_batch(store, chosen, Shape(len(chosen), *lengths), tokenizer.pad_id, tokenizer.decoder_start_id)

    return endless(), len(parts) // every
