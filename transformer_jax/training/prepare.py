"""From the training text to the stream of batches, in three steps: the text, the tokenizer, the store."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

from transformer_jax.config import BatchConfig, Config, schedule_ends_with_steps
from transformer_jax.data.batch_shapes import Shape, smallest_tokens
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.noised_lines import clean_pairs, tokenizer_lines
from transformer_jax.data.preparation_cache import PreparationCache
from transformer_jax.data.source_syntax import parse_sets
from transformer_jax.data.source_words import SourceWords, source_words_of
from transformer_jax.data.sources import fetch, parse_sources, read_sources, text_fingerprint
from transformer_jax.data.store import (
    Store,
    block_files,
    is_tokenised_in_blocks,
    open_store,
    put_share_of_blocks,
    writing_cache,
)
from transformer_jax.data.stream import BatchStream
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run, is_begun, split_run_name
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.init_from import first_tokenizer
from transformer_jax.training.optimizer import learning_rate

__all__ = ["open_run", "prepare", "read_watched", "with_words_of_first_run"]

log = logging.getLogger(__name__)

SourceCounts = list[tuple[int, float]]  # the number of pairs and the weight of each source
FindTokens = Callable[[Tokenizer, Sequence[Shape]], int]  # as `batch_fit.token_finder` gives it
ReadText = Callable[[bool], tuple[Pairs, SourceCounts]]  # `read_sources`, normalised or not; it reads the text once


def open_run(workdir: str, config: Config, extend: bool = False) -> Run:
    """As `Run.open_or_create`, by the first process; the others then find the folder there. Where `extend` gives a run another
    learning rate, the log tells it. Raises UserError as `open_or_create` does."""
    with collectives.first_before_others("run folder") as first:
        if not first:
            return Run(workdir)
        before = Run(workdir).config if extend and is_begun(workdir) else config
        run = Run.open_or_create(workdir, config, extend)
        if schedule_ends_with_steps(config) and before.train.steps != config.train.steps:
            _tell_extension(run, before)
        return run


def _tell_extension(run: Run, before: Config) -> None:
    steps = [0]
    if run.has_checkpoints():
        with run.checkpoints() as checkpoints:
            steps += checkpoints.steps()
    if run.was_interrupted():
        with run.interrupted() as interrupted:
            steps += interrupted.reader.steps()
    step = max(steps)
    rates = [float(learning_rate(config)(step)) for config in (before, run.config)]
    log.info(
        "extended from %d to %d steps: at step %d the learning rate is %.3g, where it was %.3g, and falls to zero at step %d; "
        "the scores may fall at first, and the end is not that of a training of so many steps from the start",
        before.train.steps,
        run.config.train.steps,
        step,
        rates[1],
        rates[0],
        run.config.train.steps,
    )


def prepare(run: Run, find_tokens: FindTokens | None = None) -> tuple[Tokenizer, BatchStream, Pairs]:
    """The run's tokenizer, trained now or taken from `train.init_from` if the run is new, its stream of training batches, and
    the dev set. Where the run's `batch.tokens` is 0, `find_tokens` finds the number, which the run keeps from then on. Raises
    UserError for text that cannot be read, and as `Tokenizer.train` and `BatchStream` do."""
    config = run.config
    dev, read_text = _prepare_text(config)
    cache = PreparationCache(text_fingerprint(config.data), config.data.cache_dir)
    tokenizer = _prepare_tokenizer(run, cache, read_text)
    sampling = Sampling(config.tokenizer.samples, config.tokenizer.alpha) if config.tokenizer.samples else None
    store, counts = _prepare_store(config, tokenizer, sampling, cache, read_text)
    if collectives.is_first() and store.words is not None:
        run.keep_words(store.words)
    with collectives.first_before_others("source words") as first:
        if first and config.decode.spelling == "correct" and not run.has_source_words():
            words = store.source_words or source_words_of(clean_pairs(read_text(tokenizer.normalizes)[0]).source)
            run.keep_source_words(with_words_of_first_run(words, config))
    joins = [source.spec.join for source in parse_sources(config.data)]
    if any(joins) and (tokenizer.source_bos or not tokenizer.source_eos):
        raise UserError(
            "data.train: join= is for sources that have EOS at the end, alone; this imported model's do not; leave it out"
        )

    def stream_of(batch: BatchConfig) -> BatchStream:
        return BatchStream(store, batch, tokenizer, config.train.seed, counts, sampling.count if sampling else 1, joins)

    if not run.config.batch.tokens and find_tokens:
        # Whatever the number, it has room for the longest pair, and then shapes have the same lengths.
        smallest = smallest_tokens(config.batch)
        run.keep_tokens(find_tokens(tokenizer, stream_of(dataclasses.replace(config.batch, tokens=smallest)).shapes))
    stream = stream_of(run.config.batch)
    log.info(
        "%s pairs an epoch, of at most %d tokens (%s longer ones dropped), %d pieces, batches of %s",
        f"{stream.pairs:,}",
        config.batch.max_length,
        f"{stream.dropped:,}",
        tokenizer.vocab_size,
        ", ".join("x".join(map(str, shape)) for shape in stream.shapes),
    )
    if stream.joined:
        log.info(
            "joined: an epoch has about %s examples, of which %s join %s pairs, to at most %d source and %d target tokens (%s "
            "longer ones cut)",
            *(f"{count:,}" for count in stream.joined[:3]),
            *stream.longest,
            f"{stream.joined.cut:,}",
        )
    return tokenizer, stream, dev


def training_store(run: Run, train: str = "") -> Store:
    """The tokenised training text of a run, or that of other sources `train`, each sentence segmented in one way. Raises
    UserError for text that cannot be read, and where there is none."""
    config = run.config
    data = dataclasses.replace(config.data, train=train or config.data.train)
    if not data.train:
        raise UserError(f"{run.workdir}: was made without training text; name some (--train)")
    fetch([source.spec for source in parse_sources(data)])
    cache = PreparationCache(text_fingerprint(data), data.cache_dir)
    read_text = functools.cache(functools.partial(read_sources, data))
    store, _ = _prepare_store(dataclasses.replace(config, data=data), run.tokenizer(), None, cache, read_text)
    if not len(store):
        raise UserError(f"{data.train}: no pair of it is left by the filters of data.*; name other text (--train)")
    return store


def with_words_of_first_run(words: SourceWords, config: Config) -> SourceWords:
    """These words, and those that the run of `train.init_from` has learned from; the log says where that does not know them."""
    workdir = split_run_name(config.train.init_from)[0]
    if not workdir or not is_begun(workdir):  # a run that goes on does without the one that it began with
        return words
    before = Run(workdir).source_words()
    if before is None:
        log.warning(
            "decode.spelling: it is not known which words %s has learned from, which may be taken for errors; `transformer-jax "
            "spelling --workdir=%s` finds out",
            workdir,
            workdir,
        )
    return words.together_with(before) if before else words


def read_watched(config: Config) -> dict[str, Pairs]:
    """The sets of `data.watch`, by their names as they are written there. Raises UserError for one that cannot be read."""
    data, specs = config.data, parse_sets(config.data.watch, "data.watch")
    if specs:
        with collectives.first_before_others("watched sets"):
            fetch(specs)
    return {spec.text: read_pairs(spec, data.source_language, data.target_language) for spec in specs}


def _prepare_text(config: Config) -> tuple[Pairs, ReadText]:
    """The dev set, and what reads the training text where it is needed. An unreadable dev set is reported before the training
    text is read."""
    data = config.data
    with collectives.first_before_others("data sets"):
        fetch([*(source.spec for source in parse_sources(data)), *parse_sets(data.held_out, "data.held_out"), data.dev])
    dev = read_pairs(data.dev, data.source_language, data.target_language)
    return dev, functools.cache(functools.partial(read_sources, data))


def _prepare_tokenizer(run: Run, cache: PreparationCache, read_text: ReadText) -> Tokenizer:
    """The run's tokenizer, which the first process puts into the run folder where it is not there."""
    config, is_there = run.config, run.tokenizer_file.exists()
    placeholders = any(source.spec.has_placeholders for source in parse_sources(config.data))
    made_before = None if is_there else first_tokenizer(config) or cache.get_tokenizer(config.tokenizer)
    known = run.tokenizer() if is_there else made_before
    if placeholders and known and not known.placeholder_ids:
        raise UserError(
            "data.train: placeholders= needs a tokenizer with these pieces, and this one has none; leave it out, or train "
            "another tokenizer (train.init_tokenizer=own)"
        )
    if not is_there and not made_before:
        read_text(config.tokenizer.normalize)  # here, so that all processes read at the same time
    with collectives.first_before_others("tokenizer") as first:
        if first and made_before:
            made_before.copy_to(run.tokenizer_folder)
        elif first and not is_there:
            pairs, counts = read_text(config.tokenizer.normalize)
            lines = tokenizer_lines(pairs, [weight for _, weight in counts])
            tokenizer = Tokenizer.train(lines, config.tokenizer, run.tokenizer_folder, placeholders)
            cache.put_tokenizer(config.tokenizer, tokenizer)
        return run.tokenizer()


