"""The fill of batches and the speed at which one core makes them, over one whole epoch.

    python benchmarks/input_speed.py --corpus=MULTI30K/train --vocab_size=8000

Fill is tokens over positions, source and target together. Pairs a second are by the CPU time of the one thread that makes the
batches, from the shuffle to the last array, packing included; the best of `--repeats` epochs. "First batch" is the wall time
that a resumed run waits for a batch in the middle of an epoch.

The results are in docs/benchmarks/input.md.
"""

import argparse
import itertools
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sentencepiece

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import BatchConfig, DataConfig, TokenizerConfig
from transformer_jax.data.sources import parse_sources, read_sources
from transformer_jax.data.store import Store, open_store
from transformer_jax.data.stream import BatchStream, StreamPosition
from transformer_jax.tokenization.tokenizer import Tokenizer


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="demo:train", help="as data.train in a config")
    parser.add_argument("--source_language", default="en")
    parser.add_argument("--target_language", default="de")
    parser.add_argument("--vocab_size", type=int, default=4000)
    parser.add_argument("--sample_lines", type=int, default=10_000_000, help="of each side, for SentencePiece's training")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--row_multiple", type=int, default=8)
    parser.add_argument("--shapes", type=int, default=12)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--packed_length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    sizes = {key: getattr(flags, key) for key in ("tokens", "row_multiple", "shapes", "max_length", "packed_length")}
    if min(flags.vocab_size, flags.sample_lines, flags.repeats, *sizes.values()) < 1:
        parser.error("sizes and --repeats should be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        measure(flags, sizes, Path(folder))


def measure(flags: argparse.Namespace, sizes: dict[str, int], folder: Path) -> None:
    languages = dict(source_language=flags.source_language, target_language=flags.target_language)
    data = DataConfig(train=flags.corpus, **languages)
    pairs, parts = read_sources(data)
    joins = [source.spec.join for source in parse_sources(data)]
    print(f"{flags.corpus}: {len(pairs.source):,} pairs, peak memory when read and cleaned {memory():.2f} GB", flush=True)
    started = time.perf_counter()
    vocabulary = TokenizerConfig(vocab_size=flags.vocab_size, sample_lines=flags.sample_lines)
    tokenizer = Tokenizer.train(itertools.chain(*pairs), vocabulary, folder / "tokenizer")
    print(f"tokenizer trained in {time.perf_counter() - started:.1f} s, {memory():.2f} GB", flush=True)
    peer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "sentencepiece.model"))
    some = [side[:200_000] for side in pairs]
    started = time.perf_counter()
    for side in some:
        peer.encode(side, out_type=int, num_threads=os.cpu_count())
    alone = len(some[0]) / (time.perf_counter() - started)
    started = time.perf_counter()
    store = open_store(pairs, tokenizer, folder / "cache")
    seconds = time.perf_counter() - started
    print(f"tokenised and written in {seconds:.1f} s, {len(store) / seconds:,.0f} pairs/s on all cores, ", end="")
    print(f"where SentencePiece's own encode does {alone:,.0f}; {memory():.2f} GB\n", flush=True)
    print("| batches | shapes | batches an epoch | dropped | fill | pairs/s | first batch, s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind in ("bucketed", "packed"):
        stream = BatchStream(store, BatchConfig(kind=kind, **sizes), tokenizer, 0, parts, joins=joins)
        speed = max(stream.pairs / epoch_seconds(stream) for _ in range(flags.repeats))
        batches, fill, middle = epoch_fill(stream)
        wait = first_batch_seconds(store, BatchConfig(kind=kind, **sizes), tokenizer, parts, joins, middle)
        print(
            f"| {kind} | {len(stream.shapes)} | {batches} | {stream.dropped} | {fill:.1%} | {speed:,.0f} | {wait:.2f} |",
            flush=True,
        )


def memory() -> float:
    """The peak memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def epoch_seconds(stream: BatchStream) -> float:
    started = time.process_time()
    for _, position in stream.batches():
        if position.epoch:
            return time.process_time() - started
    raise AssertionError("the stream is endless")


def epoch_fill(stream: BatchStream) -> tuple[int, float, StreamPosition]:
    """Batches in the epoch, the share of positions with a token, and a position in its middle."""
    real, places, positions = 0, 0, []
    for batch, position in stream.batches():
        real += np.count_nonzero(batch.source_segment) + np.count_nonzero(batch.target_segment)
        places += batch.source_segment.size + batch.target_segment.size
        positions.append(position)
        if position.epoch:
            break
    return len(positions), real / places, positions[len(positions) // 2]


def first_batch_seconds(
    store: Store, config: BatchConfig, tokenizer: Tokenizer, parts: list, joins: list, position: StreamPosition
) -> float:
    started = time.perf_counter()
    next(BatchStream(store, config, tokenizer, 0, parts, joins=joins).batches(position))
    return time.perf_counter() - started


if __name__ == "__main__":
    main(run)
