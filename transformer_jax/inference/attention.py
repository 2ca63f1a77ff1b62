"""The attention weights of a translation: made by teacher forcing, between the tokenizer's pieces or averaged over words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.data.batch_shapes import Shape
from transformer_jax.data.batching import Batch, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError
from transformer_jax.inference.arguments import checked_pairs
from transformer_jax.inference.notebook_html import attention_html
from transformer_jax.inference.translation import Translation
from transformer_jax.models.attention_weights import attention_of
from transformer_jax.tokenization.text_arguments import list_of_texts
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["KINDS", "Attention", "AttentionMap", "attention_maps", "attention_of_pair"]

# The sides of each kind of attention: what its queries and its keys are.
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


class Attention(NamedTuple):
    """What every token of one translation attended to, in all layers and heads: a map for each kind of attention that the model
    has (`AttentionMap.kind`). In a notebook it shows itself, as heat maps of words.

    >>> attention = translator.attention("The dog sleeps.")             # doctest: +SKIP
    >>> attention.words["cross"].mean(layer=2).round(2)                 # doctest: +SKIP
    """

    source: str
    translation: str
    pieces: dict[str, AttentionMap]  # between the tokenizer's pieces
    words: dict[str, AttentionMap]  # between words

    def __repr__(self) -> str:
        sizes = {kind: " x ".join(map(str, of_kind.weights.shape)) for kind, of_kind in self.words.items()}
        maps = ", ".join(f"{kind} {size}" for kind, size in sizes.items())
        return f"Attention({self.source!r} -> {self.translation!r}; layers x heads x words x words: {maps})"

    def _repr_html_(self) -> str:
        return attention_html(self.source, self.translation, {KINDS[kind]: of_kind for kind, of_kind in self.words.items()})


def attention_maps(
    model: nn.Module, params: Any, tokenizer: Tokenizer, source: str, target: str | Sequence[int], *, words: bool = False
) -> dict[str, AttentionMap]:
    """A map for every kind of attention that the model has (`AttentionMap.kind`), by teacher forcing of `target`.

    `target` is text, or a translation's own ids, EOS included. Queries and keys are pieces, or with `words` words: the share of
    a word is the sum of its pieces' shares, and its row is the mean of its pieces' rows. A model without attention has no map.
    """
    batch, weights = _teacher_forced(model, params, tokenizer, *_ids_of_pair(tokenizer, source, target))
    return _labelled(tokenizer, batch, weights, words)


def attention_of_pair(
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer,
    source: str,
    target: str | Sequence[int] | Translation,
    max_positions: int,
) -> Attention:
    """Both maps of `attention_maps`, in one pass. Raises UserError where `source` is blank, where the target is a translation
    in several parts, where one of the two has more than `max_positions` tokens, and for a model without attention; TypeError
    where `source` is no string."""
    if not isinstance(source, str):
        raise TypeError(f"source should be one line, a string, not {source!r:.40}")
    if isinstance(target, Translation):
        if target.parts > 1:
            raise UserError(f"the line was translated in {target.parts} parts: ask for the attention of one of them")
        target = target.tokens or ""
    (source,), (target,) = checked_pairs([source], [target], tokenizer.vocab_size)
    source_ids, ids = _ids_of_pair(tokenizer, source, target)
    if not source.strip():
        raise UserError("the line is blank: there is nothing to attend to")
    longest = max(len(source_ids), len(ids))
    if longest > max_positions:
        raise UserError(f"a sentence of {longest} tokens is too long for model.max_positions={max_positions}")
    batch, weights = _teacher_forced(model, params, tokenizer, source_ids, ids)
    if not weights:
        raise UserError("this model has no attention")
    text = target if isinstance(target, str) else tokenizer.decode([ids])[0]
    return Attention(source, text, *(_labelled(tokenizer, batch, weights, words) for words in (False, True)))


def _ids_of_pair(tokenizer: Tokenizer, source: str, target: str | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    (source,) = list_of_texts([source], "source")
    ids = tokenizer.encode_target([target])[0] if isinstance(target, str) else np.asarray(target, np.int32)
    return tokenizer.encode_source([source])[0], ids


def _teacher_forced(
    model: nn.Module, params: Any, tokenizer: Tokenizer, source: np.ndarray, target: np.ndarray
) -> tuple[Batch, dict[str, jax.Array]]:
    """The batch of one pair of rows, and `attention_of` it."""
    store, shape = Store.of([source], [target]), Shape(1, len(source), len(target))
    batch = bucketed_batch(store, np.array([0]), shape, tokenizer.pad_id, tokenizer.decoder_start_id)
    _, sown = jax.jit(lambda params: model.apply({"params": params}, batch, train=False, mutable=["intermediates"]))(params)
    return batch, attention_of(sown.get("intermediates", {}))


def _labelled(tokenizer: Tokenizer, batch: Batch, weights: Mapping[str, jax.Array], words: bool) -> dict[str, AttentionMap]:
    source_side, target_side = _side(tokenizer, batch.source[0], words), _side(tokenizer, batch.target_output[0], words)
    # The decoder's input: its start token, and all pieces except the last.
    input_side = _Side(("(start)", *target_side.labels), np.concatenate([[0], target_side.owner[:-1] + 1]))
    sides = {"source": source_side, "translation": target_side, "translation so far": input_side}
    return {
        kind: _merge(kind, *(sides[name] for name in of_kind), np.asarray(weights[kind], np.float32)[:, 0])
        for kind, of_kind in KINDS.items()
        if kind in weights
    }


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
