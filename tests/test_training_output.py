"""What a training reports: its first lines, its progress, its last lines."""

import logging

import pytest
from helpers import quick_config, tiny_model

from transformer_jax.config import BatchConfig, Config
from transformer_jax.data.batching import Shape
from transformer_jax.models.seq2seq import abstract_parameters, build_model, count_parameters
from transformer_jax.training import loop, summary
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")


@pytest.mark.parametrize(
    "changes, output, pattern",
    [
        (dict(tied_embeddings="all"), 0, "320 (also the output)"),
        (dict(tied_embeddings="target", output_bias=True), 20, "640 (also the output)"),
        (dict(tied_embeddings="none", positions="learned", max_positions=10), 320, "960, encoder"),
        (dict(family="lstm", attention="general", num_layers=2, input_feeding=True), 0, "320 (also the output)"),
    ],
)
def test_parameters_are_counted_by_part(changes, output, pattern):
    config = tiny_model(**changes)
    params = abstract_parameters(build_model(config, 20))
    parts = summary.parameters_by_part(params)
    assert sum(parts.values()) == count_parameters(params) and parts["output"] == output
    assert parts["encoder"] > 0 < parts["decoder"]
    assert pattern in summary.describe_parameters(params, config.tied_embeddings != "none")


def test_hundreds_of_epochs_are_worth_a_warning():
    config = Config()
    config.train.steps = 2000
    assert summary.describe_epochs(config, 25.0, 500) == ("2,000 steps are about 80 epochs of 500 pairs", "")
    line, warning = summary.describe_epochs(config, 5.0, 100)
    assert line == "2,000 steps are about 400 epochs of 100 pairs"
    assert "400 times" in warning and "train.steps=150 is about 30 epochs" in warning and "set train.patience" in warning
    config.train.patience = 4
    assert "train.patience=4 may end it earlier" in summary.describe_epochs(config, 5.0, 100)[1]


def test_packed_batches_that_cannot_use_their_positions_are_worth_a_warning():
    config = BatchConfig(kind="packed", tokens=25_600)
    warning = summary.unused_positions(config, [Shape(64, 240, 256)])
    assert "batch.tokens=25,600, but a packed batch has 64 x 256 = 16,384 positions" in warning
    assert "set batch.tokens=32768 or 16384" in warning
    config.tokens = 32_768
    assert not summary.unused_positions(config, [Shape(128, 240, 256)])
    assert not summary.unused_positions(BatchConfig(tokens=25_600), [Shape(64, 200, 256)])


def test_a_training_reports_what_it_runs_on(tmp_path, caplog, monkeypatch):
    config = quick_config(tmp_path)
    config.train.steps = config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 1
    monkeypatch.setattr(loop.platform, "accelerator_files", lambda: ["/dev/nvidia0"])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    with caplog.at_level(logging.INFO, "transformer_jax"):
        train(config, tmp_path / "run")
    said = caplog.text
    assert f"run folder {tmp_path / 'run'}" in said
    assert "CPU devices on" in said and ": float32" in said
    assert "warning: there seems to be a GPU" in said
    assert "parameters: embeddings 4,352 (also the output), encoder" in said
    assert "1 steps are about 0." in said
