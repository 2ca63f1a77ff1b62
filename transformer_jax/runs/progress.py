"""Where a run stands, as data."""

import dataclasses
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

__all__ = ["Progress"]

# `Progress.unwritten` was once a list of these, in this order.
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
class Progress:
    """Where a run stands: what a checkpoint keeps beside the arrays."""

    step: int = 0  # updates done
    epoch: int = 0  # epochs done
    offset: int = 0  # pairs of the epoch that are done
    tokenizer: str = ""  # fingerprint of the tokenizer these parameters belong to
    corpus: str = ""  # fingerprint of the tokenised training text that `epoch` and `offset` count in
    score: float | None = None  # of the evaluation at this step, higher is better; None: there was none
    best_score: float | None = None
    best_step: int = 0
    evaluations_without_better: int = 0
    alignment_layer: int = 0  # whose attention aligned the dev set best at the last evaluation, from 1; 0: nobody knows
    stopped: bool = False  # training ended early: the dev score had stopped rising
    unwritten: dict[str, float] = dataclasses.field(default_factory=dict)  # of `training.metrics.Meter`: not in the metrics yet
    skipped: int = 0  # updates left out because a number in them was not finite
    usual_length: int = 0  # 95th percentile of the tokens of an epoch's sources, EOS included; 0: nobody knows

    @classmethod
    def parse(cls, data: Any) -> "Progress":
        """From what a checkpoint's JSON holds; `unwritten` may be the list that it once was. (A list of another length is of a
        version that kept other sums: they are left out.) Raises ValueError for a field that there is not, or a value of another
        type.

        >>> Progress.parse({"step": 7, "score": 1}).step
        7
        """
        if not isinstance(data, dict):
            raise ValueError("not an object with keys")
        unwritten = data.get("unwritten")
        if _is_of(unwritten, list[float]):
            known = len(unwritten) == len(_UNWRITTEN_LIST)
            data = {**data, "unwritten": dict(zip(_UNWRITTEN_LIST, unwritten, strict=True)) if known else {}}
        hints = get_type_hints(cls)
        for name, value in data.items():
            if name not in hints or not _is_of(value, hints[name]):
                raise ValueError(f"{name}={value!r:.40} is no field, or of another type")
        return cls(**data)

    def evaluated(self, score: float, patience: int, alignment_layer: int = 0) -> "Progress":
        """After an evaluation at this step: stopped if `patience` of them in a row (0: any number) brought nothing better. A
        score that is not a number is never better.

        >>> first = Progress(step=100).evaluated(20.5, patience=2)
        >>> second = dataclasses.replace(first, step=200).evaluated(20.1, patience=2)
        >>> second.best_step, second.best_score, second.evaluations_without_better, second.stopped
        (100, 20.5, 1, False)
        """
        better = not math.isnan(score) and (self.best_score is None or score > self.best_score)
        without = 0 if better else self.evaluations_without_better + 1
        return dataclasses.replace(
            self,
            score=score,
            best_score=score if better else self.best_score,
            best_step=self.step if better else self.best_step,
            evaluations_without_better=without,
            alignment_layer=alignment_layer,
            stopped=0 < patience <= without,
        )


def _is_of(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_is_of(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return type(value) is list and all(_is_of(each, *get_args(hint)) for each in value)
    if get_origin(hint) is dict:
        return type(value) is dict and all(_is_of(each, get_args(hint)[1]) for each in value.values())
    return type(value) in (int, float) if hint is float else type(value) is hint
