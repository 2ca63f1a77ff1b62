"""Ids in, ids out: rows of source ids to batches, search on the devices, and what it found in the order the rows came."""

import bisect
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax import hosts
from transformer_jax.alignment import log_coverage, mean_attention, most_attended
from transformer_jax.config import Config, DecodeConfig
from transformer_jax.data.batching import Batch, Shape, bucketed_batch, pad_rows
from transformer_jax.data.store import Store
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.decoding.beam import Hypotheses, beam_search
from transformer_jax.decoding.constraints import constrained_search, with_phrases
from transformer_jax.decoding.greedy import greedy_search, sample_search
from transformer_jax.decoding.loop import Sentences
from transformer_jax.decoding.rules import restricted, with_rules
from transformer_jax.errors import UserError, memory_advice
from transformer_jax.rows import over_rows
from transformer_jax.seeds import key_of, seed_words

__all__ = ["Found", "Searcher", "positions_at_once"]

# Source lengths that batches are padded to: few, so that few shapes are compiled.
_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_QUEUE = 512  # sentences of one search on each device; those beyond the slots wait for a free one
_PARTS = 8  # this share of the slots is free before it is filled again: each time costs a run of the encoder


class Found(NamedTuple):
    """One translation of a row."""

    ids: list[int]  # EOS included where the model gave one
    log_prob: float  # the sum over its tokens, EOS included
    score: float  # what the search ranked by


