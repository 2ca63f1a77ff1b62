"""How well two sentences translate each other, by the models of both directions: dual conditional cross-entropy."""

from collections.abc import Sequence

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator

__all__ = ["adequacy", "cross_entropies", "score_pairs"]


def adequacy(forward: np.ndarray | None, backward: np.ndarray | None) -> np.ndarray:
    """exp(-(|F - B| + (F + B) / 2)) for the cross-entropies F and B of both directions, float64 [N] each; of one direction F
    alone, exp(-F). Between 0 and 1: low where a model finds the translation improbable, and where only one of them does
    (Junczys-Dowmunt 2018, arXiv 1809.00197, equations 1 and 2).

    >>> adequacy(np.array([1.0, 1.0]), np.array([1.0, 3.0])).round(4).tolist()
    [0.3679, 0.0183]
    """
    if forward is None or backward is None:
        return np.exp(-(backward if forward is None else forward))
    return np.exp(-(np.abs(forward - backward) + (forward + backward) / 2))


def cross_entropies(translator: Translator, sources: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """-log P(target | source) / T of each pair, where T is the number of the target's tokens, EOS included: float64 [N]. Raises
    UserError as `Translator.score` does."""
    return np.array([-scored.log_prob / len(scored.tokens) for scored in translator.score(sources, targets)])


def score_pairs(
    sources: Sequence[str],
    targets: Sequence[str],
    forward: Translator | None,
    backward: Translator | None,
    max_length: int,
) -> tuple[np.ndarray, int, int]:
    """The `adequacy` of each pair, float64 [N], by a model from source to target, one back, or both; the number of pairs with a
    blank side, and of those with more than `max_length` tokens on a side (EOS included, by one of the tokenizers). Both have
    the score 0. Raises UserError where a model's parameters give no number."""
    lengths = np.zeros(len(sources), int)
    for model, sides in ((forward, (sources, targets)), (backward, (targets, sources))):
        if model is not None:
            rows = zip(model.tokenizer.encode_source(sides[0]), model.tokenizer.encode_target(sides[1]), strict=True)
            lengths = np.maximum(lengths, [max(map(len, row)) for row in rows]) if len(sources) else lengths
    blank = np.array([not (source.strip() and target.strip()) for source, target in zip(sources, targets, strict=True)], bool)
    too_long = ~blank & (lengths > max_length)
    scored = np.flatnonzero(~blank & ~too_long)
    texts = [sources[i] for i in scored], [targets[i] for i in scored]
    entropies = [
        None if forward is None else cross_entropies(forward, *texts),
        None if backward is None else cross_entropies(backward, *texts[::-1]),
    ]
    scores = np.zeros(len(sources))
    scores[scored] = adequacy(*entropies)
    if not np.isfinite(scores).all():
        raise UserError("a model gives probabilities that are no numbers; choose another checkpoint")
    return scores, int(blank.sum()), int(too_long.sum())
