"""Decoding speed of transformer_jax ("ours"), CTranslate2 and Hugging Face's `generate`: same weights, same CPU cores.

    pip install --editable '.[ctranslate2]' torch transformers
    python benchmarks/decode_speed.py --workdir=runs/mine --test data/test --threads=2

Every system translates whole files, tokenisation and detokenisation included, greedily and with a beam, without a length
penalty (so that all have the same objective), in float32 or as its name says. Each is a process of its own on the same cores;
they take turns. CTranslate2 has its fastest settings on the file, Hugging Face the fastest on `--tune` lines of it, ours those
of the config.

"Start" is the time until a system is ready, with an empty cache of compiled programs; the first pass of ours compiles. "Warm"
is the fastest of `--repeats` further passes, and CPU its CPU time on all cores. Memory is the most that the system's process
held so far, in MB. Tokens are those of the output without EOS; "same" is the share of translations that are equal to ours. The
second table has the time of one line alone, of `--alone` of them. A system that is not installed, or cannot represent the
model, is left out; so are those of ours with a shortlist where the run has no lexical table (transformer-jax shortlist).

With `--device=accelerator` ours runs on what JAX chooses and CTranslate2, in float16, on the GPU.
"""

import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up
from transformer_jax.errors import UserError

PACKAGES = {
    "ours": "jax",
    "ours, bfloat16": "jax",
    "ours, shortlist": "jax",
    "ours, bfloat16, shortlist": "jax",
    "CTranslate2": "ctranslate2",
    "CTranslate2, int8": "ctranslate2",
    "CTranslate2, float16": "ctranslate2",
    "Hugging Face": "transformers",
}
# What is timed unless `--only` says something else.
SYSTEMS = {
    "cpu": [name for name in PACKAGES if name != "CTranslate2, float16"],
    "accelerator": ["ours", "ours, bfloat16", "CTranslate2, float16"],
}
ALONE_COLUMNS = "test beam system p50 p95".split()
COLUMNS = "test beam system settings start first warm CPU sentences/s tokens/s memory tokens BLEU same".split()


class Pass(NamedTuple):
    """One file, translated once."""

    seconds: float
    cpu_seconds: float
    compiled: int  # number of programs that XLA compiled
    compiling: float  # seconds of compilation
    memory: int  # MB that the process held at most, until now
    found: list[tuple[str, int]]  # translation and number of tokens of each line


class System:
    """A process that translates on request."""

    def __init__(self, name: str, settings: Any):
        self.name = name
        self._pipe, theirs = multiprocessing.Pipe()
        started = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(theirs, name, settings), daemon=True)
        self._process.start()
        theirs.close()
        ready = self._pipe.recv()
        self.problem = ready if isinstance(ready, str) else ""
        self.variants: list[str] = [] if self.problem else ready
        self.start_seconds = time.perf_counter() - started

    def translate(self, variant: str, lines: list[str], beam: int) -> Pass:
        self._pipe.send((variant, lines, beam))
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()

    def fastest(self, lines: list[str], beam: int) -> str:
        if len(self.variants) == 1:
            return self.variants[0]
        for variant in self.variants:
            self.translate(variant, lines[:8], beam)  # initialises what a system creates at its first use
        return min(self.variants, key=lambda variant: self.translate(variant, lines, beam).seconds)


