"""Serves models to clients of LibreTranslate and DeepL, and a page:   python serve.py --workdir=runs/demo

It is `transformer-jax serve` without an installation; `--help` has the flags.
"""

from transformer_jax.cli.commands.serve import run
from transformer_jax.cli.program import main

if __name__ == "__main__":
    main(run)
