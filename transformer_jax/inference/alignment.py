"""Which word became which: attention weights -> links between words, in Pharaoh's format, and how many of them are right.

A link is (source word, target word), both from 0, words as `str.split` finds them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from transformer_jax.errors import UserError
from transformer_jax.models.attention_weights import attention_of
from transformer_jax.tokenization.normalization import word_numbers
from transformer_jax.tokenization.text_arguments import refuse_bare_text
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = [
    "Links",
    "alignment_error_rate",
    "best_aligning_layer",
    "complete_links",
    "hard_alignment",
    "join_links",
    "layer_attention",
    "log_coverage",
    "mean_attention",
    "mutual_information",
    "pharaoh",
    "renumbered_links",
    "word_links",
]

Links = tuple[tuple[int, int], ...]  # of one sentence, sorted


def hard_alignment(sown: Mapping[str, Any], source: Array, eos_id: int) -> Array | None:
    """The source place with the most attention of each target token, argmax_j of the mean over heads, EOS left out: int32
    [L, B, T].

    `sown` is what `apply(..., mutable=["intermediates"])` returns beside the logits, source int32 [B, S] its batch's. None
    where the model has no attention to the source.
    """
    cross = attention_of(sown.get("intermediates", {})).get("cross")
    if cross is None:
        return None
    mean = jnp.where((source == eos_id)[None, :, None], -1, cross.mean(axis=2))  # [L, B, T, S]
    return jnp.argmax(mean, axis=-1)


def layer_attention(sown: Mapping[str, Any], source: Array, eos_id: int, layer: int) -> Array:
    """What each target token gave to each source token in one layer, from 1, in the mean over its heads, and 0 to EOS: float32
    [B, T, S]. The rest is as in `hard_alignment`. Raises UserError for a model without attention to the source."""
    cross = attention_of(sown.get("intermediates", {})).get("cross")
    if cross is None:
        raise UserError("this model has no attention to the source: it cannot align words")
    return jnp.where((source == eos_id)[:, None, :], 0.0, cross[layer - 1].mean(axis=1))


def mean_attention(sown: Mapping[str, Any]) -> Array:
    """What each target token gave to each source token, in the mean over layers and heads: float32 [B, T, S].

    `sown` as in `hard_alignment`. Raises UserError for a model without attention to the source.
    """
    cross = attention_of(sown.get("intermediates", {})).get("cross")
    if cross is None:
        raise UserError("this model has no attention to the source: leave decode.coverage_penalty (--coverage_penalty) at 0")
    return cross.mean(axis=(0, 2))


def log_coverage(covered: Array) -> Array:
    """sum_j log(min(c_j, 1)): 0 where all of the source has got attention (Wu et al. 2016, eq. 14, without its beta).

    covered float32 [B, S] is c, what the target tokens gave to each source token in all; 1 where there is none -> float32 [B]
    """
    return jnp.sum(jnp.log(jnp.clip(covered, jnp.finfo(jnp.float32).tiny, 1.0)), axis=1)


def word_links(places: np.ndarray, source_words: np.ndarray, target_words: np.ndarray) -> Links:
    """Links between words from links between pieces: target piece t is linked to source piece places[t].

    `source_words` int [S] and `target_words` int [T] have the number of each piece's word, -1 for EOS (`Tokenizer.words`);
    places int [T or more].

    >>> word_links(np.array([0, 2, 1, 0]), np.array([0, 1, 1, -1]), np.array([0, 0, 1, -1]))
    ((0, 0), (1, 0), (1, 1))
    """
    pairs = zip(source_words[places[: len(target_words)]].tolist(), target_words.tolist(), strict=True)
    return tuple(sorted({pair for pair in pairs if min(pair) >= 0}))


def complete_links(weights: np.ndarray, source_words: np.ndarray, target_words: np.ndarray) -> Links:
    """Links of every word of both sides, from `layer_attention`, float32 [T or more, S or more], of one pair.

    The attention of a target word to a source word is the sum over their pieces, divided by what the target word gave to all
    words. Each target word is linked to the source word that it gave most to, and each source word that is left without a link
    to the target word that gave most to it. The numbers of words are as in `word_links`.

    >>> weights = np.array([[0.6, 0.4, 0], [0.7, 0.2, 0], [0, 0, 1]])
    >>> complete_links(weights, np.array([0, 1, -1]), np.array([0, 1, -1]))
    ((0, 0), (0, 1), (1, 0))
    """
    x, y = source_words >= 0, target_words >= 0
    if not x.any() or not y.any():
        return ()
    given = np.zeros((int(target_words.max()) + 1, int(source_words.max()) + 1))
    at = np.ix_(np.flatnonzero(y), np.flatnonzero(x))
    np.add.at(given, (target_words[y][:, None], source_words[x][None]), weights[at])
    given /= np.maximum(given.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    links = {(int(i), j) for j, i in enumerate(given.argmax(axis=1))}
    linked = {i for i, _ in links}
    return tuple(sorted(links | {(i, int(j)) for i, j in enumerate(given.argmax(axis=0)) if i not in linked}))


def join_links(line: str, sources: Sequence[str], targets: Sequence[str], links: Sequence[Links]) -> Links:
    """The links of a line that was translated in parts: `sources` are the parts of `line`, perhaps cut inside a word, `targets`
    those of its translation, each with the white space after it.

    >>> join_links("one twothree four", ["one two", "three four"], ["eins zwei", "drei vier"], [((1, 1),), ((0, 0), (1, 1))])
    ((1, 1), (2, 2))
    """
    owner = [number for number, word in enumerate(line.split()) for _ in word]  # of each character that is no space
    read, written, joined = 0, 0, set()
    ended = True  # is what is written of the translation whole words?
    for source, target, part in zip(sources, targets, links, strict=True):
        starts = np.cumsum([read, *map(len, source.split())]).tolist()
        read = starts[-1]
        if target:
            written -= not (ended or target[0].isspace())
            joined |= {(owner[starts[i]], written + j) for i, j in part}
            written, ended = written + len(target.split()), target[-1].isspace()
    return tuple(sorted(joined))


def renumbered_links(links: Links, source: str, target: str | Sequence[int], tokenizer: Tokenizer) -> Links:
    """Links between the words of normalised text, which the model sees, as links between the words of the texts themselves. A
    target that is tokens, not text, keeps its numbers."""
    if not tokenizer.normalizes:
        return links
    x, y = (word_numbers(text) if isinstance(text, str) else range(len(text)) for text in (source, target))
    return tuple((x[i], y[j] if len(y) else j) for i, j in links)


def pharaoh(links: Links) -> str:
    """Links as other aligners write them: SOURCE-TARGET, with a space between two.

    >>> pharaoh(((0, 0), (2, 1)))
    '0-0 2-1'
    """
    return " ".join(f"{source}-{target}" for source, target in links)


def alignment_error_rate(found: Iterable[Links], gold: Iterable[Links]) -> float:
    """1 - 2 |A and G| / (|A| + |G|) over all sentences (Och and Ney 2003, eq. 21, where every gold link is sure).

    Raises ValueError if there are not as many sentences in both, or no link at all; TypeError for links that are text.

    >>> alignment_error_rate([((0, 0), (1, 1))], [((0, 0), (2, 1))])
    0.5
    """
    found, gold = _refuse_text(found, "found"), _refuse_text(gold, "gold")
    both = [(set(a), set(g)) for a, g in zip(found, gold, strict=True)]
    links = sum(len(a) + len(g) for a, g in both)
    if not links:
        raise ValueError("no links: there is nothing to compare")
    return 1 - 2 * sum(len(a & g) for a, g in both) / links


def _refuse_text(links: Iterable[Links], name: str) -> list[Links]:
    refuse_bare_text(links, name, "the links of sentences")
    links = list(links)
    for number, of_sentence in enumerate(links):
        if isinstance(of_sentence, str):  # perhaps as `pharaoh` writes them
            refuse_bare_text(of_sentence, f"{name}[{number}]", "links such as (0, 1)")
    return links


def mutual_information(source: Sequence[int] | np.ndarray, target: Sequence[int] | np.ndarray) -> float:
    """sum_xy p(x, y) log(p(x, y) / (p(x) p(y))) of linked pieces, in nats: how well a link tells a word's translation. `source`
    and `target` are the ids, int [links] each, of the two ends of every link.

    It needs no alignment that is known to be right, and where there is one it orders a model's layers as the alignment error
    rate does (the demo's).

    >>> mutual_information([5, 5, 6, 6], [1, 1, 2, 2]) == mutual_information([5, 6], [1, 2])
    True
    """
    source, target = np.asarray(source, np.int64), np.asarray(target, np.int64)
    if not len(source):
        return 0.0
    pairs = np.stack([source, target])
    (x, y), count = np.unique(pairs, axis=1, return_counts=True)
    of_x, of_y = np.bincount(source), np.bincount(target)
    return float(np.sum(count / len(source) * np.log(count * len(source) / (of_x[x] * of_y[y]))))


def best_aligning_layer(sources: Sequence[Sequence[int]], target: Sequence[int]) -> int:
    """The layer whose links have the most `mutual_information`, from 1: of equals the lowest, 0 where there is no layer.
    `sources` has for each layer the source's ends of its links, int [links], `target` their other ends.

    >>> best_aligning_layer([[5, 5, 5, 5], [5, 5, 6, 6]], [1, 1, 2, 2])
    2
    """
    return 1 + max(range(len(sources)), key=lambda layer: mutual_information(sources[layer], target), default=-1)
