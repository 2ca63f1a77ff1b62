"""What `transformer-jax calibrate` can be asked to do: its flags and their help."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformer_jax.cli.parser import flag
from transformer_jax.errors import UserError
from transformer_jax.runs.calibration import FEATURES

__all__ = ["CalibrationJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationJob:
    """A call of `transformer-jax calibrate`: each field is the flag of its name, `search` holds fields of `SearchOptions` that
    were given. Raises UserError for a feature that there is not."""

    workdir: str = flag("the run folder that train.py made; confidence.json is written there")
    dev: str | None = flag("sentences with references, as evaluate.py's --test (default: the run's data.dev)", None)
    checkpoint: str = flag("latest, best, a step, or average:N, each also with :raw (default: best)", "best")
    feature: str | None = flag(f"of the log-probabilities: {', '.join(FEATURES)} (default: what correlates best)", None)
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.feature is not None and self.feature not in FEATURES:
            raise UserError(f"--feature={self.feature} should be one of {', '.join(FEATURES)}")
