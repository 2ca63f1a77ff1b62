"""The search of a model: `SearchRows` to `Hypotheses`, in one compiled program on each device, or in steps in a `Bank`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import SearchOptions
from transformer_jax.data.batching import Batch
from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.continuous_batching import (
    Bank,
    DecodingQueue,
    SearchParts,
    admit,
    empty_bank,
    run_bank,
    search_loop,
    single_batch,
)
from transformer_jax.decoding.greedy import greedy_search, sample_search
from transformer_jax.decoding.hypotheses import Hypotheses, SearchCache, Step
from transformer_jax.decoding.phrase_constraints import begin_phrases, constrained_search
from transformer_jax.decoding.token_constraints import TokenTexts, constrained_step, make_constraints
from transformer_jax.decoding.top_candidates import LogProbs
from transformer_jax.inference.alignment import log_coverage, mean_attention
from transformer_jax.inference.search_rows import SearchRows
from transformer_jax.models.layers import CANDIDATES
from transformer_jax.models.random_keys import key_of
from transformer_jax.tokenization.shortlist import LOCAL_IDS
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["BankShape", "Found", "ModelBank", "make_model_search", "search_inputs"]

_REFILL_SHARE = 8  # this share of the slots is free before it is filled again: each time costs a run of the encoder


def search_inputs(model: nn.Module, params: Any, batch: Batch, *, length: int, beam: int = 1) -> tuple[Step, DecodingQueue]:
    """The step function and the queue with which `beam_search`, `greedy_search` and `sample_search` translate the sources of
    `batch` (one sentence a row, as `Batch.of` makes them; its targets are not read) in at most `length` tokens.

    `beam` is the number of hypotheses of a sentence: `SearchOptions.beam`, 1 for greedy search, `nbest` for samples. `model` is
    under the contract of `models/seq2seq.py`; all may be called under `jax.jit`.

    >>> step, queue = search_inputs(model, params, batch, length=40, beam=4)                                    # doctest: +SKIP
    >>> found = beam_search(step, queue, tokenizer.special_ids, SearchOptions(beam=4), length=40)               # doctest: +SKIP
    >>> tokenizer.decode(found.tokens[:, 0])                                                                    # doctest: +SKIP
    """
    variables, rows = {"params": params}, (batch.source, batch.source_segment, batch.source_position)
    memory = model.apply(variables, *rows, method="encode")
    cache = model.apply(variables, memory, beam, length, method="init_cache")

    def step(token: jax.Array, index: jax.Array, cache: Any, memory: Any) -> tuple[jax.Array, Any]:
        logits, cache = model.apply(variables, token, index, memory, cache, method="decode_step")
        return LogProbs.of_logits(logits).all(), cache

    return step, single_batch(cache, jnp.full(len(batch.source), length), memory)


def make_model_search(model: nn.Module, tokenizer: Tokenizer) -> Callable[..., Hypotheses]:
    """search((params, seed words), rows, *, options, slots, length, max_length): translations of all rows, by the search that
    the options ask for. `length` and `max_length` are those of `beam_search`; of the rows `slots` are decoded at a time."""

    def search(
        params_and_seed: tuple[Any, jax.Array],
        rows: SearchRows,
        *,
        options: SearchOptions,
        slots: int,
        length: int,
        max_length: int,
    ) -> Hypotheses:
        params, seed = params_and_seed
        model_step = _ModelStep(model, params, rows, options, length)
        refill_size = max(slots // _REFILL_SHARE, 1)
        queue = DecodingQueue(model_step.begin, len(rows.limit), jnp.sum(rows.limit > 0), slots, refill_size)
        found = _search(model_step, queue, tokenizer, seed, length, max_length)
        return found if rows.candidates is None else found._replace(tokens=_pieces_of(rows.candidates, found.tokens))

    return search


class BankShape(NamedTuple):
    """What a program of a `ModelBank` is compiled for."""

    slots: int
    source: int  # S, to which sources are padded
    length: int  # T, the tokens that a translation has room for
    limit: int  # the most tokens that a translation may have; if that is more than T, some are cut
    refill: int  # how many sentences are admitted at a time; it divides `slots`


class Found(NamedTuple):
    """What is in the slots of a bank."""

    done: jax.Array  # bool [slots]
    hypotheses: Hypotheses  # of the slots that are done
    so_far: jax.Array  # int32 [slots, T]: tokens of the best unfinished hypothesis of the others


class ModelBank(NamedTuple):
    """A model's search in steps: `empty`, `admit` and `run` are compiled for one shape, whatever sentences come.

    A sentence's translation is the one that the search of all rows at once finds (`make_model_search`), whoever is beside it.
    Of the options, tokens are not drawn (`temperature` 0), and no row has a prefix or phrases.
    """

    model: nn.Module
    tokenizer: Tokenizer
    options: SearchOptions
    shape: BankShape

    def empty(self, params: Any, rows: SearchRows) -> Bank:
        """A bank without sentences. `rows` are any, of the bank's shape."""
        return empty_bank(self._parts(params, rows))

    def admit(self, params: Any, bank: Bank, rows: SearchRows, slots: jax.Array) -> Bank:
        """The bank in which these rows, [refill, S], have begun, each in its slot; a row that only fills has a slot of
        `shape.slots` or more."""
        return admit(self._parts(params, rows), bank, slots)

    def run(
        self, params: Any, bank: Bank, rows: SearchRows, wanted: jax.Array, steps: jax.Array, enough: jax.Array
    ) -> tuple[Bank, Found]:
        """`decoding.continuous_batching.run_bank`, and what is in the slots."""
        parts = self._parts(params, rows)
        bank, done = run_bank(parts, bank, wanted, steps, enough)
        found, so_far, candidates = parts.result(bank.state), parts.so_far(bank.state), bank.state.memory.candidates
        if candidates is not None:
            found = found._replace(tokens=_pieces_of(candidates, found.tokens))
            so_far = _pieces_of(candidates, so_far)
        return bank, Found(done, found, so_far)

    def _parts(self, params: Any, rows: SearchRows) -> SearchParts:
        model_step = _ModelStep(self.model, params, rows, self.options, self.shape.length)
        count = len(rows.limit)
        queue = DecodingQueue(model_step.begin, count, jnp.int32(count), self.shape.slots, count)
        return _search(model_step, queue, self.tokenizer, None, self.shape.length, self.shape.limit, lambda parts: parts)


