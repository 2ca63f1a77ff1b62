"""What depends on the kind of device, on CPU and elsewhere."""

import jax
import pytest

from transformer_jax import platform

DECISIONS = {
    platform.default_compute_dtype: ("float32", "bfloat16"),
    platform.activations_in_float32: (True, False),
    platform.steps_in_flight: (0, 2),
    platform.search_positions: (4096, 65_536),
}


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("decide", DECISIONS, ids=lambda decide: decide.__name__)
def test_decisions_follow_the_kind_of_device(monkeypatch, decide, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert decide() == DECISIONS[decide][backend != "cpu"]
