"""`python -m transformer_jax`: the command `transformer-jax`."""

from transformer_jax.cli.subcommands import main

if __name__ == "__main__":
    main()
