"""What `transformer-jax spelling` can be asked to do: its flags and their help."""

import dataclasses

from transformer_jax.cli.parser import flag

__all__ = ["SpellingJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpellingJob:
    """A call of `transformer-jax spelling`: each field is the flag of its name."""

    workdir: str = flag("the run folder; source_words.npz is written there")
    train: str | None = flag("text whose sources have the words, as data.train (default: the run's)", None)
    dev: str | None = flag("sentences to show corrections of, as evaluate.py's --test (default: the run's data.dev)", None)
