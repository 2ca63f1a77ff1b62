"""Translation of lines in which some spans come out as they are (`tokenization.span_patterns`).

    line        See https://example.org for 3 dogs.
    masked      See * for * dogs.                      spans are one sign each while the line is cut into pieces
    seen        See ⟦1⟧ for ⟦2⟧ dogs.                  a piece as a model with placeholders sees it
    translated  Siehe ⟦1⟧ für ⟦2⟧ Hunde.               each once: the search demands them and forbids others
    put back    Siehe https://example.org für 3 Hunde.

A model without placeholders sees the spans' text, and so does any model of those after the eighth of a piece. A piece whose
translation does not have them all as they are is translated once more without those: they stand beside the translation of the
word that they stood by. Spans with which a piece would be too long are left out at once.
"""

import collections
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from transformer_jax.config import Config, SearchOptions
from transformer_jax.data.typing_errors import word_number
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import Links
from transformer_jax.inference.line_pieces import Piece, PieceMaker
from transformer_jax.inference.number_formats import NUMBERS, NumberRewriter, number_rewriter
from transformer_jax.inference.sentences import Span
from transformer_jax.inference.span_placement import Chunk, SeenSpan, moved_links, ranges_of, with_spans
from transformer_jax.inference.translation import LineWords, Translation
from transformer_jax.tokenization.normalization import word_numbers
from transformer_jax.tokenization.placeholders import PLACEHOLDER_TEXT, PLACEHOLDERS
from transformer_jax.tokenization.span_patterns import FoundSpan, SpanPatterns, find_spans, read_patterns
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["LineSpan", "MaskedLine", "ProtectedPiece", "Protection", "protection_of"]

_AFTER_NO_SPACE = frozenset(" .,;:!?\u2026)")
_KEPT = ""  # the name of a span whose place was named
_SIGNS = [range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)]  # private characters: hardly in any text


class LineSpan(NamedTuple):
    """A span of a line."""

    text: str
    written: str  # as it comes out
    is_found: bool  # by the patterns; else the caller has named its place


class MaskedLine(NamedTuple):
    """A line with one sign for each of its spans."""

    line: str
    sign: str  # a character that the line does not have
    masked: str
    spans: tuple[LineSpan, ...]

    def restored(self, masked: str, texts: Sequence[str]) -> str:
        """A part of the masked line with these texts for its signs."""
        rest = iter(texts)
        return "".join(next(rest) if character == self.sign else character for character in masked)


class ProtectedPiece(NamedTuple):
    """A piece of a line with its spans."""

    piece: Piece  # as the model sees it
    original: Span  # as the line has it
    line_spans: tuple[LineSpan, ...] = ()
    between: tuple[str, ...] = ()  # the text before, between and after these
    spans: tuple[SeenSpan, ...] = ()  # the same, as the model sees them
    is_kept: bool = False  # is there nothing to translate outside of the spans?

    def without(self, left_out: Collection[int], maker: PieceMaker) -> "ProtectedPiece":
        """The piece of which the model does not see the spans of these numbers."""
        text, spans = _seen(self.between, self.line_spans, len(maker.tokenizer.placeholder_ids), left_out)
        there = [span for span in spans if span.start < span.end]
        words = [range(word_number(text, span.start), word_number(text, span.end - 1) + 1) for span in there]
        kept = tuple(itertools.chain.from_iterable(words))
        piece = self.piece._replace(span=self.piece.span._replace(text=text), kept=kept)
        return self._replace(piece=maker.encode([piece])[0], spans=spans)

    def not_copied(self, translation: str, patterns: SpanPatterns) -> list[int]:
        """The numbers of the spans that the model does not see, or saw and did not copy: where the translation has some of
        equal ones, all."""
        there = collections.Counter(span.of(translation) for span in find_spans(translation, patterns))
        wanted = collections.Counter(span.text for span in self.spans if span.placeholder is None)
        texts = [(number, span) for number, span in enumerate(self.spans) if span.placeholder is None]
        return [
            number
            for number, span in texts
            if span.start == span.end
            or (there[span.text] if span.is_found else translation.count(span.text)) < wanted[span.text]
        ]

    def grown(self, translation: str) -> str:
        """A translation that may be unfinished, with the spans for their placeholders, where each has one."""
        written = {PLACEHOLDERS[span.placeholder]: span.written for span in self.spans if span.placeholder is not None}
        return PLACEHOLDER_TEXT.sub(lambda match: written.get(match[0], match[0]), translation)

    def kept_chunks(self) -> list[Chunk]:
        """The piece as it comes out if it is kept: its text, with its spans as they are written."""
        chunks = self.source_chunks()
        return [chunk if chunk.span is None else chunk._replace(text=self.spans[chunk.span].written) for chunk in chunks]

    def source_chunks(self) -> list[Chunk]:
        """How what the model sees becomes the original, with the spaces that went with spans that are left out."""
        chunks, at = [], 0
        for number, (before, span) in enumerate(zip(self.between, self.spans, strict=False)):
            chunks += [Chunk(before, at, span.start), Chunk(span.text, span.start, span.end, number)]
            at = span.end
        return [*chunks, Chunk(self.between[-1], at, len(self.piece.span.text))]


