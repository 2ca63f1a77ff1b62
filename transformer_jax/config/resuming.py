"""The config of a run, and the config with which it goes on."""

import dataclasses

from transformer_jax.config.fields import MayChange, MayGrow, record
from transformer_jax.config.keys import key_annotations, key_values
from transformer_jax.config.sections import Config

__all__ = ["continued", "differences", "remedy", "schedule_ends_with_steps"]


def differences(stored: Config, given: Config, extend: bool = False) -> tuple[list[str], list[str]]:
    """What differs between a run's config and the one given now, as lines `name: stored -> given`.

    Returns (differences that forbid to go on, differences that are allowed): the first change the result, the second do not.
    The steps may become more, not fewer, and where the learning rate decays over all of them only to `extend` the run.

    >>> given = Config()
    >>> given.train.steps, given.train.seed = 200_000, 1
    >>> differences(Config(), given)
    (['train.seed: 0 -> 1'], ['train.steps: 100000 -> 200000'])
    """
    forbidden, allowed = [], []
    new = key_values(given)
    decay_ends_with_steps = schedule_ends_with_steps(given) and not extend
    for key, value in key_values(stored).items():
        if new[key] == value:
            continue
        annotation = key_annotations()[key]
        may_grow = record(annotation, MayGrow) is not None and not decay_ends_with_steps
        may_change = record(annotation, MayChange) is not None or (may_grow and new[key] > value)
        (allowed if may_change else forbidden).append(f"{key}: {value!r} -> {new[key]!r}")
    return forbidden, allowed


def schedule_ends_with_steps(config: Config) -> bool:
    """Does the learning rate fall to zero at `train.steps`, so that other steps are another schedule?"""
    return config.optimizer.schedule == "cosine" and not config.optimizer.decay_steps


def remedy(stored: Config, given: Config, workdir: str) -> str:
    """What to do where `differences` forbids to go on."""
    longer = dataclasses.replace(stored, train=dataclasses.replace(stored.train, steps=given.train.steps))
    only_longer = given.train.steps > stored.train.steps and not differences(longer, given)[0]
    if not (only_longer and schedule_ends_with_steps(stored)):
        return "use that one, or another --workdir"
    return (
        f"with optimizer.schedule=cosine the learning rate falls to zero at train.steps={stored.train.steps}, and more steps "
        "are another schedule: train from the start in another --workdir; or go on in another --workdir from the parameters of "
        f"this run, --config.train.init_from={workdir}:latest; or in this one with --extend, which raises the learning rate "
        "once more"
    )


def continued(stored: Config, given: Config) -> Config:
    """`given`, with the fields that a run keeps whatever is given when it goes on: a run that was begun without
    `tokenizer.normalize`, as runs were before there was this field, stays without it; and where `batch.tokens` is 0, the number
    that was found for the run stays.

    >>> stored, given = Config(), Config()
    >>> stored.tokenizer.normalize, given.batch.tokens = False, 0
    >>> config = continued(stored, given)
    >>> config.tokenizer.normalize, config.batch.tokens
    (False, 4096)
    """
    normalize, batch = given.tokenizer.normalize and stored.tokenizer.normalize, given.batch
    if batch.tokens == 0:
        batch = dataclasses.replace(batch, tokens=stored.batch.tokens, memory=stored.batch.memory)
    return dataclasses.replace(given, tokenizer=dataclasses.replace(given.tokenizer, normalize=normalize), batch=batch)
