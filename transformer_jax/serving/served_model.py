"""One model of the server: whole texts, with their line breaks, to translations, on behalf of one request."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.inference.protected_spans import ProtectedPiece, Protection
from transformer_jax.inference.protected_translation import NeedsPlaceholders
from transformer_jax.inference.search_queue import Ticket
from transformer_jax.inference.translation import Translation, empty_translation
from transformer_jax.inference.translator import Translator
from transformer_jax.serving.errors import BadRequest
from transformer_jax.serving.languages import has_words
from transformer_jax.serving.service import ServedText, ServedWord, TextOptions
from transformer_jax.visualization.attention_page import attention_html

__all__ = ["ServedModel"]

_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_PARAGRAPH = re.compile(r"(?:\r\n|[\n\r])(?:[ \t]*(?:\r\n|[\n\r]))+")  # a blank line, or several

_TERMS_AND_SPANS = (
    "the text has spans that this server keeps as they are, and its model was not trained to do so beside the terms of a "
    "glossary; leave out one of them"
)


class _Line(NamedTuple):
    """What of a text is translated together, and the white space around it, line breaks included."""

    before: str
    text: str
    after: str


class ServedModel:
    """A translator and its open search. The methods block, and may be called by many threads."""

    def __init__(self, translator: Translator, options: Mapping[str, Any], protection: Protection | None = None):
        """`options` are those of search, as `Translator.translate` has them, `protection` is what comes out of every text as it
        is. Raises UserError for impossible options."""
        self.translator, self.search = translator, translator.open_search(**options)
        self._aligns, self._protection = translator.aligns, protection
        self._options = {name: value for name, value in options.items() if name not in ("nbest", "split_sentences")}

    @property
    def most_alternatives(self) -> int:
        """How many translations a text can have beside the best one."""
        return self.search.options.beam - 1

    def compile(self) -> None:
        """Makes the programs without which requests would wait."""
        self.search.compile()

    def compile_rest(self) -> None:
        """Makes those with which the search is faster at times, and those of alignments."""
        self.search.compile_rest(self.translator.alignment_layer if self._aligns else 0)

    def translate(self, texts: Sequence[str], options: TextOptions, ticket: Ticket) -> list[ServedText]:
        """The translation of each text; what has no letter and no digit, a line or a text with markup, stays as it is. Raises
        BadRequest for what cannot be asked, as terms beside protected spans of a model without placeholders; Left where the
        ticket is left."""
        if not 0 <= options.alternatives <= self.most_alternatives:
            raise BadRequest(f"alternatives should be from 0 to {self.most_alternatives}, not {options.alternatives}")
        try:
            if options.markup:
                having = [text for text in texts if has_words(text)]
                found = iter(self._translate_markup(having, options, ticket) if having else ())
                return [next(found) if has_words(text) else ServedText(text) for text in texts]
            return self._translate_text(texts, options, ticket)
        except NeedsPlaceholders as error:
            raise BadRequest(_TERMS_AND_SPANS) from error
        except UserError as error:
            raise _told(error) from error

    def attention_page(self, text: str, ticket: Ticket) -> str:
        """The page of what the model attends to when it translates a sentence, HTML. Raises BadRequest for a text that is none,
        or that the model translates in parts, for one with protected spans, and for a model without attention."""
        line = text.strip()
        if not has_words(line):
            raise BadRequest("the attention is shown of a sentence, and this text has no words")
        try:
            shared = dict(protect=self._protection, split_sentences="always", nbest=1)
            (translation,) = self._sharing(ticket).translate([line], **self._options | shared)
            if translation.protected:
                raise BadRequest("the attention is not shown of a text with protected spans, which the model does not see so")
            if translation.parts != 1 or _BREAK.search(line):
                raise BadRequest("the attention is shown of one sentence at a time")
            attention = self.translator.attention(line, translation)
        except UserError as error:
            raise _told(error) from error
        if not attention.words:
            raise BadRequest("this model has no attention: there is nothing to show")
        texts = dict(source=attention.source, translation=attention.translation)
        return attention_html(attention.pieces, attention.words, **texts)

    def growing(self, text: str, options: TextOptions, tell: Callable[[str], None]) -> Ticket:
        """The ticket with which `translate` calls `tell` with the translation of the text so far, whole each time. A text with
        markup, with terms, or with protected spans for which the model has no placeholders is not told before it is whole."""
        if options.markup or options.terminology:
            return Ticket()
        lines = list(_lines(text, options.split_lines))
        texts = [line.text if has_words(line.text) else "" for line in lines]
        of_lines = self.translator.protected_pieces(
            texts, self._protection, **self._options, split_sentences=_splitting(options)
        )
        pieces = [(line, place, piece) for line, of_line in enumerate(of_lines) for place, piece in enumerate(of_line)]
        if any(span.placeholder is None for _, _, piece in pieces for span in piece.spans):
            return Ticket()  # some of it may be searched twice
        decoded = [list(map(_kept_text, of_line)) or [line.text] for line, of_line in zip(lines, of_lines, strict=True)]
        searched = [each for each in pieces if not each[2].is_kept]

        def hear(number: int, tokens: np.ndarray) -> None:
            line, place, piece = searched[number]
            decoded[line][place] = piece.grown(piece.piece.written(self.translator.tokenizer.decode([tokens])[0]))
            parts = [" ".join(filter(None, of_line)) for of_line in decoded]
            whole = "".join(line.before + part + line.after for line, part in zip(lines, parts, strict=True))
            tell(whole.rstrip() if parts[-1:] == [""] else whole)

        return Ticket(hear)

    def _translate_markup(self, texts: Sequence[str], options: TextOptions, ticket: Ticket) -> list[ServedText]:
        if options.alternatives or options.words:
            raise BadRequest("alternatives and words are of a text without markup; ask for them with format text")
        found = self._sharing(ticket).translate_markup(
            texts,
            options.markup,
            ignore_tags=options.ignore_tags,
            splitting_tags=options.splitting_tags,
            non_splitting_tags=options.non_splitting_tags,
            terminology=options.terminology,
            protect=self._protection,
            split_sentences=_splitting(options),
            nbest=1,
            **self._options,
        )
        return [ServedText(each.text) for each in found]

    def _translate_text(self, texts: Sequence[str], options: TextOptions, ticket: Ticket) -> list[ServedText]:
        of_texts = [list(_lines(text, options.split_lines)) for text in texts]
        found = iter(
            self._sharing(ticket).translate(
                [line.text for lines in of_texts for line in lines if has_words(line.text)],
                terminology=options.terminology,
                protect=self._protection,
                split_sentences=_splitting(options),
                nbest=options.alternatives + 1,
                align="complete" if options.words and self._aligns else False,
                **self._options,
            )
        )
        return [
            self._served(lines, [next(found) if has_words(line.text) else _unchanged(line.text) for line in lines], options)
            for lines in of_texts
        ]

    def _sharing(self, ticket: Ticket) -> Translator:
        return self.translator.sharing(self.search, ticket)

    def _served(self, lines: Sequence[_Line], found: Sequence[Translation], options: TextOptions) -> ServedText:
        def whole(texts: Sequence[str]) -> str:
            return "".join(line.before + text + line.after for line, text in zip(lines, texts, strict=True))

        best = [one.text for one in found]
        most = max((len(one.others) for one in found), default=0)
        ranks = [[one.others[rank].text if rank < len(one.others) else one.text for one in found] for rank in range(most)]
        text = whole(best)
        alternatives = [other for other in dict.fromkeys(map(whole, ranks)) if other != text]
        confidence = found[0].confidence if [one.parts for one in found] == [1] else None
        words = tuple(self._words(lines, found)) if options.words else ()
        return ServedText(text, tuple(alternatives[: options.alternatives]), confidence, words)

    def _words(self, lines: Sequence[_Line], found: Sequence[Translation]) -> Iterator[ServedWord]:
        source_start = target_start = 0
        for line, one in zip(lines, found, strict=True):
            source_start, target_start = source_start + len(line.before), target_start + len(line.before)
            sources, targets = _word_places(line.text, source_start), _word_places(one.text, target_start)
            probabilities = _probabilities(one, self.translator.tokenizer.words(one.tokens), len(targets))
            for number, (start, end) in enumerate(targets):
                linked = tuple(sources[s] for s, t in one.alignment or () if t == number)
                yield ServedWord(start, end, linked, probabilities[number])
            source_start += len(line.text) + len(line.after)
            target_start += len(one.text) + len(line.after)


def _told(error: UserError) -> BadRequest:
    """The error, for somebody who has given no flags."""
    return BadRequest(re.sub(r"--markup=\w+: ", "", str(error)))


def _unchanged(text: str) -> Translation:
    """The translation of what has no words; each part of it comes from itself."""
    links = tuple((number, number) for number in range(len(text.split())))
    return empty_translation(True)._replace(text=text, alignment=links)


def _kept_text(piece: ProtectedPiece) -> str:
    """What of a piece is there before the search: all of one that has nothing to translate, nothing of another."""
    return "".join(chunk.text for chunk in piece.kept_chunks()) if piece.is_kept else ""


def _splitting(options: TextOptions) -> str:
    return "always" if options.split_sentences else "long"


def _lines(text: str, split_lines: bool) -> Iterator[_Line]:
    """The lines of a text, or where a line break ends no sentence its paragraphs, with spaces for the breaks in them. Put
    together they are the text (but for these breaks)."""
    start = 0
    ends = [match.end() for match in (_BREAK if split_lines else _PARAGRAPH).finditer(text)]
    for end in [*ends, len(text)]:
        line, start = text[start:end], end
        if line:
            bare = line.strip()
            before = line[: len(line) - len(line.lstrip())] if bare else line
            after = line[len(before) + len(bare) :]
            yield _Line(before, bare if split_lines else _BREAK.sub(" ", bare), after)


def _word_places(text: str, start: int) -> list[tuple[int, int]]:
    """Where the words of a text are, as `str.split` finds them, if it begins at `start`."""
    return [(start + word.start(), start + word.end()) for word in re.finditer(r"\S+", text)]


def _probabilities(translation: Translation, words: np.ndarray, count: int) -> list[float]:
    """The probability of each of `count` words: the product of those of its tokens, whose words are `words`. Where tokens do
    not say which words they are, each has the mean of all tokens; what no model has written is certain."""
    log_probs = np.array(translation.token_log_probs, np.float64)
    inside = words >= 0
    if count and (not inside.any() or words.max() + 1 != count):
        return [float(np.exp(log_probs.mean())) if len(log_probs) else 1.0] * count
    return np.exp(np.bincount(words[inside], log_probs[inside], minlength=count)).tolist()
