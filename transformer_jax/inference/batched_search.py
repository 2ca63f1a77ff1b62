"""Search over any number of pieces: grouped by length, searched on the devices, and returned in the order they came.

On a CPU groups are searched side by side, a thread each: 1,000 captions take 3.5 s with beam 4 on two cores, and 5.1 s one
group after the other (2.4 million parameters, float32), since few operations of a step are large enough for two cores.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.hypotheses import Hypotheses
from transformer_jax.distributed import collectives
from transformer_jax.distributed.rows_over_devices import over_rows
from transformer_jax.errors import UserError, memory_advice
from transformer_jax.inference.length_batches import RowGroup, search_groups
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.model_search import make_model_search
from transformer_jax.inference.phrases import Phrase, has_phrases
from transformer_jax.inference.search_rows import beam_of, deal, pack_rows
from transformer_jax.inference.side_by_side import map_side_by_side
from transformer_jax.models.random_keys import seed_words
from transformer_jax.platform import fewest_hypotheses, search_positions, searches_at_once
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Candidate", "Searcher", "candidates_of", "positions_at_once"]


class Candidate(NamedTuple):
    """One translation of a piece."""

    ids: list[int]  # EOS included where the model gave one
    log_prob: float  # the sum over its tokens, EOS included
    score: float  # what the search ranked by
    token_log_probs: list[float]  # of each of the ids


def positions_at_once(options: SearchOptions) -> int:
    """How many positions a batch of all local devices has, those of every hypothesis counted."""
    return options.tokens or search_positions()


class Searcher:
    """A model's search over any number of pieces. The rows of a batch are shared by all local devices.

    `max_positions` is how many places of a row the model has a position for.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, max_positions: int):
        self._tokenizer = tokenizer
        self._max_positions = max_positions
        self._search = over_rows(make_model_search(model, tokenizer))
        self._known: set[Hashable] = set()  # kinds of groups whose programs have been made

    def search(
        self,
        params: Any,
        pieces: Sequence[Piece],
        options: SearchOptions,
        between: Callable[[], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Candidate]]:
        """For each piece `options.nbest` translations, best first (of samples: as they were drawn), or fewer if there are not
        so many. Each begins with its piece's prefix, and has all its piece's phrases.

        Pieces are searched without their phrases first. Those whose translations do not all have them are searched once more,
        with the phrases and a beam that is wide enough for these (`beam_of`), and the best of both searches that have all
        phrases are returned: no score is lower than that of a translation which has them without being made to.

        Where there are several processes, all of them must come here, with the same pieces, and each works through a part of
        the batches; `between` is called between two, and `progress` after each, with the number of pieces that have been
        translated (where there are several processes, about). Raises UserError for a prefix or phrase that is too long for the
        model.
        """
        done = 0

        def count(of_batch: list[list[Candidate]]) -> None:
            nonlocal done
            done += sum(map(bool, of_batch)) * jax.process_count()  # the others have as many batches
            progress(min(done, len(pieces)))

        for piece in pieces:
            self._require_room(piece)
            if options.shortlist and (piece.prefix.size or piece.phrases):
                raise UserError("shortlist is for translations without prefixes, phrases and terms; leave it at 0")
        without = [piece._replace(phrases=()) for piece in pieces]
        results = self._search_once(params, without, options, between, count if progress else None)
        having = [self._having(piece.phrases, candidates) for piece, candidates in zip(pieces, results, strict=True)]
        again = [i for i, candidates in enumerate(results) if len(having[i]) < len(candidates)]
        constrained = self._search_once(params, [pieces[i] for i in again], options, between) if again else []
        for i, candidates in zip(again, constrained, strict=True):
            results[i] = _best_of(having[i], candidates, options.nbest)
        return results

    def _require_room(self, piece: Piece) -> None:
        sizes = [("prefix", piece.prefix.size), *(("phrase", phrase.size) for phrase in piece.phrases)]
        for what, size in sizes:
            if size >= self._max_positions:
                raise UserError(f"a {what} of {size} tokens is too long for model.max_positions={self._max_positions}")

    def _having(self, phrases: Sequence[Phrase], candidates: list[Candidate]) -> list[Candidate]:
        """Those that have all phrases."""
        if not phrases:
            return candidates
        texts = self._tokenizer.decode([candidate.ids for candidate in candidates])
        pairs = zip(candidates, texts, strict=True)
        return [candidate for candidate, text in pairs if candidate.ids and has_phrases(text, phrases)]

    def _search_once(
        self,
        params: Any,
        pieces: Sequence[Piece],
        options: SearchOptions,
        between: Callable[[], None] | None,
        after: Callable[[list[list[Candidate]]], None] | None = None,
    ) -> list[list[Candidate]]:
        """One search of every piece. `after` is called after each batch, with its results."""
        results: list[list[Candidate]] = [[] for _ in pieces]
        # Pieces of one beam together, those with phrases apart from those without: a translation depends on its piece alone.
        kinds = [(bool(piece.phrases), beam_of(piece.phrases, options)) for piece in pieces]
        for kind in sorted(set(kinds)):
            of_kind = [i for i, each in enumerate(kinds) if each == kind]
            of_beam, lengths = dataclasses.replace(options, beam=kind[1]), {i: len(pieces[i].ids) for i in of_kind}
            # Few translations are much longer than their sources. The others begin anew, as if their sources were longer: with
            # more room, in programs that longer sources have as well. What is still too long then is an exception, for which
            # fewer programs count more than how far the source is padded.
            growth = 2
            while lengths:
                left = list(lengths)
                rows = [pieces[i] for i in left]
                found = self._search_groups(params, rows, list(lengths.values()), of_beam, len(of_kind), between, after)
                for i, (candidates, length) in zip(left, found, strict=True):
                    results[i] = candidates
                    if candidates:
                        del lengths[i]
                    else:
                        enough = max(_with_room_for(_most_tokens(pieces[i], options)), length + 1)
                        lengths[i] = min(growth * max(length, pieces[i].prefix.size), enough)
                growth = 4
        return results

    def _search_groups(
        self,
        params: Any,
        pieces: Sequence[Piece],
        lengths: Sequence[int],
        options: SearchOptions,
        of: int,
        between: Callable[[], None] | None,
        after: Callable[[list[list[Candidate]]], None] | None,
    ) -> list[tuple[list[Candidate], int]]:
        """One search of pieces of one kind, as if their sources had these lengths: of each its translations, none where there
        was too little room, and the length that it was padded to. They are all or the last ones `of` so many pieces."""
        hypotheses = options.nbest if options.temperature else options.beam
        tokens, least = positions_at_once(options) // hypotheses, -(-fewest_hypotheses() // hypotheses)
        workers = searches_at_once()
        devices = jax.local_device_count()
        groups = list(search_groups(lengths, tokens, devices, jax.process_count() * workers, least * devices, of))

        def search(group: RowGroup) -> list[list[Candidate]]:
            hypotheses = self._search_group(params, [pieces[i] for i in group.numbers], group, options)
            return candidates_of(hypotheses)

        def search_and_tell(group: RowGroup) -> list[list[Candidate]]:
            candidates = search(group)
            if after:
                after(candidates)
            return candidates

        if workers > 1 and len(groups) > 1:
            kinds = [(*group[1:], options) for group in groups]
            found = map_side_by_side(search, groups, kinds, self._known, workers, between, after)
        else:
            found = collectives.map_over_processes(search_and_tell, groups, between)
        results: list[tuple[list[Candidate], int]] = [([], 0) for _ in pieces]
        for group, of_group in zip(groups, found, strict=True):
            for i, candidates in zip(group.numbers, of_group, strict=True):
                # Another process's have come as lists.
                results[i] = [Candidate(*fields) for fields in candidates], group.length
        return results

    def _search_group(self, params: Any, pieces: Sequence[Piece], group: RowGroup, options: SearchOptions) -> Hypotheses:
        """Search over the rows of a group. For few shapes, they are filled up with empty rows, which cost nothing."""
        tokenizer, devices = self._tokenizer, jax.local_device_count()
        length = min(group.length, self._max_positions)
        packed = pack_rows(pieces, length, self._max_positions, tokenizer, options)
        rows, places = deal(packed.rows, group.room, devices)
        advice = (
            f"lower decode.tokens={positions_at_once(options)} (--decode_tokens of translate.py and evaluate.py) or the beam"
        )
        with memory_advice(advice):
            hypotheses = self._search(
                (params, seed_words(options.seed)),
                rows,
                options=options.compiled(),
                slots=group.slots // devices,
                length=packed.short_length,
                max_length=packed.max_length,
            )
            return jax.tree.map(lambda x: x[places], jax.device_get(hypotheses))


