"""How the config of a run and the one that it is to go on with may differ."""

import dataclasses

from transformer_jax.config.fields import MayChange, MayGrow, record
from transformer_jax.config.keys import key_annotations, key_values
from transformer_jax.config.sections import Config

__all__ = ["continued", "differences"]


def differences(stored: Config, given: Config) -> tuple[list[str], list[str]]:
    """What differs between a run's config and the one given now, as lines `name: stored -> given`.

    Returns (what forbids to go on, what may change): the first changes the result, the second does not. More steps may be
    asked for, not fewer, and not where the learning rate's decay is laid out over them.

    >>> given = Config()
    >>> given.train.steps, given.train.seed = 200_000, 1
    >>> differences(Config(), given)
    (['train.seed: 0 -> 1'], ['train.steps: 100000 -> 200000'])
    """
    forbidden, allowed = [], []
    new = key_values(given)
    decay_ends_with_steps = given.optimizer.schedule == "cosine" and not given.optimizer.decay_steps
    for key, value in key_values(stored).items():
        if new[key] == value:
            continue
        annotation = key_annotations()[key]
        may_grow = record(annotation, MayGrow) is not None and not decay_ends_with_steps
        may_change = record(annotation, MayChange) is not None or (may_grow and new[key] > value)
        (allowed if may_change else forbidden).append(f"{key}: {value!r} -> {new[key]!r}")
    return forbidden, allowed


def continued(stored: Config, given: Config) -> Config:
    """`given`, but for what a run keeps as it was begun, whatever is given when it goes on: where it was begun without
    `tokenizer.normalize` it stays so, as runs from before there was such a thing.

    >>> stored = Config()
    >>> stored.tokenizer.normalize = False
    >>> continued(stored, Config()).tokenizer.normalize
    False
    """
    normalize = given.tokenizer.normalize and stored.tokenizer.normalize
    return dataclasses.replace(given, tokenizer=dataclasses.replace(given.tokenizer, normalize=normalize))
