"""Scores checkpoints: python evaluate.py --workdir=runs/demo --test=demo:test

It is `transformer-jax evaluate` without an installation; `--help` has the flags.
"""

from transformer_jax.cli.commands.evaluate import run
from transformer_jax.cli.program import main

if __name__ == "__main__":
    main(run)
