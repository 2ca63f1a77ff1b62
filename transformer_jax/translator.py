"""Text in, text out: lines to batches, search on the device, and the translations back in the order the lines came."""

import bisect
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax import hosts
from transformer_jax.alignment import Links, join_links, most_attended, word_links
from transformer_jax.config import Config, DecodeConfig, validate
from transformer_jax.data.batching import Batch, Shape, bucketed_batch, pad_rows
from transformer_jax.data.lines import split_line
from transformer_jax.data.store import Store
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.decoding.beam import Hypotheses, beam_search
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.errors import UserError, memory_advice
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.rows import over_rows
from transformer_jax.run import Run

__all__ = ["Translation", "Translator", "load_translator"]

# Source lengths that batches are padded to: few, so that few shapes are compiled.
_LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Translation(NamedTuple):
    """One line's translation. A line that was translated in parts has their texts joined and their scores added up."""

    text: str
    log_prob: float  # natural logarithm of the model's probability, EOS included
    score: float  # what the search ranked by: log_prob over the length penalty
    tokens: tuple[int, ...]  # the tokenizer's ids, EOS included where the model gave one
    parts: int = 1  # how many parts the line was translated in; 0: it was blank
    alignment: Links | None = None  # which words of the line became which of the text, if it was asked for


class Translator:
    """A model, its parameters and its tokenizer, ready to translate.

    >>> translator = Translator.load("runs/demo")                      # doctest: +SKIP
    >>> translator.translate(["The dog sleeps."])[0].text              # doctest: +SKIP
    'Der Hund schläft.'
    """

    def __init__(self, model: nn.Module, params: Any, tokenizer: Tokenizer, config: Config, alignment_layer: int = 0):
        self.model = model
        self.params = params
        self.tokenizer = tokenizer
        self.config = config.decode
        self.alignment_layer = config.decode.alignment_layer or alignment_layer
        self._longest = config.batch.max_length
        # Places that the model has a position for: there is no row for others in a table of learned ones.
        self._room = config.model.max_positions if config.model.positions == "learned" else np.iinfo(np.int32).max
        self._most_attended = over_rows(_make_most_attended(model, tokenizer.eos_id))
        self._search = over_rows(_make_search(model, tokenizer))

    @classmethod
    def load(cls, workdir: str | Path, checkpoint: str = "best") -> "Translator":
        """The translator of a run folder. `checkpoint`: latest, best, a step, or `average:N`. Raises UserError."""
        return load_translator(Run(workdir), checkpoint)[0]

    def translate(
        self,
        lines: Sequence[str],
        *,
        params: Any = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        tokens: int | None = None,
        align: bool = False,
        between: Callable[[], None] | None = None,
    ) -> list[Translation]:
        """One translation for each line, in the order of the lines; a blank line has the empty translation.

        A line of more tokens than any the model was trained on (`batch.max_length`) is translated in pieces, cut at the ends
        of sentences where it can be. `params` stands in for the translator's own; `beam`, `length_penalty` and `tokens` (the
        source positions of one batch) for the config's. With `align` each has its word alignment, as method `align` makes it.
        The rows of a batch are shared by all local devices; where there are several processes, all of them must come here, with
        the same lines, and each works through a part of the batches. `between` is called between two of them.

        Raises UserError for impossible values, and where memory is too small.
        """
        given = {"beam": beam, "length_penalty": length_penalty, "tokens": tokens}
        decode = dataclasses.replace(self.config, **{name: value for name, value in given.items() if value is not None})
        validate(Config(decode=decode))
        params = self.params if params is None else params
        sizes = map(len, self.tokenizer.encode_source(lines))  # one call for all; few lines are asked about again
        parts = [
            split_line(line, self._count, self._longest) if size > self._longest else [line.strip()] * bool(line.strip())
            for line, size in zip(lines, sizes, strict=True)
        ]
        flat = [part for pieces in parts for part in pieces]
        found = self._translate_parts(flat, decode, params, between)
        if align:
            links = self.align(flat, [each.tokens for each in found], params=params)
            found = [each._replace(alignment=of_part) for each, of_part in zip(found, links, strict=True)]
        rest = iter(found)
        return [_join(line, pieces, [next(rest) for _ in pieces], align) for line, pieces in zip(lines, parts, strict=True)]

    def align(
        self, sources: Sequence[str], targets: Sequence[str | Sequence[int]], *, layer: int | None = None, params: Any = None
    ) -> list[Links]:
        """Which words of each source became which of its target: every target piece is linked to the source piece that got
        most of its attention, in the mean over the heads of one layer.

        `targets` are text or translations' tokens. `layer`, from 1, is the one that aligned the dev set best unless it is
        given. Raises UserError for a model without attention to the source, or without such a layer.
        """
        layer = self.alignment_layer if layer is None else layer
        params = self.params if params is None else params
        source = self.tokenizer.encode_source(sources)
        target = [
            self.tokenizer.encode_target([each])[0] if isinstance(each, str) else np.asarray(each, np.int32) for each in targets
        ]
        links: list[Links] = [()] * len(source)
        lengths = [max(pair) for pair in zip(map(len, source), map(len, target), strict=True)]
        if max(lengths, default=0) > self._room:
            raise UserError(f"a sentence of {max(lengths)} tokens is too long for model.max_positions={self._room}")
        for numbers, length in _batches(lengths, self.config.tokens):
            store = Store.of([source[i] for i in numbers], [target[i] for i in numbers])
            length = min(length, self._room)
            shape = Shape(_filled(len(numbers)), length, length)
            ids = self.tokenizer.pad_id, self.tokenizer.decoder_start_id
            places = self._most_attended(params, bucketed_batch(store, np.arange(len(numbers)), shape, *ids))
            if places is None:
                raise UserError("this model has no attention to the source: it cannot align words")
            layers = places.shape[1]
            if not 1 <= layer <= layers:
                raise UserError(f"alignment layer {layer} should be from 1 to {layers}; name it with --alignment_layer")
            for i, row in zip(numbers, np.asarray(places[:, layer - 1]), strict=False):
                links[i] = word_links(row, self.tokenizer.words(source[i]), self.tokenizer.words(target[i]))
        return links

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode_source([text])[0])

    def _translate_parts(
        self, texts: list[str], decode: DecodeConfig, params: Any, between: Callable[[], None] | None
    ) -> list[Translation]:
        rows = self.tokenizer.encode_source(texts)
        batches = list(_batches([len(row) for row in rows], decode.tokens))

        def of_batch(batch: tuple[list[int], int]) -> list[tuple[list[int], float, float]]:
            numbers, length = batch
            best = self._decode_batch([rows[i] for i in numbers], length, decode, params)
            ids = [tokens[:count].tolist() for tokens, count in zip(best.tokens[:, 0], best.length[:, 0], strict=True)]
            return list(zip(ids, best.log_prob[:, 0].tolist(), best.score[:, 0].tolist(), strict=True))

        results: list[Translation] = [None] * len(rows)
        for (numbers, _), found in zip(batches, hosts.in_turns(of_batch, batches, between), strict=True):
            texts = self.tokenizer.decode([ids for ids, _, _ in found])
            for i, text, (ids, log_prob, score) in zip(numbers, texts, found, strict=True):
                # A tokenizer that falls back to bytes can spell a line feed; a translation is one line.
                results[i] = Translation(text.replace("\n", " "), log_prob, score, tuple(ids))
        return results

    def _decode_batch(self, rows: list[np.ndarray], length: int, decode: DecodeConfig, params: Any) -> Hypotheses:
        """Search over one padded batch. It is filled up with empty rows, for few shapes; those cost no steps."""
        lengths = np.array([len(row) for row in rows])
        length = min(length, self._room)
        filled = _filled(len(rows))
        # A sentence's limit depends on its own length only, never on its batch mates'.
        limits = np.minimum((decode.max_length_ratio * lengths).astype(np.int32) + decode.max_length_extra, self._room)
        room = min(int(decode.max_length_ratio * length) + decode.max_length_extra, self._room)
        source = pad_rows([*rows, *[rows[0][:0]] * (filled - len(rows))], length, self.tokenizer.pad_id)
        segment = np.arange(length)[None, :] < np.pad(lengths, (0, filled - len(rows)))[:, None]
        advice = f"lower decode.tokens={decode.tokens} (--decode_tokens of translate.py and evaluate.py) or the beam"
        with memory_advice(advice):
            found = self._search(
                params,
                source,
                segment.astype(np.int32),
                np.pad(limits, (0, filled - len(rows))),
                beams=decode.beam,
                length=room,
                length_penalty=decode.length_penalty,
            )
            return jax.tree.map(lambda x: x[: len(rows)], jax.device_get(found))


