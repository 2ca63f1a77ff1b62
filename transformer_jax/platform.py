"""Starting JAX on the devices that there are, and the defaults that depend on their kind (how a beam's cache is
reordered is in `decoding/beam_slots.py`).

A fault in the environment variables is reported as bad input, in one line.
"""

import contextlib
import functools
import glob
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError

__all__ = [
    "accelerator_files",
    "activations_in_float32",
    "default_compute_dtype",
    "describe_devices",
    "fewest_hypotheses",
    "find_devices",
    "import_jax",
    "kind_of_device",
    "rounds_float32_products",
    "search_positions",
    "searches_at_once",
    "steps_in_flight",
    "tell_unused_accelerator",
    "tpu_files",
    "unused_accelerator",
    "usable_cores",
    "without_lines",
    "without_warning_of_jax",
]

log = logging.getLogger(__name__)

_MOST_SEARCHES = 8  # of one process at a time: each has memory of its own
# Environment variables that choose devices.
_DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
# The numbers of Google's TPUs on the PCI bus, as JAX has them: v3, a kind without public name, v4, v5p, v5e, v6e, 7x.
_TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


def import_jax() -> None:
    """Imports JAX. Raises UserError for an environment variable that JAX or XLA refuses, or that asks for 64 bits."""
    try:
        import jax
    except ValueError as error:
        raise UserError(f"JAX cannot be imported ({_in_one_line(error)}); mend or unset that environment variable") from None
    if jax.config.jax_enable_x64:
        raise UserError("JAX_ENABLE_X64: this program computes in 32 bits; unset that environment variable")
    refused = _refused_flags()
    if refused:
        raise UserError(f"XLA_FLAGS={os.environ['XLA_FLAGS']}: {refused}; mend or unset that environment variable")


def find_devices(alone: bool = True) -> None:
    """Makes JAX find its devices, before any work is done. Raises UserError if it cannot, naming the environment variables that
    choose devices and, if this process is `alone`, the devices that exist."""
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        asked = " ".join(f"{name}={os.environ[name]}" for name in _DEVICES if os.environ.get(name))
        reason = _in_one_line(error).partition(" (set JAX")[0].partition(" (you may")[0]
        reason = reason or "there is none, or the jaxlib that is installed is not for it"
        if not asked:
            advice = "end the program that holds them, or set JAX_PLATFORMS=cpu to do without"
            raise UserError(f"JAX cannot start its devices ({reason}); {advice}") from error
        # One of several processes would wait for the others if it looked for other devices.
        there = f"there is {_devices_without_variables()}; " if alone else ""
        raise UserError(
            f"{asked}: JAX finds no such device ({reason}); {there}unset the variable or set it to what there is (GPUs and "
            "TPUs need the extra cuda or tpu, as in the README)"
        ) from error


def describe_devices(devices: Sequence[Any], processes: int = 1, cores: int | None = None) -> str:
    """JAX's `devices`, those of all processes, in words. `cores` is the number of CPU cores that this process may use (if left
    out, it is looked up).

    >>> from types import SimpleNamespace
    >>> tpu = SimpleNamespace(platform="tpu", device_kind="TPU v4")
    >>> describe_devices([tpu] * 16, processes=4)
    '16 TPU v4 in 4 processes'
    """
    cores = usable_cores() if cores is None else cores
    together = f" in {processes} processes" if processes > 1 else ""
    if all(device.platform == "cpu" for device in devices):
        if len(devices) == 1:
            return f"{cores} CPU {'core' if cores == 1 else 'cores'}"
        # The cores of other processes' hosts are not known here.
        return f"{len(devices)} CPU devices{together or f' on {cores} cores'}"
    kinds = Counter(device.device_kind for device in devices)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + together


def accelerator_files() -> list[str]:
    """The device files of NVIDIA GPUs and of TPUs on this machine."""
    return sorted(glob.glob("/dev/nvidia[0-9]*")) + tpu_files()


def tpu_files() -> list[str]:
    """The device files of the TPU chips on this machine: /dev/accelN up to v4, /dev/vfio/N from v5e on. VFIO serves other
    devices too, and counts only where libtpu is installed or a TPU is on the PCI bus."""
    files = glob.glob("/dev/accel[0-9]*")
    if not files and (find_spec("libtpu") or any(map(_is_tpu, glob.glob("/sys/bus/pci/devices/*")))):
        files = glob.glob("/dev/vfio/[0-9]*")
    return sorted(files)


def _is_tpu(device: str) -> bool:
    try:
        maker, kind = (Path(device, name).read_text().strip() for name in ("vendor", "device"))
    except OSError:
        return False
    return maker == "0x1ae0" and kind in _TPUS


