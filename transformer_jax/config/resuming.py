"""The config of a run, and the config with which it goes on."""

import dataclasses

from transformer_jax.config.fields import MayChange, MayGrow, record
from transformer_jax.config.keys import key_annotations, key_values
from transformer_jax.config.sections import Config

__all__ = ["continued", "differences"]


def differences(stored: Config, given: Config) -> tuple[list[str], list[str]]:
    """What differs between a run's config and the one given now, as lines `name: stored -> given`.

    Returns (differences that forbid to go on, differences that are allowed): the first change the result, the second do not.
    The steps may become more, not fewer, and not where the learning rate decays over all of them.

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
    """`given`, with the fields that a run keeps whatever is given when it goes on: a run that was begun without
    `tokenizer.normalize`, as runs were before there was this field, stays without it.

    >>> stored = Config()
    >>> stored.tokenizer.normalize = False
    >>> continued(stored, Config()).tokenizer.normalize
    False
    """
    normalize = given.tokenizer.normalize and stored.tokenizer.normalize
    return dataclasses.replace(given, tokenizer=dataclasses.replace(given.tokenizer, normalize=normalize))