def _most_tokens(piece: Piece, options: SearchOptions) -> int:
    """So many tokens a translation may have, or a few less."""
    phrases = sum(phrase.size for phrase in piece.phrases)
    return int(options.max_length_ratio * len(piece.ids)) + options.max_length_extra + piece.prefix.size + phrases


def _with_room_for(tokens: int) -> int:
    """The length of sources for which `pack_rows` has room for so many tokens: a quarter more than that."""
    return -(-tokens * 4 // 5) + 1


def candidates_of(hypotheses: Hypotheses) -> list[list[Candidate]]:
    """Those of each row, the first even if it is empty; none of a row that was cut."""
    *columns, cut = hypotheses
    return [
        []
        if row_cut
        else [
            Candidate(tokens[:size].tolist(), float(log_prob), float(score), token_log_probs[:size].tolist())
            for rank, (tokens, size, log_prob, score, token_log_probs) in enumerate(zip(*row, strict=True))
            if size or not rank
        ]
        for row_cut, *row in zip(cut, *columns, strict=True)
    ]


def _best_of(some: list[Candidate], others: list[Candidate], count: int) -> list[Candidate]:
    """The best of both, each once."""
    both = {tuple(candidate.ids): candidate for candidate in (*others, *some) if candidate.ids}
    return sorted(both.values(), key=lambda candidate: -candidate.score)[:count] or others
