"""LSTM without attention, LSTM with attention, Transformer: about as many parameters, the same text, batches and updates.

    python benchmarks/architectures.py --output=runs/architectures                       the demo corpus
    python benchmarks/architectures.py --output=runs/captions --config=configs/multi30k.py --test data/test

The config's Transformer is taken as it is; the LSTMs get its data, tokenizer, batches, optimizer and number of steps, and the
width that comes nearest to its number of parameters. Writes to the output folder: a run folder for each model (an interrupted
comparison goes on where it was), `table.md`, and three pictures: BLEU by source length (after Bahdanau et al. 2015, figure 2),
dev BLEU against training time and tokens, and training speed against sentence length.

On the demo corpus also: error rate of the alignments against the grammar's own, pronouns (see elephant.py), and a Transformer
with rotary positions, for the sentences that are longer than anything in training.
"""

import bisect
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

# ruff: noqa: E402 (memory and the compilation cache are set up before JAX is imported)
from outputs import make_folder, new_figure, require, save_figure, set_up_or_end

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import Config, ModelConfig
from transformer_jax.errors import UserError

set_up_or_end(trains=True)

import jax
import numpy as np
from elephant import LOOKERS, Probe, probe

from transformer_jax.data import demo
from transformer_jax.data.batching import Shape, bucketed_batch
from transformer_jax.data.corpus import read_pairs
from transformer_jax.data.store import Store
from transformer_jax.evaluation.metrics import score
from transformer_jax.evaluation.report import Report, evaluate
from transformer_jax.inference.alignment import alignment_error_rate
from transformer_jax.inference.translator import load_translator
from transformer_jax.models.seq2seq import abstract_parameters, build_model, count_parameters, init_parameters
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.training.loop import train
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step

DEMO_SETS = ("demo:test", "demo:long", "demo:beyond")
COLORS = {"LSTM": "tab:gray", "LSTM + attention": "tab:orange", "Transformer": "tab:blue", "Transformer, rotary": "tab:cyan"}
LENGTHS = (8, 16, 32, 64, 128, 256)
SPEED_POSITIONS = 2048  # of one batch, whatever the sentences' length


class Result(NamedTuple):
    """The results of one model."""

    name: str
    parameters: int
    seconds: float  # of training, without evaluations
    curve: list[tuple[float, float, float]]  # seconds, target tokens and dev BLEU at each evaluation
    reports: list[Report]
    sets: list[tuple[Sequence[str], Sequence[str]]]  # sources and references of each report
    aer: float | None = None
    probe: Probe | None = None


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="a folder for runs, table and pictures")
    parser.add_argument("--config", default="configs/demo_full.py", help="of the Transformer; it also says how to train")
    parser.add_argument("--test", nargs="+", help="test sets, as for evaluate.py (default: the demo's)")
    parser.add_argument("--only", nargs="+", choices=COLORS, default=list(COLORS), help="some of the models")
    flags, overrides = parser.parse_with_overrides()
    config = load_config(flags.config, overrides)
    if config.model.family != "transformer":
        raise UserError(f"--config={flags.config}: expected a Transformer's; the LSTMs are derived from it")
    if config.train.metric != "bleu":
        raise UserError(f"config.train.metric={config.train.metric} should be bleu: the curves are of BLEU on the dev set")
    require("matplotlib")
    tests = flags.test or DEMO_SETS
    models = {name: model for name, model in families(config).items() if name in flags.only}
    make_folder(flags.output)
    results = [train_and_test(name, model, config, flags.output, tests) for name, model in models.items()]
    text = table(results)
    print(text)
    (flags.output / "table.md").write_text(text, encoding="utf-8")
    draw_lengths(results, flags.output / "bleu_by_length.png")
    draw_curves(results, flags.output / "learning.png")
    draw_speed({name: speeds(model, config) for name, model in models.items()}, flags.output / "speed.png")


