"""Where a run stands, as data."""

import dataclasses

__all__ = ["Progress"]


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
    unwritten: list[float] = dataclasses.field(default_factory=list)  # of `training.metrics.Meter`: sums not in the metrics yet
    skipped: int = 0  # updates left out because a number in them was not finite
    usual_length: int = 0  # 95th percentile of the tokens of an epoch's sources, EOS included; 0: nobody knows

    def evaluated(self, score: float, patience: int, alignment_layer: int = 0) -> "Progress":
        """After an evaluation at this step: stopped if `patience` of them in a row (0: any number) brought nothing better.

        >>> first = Progress(step=100).evaluated(20.5, patience=2)
        >>> second = dataclasses.replace(first, step=200).evaluated(20.1, patience=2)
        >>> second.best_step, second.best_score, second.evaluations_without_better, second.stopped
        (100, 20.5, 1, False)
        """
        better = self.best_score is None or score > self.best_score
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
