"""What ends a program other than a bug of ours: bad input that the user can mend, and a stop that somebody asked for."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence

__all__ = ["ToBeContinued", "UserError", "memory_advice", "pip_install"]


class UserError(Exception):
    """Bad input, told in one line: what is wrong, what was expected, what to do.

    The command lines print the message without a traceback and exit with code 2. Every other exception is a bug of ours and
    keeps its traceback.

    Attributes:
        choices: lines that the command lines print before the message, such as a list of what there is
    """

    def __init__(self, message: str, choices: Sequence[str] = ()):
        super().__init__(message)
        self.choices = choices


class ToBeContinued(Exception):
    """Training was asked to stop (SIGTERM, Ctrl-C) or lost another of its processes; the same command goes on where it was.

    The command lines print the message and exit with code 75, sysexits.h's EX_TEMPFAIL.
    """


def pip_install(*requirements: str) -> str:
    """The command that installs `requirements` for the interpreter that runs: `pip` alone may be another interpreter's.

    >>> pip_install("transformer_jax[gcs]").removeprefix(sys.executable)
    " -m pip install 'transformer_jax[gcs]'"
    """
    return shlex.join([sys.executable or "python", "-m", "pip", "install", *requirements])


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turns XLA's out-of-memory error into a UserError with `advice`: what to lower.

    Computations are dispatched ahead, so the error comes where a result is waited for: that must be inside too.
    """
    try:
        yield
    except RuntimeError as error:  # jax.errors.JaxRuntimeError is one; this room imports nothing
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise UserError(f"a batch does not fit into memory: {advice} ({error})") from error
