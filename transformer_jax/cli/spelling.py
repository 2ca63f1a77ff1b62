"""What `transformer-jax spelling` does: a run's training text, to the words by which spelling is corrected."""

import dataclasses
import itertools

from transformer_jax.cli.spelling_job import SpellingJob
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.noised_lines import clean_pairs
from transformer_jax.data.source_words import SourceWords, source_words_of
from transformer_jax.data.sources import fetch, parse_sources, read_sources
from transformer_jax.data.typing_errors import split_words
from transformer_jax.errors import UserError
from transformer_jax.inference.spelling import Speller
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.prepare import with_words_of_first_run

__all__ = ["keep_spelling"]

_SHOWN = 20


def keep_spelling(job: SpellingJob) -> SourceWords:
    """Counts the words of the text's sources, writes `source_words.npz` into the run folder, and prints what would be corrected
    of the dev set. Raises UserError for bad input."""
    run = Run(job.workdir)
    data = dataclasses.replace(run.config.data, train=job.train or run.config.data.train)
    dev = job.dev or data.dev
    pairs = read_pairs(dev, data.source_language, data.target_language) if dev else None
    if not data.train:
        raise UserError(f"{job.workdir}: was made without training text; name some (--train)")
    fetch(source.spec for source in parse_sources(data))
    words = source_words_of(clean_pairs(read_sources(data, run.tokenizer().normalizes)[0]).source)
    words = with_words_of_first_run(words, run.config)
    run.keep_source_words(words)
    print(f"{run.workdir / 'source_words.npz'}: {len(words.hashes):,} different words")
    if pairs:
        _print_corrections(Speller(words, data.source_language), pairs, dev)
    return words


def _print_corrections(speller: Speller, pairs: Pairs, dev: str) -> None:
    count, corrected = 0, []
    for line in pairs.source:
        words, read = (split_words(text)[::2] for text in (line, speller.corrected(line)))
        count += sum(map(bool, words))
        corrected += [f"{word} -> {other}" for word, other in zip(words, read, strict=True) if word != other]
    print(f"{dev}: --spelling=correct reads {len(corrected):,} of {count:,} words as others")
    for shown in itertools.islice(corrected, _SHOWN):
        print(f"  {shown}")
