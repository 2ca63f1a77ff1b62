"""The learning curve of a run, from its metrics: a picture, and a table of its evaluations.

    python benchmarks/curve.py --workdir=runs/mixed --output=curve.png

Minutes are those of training, without evaluation and saving. The score is the config's `train.metric`; there is no score where
that is the loss.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from outputs import new_figure, require, save_figure

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError

NAMES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


class Curve(NamedTuple):
    """The curves in `metrics.jsonl`; tokens and seconds are those of training up to each line."""

    train: list[tuple[float, float]]  # target tokens, cross-entropy
    dev: list[tuple[float, float, dict]]  # target tokens, seconds, the numbers of an evaluation
    tokens: float
    seconds: float
    waited: float | None  # seconds of waiting for input; None: an older version wrote the run and did not count them


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path, help="a .png, .pdf or .svg")
    flags = parser.parse_args()
    require("matplotlib")
    metric = load_config(str(flags.workdir / "config.json")).train.metric
    curve = read_curve(flags.workdir / "metrics.jsonl")
    name = NAMES.get(metric, metric)
    scored = metric != "loss"
    print("| update | target tokens | minutes | dev cross-entropy | dev perplexity |" + f" dev {name} |" * scored)
    print("|---:|---:|---:|---:|---:|" + "---:|" * scored)
    for tokens, seconds, numbers in curve.dev:
        cells = [f"{numbers['step']:,}", f"{tokens / 1e6:.2f} M", f"{seconds / 60:.1f}", f"{numbers['cross_entropy']:.3f}"]
        cells += [f"{numbers['perplexity']:.1f}", *([f"{numbers[metric]:.1f}"] if scored else [])]
        print(f"| {' | '.join(cells)} |")
    waited = "" if curve.waited is None else f"; {curve.waited / curve.seconds:.4%} of the time waiting for input"
    print(f"\n{curve.tokens / curve.seconds:,.0f} target tokens/s, compilation included{waited}")
    draw(curve, metric if scored else None, flags.output)


def read_curve(file: Path) -> Curve:
    """Raises UserError if there is no such file, or no evaluation in it yet."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); train.py writes it") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: is damaged ({error}); the same training, gone on with, mends it") from None
    train, dev, tokens, seconds, waits = [], [], 0.0, 0.0, []
    for line in lines:
        if line["split"] == "train":
            took = line["target_tokens"] / line["target_tokens_per_second"]
            tokens, seconds = tokens + line["target_tokens"], seconds + took
            waits.append(took * line["input_wait"] if "input_wait" in line else None)
            train.append((tokens, line["cross_entropy"]))
        else:
            dev.append((tokens, seconds, line))
    if not train or not dev:
        raise UserError(f"{file}: has no line of training and one of an evaluation yet; wait until it has")
    return Curve(train, dev, tokens, seconds, None if None in waits else sum(waits))


def draw(curve: Curve, metric: str | None, file: Path) -> None:
    figure = new_figure(8, 4.5)
    left = figure.add_subplot()
    axes: list[Any] = [left]
    left.plot(*millions(curve.train), color="tab:blue", alpha=0.4, label="cross-entropy, training text")
    of_dev = [(tokens, numbers["cross_entropy"]) for tokens, _, numbers in curve.dev]
    left.plot(*millions(of_dev), color="tab:blue", marker="o", label="cross-entropy, dev set")
    left.set(xlabel="million target tokens", ylabel="cross-entropy, nats a token", xlim=(0, None))
    left.grid(alpha=0.3)
    if metric:
        name, right = NAMES.get(metric, metric), left.twinx()
        scores = [(tokens, numbers[metric]) for tokens, _, numbers in curve.dev]
        right.plot(*millions(scores), color="tab:orange", marker="s", label=f"{name}, dev set")
        right.set(ylabel=name, ylim=(0, None))
        axes.append(right)
    lines = [line for each in axes for line in each.lines]
    left.legend(lines, [line.get_label() for line in lines], loc="upper center", bbox_to_anchor=(0.42, 1))
    save_figure(figure, file)


def millions(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The x and y values of the points, tokens in millions."""
    return [tokens / 1e6 for tokens, _ in points], [value for _, value in points]


if __name__ == "__main__":
    main(run)
