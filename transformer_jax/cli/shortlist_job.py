"""What `transformer-jax shortlist` can be asked to do: its flags and their help."""

import dataclasses

from transformer_jax.cli.parser import flag

__all__ = ["ShortlistJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortlistJob:
    """A call of `transformer-jax shortlist`: each field is the flag of its name."""

    workdir: str = flag("the run folder that train.py made; tokenizer/shortlist.npz is written there")
    train: str | None = flag("text to count in, as data.train (default: the run's)", None)
    dev: str | None = flag("sentences with references, as evaluate.py's --test (default: the run's data.dev)", None)
