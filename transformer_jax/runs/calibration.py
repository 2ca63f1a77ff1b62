"""What makes a confidence of log-probabilities: RUN/confidence.json, which `transformer-jax calibrate` writes."""

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
from etils import epath

from transformer_jax.config import SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.storage.files import read_plain, write_whole

__all__ = ["CONFIDENCE", "FEATURES", "Calibration", "relevant_options"]

CONFIDENCE = "confidence.json"  # the file's name in the run folder
FEATURES = "mean", "least", "words", "least_word"  # of log-probabilities: `inference.confidence` computes them
_CHECKSUM = "checksum"
_LARGEST = 1 << 22  # bytes; one has about 50 for each sentence at most
# The probabilities of a search do not depend on the first five, and only searches are calibrated.
_IRRELEVANT = {"capitals", "spelling", "nbest", "tokens", "alignment_layer", "seed", "temperature", "top_k", "top_p", "epsilon"}
_IRRELEVANT |= {"mbr", "mbr_metric", "mbr_from"}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A function from one feature of a translation's log-probabilities to a number between 0 and 1, never falling: the chrF
    that translations with this feature had on a dev set, over 100.

    >>> Calibration("mean", (-2.0, -1.0), (0.25, 0.75), {}, 50, "dev", "step 3", (3,), "raw", {}).confidence(-1.5)
    0.5
    """

    feature: str  # one of `FEATURES`
    at: tuple[float, ...]  # values of the feature, rising
    values: tuple[float, ...]  # the confidence there; between two it is on the line that joins them, beyond the ends constant
    correlations: dict[str, float | None]  # of each feature: Spearman's with sentence chrF on the dev set
    sentences: int  # of the dev set, blank ones not counted
    dev: str  # its name
    checkpoint: str  # which one, in words
    steps: tuple[int, ...]  # its steps, several of an average
    weights: str  # raw or ema
    search: dict[str, Any]  # `relevant_options` of the search

    def confidence(self, feature: float) -> float:
        """The confidence of a translation whose feature has this value."""
        return float(np.interp(feature, self.at, self.values))

    def differences(self, steps: tuple[int, ...], weights: str, options: SearchOptions) -> str:
        """In words what another checkpoint or search has that was not calibrated; "" if nothing."""
        told = (
            [] if (steps, weights) == (self.steps, self.weights) else [f"with {self.checkpoint}, not with the checkpoint here"]
        )
        defaults = relevant_options(SearchOptions())
        for name, value in relevant_options(options).items():
            calibrated = self.search.get(name, defaults[name])
            if calibrated != value:
                told.append(f"with {name}={calibrated}, not {value}")
        return ", ".join(told)

    def write(self, workdir: epath.Path) -> None:
        """Writes the file into a run folder, whole, with a checksum of its content."""
        content = dataclasses.asdict(self)
        write_whole(workdir / CONFIDENCE, json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1) + "\n")

    @classmethod
    def read(cls, workdir: epath.Path) -> "Calibration | None":
        """The calibration of a run folder; None if there is none. Raises UserError if the file is damaged."""
        try:
            return cls._of(json.loads(read_plain(workdir / CONFIDENCE, _LARGEST)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f"{workdir / CONFIDENCE}: damaged; make it again (transformer-jax calibrate --workdir={workdir}), or remove it"
            ) from None

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "Calibration":
        """Raises ValueError, TypeError or KeyError for what `write` has not written: the folder may be a stranger's."""
        if content.pop(_CHECKSUM) != _checksum(content):
            raise ValueError("other content than was written")
        made = cls(**{**content, **{name: tuple(content[name]) for name in ("at", "values", "steps")}})
        at, values = np.array(made.at, np.float64), np.array(made.values, np.float64)
        rises = (np.diff(at) > 0).all() and (np.diff(values) >= 0).all()
        if at.ndim != 1 or at.shape != values.shape or not len(at) or not rises or not 0 <= values[0] <= values[-1] <= 1:
            raise ValueError("no rising function between 0 and 1")
        if not math.isfinite(at.sum()) or type(made.search) is not dict or made.feature not in FEATURES:
            raise ValueError("values of other types")
        return made


def relevant_options(options: SearchOptions) -> dict[str, Any]:
    """The options that the translations of a search depend on."""
    return {name: value for name, value in dataclasses.asdict(options).items() if name not in _IRRELEVANT}


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
