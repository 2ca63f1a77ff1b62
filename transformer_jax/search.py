"""Ids in, ids out: rows of source ids to batches, search on the devices, and what it found in the order the rows came."""

import bisect
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax import hosts
from transformer_jax.alignment import most_attended
from transformer_jax.config import Config, DecodeConfig
from transformer_jax.data.batching import Batch, Shape, bucketed_batch, pad_rows
from transformer_jax.data.store import Store
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.decoding.beam import Hypotheses, beam_search
from transformer_jax.decoding.greedy import greedy_search, sample_search
from transformer_jax.decoding.rules import restricted
from transformer_jax.errors import UserError, memory_advice
from transformer_jax.rows import over_rows

__all__ = ["Found", "Searcher"]

# Source lengths that batches are padded to: few, so that few shapes are compiled.
_LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Found(NamedTuple):
    ids: list[int]  # EOS included where the model gave one
    log_prob: float
    score: float


class _Rows(NamedTuple):
    """What a search is told of each sentence."""

    source: np.ndarray  # int32 [B, S]
    segment: np.ndarray  # int32 [B, S]
    limit: np.ndarray  # int32 [B]: tokens at most
    number: np.ndarray  # uint32 [B]: what samples are drawn by
    least: np.ndarray | None  # int32 [B]: tokens at least
    prefix: np.ndarray | None  # int32 [B, P]: what it begins with
    prefix_length: np.ndarray | None  # int32 [B]


