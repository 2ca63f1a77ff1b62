"""What attention looks at: the weights of a translation, gathered from the model and drawn."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.data.batching import Batch
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError

__all__ = ["AttentionMap", "cross_attention", "draw"]


class AttentionMap(NamedTuple):
    """weights[t, s]: how much of the attention, while target piece t was predicted, went to source piece s. Rows sum to 1."""

    source: tuple[str, ...]  # the tokenizer's pieces, EOS included
    target: tuple[str, ...]
    weights: np.ndarray  # float32 [T, S]


def cross_attention(model: nn.Module, params: Any, tokenizer: Tokenizer, source: str, target: str) -> AttentionMap:
    """The attention from `target` to `source`, both text, by teacher forcing; the mean over layers and heads.

    Raises UserError for a model that has no attention to the source.
    """
    batch = _one_pair(tokenizer, source, target)
    _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
    layers = [
        weights
        for path, weights in jax.tree_util.tree_leaves_with_path(sown["intermediates"])
        if "cross_attention" in jax.tree_util.keystr(path)
    ]
    if not layers:
        raise UserError("this model has no attention to the source: there is nothing to draw")
    weights = np.mean([np.asarray(layer)[0].mean(axis=0) for layer in layers], axis=0)  # [1, H, T, S] each -> [T, S]
    return AttentionMap(tuple(tokenizer.pieces(batch.source[0])), tuple(tokenizer.pieces(batch.target_output[0])), weights)


def draw(attention: AttentionMap, file: str | Path) -> None:
    """Writes a picture: a row for each target piece, a column for each source piece, darker where more attention goes.

    The format follows the file's ending (.png, .pdf, .svg). Needs matplotlib (the extra `plot`). Raises UserError without
    it, or where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib, or 'transformer_jax[plot]'") from None
    rows, columns = attention.weights.shape
    figure = Figure(figsize=(1.6 + 0.42 * columns, 1.4 + 0.36 * rows), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    image = axes.imshow(attention.weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), _readable(attention.source), rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(rows), _readable(attention.target))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel("source (English)")
    axes.xaxis.set_label_position("bottom")
    axes.set_ylabel("translation (German)")
    figure.colorbar(image, label="share of attention, mean over layers and heads", shrink=0.8)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # no such folder; an ending that is no format
        raise UserError(f"{file}: the picture cannot be written ({error})") from None


def _one_pair(tokenizer: Tokenizer, source: str, target: str) -> Batch:
    source_ids, target_ids = tokenizer.encode_source([source])[0][None], tokenizer.encode_target([target])[0][None]
    target_input = np.concatenate([[[tokenizer.decoder_start_id]], target_ids[:, :-1]], axis=1).astype(np.int32)
    ones, positions = np.ones_like, lambda ids: np.arange(ids.shape[1], dtype=np.int32)[None]
    return Batch(
        source_ids, ones(source_ids), positions(source_ids), target_input, target_ids, ones(target_ids), positions(target_ids)
    )


def _readable(pieces: tuple[str, ...]) -> list[str]:
    # SentencePiece marks the start of a word with U+2581; a space before the piece reads better. The end has a name.
    return [piece.replace("\u2581", " ").replace("</s>", "(end)") for piece in pieces]
