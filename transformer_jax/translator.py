"""Text in, text out: lines to batches, search on the device, and the translations back in the order the lines came."""

import bisect
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax.attention_map import cross_attention, draw
from transformer_jax.config import Config, DecodeConfig, validate
from transformer_jax.data.batching import pad_rows
from transformer_jax.data.lines import iter_lines, open_output
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.decoding.beam import Hypotheses, beam_search
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.errors import UserError, memory_advice
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.run import Run

__all__ = ["Translation", "Translator", "load_translator", "split_line", "translate_lines"]

# Source lengths that batches are padded to: few, so that few shapes are compiled.
_LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Translation(NamedTuple):
    """One line's translation. A line that was translated in parts has their texts joined and their scores added up."""

    text: str
    log_prob: float  # natural logarithm of the model's probability, EOS included
    score: float  # what the search ranked by: log_prob over the length penalty
    pieces: tuple[str, ...]  # the tokenizer's, EOS included where the model gave one
    parts: int = 1  # how many parts the line was translated in; 0: it was blank


class Translator:
    """A model, its parameters and its tokenizer, ready to translate.

    >>> translator = Translator.load("runs/demo")                      # doctest: +SKIP
    >>> translator.translate(["The dog sleeps."])[0].text              # doctest: +SKIP
    'Der Hund schläft.'
    """

    def __init__(self, model: nn.Module, params: Any, tokenizer: Tokenizer, config: Config):
        self.model = model
        self.params = params
        self.tokenizer = tokenizer
        self.config = config.decode
        self._longest = config.batch.max_length
        # Places that the model has a position for: there is no row for others in a table of learned ones.
        self._room = config.model.max_positions if config.model.positions == "learned" else np.iinfo(np.int32).max
        self._search = jax.jit(_make_search(model, tokenizer), static_argnames=("beams", "length", "length_penalty"))

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
    ) -> list[Translation]:
        """One translation for each line, in the order of the lines; a blank line has the empty translation.

        A line of more tokens than any the model was trained on (`batch.max_length`) is translated in pieces, cut at the ends
        of sentences where it can be. `params` stands in for the translator's own; `beam`, `length_penalty` and `tokens` (the
        source positions of one batch) for the config's. Raises UserError for impossible values, and where memory is too small.
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
        found = iter(self._translate_parts([part for pieces in parts for part in pieces], decode, params))
        return [_join([next(found) for _ in pieces]) for pieces in parts]

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode_source([text])[0])

    def _translate_parts(self, texts: list[str], decode: DecodeConfig, params: Any) -> list[Translation]:
        rows = self.tokenizer.encode_source(texts)
        results: list[Translation] = [None] * len(rows)
        for numbers, length in _batches([len(row) for row in rows], decode.tokens):
            batch = [rows[i] for i in numbers]
            best = self._decode_batch(batch, length, decode, params)
            ids = [tokens[:count] for tokens, count in zip(best.tokens[:, 0], best.length[:, 0], strict=True)]
            for i, text, row, log_prob, score in zip(
                numbers, self.tokenizer.decode(ids), ids, best.log_prob[:, 0], best.score[:, 0], strict=True
            ):
                # A tokenizer that falls back to bytes can spell a line feed; a translation is one line.
                text = text.replace("\n", " ")
                results[i] = Translation(text, float(log_prob), float(score), tuple(self.tokenizer.pieces(row)))
        return results

    def _decode_batch(self, rows: list[np.ndarray], length: int, decode: DecodeConfig, params: Any) -> Hypotheses:
        """Search over one padded batch. Rows are filled up to a power of two, for few shapes; empty ones cost no steps."""
        lengths = np.array([len(row) for row in rows])
        length = min(length, self._room)
        filled = 1 << (len(rows) - 1).bit_length()
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
    return Translator(model, jax.device_put(params), tokenizer, run.config), name


def translate_lines(
    workdir: str,
    text: Sequence[str] = (),
    *,
    checkpoint: str = "best",
    input: str | None = None,
    output: str | None = None,
    beam: int | None = None,
    length_penalty: float | None = None,
    decode_tokens: int | None = None,
    batch_lines: int = 1000,
    attention: str | None = None,
) -> None:
    """What `translate.py` does: `text`, or the lines of `input`, or standard input -> `output`, or standard output.

    Each `batch_lines` lines are written before the next are read, so memory does not grow with the file. A line that had to be
    cut is told on standard error. `attention` is the file of a picture of the first line's translation. Raises UserError for
    bad input; the lines before a bad one are written.
    """
    if batch_lines < 1:
        raise UserError(f"--batch_lines={batch_lines} should be 1 or more")
    if text and input:
        raise UserError("give either sentences or --input, not both")
    if input and output and os.path.exists(output) and os.path.samefile(input, output):
        raise UserError(f"--output={output} is the input; write the translations to another file")
    translator, _ = load_translator(Run(workdir), checkpoint)
    blocks = _blocks(_arguments(text) if text else iter_lines(input), batch_lines)
    first = next(blocks, [])  # before the output is opened: what cannot be read should not empty a file
    done = 0
    with open_output(output) as out:
        for block in itertools.chain([first], blocks):
            found = translator.translate(block, beam=beam, length_penalty=length_penalty, tokens=decode_tokens)
            for number, translation in enumerate(found, done + 1):
                if translation.parts > 1:
                    print(f"line {number}: too long for the model, translated in {translation.parts} pieces", file=sys.stderr)
                out.write(f"{translation.text}\n")
            out.flush()
            if attention and not done:
                _draw_first(translator, block, found, attention)
            done += len(block)


def _arguments(text: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"sentence {number} is not UTF-8; convert it, for example with iconv -t UTF-8") from None
        yield line.replace("\n", " ")


def _blocks(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` lines, the last as long as it comes; what comes before an error is a block of its own."""
    block = []
    try:
        for line in lines:
            block.append(line)
            if len(block) == size:
                yield block
                block = []
    except UserError:
        if block:
            yield block
        raise
    if block:
        yield block


