"""Trains a translation model: python train.py --config=configs/demo.py --workdir=runs/demo

It is `transformer-jax train` without an installation; `--help` has the flags and the exit codes.
"""

from transformer_jax.cli.commands.train import run
from transformer_jax.cli.program import main

if __name__ == "__main__":
    main(run)
