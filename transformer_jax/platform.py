"""JAX, imported and its devices found: what is wrong with the environment variables is bad input, told in one line."""

import os
import sys
import warnings

from transformer_jax.distributed import cluster
from transformer_jax.errors import UserError

__all__ = ["find_devices", "import_jax"]

# Environment variables that say which devices are asked for.
_DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")


def import_jax() -> None:
    """Imports JAX. Raises UserError naming the environment variable that it cannot take, or by which it is to compute in 64
    bits."""
    try:
        import jax
    except ValueError as error:
        raise UserError(f"JAX cannot be imported ({_in_one_line(error)}); mend or unset that environment variable") from None
    if jax.config.jax_enable_x64:
        raise UserError("JAX_ENABLE_X64: this program computes in 32 bits; unset that environment variable")
    refused = _refused_flags()
    if refused:
        raise UserError(f"XLA_FLAGS={os.environ['XLA_FLAGS']}: {refused}; mend or unset that environment variable")


def find_devices() -> None:
    """Has JAX find its devices, before any work is done. Raises UserError where it cannot, naming the environment variables
    that ask for devices and what is there."""
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
        # With several processes, to look for other devices would be to wait for the others.
        there = "" if cluster.several() else f"there is {_devices_without_variables()}; "
        raise UserError(
            f"{asked}: JAX finds no such device ({reason}); {there}unset the variable or set it to what there is (GPUs and "
            "TPUs need the extra cuda or tpu, as in the README)"
        ) from error


def _devices_without_variables() -> str:
    import jax

    try:
        jax.config.update("jax_platforms", None)
        jax.config.update("jax_platform_name", "")
        return ", ".join(sorted({device.platform for device in jax.local_devices()} | {"cpu"}))
    except (RuntimeError, AssertionError):
        return "cpu"


def _refused_flags() -> str:
    """What XLA says against XLA_FLAGS; "" if it takes them.

    It ends the process at a flag that it does not know, with its exit code for everything: it is asked in a process that has
    nothing to lose.
    """
    if not os.environ.get("XLA_FLAGS") or sys.platform != "linux":
        return ""
    from jax._src.lib import xla_client

    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child takes none of their locks
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
