"""The flags --protect and --numbers of the commands that translate."""

from collections.abc import Sequence
from typing import Any

from transformer_jax.cli.parser import flag
from transformer_jax.errors import UserError
from transformer_jax.inference.number_formats import NUMBERS
from transformer_jax.tokenization.span_patterns import read_patterns

__all__ = ["check_protection", "numbers_flag", "protect_flag"]


def protect_flag() -> Any:
    """The field `protect` of a job: what `--protect` was each time."""
    return flag(
        "spans that come out as they are: url, email, number, placeholder, emoji, code, with commas between, then perhaps one "
        "regular expression, commas and all; may be given several times",
        None,
        metavar="PATTERN",
        action="append",
    )


def numbers_flag() -> Any:
    """The field `numbers` of a job: one of `NUMBERS`."""
    return flag("keep, or locale: numbers as the target language writes them (1,234.56 as 1.234,56)", "keep")


def check_protection(protect: Sequence[str] | None, numbers: str) -> None:
    """Raises UserError for patterns that cannot be read, and for another value of `numbers`."""
    if protect:
        read_patterns(protect)
    if numbers not in NUMBERS:
        raise UserError(f"--numbers={numbers} should be one of {', '.join(NUMBERS)}")
