"""A request's way into an open search."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from transformer_jax.config import SearchOptions
from transformer_jax.inference.batched_search import Candidate, Searcher
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.open_search import OpenSearch
from transformer_jax.inference.search_queue import Left, Ticket

__all__ = ["SharedSearcher"]


class SharedSearcher(Searcher):
    """A `Searcher` whose pieces go into an open search that others share, on behalf of one request.

    Pieces that the open search is not for are searched by themselves, one request at a time: those with a prefix, with phrases
    that their translation does not have by itself, with other options of search, and those longer than `OpenSearch.longest`.
    """

    def __init__(self, alone: Searcher, shared: OpenSearch, ticket: Ticket):
        self.__dict__.update(alone.__dict__)
        self._shared, self._ticket = shared, ticket

    def _search_once(
        self,
        params: Any,
        pieces: Sequence[Piece],
        options: SearchOptions,
        between: Callable[[], None] | None,
        after: Callable[[list[list[Candidate]]], None] | None = None,
    ) -> list[list[Candidate]]:
        shared = [i for i, piece in enumerate(pieces) if self._can_share(piece, options)]
        results: list[list[Candidate]] = [[] for _ in pieces]
        found = self._shared.search([pieces[i] for i in shared], options.nbest, self._ticket, shared)
        alone = sorted(set(range(len(pieces))) - set(shared))
        if alone:
            with self._shared.alone:
                if self._ticket.has_left:
                    raise Left
                rest = super()._search_once(params, [pieces[i] for i in alone], options, between, after)
            shared, found = [*shared, *alone], [*found, *rest]
        for i, candidates in zip(shared, found, strict=True):
            results[i] = candidates
        return results

    def _can_share(self, piece: Piece, options: SearchOptions) -> bool:
        own = self._shared.options
        # How many are wanted may differ, and what does not concern one piece's search.
        names = ("nbest", "split_sentences", "capitals", "spelling", "tokens", "alignment_layer", "seed")
        free = {name: getattr(own, name) for name in names}
        if options.nbest > own.nbest or dataclasses.replace(options, **free) != own:
            return False
        return len(piece.ids) <= self._shared.longest and not piece.prefix.size and not piece.phrases
