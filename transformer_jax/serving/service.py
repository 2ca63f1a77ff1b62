"""What every API of the server calls: texts in, translations out, by pair of languages."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from transformer_jax.inference.terminology import Terminology

__all__ = ["PLAIN", "LanguagePair", "ServedText", "ServedWord", "Service", "TextOptions"]


class LanguagePair(NamedTuple):
    """From which language into which: codes of two letters, in small ones."""

    source: str
    target: str


@dataclass(frozen=True)
class TextOptions:
    """How texts are translated."""

    markup: str = ""  # html or xml: elements are put back around the words that theirs became
    ignore_tags: tuple[str, ...] = ()  # with markup: what is in these elements stays as it is
    splitting_tags: tuple[str, ...] = ()  # with xml: these elements separate sentences
    non_splitting_tags: tuple[str, ...] = ()  # with xml: these belong to the sentence around them
    split_sentences: bool = True  # are sentences translated one by one?
    split_lines: bool = True  # does a line break end a sentence? With markup the markup says it
    alternatives: int = 0  # how many other translations, at most the beam less one
    terminology: Terminology | None = None
    words: bool = False  # should `words` be filled?


PLAIN = TextOptions()  # text as it is, sentence by sentence


class ServedWord(NamedTuple):
    """A word of a translation: text[start:end], in characters of Python."""

    start: int
    end: int
    source: tuple[tuple[int, int], ...]  # the places in the source text that it came from, start and end of each
    probability: float  # the model's, of all its tokens, from 0 to 1


class ServedText(NamedTuple):
    """The translation of a text."""

    text: str
    alternatives: tuple[str, ...] = ()  # other translations, best first
    confidence: float | None = None  # from 0 to 1, of a text of one sentence and a calibrated run; None: not known
    words: tuple[ServedWord, ...] = ()


class Service(Protocol):
    """The models of a server. Methods raise RequestError of `serving.errors`."""

    pairs: tuple[LanguagePair, ...]

    def pair(self, source: str | None, target: str | None) -> LanguagePair:
        """The pair of these codes, whatever their case, `de-AT` as `de`; without a source the only one with this target, or
        BadRequest."""

    async def translate(self, texts: Sequence[str], pair: LanguagePair, options: TextOptions = PLAIN) -> list[ServedText]:
        """The translation of each text. Line breaks and white space come back as they were, and so does what has no letter and
        no digit, a line of a text or a text with markup. If the task is cancelled, the places in the search that it has are
        free at once. Raises BadRequest for markup that is not well-formed, TooLarge, Busy, TooSlow."""

    def stream(self, text: str, pair: LanguagePair, options: TextOptions = PLAIN) -> AsyncIterator[ServedText]:
        """The translation so far, whole each time, as it grows; the last is what `translate` gives, those before have the text
        alone. It raises what `translate` raises."""

    def detect(self, text: str) -> list[tuple[str, float]]:
        """Languages of the server's pairs that the text may be in, most probable first, each with its probability."""