def _draw_first(translator: Translator, lines: list[str], found: list[Translation], file: str) -> None:
    if not found or found[0].parts != 1:
        raise UserError(f"--attention={file}: the first line is missing, blank or too long for one picture")
    draw(cross_attention(translator.model, translator.params, translator.tokenizer, lines[0], found[0].text), file)


def split_line(text: str, count: Callable[[str], int], most: int) -> list[str]:
    """A line in pieces of at most `most` tokens by `count`; nothing for a blank line.

    Pieces end at the end of a sentence if one is there, else at a space, else inside a word.

    >>> split_line("A dog. A cat sleeps. A cow", lambda text: len(text.split()), 5)
    ['A dog. A cat sleeps.', 'A cow']
    >>> split_line("  ", len, 5)
    []
    """
    text = text.strip()
    if not text:
        return []
    if count(text) <= most:
        return [text]
    sentences = re.split(r"(?<=[.!?])\s+", text)
    units = sentences if len(sentences) > 1 else text.split()
    if len(units) == 1:
        middle = len(text) // 2
        # One letter can be several tokens (bytes); it is translated however long it is.
        return [text] if not middle else split_line(text[:middle], count, most) + split_line(text[middle:], count, most)
    pieces = [units[0]]
    for unit in units[1:]:
        joined = f"{pieces[-1]} {unit}"
        if count(joined) <= most:
            pieces[-1] = joined
        else:
            pieces.append(unit)
    return [part for piece in pieces for part in split_line(piece, count, most)]


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


def _batches(lengths: list[int], tokens: int) -> Iterator[tuple[list[int], int]]:
    """The numbers of the rows of each batch and the length it is padded to: longest first, at most `tokens` positions each.

    The longest come first so that a batch too large for memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        length = _padded_length(lengths[order[start]])
        # A power of two, which is what _decode_batch fills a batch up to.
        rows = 1 << (max(tokens // length, 1).bit_length() - 1)
        yield order[start : start + rows], length
        start += rows


def _padded_length(length: int) -> int:
    """
    >>> _padded_length(9), _padded_length(1025)
    (12, 2048)
    """
    index = bisect.bisect_left(_LENGTHS, length)
    return _LENGTHS[index] if index < len(_LENGTHS) else -(-length // _LENGTHS[-1]) * _LENGTHS[-1]


def _join(parts: list[Translation]) -> Translation:
    if len(parts) == 1:
        return parts[0]
    text = " ".join(part.text for part in parts)
    pieces = tuple(piece for part in parts for piece in part.pieces)
    return Translation(text, sum(part.log_prob for part in parts), sum(part.score for part in parts), pieces, len(parts))
