"""From the training text to the stream of batches: read, clean, train the tokenizer, tokenise."""

import itertools
import logging

from transformer_jax.config import Config
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.preparation_notes import recall_store, recall_tokenizer, remember_store, remember_tokenizer
from transformer_jax.data.sources import fetch, parse_sources, read_sources, text_fingerprint
from transformer_jax.data.store import open_store
from transformer_jax.data.stream import BatchStream
from transformer_jax.distributed import collectives
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.start import first_tokenizer

__all__ = ["open_run", "prepare"]

log = logging.getLogger(__name__)


def open_run(workdir: str, config: Config) -> Run:
    """As `Run.open_or_create`, by the first process; the others then find the folder there. Raises UserError as that does."""
    with collectives.first_before_others("run folder") as first:
        return Run.open_or_create(workdir, config) if first else Run(workdir)


def prepare(run: Run) -> tuple[Tokenizer, BatchStream, Pairs]:
    """The run's tokenizer, trained now or taken from `train.init_from` if the run is new, its stream of training batches, and
    the dev set. Raises UserError for text that cannot be read, and as `Tokenizer.train` and `BatchStream` do."""
    config = run.config
    data = config.data
    with collectives.first_before_others("data sets"):
        fetch([*(source.spec for source in parse_sources(data)), data.dev])
    dev = read_pairs(data.dev, data.source_language, data.target_language)  # first: if it cannot be read, nobody waits to know
    sampling = Sampling(config.tokenizer.samples, config.tokenizer.alpha) if config.tokenizer.samples else None
    mark, pairs, parts = text_fingerprint(data), None, []
    if run.tokenizer_file.exists():
        kept = None
    else:
        kept = first_tokenizer(config) or (recall_tokenizer(mark, config.tokenizer, data.cache_dir) if mark else None)
    if not kept and not run.tokenizer_file.exists():
        pairs, parts = read_sources(data, config.tokenizer.normalize)
    # What the first process makes, the others find: in the run folder, and in the cache of tokenised text if they share it.
    with collectives.first_before_others("tokenizer"):
        if not run.tokenizer_file.exists() and kept:
            kept.copy_to(run.tokenizer_folder)
        elif not run.tokenizer_file.exists():
            trained = Tokenizer.train(itertools.chain(*pairs), config.tokenizer, run.tokenizer_folder)
            if mark:
                remember_tokenizer(mark, config.tokenizer, data.cache_dir, trained)
        tokenizer = run.tokenizer()
    known = recall_store(mark, tokenizer, sampling, data.cache_dir) if mark else None
    if not known and pairs is None:
        pairs, parts = read_sources(data, tokenizer.normalizes)
    with collectives.first_before_others("tokenised text"):
        store, parts = known or (open_store(pairs, tokenizer, data.cache_dir, sampling), parts)
    if mark and not known:
        remember_store(mark, tokenizer, sampling, data.cache_dir, store, parts)
    if collectives.is_first() and store.words is not None:
        run.keep_words(store.words)
    stream = BatchStream(store, config.batch, tokenizer, config.train.seed, parts, sampling.count if sampling else 1)
    log.info(
        "%s pairs an epoch, of at most %d tokens (%s longer ones dropped), %d pieces, batches of %s",
        f"{stream.pairs:,}",
        config.batch.max_length,
        f"{stream.dropped:,}",
        tokenizer.vocab_size,
        ", ".join("x".join(map(str, shape)) for shape in stream.shapes),
    )
    return tokenizer, stream, dev
