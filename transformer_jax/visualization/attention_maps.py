"""The attention weights of a translation: computed by teacher forcing, averaged over words, and drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.data.batching import Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError, pip_install
from transformer_jax.models.attention_weights import attention_of
from transformer_jax.tokenization.text_arguments import list_of_texts
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["AttentionMap", "attention_maps", "draw"]

KINDS = {
    "cross": ("translation", "source"),
    "encoder": ("source", "source"),
    "decoder": ("translation", "translation so far"),
}


class AttentionMap(NamedTuple):
    """weights[l, h, t, s] is the share of the attention of query t, in head h of layer l, that goes to key s. Rows sum to 1.

    The row of a target piece has the attention from which that piece was predicted.
    """

    kind: str  # cross: from the translation to the source | encoder: within the source | decoder: within the translation
    queries: tuple[str, ...]  # the tokenizer's pieces, or words; EOS included
    keys: tuple[str, ...]
    weights: np.ndarray  # float32 [L, H, queries, keys]

    def mean(self, layer: int = 0, head: int = 0) -> np.ndarray:
        """The mean weights of one layer or of all (0), of one head or of all (0): float32 [queries, keys]. Layers and heads
        count from 1.

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
    """A map for every kind of attention that the model has (`AttentionMap.kind`), by teacher forcing of `target`.

    `target` is text, or a translation's own ids, EOS included. Queries and keys are pieces, or with `words` words: the share of
    a word is the sum of its pieces' shares, and its row is the mean of its pieces' rows. A model without attention has no map.
    """
    (source,) = list_of_texts([source], "source")
    source_ids = tokenizer.encode_source([source])[0]
    ids = tokenizer.encode_target([target])[0] if isinstance(target, str) else np.asarray(target, np.int32)
    shape = Shape(1, len(source_ids), len(ids))
    store = Store.of([source_ids], [ids])
    batch = bucketed_batch(store, np.array([0]), shape, tokenizer.pad_id, tokenizer.decoder_start_id)
    _, sown = jax.jit(lambda params: model.apply({"params": params}, batch, train=False, mutable=["intermediates"]))(params)
    source_side, target_side = _side(tokenizer, batch.source[0], words), _side(tokenizer, batch.target_output[0], words)
    # The decoder's input: its start token, and all pieces except the last.
    input_side = _Side(("(start)", *target_side.labels), np.concatenate([[0], target_side.owner[:-1] + 1]))
    sides = {"source": source_side, "translation": target_side, "translation so far": input_side}
    return {
        kind: _merge(kind, *(sides[name] for name in KINDS[kind]), np.asarray(weights, np.float32)[:, 0])
        for kind, weights in attention_of(sown.get("intermediates", {})).items()
    }


def draw(attention: AttentionMap, file: str | Path, layer: int = 0, head: int = 0) -> None:
    """Writes a picture with a row for each query and a column for each key; more attention is darker.

    `layer` and `head` as for `AttentionMap.mean`. The format follows the file's ending (.png, .pdf, .svg). Needs matplotlib
    (the extra `plot`). Raises UserError without it, or where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f"pictures need matplotlib; {pip_install('matplotlib')}") from None
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
    shown = [f"{name} {number}" if number else f"mean over {name}s" for name, number in (("layer", layer), ("head", head))]
    figure.colorbar(image, label=f"share of attention, {', '.join(shown)}", shrink=0.8)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # no such folder; no format with this ending
        raise UserError(f"{file}: the picture cannot be written ({error})") from None


class _Side(NamedTuple):
    """The queries or the keys of a map."""

    labels: tuple[str, ...]
    owner: np.ndarray  # int [pieces]: the index of each piece's label


def _side(tokenizer: Tokenizer, ids: np.ndarray, words: bool) -> _Side:
    # SentencePiece marks the start of a word with U+2581, which is shown as a space.
    pieces = [piece.replace("\u2581", " ").replace("</s>", "(end)") for piece in tokenizer.pieces(ids)]
    if not words:
        return _Side(tuple(pieces), np.arange(len(pieces)))
    number = tokenizer.words(ids)
    first = np.flatnonzero((number < 0) | (number != np.concatenate([[-1], number[:-1]])))
    text = tokenizer.decode([ids])[0].split()
    labels = tuple(text[number[i]] if number[i] >= 0 else pieces[i] for i in first)
    return _Side(labels, np.searchsorted(first, np.arange(len(pieces)), side="right") - 1)


def _merge(kind: str, queries: _Side, keys: _Side, weights: np.ndarray) -> AttentionMap:
    """The map between labels from weights [L, H, pieces, pieces]."""
    # Which pieces belong to which label, bool [labels, pieces].
    query_pieces, key_pieces = (side.owner[None] == np.arange(side.owner[-1] + 1)[:, None] for side in (queries, keys))
    mean = query_pieces / query_pieces.sum(axis=1, keepdims=True)
    merged = (mean @ weights @ key_pieces.T).astype(np.float32)
    return AttentionMap(kind, queries.labels[: len(query_pieces)], keys.labels[: len(key_pieces)], merged)
