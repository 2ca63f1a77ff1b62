"""What attention looks at: the weights of a translation, gathered from the model and drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.arguments import list_of_texts
from transformer_jax.data.batching import Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError
from transformer_jax.models.sown_attention import attention_of
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["AttentionMap", "attention_maps", "draw"]

KINDS = {
    "cross": ("translation", "source"),
    "encoder": ("source", "source"),
    "decoder": ("translation", "translation so far"),
}


class AttentionMap(NamedTuple):
    """weights[l, h, t, s]: how much of the attention of query t, in head h of layer l, went to key s. Rows sum to 1.

    A target piece's row is what was looked at while it was predicted.
    """

    kind: str  # cross: the translation looks at the source | encoder: the source at itself | decoder: the translation at itself
    queries: tuple[str, ...]  # the tokenizer's pieces, or words; EOS included
    keys: tuple[str, ...]
    weights: np.ndarray  # float32 [L, H, queries, keys]

    def mean(self, layer: int = 0, head: int = 0) -> np.ndarray:
        """Of one layer or all of them (0), one head or all: float32 [queries, keys]. Layers and heads count from 1.

        Raises UserError for a layer or head that the model does not have.
        """
        for name, number, count in (("layer", layer, len(self.weights)), ("head", head, self.weights.shape[1])):
            if not 0 <= number <= count:
                raise UserError(f"attention {name} {number} should be from 1 to {count}, or 0 for the mean of all")
        weights = self.weights[layer - 1 : layer] if layer else self.weights
        return (weights[:, head - 1 : head] if head else weights).mean(axis=(0, 1))


def attention_maps(
    model: nn.Module, params: Any, tokenizer: Tokenizer, source: str, target: str | Sequence[int], *, words: bool = False
) -> dict[str, AttentionMap]:
    """Every kind of attention that the model has (see `AttentionMap`), by teacher forcing of `target`.

    `target` is text, or a translation's own ids, EOS included. Between pieces, or between `words`: then the share of a word is
    the sum of its pieces' shares, and its own row the mean of its pieces' rows. By the names of their kinds; a model without
    attention has none.
    """
    (source,) = list_of_texts([source], "source")
    source_ids = tokenizer.encode_source([source])[0]
    ids = tokenizer.encode_target([target])[0] if isinstance(target, str) else np.asarray(target, np.int32)
    shape = Shape(1, len(source_ids), len(ids))
    store = Store.of([source_ids], [ids])
    batch = bucketed_batch(store, np.array([0]), shape, tokenizer.pad_id, tokenizer.decoder_start_id)
    _, sown = jax.jit(lambda params: model.apply({"params": params}, batch, train=False, mutable=["intermediates"]))(params)
    reading, writing = _side(tokenizer, batch.source[0], words), _side(tokenizer, batch.target_output[0], words)
    # What the decoder has read when it predicts: its start, and all but the last.
    so_far = _Side(("(start)", *writing.labels), np.concatenate([[0], writing.owner[:-1] + 1]))
    sides = {"source": reading, "translation": writing, "translation so far": so_far}
    return {
        kind: _merge(kind, *(sides[name] for name in KINDS[kind]), np.asarray(weights, np.float32)[:, 0])
        for kind, weights in attention_of(sown.get("intermediates", {})).items()
    }


def draw(attention: AttentionMap, file: str | Path, layer: int = 0, head: int = 0) -> None:
    """Writes a picture: a row for each query, a column for each key, darker where more attention goes.

    `layer` and `head` as for `AttentionMap.mean`. The format follows the file's ending (.png, .pdf, .svg). Needs matplotlib
    (the extra `plot`). Raises UserError without it, or where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib, or 'transformer_jax[plot]'") from None
    weights = attention.mean(layer, head)
    rows, columns = weights.shape
    figure = Figure(figsize=(1.6 + 0.42 * columns, 1.4 + 0.36 * rows), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), attention.keys, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(rows), attention.queries)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    query_side, key_side = KINDS[attention.kind]
    axes.set_xlabel(key_side)
    axes.xaxis.set_label_position("bottom")
    axes.set_ylabel(query_side)
    which = [f"{name} {number}" if number else f"mean over {name}s" for name, number in (("layer", layer), ("head", head))]
    figure.colorbar(image, label=f"share of attention, {', '.join(which)}", shrink=0.8)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # no such folder; an ending that is no format
        raise UserError(f"{file}: the picture cannot be written ({error})") from None


class _Side(NamedTuple):
    labels: tuple[str, ...]
    owner: np.ndarray  # int [pieces]: the label of each piece


def _side(tokenizer: Tokenizer, ids: np.ndarray, words: bool) -> _Side:
    # SentencePiece marks the start of a word with U+2581; a space before the piece reads better. The end has a name.
    pieces = [piece.replace("\u2581", " ").replace("</s>", "(end)") for piece in tokenizer.pieces(ids)]
    if not words:
        return _Side(tuple(pieces), np.arange(len(pieces)))
    number = tokenizer.words(ids)
    first = np.flatnonzero((number < 0) | (number != np.concatenate([[-1], number[:-1]])))
    text = tokenizer.decode([ids])[0].split()
    labels = tuple(text[number[i]] if number[i] >= 0 else pieces[i] for i in first)
    return _Side(labels, np.searchsorted(first, np.arange(len(pieces)), side="right") - 1)


def _merge(kind: str, queries: _Side, keys: _Side, weights: np.ndarray) -> AttentionMap:
    # Whose piece is whose, bool [labels, pieces].
    of_query, of_key = (side.owner[None] == np.arange(side.owner[-1] + 1)[:, None] for side in (queries, keys))
    mean = of_query / of_query.sum(axis=1, keepdims=True)
    merged = (mean @ weights @ of_key.T).astype(np.float32)
    return AttentionMap(kind, queries.labels[: len(of_query)], keys.labels[: len(of_key)], merged)
