"""Ids in, ids out: rows of source ids to batches, search on the devices, and what it found in the order the rows came."""

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax.config import Config, DecodeConfig
from transformer_jax.data.batching import Batch, Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.decoding.beam import Hypotheses, beam_search
from transformer_jax.decoding.constraints import constrained_search, with_phrases
from transformer_jax.decoding.greedy import greedy_search, sample_search
from transformer_jax.decoding.loop import Sentences
from transformer_jax.decoding.rules import TokenTexts, restricted, with_rules
from transformer_jax.distributed import collectives
from transformer_jax.distributed.devices import over_rows
from transformer_jax.errors import UserError, memory_advice
from transformer_jax.inference.alignment import log_coverage, mean_attention, most_attended
from transformer_jax.inference.phrases import Phrase, has_phrases
from transformer_jax.inference.search_rows import Request, beam_of, deal, fewer_positions, make_rows, padded_length
from transformer_jax.models.random_keys import key_of, seed_words
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Found", "Searcher", "positions_at_once"]

_QUEUE = 512  # sentences of one search on each device; those beyond the slots wait for a free one
_PARTS = 8  # this share of the slots is free before it is filled again: each time costs a run of the encoder


class Found(NamedTuple):
    """One translation of a row."""

    ids: list[int]  # EOS included where the model gave one
    log_prob: float  # the sum over its tokens, EOS included
    score: float  # what the search ranked by


def positions_at_once(decode: DecodeConfig) -> int:
    """How many positions a batch of all local devices has, those of every hypothesis counted."""
    # Some hundred rows are enough for the matrix products of a CPU, and what it reads at each step grows with every one.
    return decode.tokens or (4096 if jax.default_backend() == "cpu" else 65_536)