def families(config: Config) -> dict[str, ModelConfig]:
    """The models to compare, by the names of `COLORS`."""
    transformer, size = config.model, config.tokenizer.vocab_size
    kind = "sinusoidal" if transformer.positions == "rotary" else transformer.positions
    shared = ("num_layers", "tied_embeddings", "output_bias", "dropout", "compute_dtype")
    common = {"family": "lstm"} | {name: getattr(transformer, name) for name in shared} | {"num_layers": 2}
    wanted = parameters(transformer, size)

    def matched(**own: Any) -> ModelConfig:
        """The width whose number of parameters is nearest to the one asked for; of two equally near widths, the smaller."""
        candidates = [ModelConfig(**common, **own, width=width) for width in range(32, 2049, 8)]
        place = bisect.bisect_left(candidates, wanted, key=lambda model: parameters(model, size))
        return min(candidates[max(place - 1, 0) : place + 1], key=lambda model: abs(parameters(model, size) - wanted))

    return {
        "LSTM": matched(attention="none", direction="backward"),
        "LSTM + attention": matched(attention="general", direction="both"),
        "Transformer": dataclasses.replace(transformer, positions=kind),
        "Transformer, rotary": dataclasses.replace(transformer, positions="rotary"),
    }


def parameters(model: ModelConfig, vocab_size: int) -> int:
    return count_parameters(abstract_parameters(build_model(model, vocab_size)))


def train_and_test(name: str, model: ModelConfig, config: Config, output: Path, tests: Sequence[str]) -> Result:
    config = dataclasses.replace(config, model=model)
    workdir = output / name.lower().replace(" + ", "_").replace(", ", "_")
    train(config, str(workdir))
    translator, checkpoint = load_translator(Run(workdir), CheckpointName("best"))
    languages = config.data.source_language, config.data.target_language
    sets = [read_pairs(test, *languages) for test in tests]
    reports = [evaluate(translator, *pairs, test=test, checkpoint=checkpoint) for test, pairs in zip(tests, sets, strict=True)]
    for report in reports:
        print(f"{name}: {report.as_text()}", flush=True)
    curve = learning_curve(workdir)
    result = Result(name, count_parameters(translator.params), curve[-1][0], curve, reports, sets)
    if "demo:test" not in tests:
        return result
    examples = demo.generate("test")
    aer = None
    if translator.alignment_layer:
        links = translator.align([e.source for e in examples], [e.target for e in examples])
        aer = alignment_error_rate(links, [e.alignment for e in examples])
    return result._replace(aer=aer, probe=probe(translator))


def learning_curve(workdir: Path) -> list[tuple[float, float, float]]:
    seconds = tokens = 0.0
    curve = []
    for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        numbers = json.loads(line)
        if numbers["split"] == "train":
            tokens += numbers["target_tokens"]
            seconds += numbers["target_tokens"] / numbers["target_tokens_per_second"]
        elif "bleu" in numbers:
            curve.append((seconds, tokens, numbers["bleu"]))
    return curve


def table(results: list[Result]) -> str:
    tests = [report.test for report in results[0].reports]
    on_demo = results[0].probe is not None
    head = ["model", "parameters", "training", "target tokens/s", *(f"BLEU {test}" for test in tests)]
    head += ["AER", "pronouns right", *(f"{word} on the right noun / the other" for word in LOOKERS)] if on_demo else []
    lines = [" | ".join(head), " | ".join(["---", *["---:"] * (len(head) - 1)])]
    for result in results:
        seconds, tokens, _ = result.curve[-1]
        row = [result.name, f"{result.parameters:,}", f"{seconds / 60:.1f} min", f"{tokens / seconds:,.0f}"]
        row += [f"{report.scores[0].value:.1f}" for report in result.reports]
        if on_demo:
            row += ["-" if result.aer is None else f"{result.aer:.1%}", f"{result.probe.right:.1%}"]
            looks = [result.probe.looks.get(word) for word in LOOKERS]
            row += [f"{look.referent:.0%} / {look.distractor:.0%}" if look else "-" for look in looks]
        lines.append(" | ".join(row))
    return "".join(f"| {line} |\n" for line in lines)


