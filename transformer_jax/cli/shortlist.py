"""What `transformer-jax shortlist` does: a run's training text, to the lexical table that is kept with its tokenizer."""

import numpy as np

from transformer_jax.cli.shortlist_job import ShortlistJob
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.lexical_table import lexical_table
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.shortlist import SHORTLIST, Shortlist
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.prepare import training_store

__all__ = ["make_shortlist"]

_SHOWN = 2, 4, 8, 16, 32  # candidates for each source piece


def make_shortlist(job: ShortlistJob) -> Shortlist:
    """Counts, writes `shortlist.npz` into the folder of the run's tokenizer, and prints what the dev set says of it. Raises
    UserError for bad input."""
    run = Run(job.workdir)
    data, tokenizer = run.config.data, run.tokenizer()
    dev = job.dev or data.dev
    pairs = read_pairs(dev, data.source_language, data.target_language) if dev else None
    store = training_store(run, job.train or "")
    sizes = tokenizer.source_vocab_size, tokenizer.vocab_size
    table = lexical_table(store, *sizes, same_pieces=not tokenizer.has_source_vocabulary and sizes[0] == sizes[1])
    try:
        table.write(tokenizer.folder)
    except OSError as error:
        raise UserError(f"{tokenizer.folder / SHORTLIST}: cannot be written ({error.strerror})") from None
    print(f"{tokenizer.folder / SHORTLIST}: of {len(store):,} pairs")
    if pairs:
        _print_coverage(table, tokenizer, pairs, dev)
    return table


def _print_coverage(table: Shortlist, tokenizer: Tokenizer, pairs: Pairs, dev: str) -> None:
    """Of several numbers of candidates: how many a sentence has, and which share of its references' tokens are among them."""
    sources, targets = tokenizer.encode_source(pairs.source), tokenizer.encode_target(pairs.target, add_eos=False)
    print(f"{dev}: {sum(map(len, targets)):,} tokens of references, {tokenizer.vocab_size:,} pieces")
    print("  --shortlist  candidates of a sentence  tokens among them")
    for each in _SHOWN:
        found = [table.candidates(source, each) for source in sources]
        covered = sum(int(np.isin(target, own).sum()) for target, own in zip(targets, found, strict=True))
        share = covered / max(sum(map(len, targets)), 1)
        print(f"  {each:11}  {np.mean([len(own) for own in found]):24,.0f}  {share:17.2%}")
