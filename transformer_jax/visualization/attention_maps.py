"""Pictures of attention weights, which `inference.attention` computes."""

from pathlib import Path

from transformer_jax.errors import UserError, pip_install
from transformer_jax.inference.attention import KINDS as KINDS
from transformer_jax.inference.attention import AttentionMap as AttentionMap
from transformer_jax.inference.attention import attention_maps as attention_maps

__all__ = ["draw"]


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
    # The map's own size; what is beside it may be longer than it, and the file has room for all.
    width, height = 0.42 * columns, 0.36 * rows
    figure = Figure(figsize=(width, height), dpi=150)
    axes, bar = figure.add_axes((0, 0, 1, 1)), figure.add_axes((1 + 0.3 / width, 0.1, 0.15 / width, 0.8))
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
    figure.colorbar(image, cax=bar, label=f"share of attention\n{', '.join(shown)}")
    try:
        figure.savefig(file, bbox_inches="tight")
    except (OSError, ValueError) as error:  # no such folder; no format with this ending
        raise UserError(f"{file}: the picture cannot be written ({error})") from None
