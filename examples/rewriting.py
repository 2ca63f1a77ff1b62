"""Writes the data of a rewriting task, to replace "it" by its referent: train.tsv, dev.tsv and test.tsv with two columns.

    python examples/rewriting.py data/rewriting

The elephant did not cross the street because it was too tired. -> ... because the elephant was too tired. Every other sentence
stays unchanged; the model has to learn which. `configs/rewriting.py` trains it.
"""

import sys
from pathlib import Path

from transformer_jax.data import demo

SIZES = {"train": 24_000, "dev": 500, "test": 1_000}


def rewritten(example: demo.Example) -> str:
    """
    >>> rewritten(demo.minimal_pairs(1)[0][1])
    'The elephant did not cross the street because the street was too wide.'
    """
    words = example.source.split()
    if example.pronoun:
        noun = words[example.pronoun.referent].strip(",.;")
        words[example.pronoun.source] = f"the {noun}"
    return " ".join(words)


def main(folder: str, sizes: dict[str, int] = SIZES) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        path = Path(folder) / f"{split}.tsv"
        lines = [f"{example.source}\t{rewritten(example)}\n" for example in demo.generate(split, size)]
        path.write_text("".join(lines), encoding="utf-8")
        print(f"{path}: {size} sentences")


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["data/rewriting"])
