"""The progress of a training: a progress bar on a terminal, plain lines in a log."""

import logging
import sys
from collections.abc import Mapping

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from transformer_jax.runs.progress import TrainProgress
from transformer_jax.training.evaluator import Evaluation

__all__ = ["Console"]

log = logging.getLogger(__name__)


class Console:
    """Shows steps, loss, tokens/s and the remaining time: on a terminal as a bar, in a log file as a line for each report."""

    def __init__(self, start: int, steps: int):
        self._steps = steps
        self._bar = tqdm(initial=start, total=steps, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty())
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> "Console":
        self._redirect.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._redirect.__exit__(*error)
        self._bar.close()

    def advance(self) -> None:
        """Advances the bar by one step."""
        self._bar.update()

    def trained(self, step: int, numbers: Mapping[str, float]) -> None:
        """Reports the numbers of a line of metrics, and the programs that were compiled."""
        loss, rate = numbers["loss"], numbers["target_tokens_per_second"]
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s")
        if self._bar.disable:
            left = (self._steps - step) / numbers["steps_per_second"]
            compiled = ""
            if numbers["compilations"]:
                compiled = f", {numbers['compilations']} programs compiled in {numbers['compile_seconds']:.1f} s"
            speed = f"{rate:,.0f} target tokens/s, {_duration(left)} left"
            log.info("step %d/%d: loss %.3f, %s%s", step, self._steps, loss, speed, compiled)

    def evaluated(self, step: int, evaluation: Evaluation, progress: TrainProgress) -> None:
        """Reports the scores on the dev set, the best step, sample translations, and the end of the training by `patience`."""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.numbers.items())
        best = " (best so far)" if progress.best_step == step else f" (best at step {progress.best_step})"
        log.info("step %d: dev %s%s", step, numbers, best)
        for sample in evaluation.samples:
            log.info("  %s", sample)
        if progress.stopped:
            log.info("stopped: %d evaluations without a better score", progress.evaluations_without_better)


def _duration(seconds: float) -> str:
    """
    >>> _duration(3725)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
