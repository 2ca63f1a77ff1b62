"""`train --profile=FROM:TO`: which updates JAX's profiler traces, and where the trace is."""

import logging

import jax
import jax.numpy as jnp
import pytest
from helpers import metrics_of, quick_config

from transformer_jax.cli.commands import train as command
from transformer_jax.errors import UserError
from transformer_jax.training import profiling
from transformer_jax.training.loop import train
from transformer_jax.training.profiling import Profiler


def traced(folder) -> int:
    """How many updates are in the one trace of a run folder. Their numbers are not read: with jax 0.12 an event's `stats` abort
    Python."""
    (file,) = folder.glob("profile/plugins/profile/*/*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(file))
    return sum(event.name == "update" for plane in data.planes for line in plane.lines for event in line.events)


@pytest.mark.parametrize("remote", [False, True])
def test_the_updates_that_are_asked_for_are_traced(remote, tmp_path, monkeypatch):
    if remote:
        monkeypatch.setattr(profiling, "is_remote", lambda _: True)
    add, number = jax.jit(lambda x: x + 1), jnp.zeros(())
    with Profiler((2, 3), 9, tmp_path) as profiler:
        for update in range(1, 5):
            with profiler.update(update, lambda: None):
                number = add(number)
    assert traced(tmp_path) == 2 and number == 4


def test_a_trace_ends_with_its_training(tmp_path):
    with pytest.raises(KeyboardInterrupt), Profiler((2, 9), 9, tmp_path) as profiler:
        with profiler.update(2, lambda: None):
            raise KeyboardInterrupt
    assert traced(tmp_path) == 1


def test_updates_that_are_not_made_are_told(tmp_path, caplog):
    with Profiler((2, 3), 9, tmp_path) as profiler, profiler.update(4, lambda: None):
        pass
    assert caplog.record_tuples[-1][1:] == (
        logging.WARNING,
        "--profile: none of the updates 2 to 3 was made, and nothing was traced",
    )
    with Profiler(None, 9, tmp_path) as profiler, profiler.update(4, lambda: None):
        pass
    assert len(caplog.records) == 1 and not (tmp_path / "profile").exists()


@pytest.mark.parametrize("updates", [(0, 3), (3, 2), (8, 10)])
def test_updates_that_cannot_be(updates, tmp_path):
    with pytest.raises(UserError, match=r"--profile=\d:\d+ should be two updates from 1 to train.steps=9, in order"):
        Profiler(updates, 9, tmp_path)


@pytest.mark.parametrize("text", ["3", "a:b", "1:2:3", ":"])
def test_a_flag_that_cannot_be_is_a_line(text):
    with pytest.raises(UserError, match=f"--profile={text}: expected FROM:TO"):
        command.run(["--config=demo", "--workdir=nowhere", f"--profile={text}"])


@pytest.mark.slow
def test_a_traced_training_is_the_same_training(tmp_path):
    config = quick_config(tmp_path)
    for name, profile in (("plain", None), ("traced", (3, 4))):
        train(config, str(tmp_path / name), profile=profile)
    assert metrics_of(tmp_path / "traced") == metrics_of(tmp_path / "plain")
    assert traced(tmp_path / "traced") == 2
