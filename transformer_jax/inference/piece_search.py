"""Pieces to translations: those that a search ranks first, or of many candidates those of minimum Bayes risk."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.inference.batched_search import Candidate, Searcher
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.minimum_bayes_risk import most_expected
from transformer_jax.inference.translation import Translation, best_of

__all__ = ["Member", "translate_pieces"]


class Member(NamedTuple):
    """A model that finds candidates: its search, its parameters, and what its candidates count together; of all members this
    adds up to 1."""

    searcher: Searcher
    params: Any
    weight: float = 1.0


def translate_pieces(
    members: Sequence[Member],
    decode: Callable[[Sequence[Sequence[int]]], list[str]],
    pieces: Sequence[Piece],
    options: SearchOptions,
    between: Callable[[], None] | None,
    progress: Callable[[int], None] | None,
) -> list[Translation]:
    """The translation of each piece, with its `others`. Without `options.mbr` there is one member. `decode` makes texts of rows
    of tokens, `between` and `progress` are those of `Searcher.search`. Raises UserError as that does, for phrases where tokens
    are drawn, and where no translation has a piece's phrases."""
    search = options.candidates()
    if search.temperature and any(piece.phrases for piece in pieces):
        way_out = "set --mbr_from=beam" if options.mbr else "leave decode.temperature (--temperature) at 0"
        raise UserError(f"phrases and terms need a search: {way_out}")
    found, translations = _search_all(members, pieces, search, between, progress), []
    for piece, of_members in zip(pieces, zip(*found, strict=True), strict=True):
        # A member that finds nothing has one candidate without tokens.
        candidates = [one for of_member in of_members for one in of_member if one.ids] or of_members[0]
        if piece.phrases and not candidates[0].ids:
            text = piece.span.text
            raise UserError(f"{text!r}: no translation has all its phrases and keeps the other rules; take one away")
        texts = list(map(piece.written, decode([one.ids for one in candidates])))
        if options.mbr:
            shares = _shares([member.weight for member in members], of_members, candidates)
            texts, candidates = most_expected(texts, candidates, options.mbr_metric, options.nbest, shares)
        translations.append(best_of(texts, candidates, piece.read))
    return translations


def _search_all(
    members: Sequence[Member],
    pieces: Sequence[Piece],
    search: SearchOptions,
    between: Callable[[], None] | None,
    progress: Callable[[int], None] | None,
) -> list[list[list[Candidate]]]:
    """What each member finds for each piece. `progress` gets the number of pieces, in proportion where there are several
    members."""
    found, count = [], len(members)

    def after(before: int) -> Callable[[int], None] | None:
        return progress and (lambda done: progress((before + done) // count))

    for number, member in enumerate(members):
        found.append(member.searcher.search(member.params, pieces, search, between, after(number * len(pieces))))
    return found


def _shares(
    weights: Sequence[float], of_members: Sequence[Sequence[Candidate]], candidates: Sequence[Candidate]
) -> list[float]:
    """The share of each of the candidates, which are those of all members that have tokens."""
    counts = [sum(bool(one.ids) for one in of_member) for of_member in of_members]
    shares = np.repeat(weights, counts) / np.repeat(np.maximum(counts, 1), counts)
    return (shares / shares.sum()).tolist() if len(shares) else [1.0] * len(candidates)