def _search(
    model_step: "_ModelStep",
    queue: DecodingQueue,
    tokenizer: Tokenizer,
    seed: jax.Array | None,
    length: int,
    max_length: int,
    loop: Callable[[SearchParts], Any] = search_loop,
) -> Any:
    """The search that the options ask for, run by `loop`."""
    rows, options, step = model_step.rows, model_step.options, model_step.step
    ids = tokenizer.special_ids if rows.candidates is None else LOCAL_IDS
    texts = _token_texts(tokenizer) if rows.prefixes is not None or rows.phrases is not None else None
    if model_step.has_constraints:
        rules = dict(no_repeat_ngram=options.no_repeat_ngram, texts=texts, once_ids=tokenizer.placeholder_ids)
        step = constrained_step(step, eos_id=ids.eos, **rules)
    task, room = (step, queue, ids, options), dict(length=length, max_length=max_length)
    if options.temperature:
        return sample_search(*task, key=key_of(seed), numbers=rows.number, **room)
    if options.beam == 1 and rows.phrases is None:
        return greedy_search(*task, **room, loop=loop)
    coverage_score = model_step.coverage_score if options.coverage_penalty else None
    if rows.phrases is None:
        return beam_search(*task, **room, coverage_score=coverage_score, loop=loop)
    return constrained_search(*task, **room, texts=texts, coverage_score=coverage_score)


def _pieces_of(candidates: jax.Array, tokens: jax.Array) -> jax.Array:
    """The pieces that are at these places among the candidates of their row: [B, C], int32 [B, ...] -> int32 [B, ...]."""
    found = jnp.take_along_axis(candidates, tokens.reshape(len(tokens), -1), axis=1).reshape(tokens.shape)
    return jnp.where(found < 0, ~found, found)


