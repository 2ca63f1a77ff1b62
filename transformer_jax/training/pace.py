"""The remaining time of a training, from the steps that did not compile and from its last evaluation."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator

from transformer_jax.config import TrainConfig

__all__ = ["Pace"]

_STEPS = 200  # the latest so many steps count


class Pace:
    """Measures the steps and evaluations of a training, to tell how long the rest of them will take."""

    def __init__(self, config: TrainConfig):
        self._config = config
        self._seconds: deque[float] = deque(maxlen=_STEPS)  # of each step
        self._before: float | None = None  # the time of the end of the step before; None: the next step is not measured
        self._evaluation = 0.0  # seconds of the last one

    def advanced(self) -> None:
        """To be called after each step."""
        now = time.perf_counter()
        if self._before is not None:
            self._seconds.append(now - self._before)
        self._before = now

    def interrupted(self) -> None:
        """The step that ends next does not count: something else, such as a compilation, is part of it."""
        self._before = None

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """To be entered for an evaluation."""
        start = time.perf_counter()
        yield
        self._evaluation = time.perf_counter() - start
        self.interrupted()

    def seconds_left(self, step: int) -> float | None:
        """Seconds from `step` to the last step, evaluations included once there was one; None while no step is measured."""
        if not self._seconds:
            return None
        steps, every = self._config.steps, self._config.evaluate_every
        evaluations = steps // every - step // every + (steps % every > 0 and step < steps)
        return (steps - step) * sum(self._seconds) / len(self._seconds) + evaluations * self._evaluation
