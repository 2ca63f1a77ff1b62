"""The names of checkpoints: those that users give, such as `average:5:raw`, and those of their folders."""

import dataclasses
from typing import Literal

from transformer_jax.errors import UserError

__all__ = ["CHECKPOINTS", "INTERRUPTED", "CheckpointName", "is_step"]

CHECKPOINTS = "checkpoints"  # a run's folder of its checkpoints
INTERRUPTED = "interrupted"  # ... of the one that a training saved which was stopped between two of them


@dataclasses.dataclass(frozen=True)
class CheckpointName:
    """Which checkpoints of a run, and which of their parameters."""

    kind: Literal["latest", "best", "step", "average"]
    number: int = 0  # the step, or how many of the latest checkpoints the average is of
    weights: Literal["", "raw", "ema"] = ""  # "": moving averages if the run has them

    @classmethod
    def parse(cls, text: str) -> "CheckpointName":
        """Reads a name. Raises UserError for any other text, TypeError for what is no text.

        >>> CheckpointName.parse("average:5:raw")
        CheckpointName(kind='average', number=5, weights='raw')
        >>> CheckpointName.parse("8000")
        CheckpointName(kind='step', number=8000, weights='')
        """
        if not isinstance(text, str):
            raise TypeError(f"checkpoint should be a string, such as 'best' or '1500', not {text!r}")
        steps, weights = text, ""
        if text.endswith((":raw", ":ema")):
            steps, _, weights = text.rpartition(":")
        if steps in ("latest", "best"):
            return cls(steps, weights=weights)
        if steps.isdecimal():
            return cls("step", int(steps), weights)
        kind, _, number = steps.partition(":")
        if kind == "average" and number.isdecimal() and int(number) > 0:
            return cls(kind, int(number), weights)
        raise UserError(
            f"checkpoint {text!r} should be latest, best, a step, or average:N, each also with :raw or :ema after it"
        )

    def __str__(self) -> str:
        steps = {"step": str(self.number), "average": f"average:{self.number}"}.get(self.kind, self.kind)
        return f"{steps}:{self.weights}" if self.weights else steps


def is_step(name: str) -> bool:
    """Is it the name of a checkpoint's folder: a whole number as it is written, without a 0 before it?

    >>> is_step("1500"), is_step("01500"), is_step("1500.bak")
    (True, False, False)
    """
    return name.isascii() and name.isdecimal() and name == str(int(name))