def _token_texts(tokenizer: Tokenizer) -> TokenTexts:
    surfaces = tokenizer.surfaces
    columns = surfaces.begins_with_letter, surfaces.may_precede_word, surfaces.ranks, surfaces.sizes
    return TokenTexts(*map(jnp.asarray, columns))


class _Memory(NamedTuple):
    """What a step of the search is given of each sentence, leaves [B, ...]."""

    model: Any
    start: jax.Array  # int32 [B]: the index of its first step
    candidates: jax.Array | None  # int32 [B, C], as `SearchRows.candidates`
    output: Any  # their rows of the output table, as `EmbeddingTables.output_rows`; None without candidates


@dataclass(frozen=True)
class _ModelStep:
    """The step function that a search calls, and the caches that it begins with. N = B * hypotheses of a sentence."""

    model: nn.Module
    params: Any
    rows: SearchRows
    options: SearchOptions
    length: int

    @property
    def hypotheses(self) -> int:
        return self.options.nbest if self.options.temperature else self.options.beam

    @property
    def has_constraints(self) -> bool:
        rules = self.rows.min_length, self.rows.prefixes, self.rows.placeholders
        return bool(self.options.no_repeat_ngram) or any(rule is not None for rule in rules)

    def begin(self, numbers: jax.Array, index: jax.Array) -> tuple[SearchCache, jax.Array, _Memory]:
        """Cache, limits and memory of the rows of these numbers."""
        rows = jax.tree.map(lambda x: x[numbers], self.rows)
        position = jnp.broadcast_to(jnp.arange(rows.source.shape[1])[None], rows.source.shape)
        memory = self._apply("encode", rows.source, rows.segment, position)
        cache = self.model.apply({"params": self.params}, memory, self.hypotheses, self.length, method="init_cache")
        repeated = jax.tree.map(lambda x: jnp.repeat(x, self.hypotheses, axis=0), rows)
        constraints = make_constraints(
            len(repeated.limit),
            length=self.length,
            start=index,
            min_length=repeated.min_length,
            no_repeat_ngram=self.options.no_repeat_ngram,
            prefixes=repeated.prefixes,
            once=repeated.placeholders,
        )
        cache = SearchCache(
            cache,
            jnp.where(repeated.segment > 0, 0.0, 1.0) if self.options.coverage_penalty else None,
            constraints if self.has_constraints else None,
            None if repeated.phrases is None else begin_phrases(repeated.phrases),
        )
        output = None if rows.candidates is None else self._apply("output_rows", rows.candidates)
        return cache, rows.limit, _Memory(memory, jnp.full(len(numbers), index), rows.candidates, output)

    def step(self, token: jax.Array, index: jax.Array, cache: SearchCache, memory: _Memory) -> tuple[LogProbs, SearchCache]:
        """Log-probabilities of the next token."""
        variables = {"params": self.params}
        if memory.candidates is not None:
            variables[CANDIDATES] = memory.output
            token = _pieces_of(memory.candidates, token.reshape(len(memory.candidates), -1)).reshape(-1)
        inputs = token, index, memory.model, cache.model, jnp.repeat(memory.start, self.hypotheses)
        if cache.coverage is None:
            logits, model_cache = self.model.apply(variables, *inputs, method="decode_step")
            return LogProbs.of_logits(logits), cache._replace(model=model_cache)
        (logits, model_cache), sown = self.model.apply(variables, *inputs, method="decode_step", mutable=["intermediates"])
        attention = mean_attention(sown)  # [B, beams, S]
        coverage = cache.coverage + attention.reshape(cache.coverage.shape)
        return LogProbs.of_logits(logits), cache._replace(model=model_cache, coverage=coverage)

    def coverage_score(self, cache: SearchCache) -> jax.Array:
        """float32 [N]"""
        return self.options.coverage_penalty * log_coverage(cache.coverage)

    def _apply(self, method: str, *args: Any) -> Any:
        return self.model.apply({"params": self.params}, *args, method=method)
