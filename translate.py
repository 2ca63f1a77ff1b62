"""Translates: python translate.py --workdir=runs/demo "The dog sleeps."     or     ... < english.txt > german.txt

It is `transformer-jax translate` without an installation; `--help` has the flags.
"""

from transformer_jax.cli.commands.translate import run
from transformer_jax.cli.program import main

if __name__ == "__main__":
    main(run)