def serve(pipe: Connection, name: str, settings: Any) -> None:
    """The main function of one system's process: sends its variants, or why there are none, then a Pass for each request."""
    if settings.accelerator:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the systems share the device's memory
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    set_up()
    import jax
    from decode_peers import load_ctranslate2, load_hugging_face, load_ours

    compiled: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    system, *settings_of = name.split(", ")
    shortlist = settings.shortlist if "shortlist" in settings_of else 0
    dtype = next((each for each in settings_of if each != "shortlist"), settings.dtype)
    load = {"ours": load_ours, "CTranslate2": load_ctranslate2, "Hugging Face": load_hugging_face}[system]
    try:
        variants = load(settings._replace(dtype=dtype, shortlist=shortlist))
    except (UserError, ImportError) as error:
        pipe.send(str(error))
        return
    pipe.send(list(variants))
    while (request := pipe.recv()) is not None:
        variant, lines, beam = request
        compiled.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        found = variants[variant](lines, beam)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if platform.system() == "Linux" else 1024) // 1024
        pipe.send(Pass(seconds, cpu_seconds, len(compiled), sum(compiled), memory, found))


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="the run folder of a Transformer")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--test", nargs="+", required=True, help="test sets, as for evaluate.py")
    parser.add_argument("--sentences", type=int, default=0, metavar="N", help="so many of each, evenly spread (default: all)")
    parser.add_argument("--beam", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--length_penalty", type=float, default=0.0, help="by each system's own formula")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tune", type=int, default=100, metavar="N", help="lines on which Hugging Face's batches are chosen")
    parser.add_argument("--alone", type=int, default=100, metavar="N", help="lines that are then translated one by one")
    parser.add_argument("--shortlist", type=int, default=16, metavar="N", help="of ours with a shortlist, as for translate.py")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, help="some of the systems")
    parser.add_argument("--device", choices=("cpu", "accelerator"), default="cpu")
    flags = parser.parse_args()
    if min(*flags.beam, flags.threads, flags.repeats, flags.tune) < 1 or min(flags.sentences, flags.alone) < 0:
        parser.error("--beam, --threads, --repeats and --tune should be at least 1, --sentences and --alone at least 0")
    from decode_peers import Settings

    from transformer_jax.data.corpus import read_pairs
    from transformer_jax.runs.run_folder import Run

    data = Run(flags.workdir).config.data
    sets = {test: read_pairs(test, data.source_language, data.target_language) for test in flags.test}
    settings = Settings(
        flags.workdir,
        flags.checkpoint,
        flags.threads,
        flags.length_penalty,
        shortlist=flags.shortlist,
        accelerator=flags.device == "accelerator",
    )
    with tempfile.TemporaryDirectory() as empty:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = empty
        systems = [System(name, settings) for name in flags.only or SYSTEMS[flags.device]]
        for system in systems:
            if system.problem:
                print(f"{system.name} is left out: {system.problem}", flush=True)
        systems = [system for system in systems if not system.problem]
        if not systems:
            raise UserError("no system is left to time")
        print(f"\n{machine(flags.threads)}\n", flush=True)
        print(row(COLUMNS) + row(["---"] * 4 + ["---:"] * (len(COLUMNS) - 4)), end="", flush=True)
        notes = []
        for test, pairs in sets.items():
            sources, references = (spread(side, flags.sentences) for side in pairs)
            for beam in flags.beam:
                notes += compare(systems, Path(test).name, sources, references, beam, flags.repeats, flags.tune)
        print("\n" + "\n".join(notes))
        if flags.alone:
            print(f"\n{row(ALONE_COLUMNS)}{row(['---'] * 3 + ['---:'] * 2)}", end="", flush=True)
            for test, (sources, _) in sets.items():
                for beam in flags.beam:
                    alone(systems, Path(test).name, spread(sources, flags.alone), beam)
        for system in systems:
            system.stop()


def alone(systems: list[System], test: str, sources: list[str], beam: int) -> None:
    """Prints how long each system takes for one line, when nothing else is to be done."""
    for system in systems:
        variant = system.fastest(sources[:1], beam)
        for line in sources:  # compiles
            system.translate(variant, [line], beam)
        seconds = sorted(system.translate(variant, [line], beam).seconds for line in sources)
        cells = [f"{1000 * seconds[int(share * (len(seconds) - 1))]:.1f} ms" for share in (0.5, 0.95)]
        print(row([test, beam, system.name, *cells]), end="", flush=True)


def compare(
    systems: list[System], test: str, sources: list[str], references: list[str], beam: int, repeats: int, tune: int
) -> list[str]:
    """Prints the rows of one test set and beam; returns the notes below the table."""
    from transformer_jax.evaluation.report import score

    samples = {"Hugging Face": spread(sources, tune)}  # it is too slow for the whole file
    chosen = {system.name: system.fastest(samples.get(system.name, sources), beam) for system in systems}
    first = {system.name: system.translate(chosen[system.name], sources, beam) for system in systems}
    warm: dict[str, list[Pass]] = {system.name: [] for system in systems}
    for number in range(repeats):
        for system in systems[number % len(systems) :] + systems[: number % len(systems)]:
            warm[system.name].append(system.translate(chosen[system.name], sources, beam))
    for system in systems:
        best = min(warm[system.name], key=lambda each: each.seconds)
        tokens = sum(count for _, count in best.found)
        texts = [text for text, _ in best.found]
        same = "-"
        if "ours" in first:
            same = f"{sum(a[0] == b for a, b in zip(first['ours'].found, texts, strict=True)) / len(texts):.1%}"
        cells = [test, beam, system.name, chosen[system.name], f"{system.start_seconds:.1f} s"]
        cells += [f"{first[system.name].seconds:.1f} s", f"{best.seconds:.1f} s", f"{best.cpu_seconds:.1f} s"]
        cells += [f"{len(texts) / best.seconds:.1f}", f"{tokens / best.seconds:,.0f}"]
        cells += [f"{best.memory:,}", f"{tokens:,}"]
        print(row([*cells, f"{score(texts, references)[0].value:.1f}", same]), end="", flush=True)
    if "ours" not in first:
        return []
    ours, again = first["ours"], sum(each.compiled for each in warm["ours"])
    return [
        f"{test}, beam {beam}: ours compiled {ours.compiled} programs in {ours.compiling:.1f} s of its first pass, "
        f"and {again} in those after it."
    ]


def spread(lines: list[str], count: int) -> list[str]:
    """`count` lines, evenly spread; all lines if `count` is 0 or not smaller than their number.

    >>> spread(list("abcdef"), 3)
    ['a', 'c', 'e']
    """
    return [lines[i * len(lines) // count] for i in range(count)] if 0 < count < len(lines) else lines


def machine(threads: int) -> str:
    versions = []
    for package in ("transformer_jax", "jax", "ctranslate2", "transformers", "torch"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [
            line.partition(":")[2].strip() for line in information.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{threads} threads of {os.cpu_count()} ({cpu}{load}); Python {platform.python_version()}, {', '.join(versions)}"


def row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


if __name__ == "__main__":
    main(run)
