"""What the scripts at the top level call: flags, config files, exit codes, and what each command does."""