def load_translator(run: Run, checkpoint: str) -> tuple[Translator, str]:
    """The translator of `run`, and in words which parameters it has. Raises UserError."""
    tokenizer = run.tokenizer()
    model = build_model(run.config.model, tokenizer.vocab_size)
    with run.checkpoints() as checkpoints:
        params, name = checkpoints.parameters(checkpoint, abstract_parameters(model), tokenizer)
        layer = checkpoints.progress(checkpoints.resolve(checkpoint)[-1]).alignment_layer
    return Translator(model, jax.device_put(params), tokenizer, run.config, layer), name


def _make_search(model: nn.Module, tokenizer: Tokenizer) -> Callable[..., Hypotheses]:
    ids = {"start_id": tokenizer.decoder_start_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    never = tuple({tokenizer.bos_id, tokenizer.unknown_id} - {tokenizer.eos_id})

    def search(params, source, segment, limits, *, beams, length, length_penalty):
        def call(method, *args):
            return model.apply({"params": params}, *args, method=method)

        position = jnp.broadcast_to(jnp.arange(source.shape[1])[None], source.shape)
        memory = call("encode", source, segment, position)

        def step(token, index, cache):
            logits, cache = call("decode_step", token, index, memory, cache)
            return jax.nn.log_softmax(logits), cache

        cache = model.apply({"params": params}, memory, beams, length, method="init_cache")
        common = dict(batch=source.shape[0], max_length=limits, length=length, forbidden_ids=never, **ids)
        if beams == 1:
            return greedy_search(step, cache, length_penalty=length_penalty, **common)
        return beam_search(step, cache, beams=beams, length_penalty=length_penalty, **common)

    return search


def _make_most_attended(model: nn.Module, eos_id: int) -> Callable[[Any, Batch], jax.Array | None]:
    def look(params: Any, batch: Batch) -> jax.Array | None:
        _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        places = most_attended(sown, batch.source, eos_id)
        return None if places is None else places.swapaxes(0, 1)  # [B, L, T]

    return look


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


def _join(line: str, sources: list[str], parts: list[Translation], align: bool) -> Translation:
    if len(parts) == 1:
        return parts[0]
    text = " ".join(part.text for part in parts)
    tokens = tuple(token for part in parts for token in part.tokens)
    links = join_links(line, sources, [part.text for part in parts], [part.alignment for part in parts]) if align else None
    return Translation(text, sum(part.log_prob for part in parts), sum(part.score for part in parts), tokens, len(parts), links)
