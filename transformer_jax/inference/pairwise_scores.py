"""Sentence chrF and sentence BLEU between all pairs of some texts, as sacreBLEU computes them, by matrix products."""

from collections.abc import Sequence

import numpy as np

__all__ = ["METRICS", "pairwise_bleu", "pairwise_chrf"]

_CHRF_ORDER = 6
_BETA = 2  # recall counts so many times as much as precision
_BLEU_ORDER = 4


def pairwise_chrf(texts: Sequence[str]) -> np.ndarray:
    """chrF (Popovic 2015) of each text as a translation, with each text as its reference: float64 [texts, texts], in percent.

    The value in row h, column r is that of sacreBLEU's `CHRF().sentence_score(texts[h], [texts[r]])`: the mean precision P and
    the mean recall R over the character n-grams of orders 1 to 6 that both have, without white space, and of these
    (1 + 4) P R / (4 P + R).

    >>> pairwise_chrf(["Hund", "Hunde"]).round(1).tolist()
    [[100.0, 72.6], [91.4, 100.0]]
    """
    rows = ["".join(text.split()).encode("utf-32-le", "surrogatepass") for text in texts]
    matches, totals = _matches([np.frombuffer(row, np.uint32) for row in rows], _CHRF_ORDER)
    of_hypothesis, of_reference = totals[:, :, None], totals[:, None, :]
    both = (of_hypothesis > 0) & (of_reference > 0)
    orders = np.maximum(both.sum(axis=0), 1)
    precision = (matches / np.maximum(of_hypothesis, 1) * both).sum(axis=0) / orders
    recall = (matches / np.maximum(of_reference, 1) * both).sum(axis=0) / orders
    weighted = _BETA**2 * precision + recall
    return 100 * (1 + _BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)


def pairwise_bleu(texts: Sequence[str]) -> np.ndarray:
    """BLEU (Papineni et al. 2002) of each text as a translation, with each text as its reference: float64 [texts, texts], in
    percent.

    The value in row h, column r is that of sacreBLEU's `BLEU(effective_order=True).sentence_score(texts[h], [texts[r]])`:
    tokens of 13a, orders 1 to 4 as far as the translation has n-grams of them, and for the k-th order without a match the
    precision 1 / (2^k n) of its n n-grams (Chen and Cherry 2014, method 3).
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize, numbers = Tokenizer13a(), {}
    words = [tokenize(text.rstrip()).split() for text in texts]
    rows = [np.array([numbers.setdefault(word, len(numbers)) for word in row], np.int64) for row in words]
    matches, totals = _matches(rows, _BLEU_ORDER)
    lengths = totals[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.exp(np.minimum(1 - lengths[None, :] / lengths[:, None], 0))
        halvings = np.cumsum(matches == 0, axis=0)
        precisions = np.where(matches > 0, matches, 0.5**halvings) / totals[:, :, None]
        logs = np.where(totals[:, :, None] > 0, np.log(100 * precisions), 0)
        orders = (totals > 0).sum(axis=0)[:, None]
        scores = penalty * np.exp(logs.sum(axis=0) / orders)
    return np.where(matches.any(axis=0), scores, 0.0)


METRICS = {"chrf": pairwise_chrf, "bleu": pairwise_bleu}  # by the values of `SearchOptions.mbr_metric`


def _matches(rows: Sequence[np.ndarray], orders: int) -> tuple[np.ndarray, np.ndarray]:
    """Of rows of symbols and each order n, how many n-grams every two rows have in common, each as often as the row has it
    that has it less often: float64 [orders, rows, rows]; and how many each row has: int64 [orders, rows].

    The j-th occurrence of an n-gram in a row is an element of that row's set; the size of the intersection of two such sets is
    the sum of the n-grams' minimal counts. With a column of zeros and ones for each element this is a product of matrices.
    """
    sizes = np.array([len(row) for row in rows], np.int64)
    totals = np.maximum(sizes[None, :] - np.arange(orders)[:, None], 0)
    row = np.repeat(np.arange(len(rows)), sizes)
    left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(row))  # symbols from here to the end of the row
    alphabet, symbols = np.unique(np.concatenate([*rows, np.zeros(0, np.int64)]), return_inverse=True)
    matches = np.zeros((orders, len(rows), len(rows)))
    place, grams = np.arange(len(row)), symbols.astype(np.int64)  # of the n-grams: where they begin, and which they are
    for order in range(orders):
        if order:
            longer = left[place] > order
            place, grams = place[longer], grams[longer] * len(alphabet)
            grams = np.unique(grams + symbols[place + order], return_inverse=True)[1]
        matches[order] = _common(row[place], grams, len(rows))
        np.fill_diagonal(matches[order], totals[order])
    return matches, totals


def _common(row: np.ndarray, gram: np.ndarray, rows: int) -> np.ndarray:
    """How many elements every two rows have in common, [rows, rows], where n-gram `gram` occurs in `row`; the diagonal is
    left out."""
    pairs, counts = np.unique(gram * rows + row, return_counts=True)
    occurrence = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    gram, row = np.repeat(pairs // rows, counts), np.repeat(pairs % rows, counts)
    element = occurrence * (gram.max(initial=0) + 1) + gram
    shared = np.bincount(element) > 1  # most elements are in one row alone
    column, kept = np.cumsum(shared) - 1, shared[element]
    has = np.zeros((rows, int(shared.sum())), np.float32)  # counts below 2^24 are exact in it
    has[row[kept], column[element[kept]]] = 1
    return has @ has.T
