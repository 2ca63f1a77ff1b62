"""The learning curve of a run, from its metrics: a picture, and a table of its evaluations.

    python benchmarks/curve.py --workdir=runs/mixed --output=curve.png

Minutes are of training alone; evaluation and saving are not in them.
"""

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--output", required=True, help="a .png, .pdf or .svg")
    flags = parser.parse_args()
    train, dev, tokens, seconds, waited = [], [], 0.0, 0.0, 0.0
    print("| update | target tokens | minutes | dev cross-entropy | dev perplexity | dev BLEU |")
    print("|---:|---:|---:|---:|---:|---:|")
    for line in map(json.loads, (Path(flags.workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["split"] == "train":
            took = line["target_tokens"] / line["target_tokens_per_second"]
            tokens, seconds, waited = tokens + line["target_tokens"], seconds + took, waited + took * line["input_wait"]
            train.append((tokens / 1e6, line["cross_entropy"]))
        else:
            dev.append((tokens / 1e6, line["cross_entropy"], line["bleu"]))
            numbers = f"{line['cross_entropy']:.3f} | {line['perplexity']:.1f} | {line['bleu']:.1f}"
            print(f"| {line['step']:,} | {tokens / 1e6:.2f} M | {seconds / 60:.1f} | {numbers} |")
    speed = tokens / seconds
    print(f"\n{speed:,.0f} target tokens/s, compilation included; {waited / seconds:.4%} of the time waiting for input")
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=150)
    left = figure.add_subplot()
    right = left.twinx()
    left.plot(*zip(*train, strict=True), color="tab:blue", alpha=0.4, label="cross-entropy, training text")
    left.plot(*[[point[i] for point in dev] for i in (0, 1)], color="tab:blue", marker="o", label="cross-entropy, dev set")
    right.plot(*[[point[i] for point in dev] for i in (0, 2)], color="tab:orange", marker="s", label="BLEU, dev set")
    left.set(xlabel="million target tokens", ylabel="cross-entropy, nats a token", xlim=(0, None))
    right.set(ylabel="BLEU", ylim=(0, None))
    left.grid(alpha=0.3)
    lines = [*left.lines, *right.lines]
    left.legend(lines, [line.get_label() for line in lines], loc="upper center", bbox_to_anchor=(0.42, 1))
    figure.savefig(flags.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