def unused_accelerator(files: Sequence[str], backend: str, environment: Mapping[str, str]) -> str:
    """A warning that `files` (`accelerator_files`) show an accelerator and JAX's default `backend` is the CPU; "" where it is
    not, and where a variable of `environment` chooses the devices.

    >>> unused_accelerator([], "cpu", {})
    ''
    """
    if backend != "cpu" or not files or any(name in environment for name in _DEVICES):
        return ""
    kind, extra = ("GPU", "cuda") if "nvidia" in files[0] else ("TPU", "tpu")
    return (
        f"there seems to be a {kind} ({files[0]}), and JAX computes on the CPU: the jaxlib that is installed is not for it, or "
        f"its driver is missing or too old; install the extra {extra}, or set JAX_PLATFORMS=cpu if the CPU is meant"
    )


@functools.cache
def tell_unused_accelerator() -> None:
    """Logs the warning of `unused_accelerator`, if there is one: once in a process. JAX must have found its devices."""
    warning = unused_accelerator(accelerator_files(), kind_of_device(), os.environ)
    if warning:
        log.warning("warning: %s", warning)


def without_warning_of_jax() -> contextlib.AbstractContextManager[None]:
    """While the block runs, JAX logs nothing of an accelerator that it does not use: `tell_unused_accelerator` says it, with
    what to install."""
    return without_lines("jax._src.xla_bridge", "may be present on this machine")


@contextlib.contextmanager
def without_lines(logger: str, words: str) -> Iterator[None]:
    """While the block runs, lines with these words of another library's logger are left out."""

    def is_other(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    of_library = logging.getLogger(logger)
    of_library.addFilter(is_other)
    try:
        yield
    finally:
        of_library.removeFilter(is_other)


def usable_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices_without_variables() -> str:
    import jax

    try:
        jax.config.update("jax_platforms", None)
        jax.config.update("jax_platform_name", "")
        return ", ".join(sorted({device.platform for device in jax.local_devices()} | {"cpu"}))
    except (RuntimeError, AssertionError):
        return "cpu"


def _refused_flags() -> str:
    """XLA's objection to XLA_FLAGS; "" if it accepts them.

    An unknown flag makes XLA end the process, so that a forked child reads the flags first.
    """
    if not os.environ.get("XLA_FLAGS") or sys.platform != "linux":
        return ""
    from jax._src.lib import xla_client

    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads; the child needs none of their locks
        child = os.fork()
    if not child:
        os.dup2(writer, 2)
        xla_client.CompileOptions()  # reads the flags
        os._exit(0)
    os.close(writer)
    with open(reader, errors="replace") as said:
        reason = said.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        return ""
    return " ".join(reason.partition("] ")[2].split()) or "XLA does not take these flags"


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def default_compute_dtype() -> str:
    """The type of products where `model.compute_dtype` is auto: float32 on CPU, bfloat16 on GPU and TPU."""
    # On a CPU without instructions for bfloat16 its products are slower than those of float32, and many CPUs have none.
    return "float32" if _on_cpu() else "bfloat16"


def activations_in_float32() -> bool:
    """Whether values between two products are float32 although the products have bfloat16 operands: on CPU only."""
    # A CPU with such instructions multiplies bfloat16 twice as fast as float32, but it does all other arithmetic in float32,
    # between two conversions.
    return _on_cpu()


def rounds_float32_products() -> bool:
    """Whether products of float32 operands are computed of fewer bits unless a precision is set: on TPU of bfloat16, on recent
    GPUs of TF32; on CPU never."""
    return not _on_cpu()


def steps_in_flight() -> int:
    """How many training steps may be queued on the device while the host goes on: 0 on CPU, 2 on GPU and TPU."""
    # An accelerator works on one step and has the next one waiting, so that it is never idle. A CPU works on one at a time
    # anyway, and each queued step takes memory for a workspace of its own.
    return 0 if _on_cpu() else 2


def search_positions() -> int:
    """The number of positions, over all hypotheses and local devices, in one batch of a search where `decode.tokens` is 0."""
    # Some hundred rows are enough for the matrix products of a CPU, and what it reads at each step grows with every row.
    return 4096 if _on_cpu() else 65_536


def fewest_hypotheses() -> int:
    """How many hypotheses a step of a search has at least, if there are so many: with fewer it takes hardly less time. 0 where
    that is so of any number, because the device does them all at once."""
    return 32 if _on_cpu() else 0


def searches_at_once() -> int:
    """How many searches this process runs side by side: one for each core of a CPU, if that is one device; else one. Each has a
    batch of `search_positions`."""
    import jax

    alone = jax.process_count() == jax.local_device_count() == 1
    return min(usable_cores(), _MOST_SEARCHES) if alone and _on_cpu() else 1


def kind_of_device() -> str:
    """cpu, gpu or tpu: the kind of device that JAX computes on."""
    import jax

    return jax.default_backend()


def _on_cpu() -> bool:
    return kind_of_device() == "cpu"
