"""What depends on the kind of device, on CPU and elsewhere."""

import logging
import re
from types import SimpleNamespace

import jax
import pytest

from transformer_jax import platform

DECISIONS = {
    platform.default_compute_dtype: ("float32", "bfloat16"),
    platform.activations_in_float32: (True, False),
    platform.rounds_float32_products: (False, True),
    platform.steps_in_flight: (0, 2),
    platform.search_positions: (4096, 65_536),
}


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("decide", DECISIONS, ids=lambda decide: decide.__name__)
def test_decisions_follow_the_kind_of_device(monkeypatch, decide, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert decide() == DECISIONS[decide][backend != "cpu"]


def devices(platform_name: str, kind: str, count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(platform=platform_name, device_kind=kind)] * count


@pytest.mark.parametrize(
    "found, processes, described",
    [
        (devices("cpu", "cpu", 1), 1, "2 CPU cores"),
        (devices("cpu", "cpu", 4), 1, "4 CPU devices on 2 cores"),
        (devices("cpu", "cpu", 4), 2, "4 CPU devices in 2 processes"),
        (devices("gpu", "NVIDIA H200", 1), 1, "1 NVIDIA H200"),
        (devices("gpu", "NVIDIA A100", 4) + devices("gpu", "NVIDIA H100", 4), 2, "4 NVIDIA A100, 4 NVIDIA H100 in 2 processes"),
        (devices("tpu", "TPU v4", 16), 4, "16 TPU v4 in 4 processes"),
    ],
)
def test_devices_in_words(found, processes, described):
    assert platform.describe_devices(found, processes, cores=2) == described


def test_the_devices_of_this_process_in_words():
    assert re.fullmatch(r"2 CPU devices on [1-9]\d* cores?", platform.describe_devices(jax.devices()))


@pytest.mark.parametrize(
    "files, backend, environment, expected",
    [
        (["/dev/nvidia0"], "cpu", {}, r"there seems to be a GPU \(/dev/nvidia0\).*extra cuda"),
        (["/dev/accel0", "/dev/accel1"], "cpu", {"HOME": "/"}, r"there seems to be a TPU \(/dev/accel0\).*extra tpu"),
        (["/dev/nvidia0"], "gpu", {}, ""),
        (["/dev/nvidia0"], "cpu", {"JAX_PLATFORMS": "cpu"}, ""),
        (["/dev/nvidia0"], "cpu", {"CUDA_VISIBLE_DEVICES": ""}, ""),
        ([], "cpu", {}, ""),
    ],
)
def test_an_accelerator_that_jax_does_not_use_is_named(files, backend, environment, expected):
    assert re.fullmatch(f"{expected}.*" if expected else "", platform.unused_accelerator(files, backend, environment))


def test_device_files_are_those_of_gpus_and_tpus(monkeypatch):
    there = {"/dev/nvidia[0-9]*": ["/dev/nvidia1", "/dev/nvidia0"], "/dev/accel[0-9]*": ["/dev/accel0"]}
    monkeypatch.setattr(platform.glob, "glob", lambda pattern: there.get(pattern, []))
    assert platform.accelerator_files() == ["/dev/nvidia0", "/dev/nvidia1", "/dev/accel0"]


@pytest.mark.parametrize(
    "maker, kind, libtpu, found",
    [
        ("0x1ae0", "0x006f", False, True),  # a TPU v6e
        ("0x1ae0", "0x0042", False, False),  # a network card
        ("0x10de", "0x006f", False, False),
        ("0x10de", "0x006f", True, True),
    ],
)
def test_newer_tpus_are_known_by_libtpu_or_on_the_pci_bus(monkeypatch, tmp_path, maker, kind, libtpu, found):
    device = tmp_path / "0000:00:05.0"
    device.mkdir()
    (device / "vendor").write_text(f"{maker}\n")
    (device / "device").write_text(f"{kind}\n")
    there = {
        "/dev/vfio/[0-9]*": ["/dev/vfio/1", "/dev/vfio/0"],
        "/sys/bus/pci/devices/*": [str(device), str(tmp_path / "gone")],
    }
    monkeypatch.setattr(platform.glob, "glob", lambda pattern: there.get(pattern, []))
    monkeypatch.setattr(platform, "find_spec", lambda name: libtpu or None)
    assert platform.tpu_files() == ["/dev/vfio/0", "/dev/vfio/1"] * found


def test_an_accelerator_that_jax_does_not_use_is_said_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(platform, "accelerator_files", lambda: ["/dev/nvidia0"])
    for name in platform._DEVICES:
        monkeypatch.delenv(name, raising=False)
    platform.tell_unused_accelerator.cache_clear()
    of_jax = logging.getLogger("jax._src.xla_bridge")
    with caplog.at_level(logging.WARNING), platform.without_warning_of_jax():
        of_jax.warning("An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed.")
        of_jax.warning("CUDA backend failed to initialize")
        platform.tell_unused_accelerator()
        platform.tell_unused_accelerator()
    platform.tell_unused_accelerator.cache_clear()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and lines[0].startswith("CUDA backend") and lines[1].startswith("warning: there seems to be a GPU")