def draw_lengths(results: list[Result], file: Path, buckets: int = 8) -> None:
    """BLEU in buckets of source length, over all test sets together."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    lengths = np.array([len(line.split()) for sources, _ in results[0].sets for line in sources])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, buckets + 1)[1:], method="higher"))  # the last word of each bucket
    bucket = np.searchsorted(edges, lengths)
    middle = [lengths[bucket == number].mean() for number in range(len(edges))]
    for result in results:
        found = [line for report in result.reports for line in report.hypotheses]
        expected = [line for _, references in result.sets for line in references]
        values = []
        for number in range(len(edges)):
            inside = np.flatnonzero(bucket == number)
            values.append(score([found[i] for i in inside], [expected[i] for i in inside])[0].value)
        axes.plot(middle, values, marker="o", color=COLORS[result.name], label=result.name)
    if any(report.test.startswith("demo:") for report in results[0].reports):
        axes.axvline(demo.TRAIN_WORDS + 0.5, color="black", linewidth=0.8, linestyle=":")
        axes.text(demo.TRAIN_WORDS + 0.8, 2, "longer than anything in training")
    axes.set(xlabel="words of the source sentence (mean of the bucket)", ylabel="BLEU", ylim=(0, 101))
    finish(figure, axes, file)


def draw_curves(results: list[Result], file: Path) -> None:
    figure = new_figure(10, 4.5)
    for axes, place, unit, scale in zip(
        figure.subplots(1, 2, sharey=True), (0, 1), ("minutes of training", "million target tokens"), (60, 1e6), strict=True
    ):
        for result in results:
            points = [(point[place] / scale, point[2]) for point in result.curve]
            axes.plot(*zip(*points, strict=True), marker="o", color=COLORS[result.name], label=result.name)
        axes.set(xlabel=unit, ylabel="BLEU on the dev set", ylim=(0, 101))
        axes.set_xlim(left=0)
        finish(figure, axes, file)


def draw_speed(results: dict[str, list[float]], file: Path) -> None:
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for name, values in results.items():
        axes.plot(LENGTHS, values, marker="o", color=COLORS[name], label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, LENGTHS)
    axes.set(xlabel=f"tokens of a sentence ({SPEED_POSITIONS} in a batch)", ylabel="target tokens/s in training")
    axes.set_ylim(bottom=0)
    finish(figure, axes, file)


def finish(figure: Any, axes: Any, file: Path) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    save_figure(figure, file)


def speeds(model_config: ModelConfig, config: Config, repeats: int = 5) -> list[float]:
    """Target tokens/s of the training step alone, on random sentences of each length; the best of `repeats` steps."""
    config = dataclasses.replace(config, model=model_config)
    vocabulary = config.tokenizer.vocab_size
    model, optimizer = build_model(model_config, vocabulary), make_optimizer(config)
    step = jax.jit(make_train_step(model, optimizer, config.train), donate_argnums=0)
    state = TrainState.create(init_parameters(model, jax.random.key(0)), optimizer)
    found = []
    for length in LENGTHS:
        rows = SPEED_POSITIONS // length
        ids = np.random.default_rng(0).integers(4, vocabulary, (rows, length), np.int32)
        batch = bucketed_batch(Store.of(ids, ids), np.arange(rows), Shape(rows, length, length), 0, 3)
        times = []
        for _ in range(1 + repeats):  # the first compiles
            started = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch, jax.random.key(0)))
            times.append(time.perf_counter() - started)
        found.append(SPEED_POSITIONS / min(times[1:]))
    print(", ".join(f"{length}: {value:,.0f}" for length, value in zip(LENGTHS, found, strict=True)), flush=True)
    return found


if __name__ == "__main__":
    main(run)
