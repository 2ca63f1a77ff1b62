"""The progress of a run, as a checkpoint stores it."""

import dataclasses
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

__all__ = ["TrainProgress"]

# Older versions stored `TrainProgress.unwritten` as a list of these numbers.
_UNWRITTEN_LIST = (
    "seconds",
    "waited_seconds",
    "loss.loss",
    "loss.cross_entropy",
    "loss.correct",
    "loss.tokens",
    "source_tokens",
    "gradient_norm",
    "finite",
    "steps",
)


@dataclasses.dataclass
class TrainProgress:
    """The progress of a run: what a checkpoint stores beside the arrays."""

    step: int = 0  # updates done
    epoch: int = 0  # epochs done
    offset: int = 0  # pairs of the current epoch that are done
    tokenizer: str = ""  # fingerprint of the parameters' tokenizer
    corpus: str = ""  # fingerprint of the tokenised training text, to which `epoch` and `offset` refer
    score: float | None = None  # of the evaluation at this step, higher is better; None if there was none
    best_score: float | None = None
    best_step: int = 0
    evaluations_without_better: int = 0
    alignment_layer: int = 0  # whose attention aligned the dev set best at the last evaluation, from 1; 0: unknown
    stopped: bool = False  # training ended early, because the dev score had stopped rising
    unwritten: dict[str, float] = dataclasses.field(default_factory=dict)  # sums of `training.metrics.Meter` not yet written
    skipped: int = 0  # updates left out because a number in them was not finite
    usual_length: int = 0  # 95th percentile of the number of tokens of an epoch's sources, with EOS; 0: unknown

    @classmethod
    def parse(cls, data: Any) -> "TrainProgress":
        """Reads the JSON value of a checkpoint. `unwritten` may be the list of older versions, which is left out if its length
        is another than expected. Raises ValueError for an unknown field, or a value of another type.

        >>> TrainProgress.parse({"step": 7, "score": 1}).step
        7
        """
        if not isinstance(data, dict):
            raise ValueError("not an object with keys")
        unwritten = data.get("unwritten")
        if _is_of(unwritten, list[float]):
            is_known = len(unwritten) == len(_UNWRITTEN_LIST)
            data = {**data, "unwritten": dict(zip(_UNWRITTEN_LIST, unwritten, strict=True)) if is_known else {}}
        hints = get_type_hints(cls)
        for name, value in data.items():
            if name not in hints or not _is_of(value, hints[name]):
                raise ValueError(f"{name}={value!r:.40} is no field, or of another type")
        return cls(**data)

    def evaluated(self, score: float, patience: int, alignment_layer: int = 0) -> "TrainProgress":
        """The progress after an evaluation at this step. Training is stopped after `patience` evaluations in a row (0: never)
        without a better score; a score that is NaN is never better.

        >>> first = TrainProgress(step=100).evaluated(20.5, patience=2)
        >>> second = dataclasses.replace(first, step=200).evaluated(20.1, patience=2)
        >>> second.best_step, second.best_score, second.evaluations_without_better, second.stopped
        (100, 20.5, 1, False)
        """
        better = not math.isnan(score) and (self.best_score is None or score > self.best_score)
        count = 0 if better else self.evaluations_without_better + 1
        return dataclasses.replace(
            self,
            score=score,
            best_score=score if better else self.best_score,
            best_step=self.step if better else self.best_step,
            evaluations_without_better=count,
            alignment_layer=alignment_layer,
            stopped=0 < patience <= count,
        )


def _is_of(value: Any, hint: Any) -> bool:
    """Has `value`, as JSON reads it, the type of this annotation?"""
    if isinstance(hint, types.UnionType):
        return any(_is_of(value, option) for option in get_args(hint))
    if get_origin(hint) is list:
        return type(value) is list and all(_is_of(item, *get_args(hint)) for item in value)
    if get_origin(hint) is dict:
        return type(value) is dict and all(_is_of(item, get_args(hint)[1]) for item in value.values())
    return type(value) in (int, float) if hint is float else type(value) is hint
