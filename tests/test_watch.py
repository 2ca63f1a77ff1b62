"""Sets that are watched beside the dev set (`data.watch`): their numbers, and that nothing is decided by them."""

import logging

import pytest
from helpers import (
    FAMILIES,
    arrays_of,
    assert_same_runs,
    assert_trees_equal,
    each_family,
    letters,
    metrics_of,
    quick_config,
    tiny_config,
    tiny_model,
    write_tsv,
)

from transformer_jax.data.sources import text_fingerprint
from transformer_jax.errors import UserError
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation")


def other_set(folder, name="other (1).tsv", count=7) -> str:
    lines = letters(count, 5, seed=3)
    return write_tsv(folder / name, lines, lines)


def numbers_of(workdir, split: str) -> list[dict]:
    lines = [line for line in metrics_of(workdir) if line["split"] == split]
    return [{name: value for name, value in line.items() if name not in ("split", "time")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("metric", each_family("bleu", "chrf", "loss", "ter", "bleu"))
def test_a_watched_set_has_the_numbers_that_it_had_as_dev_set_and_changes_nothing_else(metric, request, tmp_path, caplog):
    config = tiny_config(tmp_path)
    config.model = tiny_model(dropout=0.3, **FAMILIES[request.node.callspec.id])
    config.train.metric, config.decode.beam, config.decode.max_length_extra = metric, 1, 2
    config.train.ema_decay = 0.5
    train(config, tmp_path / "plain")
    other = other_set(tmp_path)
    dev, config.data.watch = config.data.dev, f'"{other}", {config.data.dev} (tag=<x>)'
    with caplog.at_level(logging.INFO):
        train(config, tmp_path / "watching")
    assert_trees_equal(arrays_of(tmp_path / "watching", 6)[0], arrays_of(tmp_path / "plain", 6)[0])
    for split in ("train", "dev"):
        assert numbers_of(tmp_path / "watching", split) == numbers_of(tmp_path / "plain", split)
    for watched, seen in ((f'"{other}"', f'"{other}"'), (f"{dev} (tag=<x>)",) * 2):
        config.data.watch, config.data.dev = "", seen
        train(config, tmp_path / f"seen{len(seen)}")
        expected = numbers_of(tmp_path / f"seen{len(seen)}", "dev")
        assert [line["step"] for line in expected] == [3, 6] and (metric == "loss" or metric in expected[0])
        assert numbers_of(tmp_path / "watching", f"watch:{watched}") == expected
    cross_entropy = numbers_of(tmp_path / "watching", f'watch:"{other}"')[0]["cross_entropy"]
    line = f'step 3: watched "{other}": cross_entropy {cross_entropy:.4g}'
    assert any(message.startswith(line) for message in caplog.messages)


@pytest.mark.slow
def test_they_may_change_when_a_run_goes_on_and_resumed_is_straight(tmp_path):
    config = quick_config(tmp_path)
    first, second = (other_set(tmp_path, f"{name}.tsv", count) for name, count in (("first", 5), ("second", 6)))
    config.data.watch = f"{first}, {second}"
    train(config, tmp_path / "straight")
    config.train.steps = 3
    train(config, tmp_path / "resumed")
    config.train.steps = 6
    train(config, tmp_path / "resumed")
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)
    splits = ["train", "dev", f"watch:{first}", f"watch:{second}"]
    assert [line["split"] for line in metrics_of(tmp_path / "resumed")] == splits * 2
    config.train.steps, config.data.watch = 7, second
    train(config, tmp_path / "resumed")
    assert [line["split"] for line in metrics_of(tmp_path / "resumed")] == splits * 2 + ["train", "dev", f"watch:{second}"]


def test_what_cannot_be_read_is_refused_before_the_run_folder_is_touched(tmp_path):
    config = quick_config(tmp_path)
    for watch, told in {
        f"{tmp_path}/missing": "missing",
        "demo:dev, demo:dev": "data.watch: demo:dev comes twice",
        "demo:dev,": "the name of a set is empty",
        "demo:dev * 2": r"demo:dev \* 2",
        "demo:dev (max_ratio=3)": "max_ratio filters training text",
    }.items():
        config.data.watch = watch
        with pytest.raises(UserError, match=told):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_prepared_text_is_found_whatever_is_watched(tmp_path):
    config = quick_config(tmp_path)
    plain = text_fingerprint(config.data)
    config.data.watch = "demo:dev"
    assert plain and text_fingerprint(config.data) == plain
