"""Word alignment of a model: which words became which, by the attention of one decoder layer."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import Links, best_aligning_layer, renumbered_links, word_links
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.translation import Translation
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["aligned", "aligning_layers", "links_of_layer", "measured_layer", "require_layer"]

log = logging.getLogger(__name__)


def aligning_layers(model: ModelConfig) -> int:
    """How many layers have attention to the source."""
    if model.family == "lstm":
        return int(model.attention != "none")
    return model.decoder_depth


def require_layer(layer: int, layers: int, explicit: bool) -> None:
    """Raises UserError for a model without attention to the source, or a layer that is not there; 0, unless it is `explicit`,
    stands for one that is not known yet."""
    if not layers:
        raise UserError("this model has no attention to the source: it cannot align words")
    if (layer or explicit) and not 1 <= layer <= layers:
        raise UserError(f"alignment layer {layer} should be from 1 to {layers}; name it with --alignment_layer")


def measured_layer(
    places: Sequence[np.ndarray], source: Sequence[np.ndarray], target: Sequence[np.ndarray], eos_id: int
) -> int:
    """The `best_aligning_layer` of pairs whose hard alignments are `places`, int32 [L, T or more] each; said in the log."""
    real = [row != eos_id for row in target]
    attended = [x[at[:, : len(y)]][:, keep] for x, y, at, keep in zip(source, target, places, real, strict=True)]
    written = np.concatenate([row[keep] for row, keep in zip(target, real, strict=True)])
    layer = best_aligning_layer(list(np.concatenate(attended, axis=1)), written)
    log.info("words are aligned by decoder layer %d, which tells most about these sentences", layer)
    return layer


def links_of_layer(
    layer: int,
    places: Sequence[np.ndarray],
    rows: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    texts: tuple[Sequence[str], Sequence[str | np.ndarray]],
    tokenizer: Tokenizer,
) -> list[Links]:
    """The links between the words of each source and target, by `layer` (from 1) of their hard alignments. `rows` are their
    ids, `texts` what they were given as."""
    words = tokenizer.words
    links = [word_links(at[layer - 1], words(x), words(y)) for at, x, y in zip(places, *rows, strict=True)]
    return [renumbered_links(*pair, tokenizer) for pair in zip(links, *texts, strict=True)]


def aligned(
    align: Callable[[list[str], list[np.ndarray], list[np.ndarray]], list[Links]],
    pieces: Sequence[Piece],
    translations: Sequence[Translation],
) -> list[Translation]:
    """The translation of each piece and its `others`, with word alignments: `align` makes those of sources, their ids and the
    ids of the targets."""
    flat = [(piece, one) for piece, best in zip(pieces, translations, strict=True) for one in (best, *best.others)]
    sources, source = [piece.span.text for piece, _ in flat], [piece.ids for piece, _ in flat]
    links = align(sources, source, [np.array(one.tokens, np.int32) for _, one in flat])
    rest = iter([one._replace(alignment=of_one) for (_, one), of_one in zip(flat, links, strict=True)])
    return [next(rest)._replace(others=tuple(next(rest) for _ in best.others)) for best in translations]
