"""Where the time of a search goes, on one CPU: products, softmax and choice, caches, attention, norms, the encoder.

    python benchmarks/decode_profile.py --workdir=runs/mine --test data/test

Translates the file greedily and with a beam, its groups of lengths one after the other, with every operation of the compiled
programs timed (`jax.profiler`), and sums the times by what an operation is for. Timing makes a search about a tenth slower;
"without timing" is the same search without it. "Rows" are hypotheses times steps, and the share of them that the translations'
tokens are: the others are hypotheses that were given up, and slots whose sentence was done. The few sentences that need more
room than most are not searched for again, as translate.py does it.
"""

import collections
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

# ruff: noqa: E402 (as translate.py does it: set up before JAX is imported)
from outputs import set_up_or_end

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main

set_up_or_end()

import jax

from transformer_jax.config import SearchOptions
from transformer_jax.data.corpus import read_pairs
from transformer_jax.errors import UserError
from transformer_jax.inference.batched_search import candidates_of, positions_at_once
from transformer_jax.inference.length_batches import search_groups
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.model_search import make_model_search
from transformer_jax.inference.search_rows import deal, pack_rows
from transformer_jax.inference.translator import Translator, load_translator
from transformer_jax.models.random_keys import seed_words
from transformer_jax.platform import fewest_hypotheses, kind_of_device
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run

# The first whose pattern is in the name that JAX gives an operation is what it is for.
PURPOSES = {
    "encoder": r"\.encode\b|/encoder_|keys_values",
    "product with the vocabulary": r"logits.*dot_general",  # once a step
    "feed-forward layers": r"feed_forward/",
    "normalisation and residuals": r"norm|residual",
    "attention to the source": r"cross_attention",
    "attention to the target, its products with parameters": r"attention.*(query_key|/value|output).*dot_general",
    "attention to the target, writing the cache": r"attention.*(update_slice|scatter)",
    "attention to the target, the rest": r"attention",
    "recurrent layers": r"decode_step/.*decoder_\d",
    "cache rows that move": r"branch_\d+_fun",
    "embeddings": r"decode_step",
}
PRODUCT, CHOICE = "product with the vocabulary", "softmax, choice of the tokens, their bookkeeping"


class Group(NamedTuple):
    """A compiled search, what it takes, and the rows of hypotheses of a step."""

    program: Any
    purposes: dict[str, str]  # of its operations, by their names
    arguments: tuple[Any, ...]
    rows: int

    def run(self) -> Any:
        return jax.block_until_ready(self.program(*self.arguments))


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--test", required=True, help="a test set, as for evaluate.py; its sources are read")
    parser.add_argument("--sentences", type=int, default=0, metavar="N", help="the first N alone (default: all)")
    parser.add_argument("--beam", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--compute_dtype", default=None, help="as for translate.py")
    flags = parser.parse_args()
    if min(flags.beam) < 1 or flags.sentences < 0:
        parser.error("--beam should be at least 1, --sentences at least 0")
    if kind_of_device() != "cpu":
        raise UserError("decode_profile.py times the operations of a CPU; for another device use JAX_PLATFORMS=cpu")
    run = Run(flags.workdir)
    translator, _ = load_translator(run, CheckpointName.parse(flags.checkpoint), flags.compute_dtype)
    lines = read_pairs(flags.test, run.config.data.source_language, run.config.data.target_language)[0]
    lines = lines[: flags.sentences or None]
    pieces = [piece for of_line in translator.pieces(lines) for piece in of_line]
    for beam in flags.beam:
        profile(translator, pieces, translator.search_config(beam=beam))


def profile(translator: Translator, pieces: Sequence[Piece], options: SearchOptions) -> None:
    """Prints the table of one beam."""
    groups = list(compiled_groups(translator, pieces, options))
    for group in groups:
        group.run()
    started = time.perf_counter()
    found = [group.run() for group in groups]
    seconds = time.perf_counter() - started
    tokens = sum(
        len(candidates[0].ids) for hypotheses in found for candidates in candidates_of(jax.device_get(hypotheses)) if candidates
    )
    spent, rows = collections.Counter(), 0
    for group in groups:
        steps = 0
        for name, nanoseconds in traced(group):
            spent[group.purposes[name]] += nanoseconds
            steps += group.purposes[name] == PRODUCT
        rows += steps * group.rows
    total = sum(spent.values())
    print(f"\nbeam {options.beam}: {len(pieces)} pieces in {len(groups)} groups")
    print(f"{total / 1e9:.2f} s; without timing {seconds:.2f} s")
    print(
        f"{rows:,} rows; {tokens:,} tokens of translations, times the beam {tokens * options.beam / max(rows, 1):.0%} of them\n"
    )
    print("| what it is for | ms | share |\n| --- | ---: | ---: |")
    for purpose, nanoseconds in spent.most_common():
        print(f"| {purpose} | {nanoseconds / 1e6:,.0f} | {nanoseconds / total:.0%} |")


def compiled_groups(translator: Translator, pieces: Sequence[Piece], options: SearchOptions) -> Iterator[Group]:
    """The groups that translate.py searches, for one core."""
    tokenizer, model = translator.tokenizer, translator.model
    search = jax.jit(make_model_search(model, tokenizer), static_argnames=("options", "slots", "length", "max_length"))
    longest = model.config.max_positions if model.config.positions == "learned" else sys.maxsize
    lengths = [len(piece.ids) for piece in pieces]
    tokens, least = positions_at_once(options) // options.beam, -(-fewest_hypotheses() // options.beam)
    for numbers, length, slots, room in search_groups(lengths, tokens, 1, 1, least):
        of_group = [pieces[i] for i in numbers]
        packed = pack_rows(of_group, length, longest, tokenizer, options)
        rows, _ = deal(packed.rows, room, 1)
        arguments = (translator.params, seed_words(options.seed)), rows
        static = dict(options=options.compiled(), slots=slots, length=packed.short_length, max_length=packed.max_length)
        program = search.lower(*arguments, **static).compile()
        yield Group(program, purposes_of(program.as_text()), arguments, slots * options.beam)


def purposes_of(program: str) -> dict[str, str]:
    """What each operation of a compiled program, as XLA prints it, is for."""
    found = {}
    for name, rest in re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", program, re.MULTILINE):
        path = re.search(r'op_name="([^"]*)"', rest)
        matches = (purpose for purpose, pattern in PURPOSES.items() if path and re.search(pattern, path[1]))
        found.setdefault(name, next(matches, CHOICE))
    return found


def traced(group: Group) -> Iterator[tuple[str, float]]:
    """The operations of a run, by their names in the program, with the nanoseconds that each took itself."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            group.run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        for line in (line for plane in planes for line in plane.lines):
            events = sorted((e.start_ns, -e.duration_ns, e.name) for e in line.events if e.name in group.purposes)
            open_ones: list[list[Any]] = []  # name, end, nanoseconds of its own
            for start, negative, name in events:
                while open_ones and open_ones[-1][1] <= start:
                    ended = open_ones.pop()
                    yield ended[0], ended[2]
                if open_ones:
                    open_ones[-1][2] += negative
                open_ones.append([name, start - negative, -negative])
            yield from ((name, own) for name, _, own in open_ones)


if __name__ == "__main__":
    main(run)
