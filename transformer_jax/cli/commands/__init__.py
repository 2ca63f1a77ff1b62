"""The subcommands of `transformer-jax`, a module each: its flags, and a call of what does the work."""