class Protection(NamedTuple):
    """What is protected in the lines of a call, or of many."""

    patterns: SpanPatterns
    rewriter: NumberRewriter | None  # how numbers come out; None: as they are
    kept: Sequence[Sequence[tuple[int, int]]] = ()  # for each line the places of further spans; (): none
    warns: bool = True  # does the log say, once, how spans get to their places in a run that was trained without placeholders?

    def masked(self, lines: Sequence[str]) -> list[MaskedLine]:
        """Each line with a sign for each of its spans."""
        return [self._masked(line, kept) for line, kept in zip(lines, self.kept or [()] * len(lines), strict=True)]

    def _masked(self, line: str, kept: Sequence[tuple[int, int]]) -> MaskedLine:
        found = [FoundSpan(*place, _KEPT) for place in kept if place[0] < place[1]]
        for start, end in zip([0, *(span.end for span in found)], [*(span.start for span in found), len(line)], strict=True):
            found += [span for span in find_spans(line[:end], self.patterns, start)]
        sign = next(chr(code) for codes in _SIGNS for code in codes if chr(code) not in line) if found else ""
        parts, spans, at = [], [], 0
        for span in sorted(found):
            text = span.of(line)
            written = self.rewriter.rewritten(text) if self.rewriter and span.name == "number" else text
            parts += [line[at : span.start], sign]
            spans.append(LineSpan(text, written, span.name != _KEPT))
            at = span.end
        return MaskedLine(line, sign, "".join([*parts, line[at:]]), tuple(spans))

    def pieces(self, lines: Sequence[MaskedLine], maker: PieceMaker, options: SearchOptions) -> list[list[ProtectedPiece]]:
        """The pieces of each line, as `PieceMaker.pieces` has them. Raises UserError as that does."""
        of_lines = maker.pieces([line.masked for line in lines], options)
        longest = maker.max_positions
        if options.split_sentences != "never":
            longest = min(longest, maker.config.batch.max_length)
        return [list(_protected(line, pieces, maker, longest)) for line, pieces in zip(lines, of_lines, strict=True)]

    def in_target(self, text: str, piece: ProtectedPiece) -> str:
        """A text that a translation must have, with placeholders for those of its spans that the piece has."""
        left = {span.placeholder: {span.text, span.written} for span in piece.spans if span.placeholder is not None}
        parts, at = [], 0
        for found in find_spans(text, self.patterns):
            number = next((number for number, texts in left.items() if found.of(text) in texts), None)
            if number is not None:
                del left[number]
                parts += [text[at : found.start], PLACEHOLDERS[number]]
                at = found.end
        return "".join([*parts, text[at:]])

    def words(self, line: MaskedLine, tokenizer: Tokenizer) -> LineWords:
        """The words of a line that is translated in pieces."""
        (seen,) = tokenizer.visible([line.masked])
        shape = [re.sub(r"\S", line.sign, span.text) for span in line.spans]
        numbers = word_numbers(line.restored(line.masked, shape)) if tokenizer.normalizes else None
        return LineWords(line.restored(seen, [span.text for span in line.spans]), numbers)

    def put_back(self, piece: ProtectedPiece, translation: Translation, links: Links) -> Translation:
        """The translation of a piece with its spans. `links` are those between the words of what the model saw and of its
        translation; they say where spans belong that have no placeholder. Its alignment, if it has one, becomes that of the
        result."""
        seen = piece.piece.span.text
        chunks = with_spans(seen, piece.spans, translation.text, links, self.patterns)
        text = "".join(chunk.text for chunk in chunks)
        alignment = translation.alignment
        if alignment is not None:
            alignment = moved_links(alignment, (seen, piece.source_chunks()), (translation.text, chunks))
        texts = {PLACEHOLDERS[span.placeholder]: span.text for span in piece.spans if span.placeholder is not None}
        read = PLACEHOLDER_TEXT.sub(lambda match: texts.get(match[0], match[0]), translation.read)
        return translation._replace(
            text=text, alignment=alignment, protected=tuple(sorted(ranges_of(chunks).values())), read=read
        )


