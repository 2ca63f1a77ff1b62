"""translate.py --min_confidence: what is below it is not given."""

import sys

from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.config import SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.inference.translation import Translation, on_one_line
from transformer_jax.inference.translator import Translator

__all__ = ["ConfidenceGate", "require_search"]


class ConfidenceGate:
    """Lets translations of enough confidence through, all if `least` is None, and counts the others. `below`: what comes in
    their place, empty or source."""

    def __init__(self, least: float | None, below: str):
        self._least, self._below = least, below
        self._withheld = self._lines = 0

    @classmethod
    def of(cls, job: TranslationJob, translator: Translator) -> "ConfidenceGate":
        """That of a call of translate.py. Raises UserError if there is no confidence for `job.min_confidence`."""
        if job.min_confidence is not None:
            require_search(translator.search_config(**job.search), "--min_confidence")
            if translator.calibration is None:
                command = f"transformer-jax calibrate --workdir={job.workdir}"
                raise UserError(f"--min_confidence={job.min_confidence:g}: {job.workdir} is not calibrated; first {command}")
        return cls(job.min_confidence, job.below)

    def let_through(self, translation: Translation) -> tuple[Translation, bool]:
        """The translation, or with other text if its confidence is too low; and whether that is so. A blank line has no
        confidence and stays as it is."""
        self._lines += 1
        if self._least is None or translation.confidence is None or translation.confidence >= self._least:
            return translation, False
        self._withheld += 1
        text = on_one_line(translation.source).strip() if self._below == "source" else ""
        links = None if translation.alignment is None else ()  # words of a text that is not given
        return translation._replace(text=text, alignment=links), True

    def report(self) -> None:
        """Says on standard error how many lines were withheld, where something could be."""
        if self._least is not None:
            what = "the source is in their place" if self._below == "source" else "left empty"
            print(f"{self._withheld} of {self._lines} lines below --min_confidence={self._least:g}: {what}", file=sys.stderr)


def require_search(options: SearchOptions, what: str) -> None:
    """Raises UserError where translations are drawn, or chosen by minimum Bayes risk."""
    if options.temperature or options.mbr:
        name = "decode.mbr (--mbr)" if options.mbr else "decode.temperature (--temperature)"
        reason = "its score says how sure it is" if options.mbr else "what is drawn by chance is not what the model prefers"
        raise UserError(f"{what} is for translations that a search finds; leave {name} at 0: {reason}")