class Searcher:
    """A model's search, and its view of targets that are known, over any number of rows of ids, int [tokens] each, EOS
    included.

    The rows of a batch are shared by all local devices. `params` are the model's (or, of an `Ensemble`, a tuple of them).

    Attributes:
        room: how many places of a row the model has a position for
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, config: Config):
        self._tokenizer = tokenizer
        # Places that the model has a position for: there is no row for others in a table of learned ones.
        self.room = config.model.max_positions if config.model.positions == "learned" else np.iinfo(np.int32).max
        self._most_attended = over_rows(_make_most_attended(model, tokenizer.eos_id))
        self._token_log_probs = over_rows(_make_token_log_probs(model))
        self._search = over_rows(_make_search(model, tokenizer))

    def search(
        self, params: Any, requests: Sequence[Request], decode: DecodeConfig, between: Callable[[], None] | None = None
    ) -> list[list[Found]]:
        """For each row `decode.nbest` translations, best first (of samples: as they were drawn), or fewer if there are not so
        many. Each begins with its row's prefix, and has all its row's phrases.

        Rows are searched without their phrases first. Those whose translations do not all have them are searched once more,
        with the phrases and a beam that is wide enough for these (`beam_of`), and the best of both searches that have all
        phrases are returned: no score is lower than that of a translation which has them without being made to.

        Where there are several processes, all of them must come here, with the same rows, and each works through a part of the
        batches; `between` is called between two. Raises UserError for a prefix or phrase that is too long for the model.
        """
        for request in requests:
            for what, size in (("prefix", request.prefix.size), *(("phrase", phrase.size) for phrase in request.phrases)):
                if size >= self.room:
                    raise UserError(f"a {what} of {size} tokens is too long for model.max_positions={self.room}")
        results = self._search_once(params, [request._replace(phrases=()) for request in requests], decode, between)
        having = [self._having(request.phrases, found) for request, found in zip(requests, results, strict=True)]
        again = [i for i, found in enumerate(results) if len(having[i]) < len(found)]
        constrained = self._search_once(params, [requests[i] for i in again], decode, between) if again else []
        for i, found in zip(again, constrained, strict=True):
            results[i] = _best_of(having[i], found, decode.nbest)
        return results

    def _having(self, phrases: Sequence[Phrase], found: list[Found]) -> list[Found]:
        """Those that have all phrases."""
        if not phrases:
            return found
        texts = self._tokenizer.decode([each.ids for each in found])
        return [each for each, text in zip(found, texts, strict=True) if each.ids and has_phrases(text, phrases)]

    def _search_once(
        self, params: Any, requests: Sequence[Request], decode: DecodeConfig, between: Callable[[], None] | None
    ) -> list[list[Found]]:
        """One search of every row."""

        def of_group(group: tuple[list[int], int, int], beam: int, full_cache: bool) -> list[list[Found]]:
            numbers, length, slots = group
            found = self._search_group(params, [requests[i] for i in numbers], length, slots, beam, full_cache, decode)
            return [
                []
                if cut
                else [
                    Found(tokens[:count].tolist(), float(log_prob), float(score))
                    for k, (tokens, count, log_prob, score) in enumerate(zip(*of_row, strict=True))
                    if count or not k
                ]
                for cut, *of_row in zip(found.cut, *found[:-1], strict=True)
            ]

        results: list[list[Found]] = [[] for _ in requests]
        # Rows of one beam together, those with phrases apart from those without: a translation depends on its row alone.
        kinds = [(bool(request.phrases), beam_of(request.phrases, decode)) for request in requests]
        # Hardly any translation needs all the room that its limit would: those that do are searched for once more.
        for full_cache in (False, True):
            for kind in sorted(set(kinds)):
                left = [i for i, found in enumerate(results) if not found and kinds[i] == kind]
                tokens = positions_at_once(decode) // (decode.nbest if decode.temperature else kind[1])
                tokens = fewer_positions(tokens, decode) if full_cache else tokens
                groups = [
                    ([left[i] for i in numbers], length, slots)
                    for numbers, length, slots in _groups([len(requests[i].source) for i in left], tokens)
                ]
                search = functools.partial(of_group, beam=kind[1], full_cache=full_cache)
                found = collectives.in_turns(search, groups, between)
                for (numbers, *_), of_groups in zip(groups, found, strict=True):
                    for i, of_row in zip(numbers, of_groups, strict=True):
                        results[i] = [Found(*each) for each in of_row]  # another process's have come as lists
        return results

    def token_log_probs(
        self, params: Any, source: list[np.ndarray], target: list[np.ndarray], tokens: int, coverage: bool = False
    ) -> list[tuple[np.ndarray, float]]:
        """log P(y_i | y_1 .. y_{i-1}, x) of every token of every target row, float32 [T] each, and its `log_coverage` (0
        unless it is asked for). Batches of `tokens` positions. Raises UserError if a row is too long for the model."""
        found: list[tuple[np.ndarray, float]] = [None] * len(source)
        function = functools.partial(self._token_log_probs, coverage=coverage)
        for numbers, (rows, covered) in self._known(function, params, source, target, tokens):
            for i, row, of_row in zip(numbers, rows, covered, strict=False):
                found[i] = row[: len(target[i])], float(of_row)
        return found

    def most_attended(
        self, params: Any, source: list[np.ndarray], target: list[np.ndarray], tokens: int
    ) -> list[np.ndarray] | None:
        """`alignment.most_attended` of every row: int32 [L, T or more]; None where there is no attention to the source. Raises
        UserError if a row is too long for the model."""
        found: list[np.ndarray] = [None] * len(source)
        for numbers, rows in self._known(self._most_attended, params, source, target, tokens):
            if rows is None:
                return None
            for i, row in zip(numbers, rows, strict=False):
                found[i] = row
        return found

    def _search_group(
        self,
        params: Any,
        requests: Sequence[Request],
        length: int,
        slots: int,
        beam: int,
        full_cache: bool,
        decode: DecodeConfig,
    ) -> Hypotheses:
        """Search over rows of at most `length` ids, `slots` of them at a time. For few shapes, they are filled up with empty
        rows, which cost nothing. Without a `full_cache`, the search may be cut."""
        tokenizer = self._tokenizer
        length = min(length, self.room)
        rows, longest, usual = make_rows(requests, length, self.room, tokenizer.pad_id, tokenizer.vocab_size, decode)
        devices = jax.local_device_count()
        count = slots if len(requests) <= slots else devices * max(_QUEUE, slots // devices)
        rows, back = deal(rows, count, devices)
        advice = (
            f"lower decode.tokens={positions_at_once(decode)} (--decode_tokens of translate.py and evaluate.py) or the beam"
        )
        with memory_advice(advice):
            found = self._search(
                (params, seed_words(decode.seed)),
                rows,
                slots=slots // devices,
                no_repeat_ngram=decode.no_repeat_ngram,
                beams=beam,
                returned=decode.nbest,
                length=longest if full_cache else usual,
                longest=longest,
                length_penalty=decode.length_penalty,
                coverage_penalty=decode.coverage_penalty,
                temperature=decode.temperature,
                top_k=decode.top_k,
                top_p=decode.top_p,
            )
            return jax.tree.map(lambda x: x[back], jax.device_get(found))

    def _known(
        self, function: Callable[..., Any], params: Any, source: list[np.ndarray], target: list[np.ndarray], tokens: int
    ) -> Iterator[tuple[list[int], Any]]:
        """`function` of batches of these rows of ids, with the numbers of the rows in each."""
        lengths = [max(pair) for pair in zip(map(len, source), map(len, target), strict=True)]
        if max(lengths, default=0) > self.room:
            raise UserError(f"a sentence of {max(lengths)} tokens is too long for model.max_positions={self.room}")
        ids = self._tokenizer.pad_id, self._tokenizer.decoder_start_id
        for numbers, length in _batches(lengths, tokens):
            store = Store.of([source[i] for i in numbers], [target[i] for i in numbers])
            length = min(length, self.room)
            shape = Shape(_filled(len(numbers)), length, length)
            yield numbers, jax.device_get(function(params, bucketed_batch(store, np.arange(len(numbers)), shape, *ids)))


def _best_of(some: list[Found], others: list[Found], count: int) -> list[Found]:
    """The best of both, each once."""
    both = {tuple(each.ids): each for each in (*others, *some) if each.ids}
    return sorted(both.values(), key=lambda each: -each.score)[:count] or others


def _make_search(model: nn.Module, tokenizer: Tokenizer) -> Callable[..., Hypotheses]:
    ids = {"start_id": tokenizer.decoder_start_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    never = tuple({tokenizer.bos_id, tokenizer.unknown_id} - {tokenizer.eos_id})

    def token_texts():
        surfaces = tokenizer.surfaces
        columns = surfaces.begins_with_letter, surfaces.may_precede_word, surfaces.ranks, surfaces.sizes
        return TokenTexts(*map(jnp.asarray, columns))

    def search(
        params_and_seed,
        rows,
        *,
        slots,
        beams,
        returned,
        length,
        longest,
        length_penalty,
        coverage_penalty,
        no_repeat_ngram,
        temperature,
        top_k,
        top_p,
    ):
        params, seed = params_and_seed
        hypotheses = returned if temperature else beams
        rules = no_repeat_ngram or rows.min_length is not None or rows.prefix is not None
        texts = token_texts() if rows.prefix is not None or rows.phrases is not None else None

        def call(method, *args):
            return model.apply({"params": params}, *args, method=method)

        def begin(numbers, index):
            these = jax.tree.map(lambda x: x[numbers], rows)
            position = jnp.broadcast_to(jnp.arange(these.source.shape[1])[None], these.source.shape)
            memory = call("encode", these.source, these.segment, position)
            cache = model.apply({"params": params}, memory, hypotheses, length, method="init_cache")
            each = jax.tree.map(lambda x: jnp.repeat(x, hypotheses, axis=0), these)
            if coverage_penalty:
                cache = cache, jnp.where(each.segment > 0, 0.0, 1.0)
            if rules:
                names = "min_length", "prefix", "prefix_length", "whole", "continuation"
                given = {name: getattr(each, name) for name in names}
                cache = with_rules(cache, length=length, start=index, no_repeat_ngram=no_repeat_ngram, **given)
            if rows.phrases is not None:
                cache = with_phrases(cache, each.phrases)
            return cache, these.limit, (memory, jnp.full(len(numbers), index))

        def step(token, index, cache, memory):
            memory, start = memory
            given = token, index, memory
            start = jnp.repeat(start, hypotheses)
            if not coverage_penalty:
                logits, cache = call("decode_step", *given, cache, start)
                return _log_probs(logits), cache
            cache, covered = cache
            args = {"params": params}, *given, cache, start
            (logits, cache), sown = model.apply(*args, method="decode_step", mutable=["intermediates"])
            looked = mean_attention(sown)  # [B, beams, S]
            return _log_probs(logits), (cache, covered + looked.reshape(covered.shape))

        def coverage(cache):
            return coverage_penalty * log_coverage((cache[0] if rules else cache)[1])

        if rules:
            step = restricted(step, eos_id=tokenizer.eos_id, no_repeat_ngram=no_repeat_ngram, texts=texts)
        sentences = Sentences(begin, len(rows.limit), jnp.sum(rows.limit > 0), slots, max(slots // _PARTS, 1))
        common = dict(length=length, longest=longest, length_penalty=length_penalty, forbidden_ids=never, **ids)
        if temperature:
            chance = dict(key=key_of(seed), numbers=rows.number, temperature=temperature, top_k=top_k, top_p=top_p)
            return sample_search(step, sentences, samples=returned, **chance, **common)
        if beams == 1 and rows.phrases is None:
            return greedy_search(step, sentences, **common)
        beam = beam_search if rows.phrases is None else functools.partial(constrained_search, texts=texts)
        common["bonus"] = coverage if coverage_penalty else None
        return beam(step, sentences, beams=beams, returned=returned, **common)

    return search


def _log_probs(logits: jax.Array) -> jax.Array:
    """[N, V]. As log_softmax, but XLA on CPU does not write them out for it (8 ms of 31 for N = 256, V = 8,000, D = 512)."""
    return logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)


def _make_most_attended(model: nn.Module, eos_id: int) -> Callable[[Any, Batch], jax.Array | None]:
    def look(params: Any, batch: Batch) -> jax.Array | None:
        _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        places = most_attended(sown, batch.source, eos_id)
        return None if places is None else places.swapaxes(0, 1)  # [B, L, T]

    return look


def _make_token_log_probs(model: nn.Module) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def log_probs(params: Any, batch: Batch, *, coverage: bool) -> tuple[jax.Array, jax.Array]:
        logits, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        logits = logits.astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, batch.target_output[:, :, None], axis=2)[:, :, 0]
        covered = jnp.zeros(len(logits))
        if coverage:
            looked = mean_attention(sown) * (batch.target_segment > 0)[:, :, None]
            covered = log_coverage(jnp.where(batch.source_segment > 0, looked.sum(axis=1), 1.0))
        return chosen - jax.nn.logsumexp(logits, axis=2), covered  # [B, T], [B]

    return log_probs


def _groups(lengths: list[int], tokens: int) -> Iterator[tuple[list[int], int, int]]:
    """The numbers of the rows that are searched together, the length they are padded to, and how many of them at a time (as
    many as have `tokens` positions): longest first, so that what is too large for memory shows at once.

    Rows of one padded length are together, with shorter ones where they are fewer than can be searched at a time. Each such
    group is in parts of equal work, for every process one or more.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    padded = [padded_length(lengths[i]) for i in order]
    devices, processes = jax.local_device_count(), jax.process_count()
    start = 0
    while start < len(order):
        slots = _rows_of(padded[start], tokens)
        end = max(start + slots, bisect.bisect_right(padded, -padded[start], key=lambda length: -length))
        if len(order) - end < slots // 2:
            end = len(order)
        of_group = order[start:end]
        parts = -(-len(of_group) // (devices * _QUEUE))
        parts = -(-parts // processes) * processes
        for part in range(min(parts, len(of_group))):
            numbers = of_group[part::parts]
            yield numbers, padded[start], min(slots, _filled(len(numbers)))
        start = end


def _batches(lengths: list[int], tokens: int) -> Iterator[tuple[list[int], int]]:
    """The numbers of the rows of each batch and the length it is padded to: longest first, at most `tokens` positions each."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        length = padded_length(lengths[order[start]])
        rows = _rows_of(length, tokens)
        yield order[start : start + rows], length
        start += rows


def _rows_of(length: int, tokens: int) -> int:
    """How many rows of this length have at most `tokens` positions: a power of two on each device."""
    devices = jax.local_device_count()
    return devices * (1 << (max(tokens // length // devices, 1).bit_length() - 1))


def _filled(rows: int) -> int:
    """A power of two on each device."""
    devices = jax.local_device_count()
    return devices * (1 << (-(-rows // devices) - 1).bit_length())
