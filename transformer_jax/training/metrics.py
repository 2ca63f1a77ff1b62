"""From the sums of many steps to the numbers of one line."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.training.objective import LossSums
from transformer_jax.training.step import StepSums

__all__ = ["Meter", "loss_means"]


def loss_means(sums: LossSums) -> dict[str, float]:
    """Sums to means per target token. Perplexity is exp(cross-entropy), infinite where that overflows."""
    tokens = max(float(sums.tokens), 1.0)
    cross_entropy = float(sums.cross_entropy) / tokens
    return {
        "loss": float(sums.loss) / tokens,
        "cross_entropy": cross_entropy,
        "perplexity": math.exp(cross_entropy) if cross_entropy < 700 else math.inf,
        "accuracy": float(sums.correct) / tokens,
    }


class Meter:
    """Keeps the sums of steps on the device until somebody asks: only then does the host wait for it."""

    def __init__(self):
        self._pending: list[tuple[int, StepSums]] = []
        self._seen: list[StepSums] = []
        self._since = time.perf_counter()

    def add(self, step: int, sums: StepSums) -> None:
        self._pending.append((step, sums))

    def check_finite(self) -> None:
        """Waits for all steps so far. Raises UserError naming the first whose loss or gradient was not finite."""
        for step, sums in self._pending:
            sums = jax.device_get(sums)
            if not sums.finite:
                loss = float(sums.loss.loss) / max(float(sums.loss.tokens), 1)
                raise UserError(
                    f"step {step}: the loss ({loss:.4g}) or a gradient (norm {float(sums.gradient_norm):.4g}) is not a finite number; "
                    "no checkpoint has it. Lower optimizer.learning_rate, raise optimizer.warmup_steps or set optimizer.clip_norm"
                )
            self._seen.append(sums)
        self._pending.clear()

    def take(self) -> Mapping[str, float]:
        """The numbers of all steps since the last call, and a fresh start. Rates are per second of wall clock."""
        self.check_finite()
        now = time.perf_counter()
        # float64 on the host: a float32 sum of token counts is exact up to 16.7 million only.
        total: StepSums = jax.tree.map(lambda *leaves: np.sum(leaves, dtype=np.float64), *self._seen)
        seconds = now - self._since
        self._seen, self._since = [], now
        return loss_means(total.loss) | {
            "gradient_norm": float(total.gradient_norm / total.steps),
            "target_tokens": float(total.loss.tokens),
            "target_tokens_per_second": float(total.loss.tokens / seconds),
            "source_tokens_per_second": float(total.source_tokens / seconds),
            "steps_per_second": float(total.steps / seconds),
        }

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time inside out of the rates (evaluation, saving)."""
        self.check_finite()
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start
