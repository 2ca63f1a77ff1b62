"""How many pairs of a text each filter drops, how fast it is, and some of the dropped pairs to be judged by a reader.

    python benchmarks/filters.py --corpus=MIXED/train --examples=20

Text is normalised first, as it is for training. Each filter sees all pairs that are neither empty nor too long nor too
different in length; `usual` is all of its filters one after the other. Pairs a second are by CPU time, the filter alone, the
best of `--repeats`. The last rows are `held_out` with the sets that `--held_out` names, and the reading of the text without any
filter, by the CPU time of all its processes: from the files to the temporary file of clean pairs, duplicates found.

The results are in docs/guides/cleaning.md.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from outputs import cpu_seconds

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import DataConfig
from transformer_jax.config.text_filters import FILTER_LIMITS, USUAL_FILTERS
from transformer_jax.data.filters import held_out_form, pair_checks
from transformer_jax.data.sources import held_out_sentences, read_sources

Check = Callable[[str, str], bool]


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="demo:train", help="as data.train in a config")
    parser.add_argument("--held_out", default="demo:dev", help="as data.held_out")
    parser.add_argument("--source_language", default="en")
    parser.add_argument("--target_language", default="de")
    parser.add_argument("--filters", nargs="+", default=list(FILTER_LIMITS), help="names, each perhaps with its limit")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="pairs that are shown of what each filter drops")
    parser.add_argument("--seed", type=int, default=0, help="by which they are drawn")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    if flags.repeats < 1 or flags.examples < 0:
        parser.error("--repeats should be 1 or more, --examples 0 or more")
    languages = flags.source_language, flags.target_language
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(flags.corpus, "", *languages, held_out=flags.held_out, cache_dir=folder)
        began = cpu_seconds()
        text, _ = read_sources(DataConfig(flags.corpus, "", *languages, cache_dir=folder), normalized=True)
        reading = cpu_seconds() - began
        pairs = list(zip(text.source, text.target, strict=True))
    held_out = held_out_sentences(data)
    checks = {name: next(iter(pair_checks(name, *languages).values())) for name in flags.filters}
    if set(USUAL_FILTERS) <= checks.keys():
        usual = [checks[name] for name in USUAL_FILTERS]
        checks["usual"] = lambda *pair: all(check(*pair) for check in usual)
    checks["held_out"] = lambda source, target: held_out_form(source) not in held_out and held_out_form(target) not in held_out
    print(f"{len(pairs):,} pairs\n\n| filter | pairs dropped | share | pairs/s |\n|---|---:|---:|---:|")
    dropped = {name: measure(name, check, pairs, flags.repeats) for name, check in checks.items()}
    print(f"| reading, without filters | | | {len(pairs) / reading:,.0f} |")
    for name, found in dropped.items() if flags.examples else ():
        print(f"\n{name}")
        for pair in random.Random(flags.seed).sample(found, min(flags.examples, len(found))):
            print(*pair, sep="\n", end="\n\n")


def measure(name: str, check: Check, pairs: list[tuple[str, str]], repeats: int) -> list[tuple[str, str]]:
    """The pairs that `check` drops; prints the row of the table."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        dropped = [pair for pair in pairs if not check(*pair)]
        seconds.append(time.process_time() - began)
    share, speed = len(dropped) / len(pairs), len(pairs) / min(seconds)
    print(f"| `{name}` | {len(dropped):,} | {share:.3%} | {speed:,.0f} |", flush=True)
    return dropped


if __name__ == "__main__":
    main(run)