def protection_of(protect: str | Sequence[str] | Protection | None, numbers: str, config: Config) -> Protection | None:
    """The protection that `Translator.translate` is asked for; None where there is none. Numbers that are rewritten are
    protected, too. Raises UserError as `read_patterns` and `number_rewriter` do, and for another value of `numbers`."""
    if isinstance(protect, Protection):
        return protect
    if numbers not in NUMBERS:
        raise UserError(f"--numbers={numbers} should be one of {', '.join(NUMBERS)}")
    values, rewriter = [protect] if isinstance(protect, str) else list(protect or ()), None
    if numbers == "locale":
        values.append("number")
        rewriter = number_rewriter(config.data.source_language, config.data.target_language)
    return Protection(read_patterns(values), rewriter) if values else None


def _protected(line: MaskedLine, pieces: Sequence[Piece], maker: PieceMaker, longest: int) -> Iterator[ProtectedPiece]:
    rest = iter(line.spans)
    for piece in pieces:
        masked = piece.span.text
        own = [next(rest) for character in masked if line.sign and character == line.sign]
        original = piece.span._replace(text=line.restored(masked, [span.text for span in own]))
        if not own:
            yield ProtectedPiece(piece, original)
            continue
        is_kept = not any(map(str.isalpha, masked))
        whole = ProtectedPiece(piece, original, tuple(own), tuple(masked.split(line.sign)), is_kept=is_kept)
        yield whole.without((), maker) if is_kept else _shortened(whole, maker, longest)


def _shortened(piece: ProtectedPiece, maker: PieceMaker, longest: int) -> ProtectedPiece:
    """With at most `longest` tokens if leaving out spans makes it so short."""
    texts = range(len(maker.tokenizer.placeholder_ids), len(piece.line_spans))
    by_length, omitted = sorted(texts, key=lambda number: -len(piece.line_spans[number].text)), 0
    while True:
        shorter = piece.without(by_length[:omitted], maker)
        if omitted >= len(by_length) or len(shorter.piece.ids) <= longest:
            return shorter
        omitted = max(2 * omitted, 1)


def _seen(
    between: Sequence[str], spans: Sequence[LineSpan], placeholders: int, left_out: Collection[int]
) -> tuple[str, tuple[SeenSpan, ...]]:
    """What a model sees of a piece: placeholders for so many of its spans, and the text of the others that are not left out."""
    text, seen, before = "", [], between[0]
    for number, (span, after) in enumerate(zip(spans, between[1:], strict=True)):
        placeholder = number if number < placeholders else None
        shown = PLACEHOLDERS[number] if number < placeholders else "" if number in left_out else span.text
        if not shown and (not after or after[0] in _AFTER_NO_SPACE):
            before = before.rstrip(" ")
        text += before + shown
        seen.append(SeenSpan(span.text, span.written, len(text) - len(shown), len(text), placeholder, span.is_found))
        before = after
    return text + before, tuple(seen)
