"""From the sums of many steps to the numbers of one line of metrics."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from transformer_jax import platform
from transformer_jax.errors import UserError
from transformer_jax.training.objective import LossSums
from transformer_jax.training.step import StepSums

__all__ = ["TIMES", "Meter", "loss_means", "without_times"]

# The numbers of `metrics.jsonl` and of `Meter.unwritten` that are times or rates, or depend on the programs that this process
# had compiled before: two trainings of the same config differ only in these.
TIMES = frozenset(
    {
        "time",
        "seconds",
        "waited_seconds",
        "target_tokens_per_second",
        "source_tokens_per_second",
        "steps_per_second",
        "input_wait",
        "compilations",
        "compile_seconds",
    }
)


def without_times(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that are the same in every training of the same config: all but times, rates and counts of compilations.

    >>> without_times({"step": 100, "loss": 1.5, "steps_per_second": 8.1})
    {'step': 100, 'loss': 1.5}
    """
    return {name: value for name, value in numbers.items() if name not in TIMES}


def loss_means(sums: LossSums) -> dict[str, float]:
    """Sums to means per target token. Perplexity is exp(cross-entropy), infinite where that overflows.

    >>> loss_means(LossSums(loss=6.0, cross_entropy=0.0, correct=3.0, tokens=4.0))
    {'loss': 1.5, 'cross_entropy': 0.0, 'perplexity': 1.0, 'accuracy': 0.75}
    """
    tokens = max(float(sums.tokens), 1.0)
    cross_entropy = float(sums.cross_entropy) / tokens
    return {
        "loss": float(sums.loss) / tokens,
        "cross_entropy": cross_entropy,
        "perplexity": math.exp(cross_entropy) if cross_entropy < 700 else math.inf,
        "accuracy": float(sums.correct) / tokens,
    }


# Python's floats: a float32 sum of token counts is exact up to 16.7 million only.
_ZERO = StepSums(LossSums(0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0, 0.0)


def _named(seconds: float, waited: float, sums: StepSums) -> dict[str, float]:
    """The content of a meter by name, as checkpoints keep it."""
    times = {"seconds": seconds, "waited_seconds": waited}
    leaves = jax.tree.leaves_with_path(sums)
    return times | {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


_ADVICE = "Lower optimizer.learning_rate, raise optimizer.warmup_steps or set optimizer.clip_norm"


class Meter:
    """Adds up the sums of steps. They stay on the device until they are asked for.

    `unwritten` is what another meter's `unwritten()` returned: this meter continues from it. `skipped` counts the updates that
    were skipped because a number in them was not finite; more than `max_skipped` in all raise UserError. With `consistency` the
    sums of the steps have a `divergence`.
    """

    def __init__(
        self,
        unwritten: Mapping[str, float] | None = None,
        skipped: int = 0,
        max_skipped: int = 0,
        consistency: bool = False,
    ):
        self._zero = _ZERO._replace(divergence=0.0) if consistency else _ZERO
        empty = _named(0.0, 0.0, self._zero)
        # Other names come from a version that kept other sums. Its checkpoint is valid; one line of metrics covers fewer steps.
        start = unwritten if unwritten and unwritten.keys() == empty.keys() else empty
        self._pending: list[tuple[int, StepSums]] = []
        names = list(empty)[2:]  # without the two times
        self._total = jax.tree.unflatten(jax.tree.structure(self._zero), [start[name] for name in names])
        self._since, self._waited = time.perf_counter() - start["seconds"], start["waited_seconds"]
        self.skipped, self._max_skipped = skipped, max_skipped

    def add(self, step: int, sums: StepSums) -> None:
        """Adds a step's sums, which may not be computed yet. Waits until at most `platform.steps_in_flight` steps are not."""
        self._pending.append((step, sums))
        jax.block_until_ready(self._pending[: len(self._pending) - platform.steps_in_flight()][-1:])

    def check_finite(self) -> None:
        """Waits for all steps so far. Raises UserError with the first step whose loss, gradient or update was not finite and
        must not be skipped."""
        for step, sums in self._pending:
            sums = jax.device_get(sums)
            if not sums.finite and self._max_skipped:
                self.skipped += 1
                if self.skipped > self._max_skipped:
                    raise UserError(
                        f"step {step}: the update would not be finite, and train.max_skipped={self._max_skipped} others were "
                        f"left out already; the last checkpoint is whole. {_ADVICE}"
                    )
            elif not sums.finite:
                loss, norm = float(sums.loss.loss) / max(float(sums.loss.tokens), 1), float(sums.gradient_norm)
                raise UserError(
                    f"step {step}: the loss ({loss:.4g}), the gradient (norm {norm:.4g}) or a new parameter is not a finite "
                    f"number; no checkpoint has it. {_ADVICE}"
                )
            self._total = jax.tree.map(lambda total, leaf: total + float(leaf), self._total, sums)
        self._pending.clear()

    def unwritten(self) -> dict[str, float]:
        """The sums since the last `take`, by name, for a checkpoint: a resumed run then writes the same metrics as an
        uninterrupted one.

        `seconds`, the part of them that was waited for input (`waited_seconds`), and each sum of `StepSums`, such as
        `loss.tokens`.
        """
        self.check_finite()
        return _named(time.perf_counter() - self._since, self._waited, self._total)

    def take(self) -> Mapping[str, float]:
        """The numbers of all steps since the last call; the sums start again at 0. Rates are per second of wall clock."""
        self.check_finite()
        now = time.perf_counter()
        total, seconds, waited = self._total, now - self._since, self._waited
        applied = max(total.finite, 1.0)
        self._total, self._since, self._waited = self._zero, now, 0.0
        means = loss_means(total.loss)
        if total.divergence is not None:
            means["divergence"] = total.divergence / max(total.loss.tokens, 1.0)
        return means | {
            "gradient_norm": total.gradient_norm / applied,
            "skipped_steps": self.skipped,
            "target_tokens": total.loss.tokens,
            "target_tokens_per_second": total.loss.tokens / seconds,
            "source_tokens_per_second": total.source_tokens / seconds,
            "steps_per_second": total.steps / seconds,
            "input_wait": waited / seconds,
        }

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of the block as waiting for input, unless the device is still busy at its end. Its share
        (`input_wait`) is an upper bound of the share of time in which the device was idle because there was no batch."""
        start = time.perf_counter()
        yield
        if all(sums.steps.is_ready() for _, sums in self._pending[-1:]):
            self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time of the block (evaluation, saving) from the rates."""
        self.check_finite()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - start