def _prepare_store(
    config: Config, tokenizer: Tokenizer, sampling: Sampling | None, cache: PreparationCache, read_text: ReadText
) -> tuple[Store, SourceCounts]:
    """The tokenised text. The other processes find it where the first has put it, if they share the cache."""
    made_before = cache.get_store(tokenizer, sampling)
    if not made_before:
        read_text(tokenizer.normalizes)  # here, so that all processes read at the same time
    _share_work(config, tokenizer, sampling, None if made_before else read_text)
    with collectives.first_before_others("tokenised text"):
        if made_before:
            return made_before
        pairs, counts = read_text(tokenizer.normalizes)
        store = open_store(pairs, tokenizer, config.data.cache_dir, sampling, config.decode.spelling == "correct")
    cache.put_store(tokenizer, sampling, store, counts)
    return store, counts


def _share_work(config: Config, tokenizer: Tokenizer, sampling: Sampling | None, read_text: ReadText | None) -> None:
    """The processes that share the first one's cache tokenise a part of its text each, in blocks, before it makes the store of
    them. `read_text` is None in a process that has a store of the text."""
    if collectives.is_alone():
        return
    cache_dir = config.data.cache_dir
    arguments = (read_text(tokenizer.normalizes)[0], tokenizer, cache_dir, sampling) if read_text else None
    if not collectives.from_first(lambda: bool(arguments) and is_tokenised_in_blocks(*arguments)):
        return
    files = block_files(cache_dir)
    with writing_cache(cache_dir):
        mark = collectives.from_first(files.put_mark)
    index, count = collectives.place_among(bool(arguments) and files.has(mark))
    if collectives.is_first():
        files.remove([mark])
    if index >= 0 and count > 1:
        put_share_of_blocks(*arguments, index, count)
    collectives.gather(None)  # the first waits for all
