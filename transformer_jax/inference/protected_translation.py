"""The translation of lines with protected spans, from the search of their pieces to the lines' translations."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.inference.line_pieces import Piece, PieceMaker, with_prefixes_and_phrases
from transformer_jax.inference.phrases import Phrase
from transformer_jax.inference.protected_spans import ProtectedPiece, Protection
from transformer_jax.inference.span_placement import needs_links, ranges_of
from transformer_jax.inference.terminology import Terminology
from transformer_jax.inference.translation import Translation, empty_translation, join_pieces
from transformer_jax.tokenization.placeholders import PLACEHOLDERS
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["NeedsPlaceholders", "Requirements", "WithLinks", "how_spans_are_placed", "translate_protected"]

log = logging.getLogger(__name__)

Search = Callable[[list[Piece]], list[Translation]]
WithLinks = Callable[[list[Piece], list[Translation]], list[Translation]]  # adds word alignments to translations of pieces


class NeedsPlaceholders(UserError):
    """A model that was trained without placeholders is asked for what only one with them can do."""


class Requirements(NamedTuple):
    """What the translations must have: as the arguments of `Translator.translate`."""

    prefixes: Sequence[str]
    complete_words: bool
    phrases: Sequence[Sequence[str]]
    phrase_ends: str
    terms: Terminology | None


def translate_protected(
    protection: Protection,
    lines: Sequence[str],
    maker: PieceMaker,
    options: SearchOptions,
    required: Requirements,
    search: Search,
    search_again: Search,
    align: WithLinks | None,
    align_completely: WithLinks | None,
) -> list[Translation]:
    """`Translator.translate` of lines with protected spans: each comes out as it is, once. `search` translates pieces,
    `search_again` some of them once more; `align` makes the alignments that were asked for (None: none), and `align_completely`
    those that say where spans belong which have no placeholder (None: the model has no attention to the source).

    Raises NeedsPlaceholders where a model without them should keep prefixes, phrases or terms, too, and UserError as `search`
    does.
    """
    tokenizer = maker.tokenizer
    masked = protection.masked(lines)
    of_lines = protection.pieces(masked, maker, options)
    if not tokenizer.placeholder_ids and any(line.spans for line in masked):
        _require_no_rules(required)
        if protection.warns:
            _warn_once(how_spans_are_placed(tokenizer, align_completely is not None))
    of_lines = _with_requirements(protection, of_lines, required, options, maker)
    sought = [each for of_line in of_lines for each in of_line if not each.is_kept]
    found = search([each.piece for each in sought])
    sought, found = _again_without(protection, sought, found, search_again, maker)
    put = iter(_put_back(protection, sought, found, align, align_completely))
    translations = []
    for line, of_line in zip(masked, of_lines, strict=True):
        parts = [_kept(each, options, align is not None) if each.is_kept else next(put) for each in of_line]
        pieces = [each.piece._replace(span=each.original) for each in of_line]
        words = protection.words(line, tokenizer) if align and len(parts) > 1 else None
        joined = join_pieces(line.line, pieces, parts, options, tokenizer, words) if parts else empty_translation(bool(align))
        translations.append(joined)
    return translations


def _again_without(
    protection: Protection,
    pieces: list[ProtectedPiece],
    found: list[Translation],
    search: Search,
    maker: PieceMaker,
) -> tuple[list[ProtectedPiece], list[Translation]]:
    """Pieces and translations, where those that do not have all that the model saw as text are translated again without it."""
    missing = [each.not_copied(one.text, protection.patterns) for each, one in zip(pieces, found, strict=True)]
    places = [i for i, each in enumerate(pieces) if any(each.spans[n].start < each.spans[n].end for n in missing[i])]
    if not places:
        return pieces, found
    again = {i: pieces[i].without(missing[i], maker) for i in places}
    second = iter(search([each.piece for each in again.values()]))
    return [again.get(i, each) for i, each in enumerate(pieces)], [
        next(second) if i in again else one for i, one in enumerate(found)
    ]


def _with_requirements(
    protection: Protection,
    of_lines: Sequence[Sequence[ProtectedPiece]],
    required: Requirements,
    options: SearchOptions,
    maker: PieceMaker,
) -> list[list[ProtectedPiece]]:
    """The pieces with their prefixes and phrases, in which spans are placeholders, and with the placeholders that a search must
    place. Where tokens are drawn, those that are missing are put in afterwards."""
    prefixes, phrases = list(required.prefixes), [list(texts) for texts in required.phrases]
    for number, of_line in enumerate(of_lines):
        if of_line and of_line[0].spans:
            prefixes[number] = protection.in_target(prefixes[number], of_line[0])
            phrases[number] = [protection.in_target(text, of_line[0]) for text in phrases[number]]
    rules = prefixes, required.complete_words, phrases, required.phrase_ends, required.terms
    pieces = [[each.piece for each in of_line] for of_line in of_lines]
    rest = iter(with_prefixes_and_phrases(maker, pieces, *rules))
    searches = not options.candidates().temperature
    return [[_with_placeholders(each, next(rest), maker.tokenizer, searches) for each in of_line] for of_line in of_lines]


def _with_placeholders(each: ProtectedPiece, piece: Piece, tokenizer: Tokenizer, searches: bool) -> ProtectedPiece:
    has_rules = bool(piece.prefix.size or piece.phrases)
    if has_rules and any(span.placeholder is None for span in each.spans):
        most = len(tokenizer.placeholder_ids)
        raise UserError(
            f"{each.original.text[:40]!r}...: has {len(each.spans)} protected spans; with a prefix, phrases or terms a "
            f"sentence may have {most}"
        )
    demanded = [_phrase(span.placeholder, tokenizer) for span in each.spans if span.placeholder is not None]
    piece = piece._replace(phrases=[*piece.phrases, *demanded]) if searches else piece
    return each._replace(piece=piece, is_kept=each.is_kept and not has_rules)


def _phrase(number: int, tokenizer: Tokenizer) -> Phrase:
    ids = np.array([tokenizer.placeholder_ids[number]], np.int32)
    return Phrase(PLACEHOLDERS[number], ids, ids[:0], False, False)


def _put_back(
    protection: Protection,
    pieces: Sequence[ProtectedPiece],
    found: list[Translation],
    align: WithLinks | None,
    align_completely: WithLinks | None,
) -> list[Translation]:
    """The translations with their spans, and with alignments if they are asked for."""
    if align and pieces:
        found = align([each.piece for each in pieces], found)
    placed = list(found)  # with the links that say where spans belong
    places = [i for i, each in enumerate(pieces) if _lacks_a_place(each, found[i])] if align_completely else []
    some = align_completely([pieces[i].piece for i in places], [found[i] for i in places]) if places else []
    for i, translation in zip(places, some, strict=True):
        placed[i] = translation

    def restored(each: ProtectedPiece, translation: Translation, linked: Translation) -> Translation:
        return protection.put_back(each, translation, linked.alignment or ()) if each.spans else translation

    return [
        restored(each, best, linked)._replace(others=tuple(map(functools.partial(restored, each), best.others, linked.others)))
        for each, best, linked in zip(pieces, found, placed, strict=True)
    ]


def _lacks_a_place(each: ProtectedPiece, translation: Translation) -> bool:
    return any(needs_links(each.spans, one.text) for one in (translation, *translation.others))


def _kept(each: ProtectedPiece, options: SearchOptions, align: bool) -> Translation:
    """The translation of a piece that has nothing to translate: its text, with its numbers as they come out."""
    chunks = each.kept_chunks()
    text, protected = "".join(chunk.text for chunk in chunks), tuple(ranges_of(chunks).values())
    links = tuple((i, i) for i in range(len(text.split()))) if align else None
    kept = Translation(text, 0.0, 0.0, (), alignment=links, protected=protected)
    # Samples of a line's pieces belong together, the first of each, the second, and so on.
    return kept._replace(others=(kept,) * (options.nbest - 1)) if options.temperature and not options.mbr else kept


def _require_no_rules(required: Requirements) -> None:
    if any(map(str.strip, required.prefixes)) or any(required.phrases) or required.terms:
        raise NeedsPlaceholders(
            "--protect and --numbers go with prefixes, phrases and terms only in a run that was trained with placeholders (the "
            "option placeholders=0.1 of a source of data.train); this one was not"
        )


def how_spans_are_placed(tokenizer: Tokenizer, aligns: bool) -> str:
    """In words, for the log: how spans get to their places in the translations of a model, which may align words."""
    if tokenizer.placeholder_ids:
        return "this run was trained with placeholders: the model writes one for each span of --protect"
    where = (
        "beside the translation of their neighbours where it does not copy them"
        if aligns
        else "in about their place in the line where it does not copy them"
    )
    return f"this run was trained without placeholders: spans of --protect are put {where}"


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)
