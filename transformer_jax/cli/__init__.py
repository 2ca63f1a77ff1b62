"""The command `transformer-jax` and the scripts at the top level: flags, config files, exit codes, and what each does."""