class Searcher:
    """A model's search, and its view of targets that are known, over any number of rows.

    The rows of a batch are shared by all local devices.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, config: Config):
        self._tokenizer = tokenizer
        # Places that the model has a position for: there is no row for others in a table of learned ones.
        self._room = config.model.max_positions if config.model.positions == "learned" else np.iinfo(np.int32).max
        self._most_attended = over_rows(_make_most_attended(model, tokenizer.eos_id))
        self._token_log_probs = over_rows(_make_token_log_probs(model))
        self._search = over_rows(_make_search(model, tokenizer))

    def search(
        self,
        params: Any,
        rows: list[np.ndarray],
        prefixes: list[np.ndarray],
        decode: DecodeConfig,
        between: Callable[[], None] | None = None,
    ) -> list[list[Found]]:
        """For each row `decode.nbest` translations, best first (of samples: as they were drawn), or fewer if there are not so
        many. Each begins with its row's ids of `prefixes`.

        Where there are several processes, all of them must come here, with the same rows, and each works through a part of the
        batches; `between` is called between two. Raises UserError for a prefix that is impossible.
        """

        def of_batch(batch: tuple[list[int], int]) -> list[list[Found]]:
            numbers, length = batch
            found = self._search_batch(params, [rows[i] for i in numbers], [prefixes[i] for i in numbers], length, decode)
            return [
                [
                    Found(tokens[:count].tolist(), float(log_prob), float(score))
                    for k, (tokens, count, log_prob, score) in enumerate(zip(*of_row, strict=True))
                    if count or not k
                ]
                for of_row in zip(*found, strict=True)
            ]

        for prefix in prefixes:
            if self._tokenizer.unknown_id in prefix or len(prefix) >= self._room:
                text = " ".join(self._tokenizer.pieces(prefix))
                raise UserError(f"prefix {text}: has letters that the model does not know, or is too long for it")
        batches = list(_batches([len(row) for row in rows], decode.tokens))
        results: list[list[Found]] = [[] for _ in rows]
        for (numbers, _), found in zip(batches, hosts.in_turns(of_batch, batches, between), strict=True):
            for i, of_row in zip(numbers, found, strict=True):
                results[i] = [Found(*each) for each in of_row]  # another process's have come as lists
        return results

    def token_log_probs(self, params: Any, source: list[np.ndarray], target: list[np.ndarray], tokens: int) -> list[np.ndarray]:
        """log P(y_i | y_1 .. y_{i-1}, x) of every token of every target row: float32 [length] each. Batches of `tokens`
        positions. Raises UserError if a row is too long for the model."""
        found: list[np.ndarray] = [None] * len(source)
        for numbers, rows in self._known(self._token_log_probs, params, source, target, tokens):
            for i, row in zip(numbers, rows, strict=False):
                found[i] = row[: len(target[i])]
        return found

    def most_attended(
        self, params: Any, source: list[np.ndarray], target: list[np.ndarray], tokens: int
    ) -> list[np.ndarray] | None:
        """`alignment.most_attended` of every row: int32 [L, length of the target or more]; None where there is no attention."""
        found: list[np.ndarray] = [None] * len(source)
        for numbers, rows in self._known(self._most_attended, params, source, target, tokens):
            if rows is None:
                return None
            for i, row in zip(numbers, rows, strict=False):
                found[i] = row
        return found

    def _search_batch(
        self, params: Any, rows: list[np.ndarray], prefixes: list[np.ndarray], length: int, decode: DecodeConfig
    ) -> Hypotheses:
        """Search over one padded batch. It is filled up with empty rows, for few shapes; those cost no steps."""
        lengths, sizes = (np.array([len(each) for each in these]) for these in (rows, prefixes))
        length, longest = min(length, self._room), max(sizes)
        # A sentence's limits depend on its own length only, never on its batch mates'.
        limits = (decode.max_length_ratio * lengths).astype(np.int32) + decode.max_length_extra
        limits = np.minimum(np.maximum(limits, sizes + 1), self._room)
        least = (decode.min_length_ratio * lengths).astype(np.int32) + decode.min_length_extra
        room = int(decode.max_length_ratio * length) + decode.max_length_extra
        room = min(max(room, _padded_length(longest) + 1 if longest else 0), self._room)
        empty = _filled(len(rows)) - len(rows)
        nothing = [rows[0][:0]] * empty
        source = pad_rows([*rows, *nothing], length, self._tokenizer.pad_id)

        def fill(values: Sequence[int]) -> np.ndarray:
            return np.pad(values, (0, empty))

        segment = np.arange(length)[None, :] < fill(lengths)[:, None]
        advice = f"lower decode.tokens={decode.tokens} (--decode_tokens of translate.py and evaluate.py) or the beam"
        with memory_advice(advice):
            found = self._search(
                (params, np.uint32(decode.seed % (1 << 32))),
                _Rows(
                    source,
                    segment.astype(np.int32),
                    fill(limits),
                    fill([zlib.crc32(row.tobytes()) for row in rows]).astype(np.uint32),
                    fill(np.minimum(least, limits)) if least.any() else None,
                    pad_rows([*prefixes, *nothing], _padded_length(longest), self._tokenizer.pad_id) if longest else None,
                    fill(sizes) if longest else None,
                ),
                no_repeat_ngram=decode.no_repeat_ngram,
                beams=decode.beam,
                returned=decode.nbest,
                length=room,
                length_penalty=decode.length_penalty,
                temperature=decode.temperature,
                top_k=decode.top_k,
                top_p=decode.top_p,
            )
            return jax.tree.map(lambda x: x[: len(rows)], jax.device_get(found))

    def _known(
        self, function: Callable[..., Any], params: Any, source: list[np.ndarray], target: list[np.ndarray], tokens: int
    ) -> Iterator[tuple[list[int], Any]]:
        """`function` of batches of these rows of ids, with the numbers of the rows in each."""
        lengths = [max(pair) for pair in zip(map(len, source), map(len, target), strict=True)]
        if max(lengths, default=0) > self._room:
            raise UserError(f"a sentence of {max(lengths)} tokens is too long for model.max_positions={self._room}")
        ids = self._tokenizer.pad_id, self._tokenizer.decoder_start_id
        for numbers, length in _batches(lengths, tokens):
            store = Store.of([source[i] for i in numbers], [target[i] for i in numbers])
            length = min(length, self._room)
            shape = Shape(_filled(len(numbers)), length, length)
            yield numbers, jax.device_get(function(params, bucketed_batch(store, np.arange(len(numbers)), shape, *ids)))


def _make_search(model: nn.Module, tokenizer: Tokenizer) -> Callable[..., Hypotheses]:
    ids = {"start_id": tokenizer.decoder_start_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    never = tuple({tokenizer.bos_id, tokenizer.unknown_id} - {tokenizer.eos_id})

    def search(
        params_and_seed,
        rows,
        *,
        beams,
        returned,
        length,
        length_penalty,
        no_repeat_ngram,
        temperature,
        top_k,
        top_p,
    ):
        params, seed = params_and_seed
        source = rows.source

        def call(method, *args):
            return model.apply({"params": params}, *args, method=method)

        position = jnp.broadcast_to(jnp.arange(source.shape[1])[None], source.shape)
        memory = call("encode", source, rows.segment, position)

        def step(token, index, cache):
            logits, cache = call("decode_step", token, index, memory, cache)
            return jax.nn.log_softmax(logits), cache

        hypotheses = returned if temperature else beams
        cache = model.apply({"params": params}, memory, hypotheses, length, method="init_cache")
        if no_repeat_ngram or rows.least is not None or rows.prefix is not None:
            each = [
                x if x is None else jnp.repeat(x, hypotheses, axis=0) for x in (rows.least, rows.prefix, rows.prefix_length)
            ]
            rules = dict(zip(("min_length", "prefix", "prefix_length"), each, strict=True), no_repeat_ngram=no_repeat_ngram)
            step, cache = restricted(step, cache, length=length, eos_id=tokenizer.eos_id, **rules)
        common = dict(batch=source.shape[0], max_length=rows.limit, length=length, forbidden_ids=never, **ids)
        common["length_penalty"] = length_penalty
        if temperature:
            chance = dict(key=jax.random.key(seed), numbers=rows.number, temperature=temperature, top_k=top_k, top_p=top_p)
            return sample_search(step, cache, samples=returned, **chance, **common)
        if beams == 1:
            return greedy_search(step, cache, **common)
        return beam_search(step, cache, beams=beams, returned=returned, **common)

    return search


def _make_most_attended(model: nn.Module, eos_id: int) -> Callable[[Any, Batch], jax.Array | None]:
    def look(params: Any, batch: Batch) -> jax.Array | None:
        _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        places = most_attended(sown, batch.source, eos_id)
        return None if places is None else places.swapaxes(0, 1)  # [B, L, T]

    return look


def _make_token_log_probs(model: nn.Module) -> Callable[[Any, Batch], jax.Array]:
    def log_probs(params: Any, batch: Batch) -> jax.Array:
        logits = model.apply({"params": params}, batch, train=False).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, batch.target_output[:, :, None], axis=2)[:, :, 0]
        return chosen - jax.nn.logsumexp(logits, axis=2)  # [B, T]

    return log_probs


def _batches(lengths: list[int], tokens: int) -> Iterator[tuple[list[int], int]]:
    """The numbers of the rows of each batch and the length it is padded to: longest first, at most `tokens` positions each.

    The longest come first so that a batch too large for memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        length = _padded_length(lengths[order[start]])
        # As many as a batch would be filled up to.
        devices = jax.local_device_count()
        rows = devices * (1 << (max(tokens // length // devices, 1).bit_length() - 1))
        yield order[start : start + rows], length
        start += rows


def _filled(rows: int) -> int:
    """A power of two on each device."""
    devices = jax.local_device_count()
    return devices * (1 << (-(-rows // devices) - 1).bit_length())


def _padded_length(length: int) -> int:
    """
    >>> _padded_length(9), _padded_length(1025)
    (12, 2048)
    """
    index = bisect.bisect_left(_LENGTHS, length)
    return _LENGTHS[index] if index < len(_LENGTHS) else -(-length // _LENGTHS[-1]) * _LENGTHS[-1]