class _Rows(NamedTuple):
    """What a search is told of each sentence."""

    source: np.ndarray  # int32 [B, S]
    segment: np.ndarray  # int32 [B, S]
    limit: np.ndarray  # int32 [B]: tokens at most
    number: np.ndarray  # uint32 [B]: what samples are drawn by
    least: np.ndarray | None  # int32 [B]: tokens at least
    prefix: np.ndarray | None  # int32 [B, P]: what it begins with
    prefix_length: np.ndarray | None  # int32 [B]
    phrases: np.ndarray | None  # int32 [B, P, W]: what must occur in it
    phrase_sizes: np.ndarray | None  # int32 [B, P]


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
        self,
        params: Any,
        rows: list[np.ndarray],
        prefixes: list[np.ndarray],
        phrases: list[list[np.ndarray]],
        decode: DecodeConfig,
        between: Callable[[], None] | None = None,
    ) -> list[list[Found]]:
        """For each row `decode.nbest` translations, best first (of samples: as they were drawn), or fewer if there are not so
        many. Each begins with its row's ids of `prefixes`, and has all its row's `phrases` (neither has an EOS).

        Where there are several processes, all of them must come here, with the same rows, and each works through a part of the
        batches; `between` is called between two. Raises UserError for a prefix or phrase that is impossible.
        """

        def of_group(group: tuple[list[int], int, int], ample: bool) -> list[list[Found]]:
            numbers, length, slots = group
            given = ([of_row[i] for i in numbers] for of_row in (rows, prefixes, phrases))
            found = self._search_group(params, *given, length, slots, ample, decode)
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

        for what, ids in [("prefix", ids) for ids in prefixes] + [("phrase", ids) for of_row in phrases for ids in of_row]:
            if self._tokenizer.unknown_id in ids or len(ids) >= self.room:
                text = " ".join(self._tokenizer.pieces(ids))
                raise UserError(f"{what} {text}: has letters that the model does not know, or is too long for it")
        tokens = positions_at_once(decode) // _hypotheses(decode)
        results: list[list[Found]] = [[] for _ in rows]
        # Hardly any translation needs all the room that its limit would: those that do are searched for once more.
        for ample in (False, True):
            left = [i for i, found in enumerate(results) if not found]
            # Those with phrases apart: theirs is another search, and another's phrases should not change a translation.
            kinds = [[i for i in left if bool(phrases[i]) == has] for has in (False, True)]
            if ample:
                tokens = _fewer(tokens, decode)
            groups = [
                ([kind[i] for i in numbers], length, slots)
                for kind in kinds
                for numbers, length, slots in _groups([len(rows[i]) for i in kind], tokens)
            ]
            found = hosts.in_turns(functools.partial(of_group, ample=ample), groups, between)
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
        rows: list[np.ndarray],
        prefixes: list[np.ndarray],
        phrases: list[list[np.ndarray]],
        length: int,
        slots: int,
        ample: bool,
        decode: DecodeConfig,
    ) -> Hypotheses:
        """Search over rows of at most `length` ids, `slots` of them at a time. For few shapes, they are filled up with empty
        rows, which cost nothing. Where the room is not `ample`, the search may be cut."""
        lengths, sizes = (np.array([len(each) for each in these]) for these in (rows, prefixes))
        length, prefix_room = min(length, self.room), _padded_length(max(sizes)) if max(sizes) else 0
        # A sentence's limits depend on its own length only, never on its batch mates'.
        limits = (decode.max_length_ratio * lengths).astype(np.int32) + decode.max_length_extra
        extra = np.array([sum(map(len, of_row)) for of_row in phrases])
        limits = np.minimum(np.maximum(limits, sizes + 1) + extra, self.room)
        least = (decode.min_length_ratio * lengths).astype(np.int32) + decode.min_length_extra
        longest = int(decode.max_length_ratio * length) + decode.max_length_extra
        width, most = (_power(max(each, default=0)) for each in ([len(p) for ps in phrases for p in ps], map(len, phrases)))
        longest = min(max(longest, prefix_room + 1) + width * most, self.room)
        # The cache has this room for each hypothesis, and every step looks at all of it.
        usual = max(length + max(length // 4, 8), prefix_room + 8) + width * most
        devices = jax.local_device_count()
        count = slots if len(rows) <= slots else devices * max(_QUEUE, slots // devices)
        # As cards are dealt: each device has its share, the empty ones at its end.
        places = np.arange(count).reshape(-1, devices).T.reshape(-1)

        def deal(values: np.ndarray) -> np.ndarray:
            return np.pad(values, [(0, count - len(values)), *[(0, 0)] * (values.ndim - 1)])[places]

        padded = pad_rows(prefixes, prefix_room, self._tokenizer.pad_id) if prefix_room else None
        wanted = np.full((len(rows), most, width), self._tokenizer.pad_id, np.int32)
        for of_row, ids in zip(wanted, phrases, strict=True):
            for place, each in zip(of_row, ids, strict=False):
                place[: len(each)] = each
        wanted_sizes = np.array([[len(p) for p in ps] + [0] * (most - len(ps)) for ps in phrases], np.int32)
        advice = (
            f"lower decode.tokens={positions_at_once(decode)} (--decode_tokens of translate.py and evaluate.py) or the beam"
        )
        with memory_advice(advice):
            found = self._search(
                (params, seed_words(decode.seed)),
                _Rows(
                    deal(pad_rows(rows, length, self._tokenizer.pad_id)),
                    deal((np.arange(length)[None, :] < lengths[:, None]).astype(np.int32)),
                    deal(limits),
                    deal(np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)),
                    deal(np.minimum(least, limits)) if least.any() else None,
                    deal(padded) if prefix_room else None,
                    deal(sizes) if prefix_room else None,
                    deal(wanted) if most else None,
                    deal(wanted_sizes) if most else None,
                ),
                slots=slots // devices,
                no_repeat_ngram=decode.no_repeat_ngram,
                beams=decode.beam,
                returned=decode.nbest,
                length=longest if ample else min(usual, longest),
                longest=longest,
                length_penalty=decode.length_penalty,
                coverage_penalty=decode.coverage_penalty,
                temperature=decode.temperature,
                top_k=decode.top_k,
                top_p=decode.top_p,
            )
            back = np.argsort(places)[: len(rows)]
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


def _hypotheses(decode: DecodeConfig) -> int:
    """Of a sentence, at the same time."""
    return decode.nbest if decode.temperature else decode.beam


def _fewer(tokens: int, decode: DecodeConfig) -> int:
    """`tokens`, or fewer where translations may be longer than by the usual ratio and extra: the memory of a search grows with
    the longest translation of a batch, and should not grow beyond bounds.

    >>> _fewer(4096, DecodeConfig()), _fewer(4096, DecodeConfig(max_length_ratio=1000.0))
    (4096, 12)
    """
    usual, ratio = (each.max_length_ratio + each.max_length_extra / _LENGTHS[0] for each in (DecodeConfig(), decode))
    return int(tokens * min(1, usual / ratio)) if ratio else tokens


def _make_search(model: nn.Module, tokenizer: Tokenizer) -> Callable[..., Hypotheses]:
    ids = {"start_id": tokenizer.decoder_start_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    never = tuple({tokenizer.bos_id, tokenizer.unknown_id} - {tokenizer.eos_id})

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
        rules = no_repeat_ngram or rows.least is not None or rows.prefix is not None

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
                given = dict(min_length=each.least, prefix=each.prefix, prefix_length=each.prefix_length)
                cache = with_rules(cache, length=length, start=index, no_repeat_ngram=no_repeat_ngram, **given)
            if rows.phrases is not None:
                cache = with_phrases(cache, each.phrases, each.phrase_sizes)
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
            step = restricted(step, eos_id=tokenizer.eos_id, no_repeat_ngram=no_repeat_ngram)
        sentences = Sentences(begin, len(rows.limit), jnp.sum(rows.limit > 0), slots, max(slots // _PARTS, 1))
        common = dict(length=length, longest=longest, length_penalty=length_penalty, forbidden_ids=never, **ids)
        if temperature:
            chance = dict(key=key_of(seed), numbers=rows.number, temperature=temperature, top_k=top_k, top_p=top_p)
            return sample_search(step, sentences, samples=returned, **chance, **common)
        if beams == 1 and rows.phrases is None:
            return greedy_search(step, sentences, **common)
        beam = beam_search if rows.phrases is None else constrained_search
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
    padded = [_padded_length(lengths[i]) for i in order]
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
        length = _padded_length(lengths[order[start]])
        rows = _rows_of(length, tokens)
        yield order[start : start + rows], length
        start += rows


def _rows_of(length: int, tokens: int) -> int:
    """How many rows of this length have at most `tokens` positions: a power of two on each device."""
    devices = jax.local_device_count()
    return devices * (1 << (max(tokens // length // devices, 1).bit_length() - 1))


def _power(count: int) -> int:
    """The power of two that has room for so many, or 0."""
    return 1 << (count - 1).bit_length() if count else 0


def _filled(rows: int) -> int:
    """A power of two on each device."""
    devices = jax.local_device_count()
    return devices * (1 << (-(-rows // devices) - 1).bit_length())


def _padded_length(length: int) -> int:
    """
    >>> _padded_length(9), _padded_length(1025)
    (16, 2048)
    """
    index = bisect.bisect_left(_LENGTHS, length)
    return _LENGTHS[index] if index < len(_LENGTHS) else -(-length // _LENGTHS[-1]) * _LENGTHS[-1]
