"""The filters of training text: which pairs are left out, and why."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from transformer_jax.config import DataConfig
from transformer_jax.config.text_filters import parse_filters
from transformer_jax.data.pair_checks import currencies_agree, is_translated, numbers_agree, urls_agree
from transformer_jax.data.seen_hashes import SeenHashes
from transformer_jax.data.text_checks import has_script, is_in_language, is_well_encoded, longest_word, repeats
from transformer_jax.tokenization.normalization import normalize

__all__ = ["RULES", "Cleaning", "PairCheck", "held_out_form", "pair_checks"]

RULES = 1  # the number of the filters' rules: text that was cleaned by others is cleaned anew
PairCheck = Callable[[str, str], bool]  # of source and target: may the pair stay?


class Cleaning:
    """The filters of training text. `counts` has the number of pairs that were kept, and of those left out for each reason.
    Pairs of more than `batch.max_length` tokens on a side are left out later, when batches are made (`data.stream`).

    Words are separated by white space. A pair is left out for the first of these reasons that holds:

    * `empty`: a side has no words
    * `too long`: a side has more than `config.max_words` words
    * `length ratio`: the longer side has more than `config.max_ratio` times the words of the shorter, plus 5
    * `low score`: its score is less than `min_score`
    * those of `config.filters`, by their names, in the order of `parse_filters` (`pair_checks`)
    * `held out`: a side is one of the sentences `held_out`, all in `held_out_form`
    * `duplicate`: the same pair came before, here or in another `Cleaning` with the same `seen` (if `config.deduplicate`).
      Pairs are compared by 64 bits of a hash: of ten million pairs, one is left out by mistake with probability 1 in 400,000.
      Pairs of another `kind` are others: the text of one source may be there plain and with noise

    `low score`, `held out` and what `config.filters` names are among the `counts` only where they are asked for. The word `tag`
    before the source is no text for them; with `swap` the source is in `config.target_language`. Of text that is `normalized`
    (`normalize`), whose words have one space between them, words are counted in a fraction of the time.

    >>> cleaning = Cleaning(DataConfig())
    >>> cleaning.keep([("a b", "c"), ("", "d"), ("a b", "c")])
    [True, False, False]
    >>> cleaning.counts
    {'empty': 1, 'too long': 0, 'length ratio': 0, 'duplicate': 1, 'kept': 1}
    """

    def __init__(
        self,
        config: DataConfig,
        seen: SeenHashes | None = None,
        kind: str = "",
        *,
        tag: str = "",
        swap: bool = False,
        held_out: Collection[str] = (),
        min_score: float | None = None,
        normalized: bool = False,
    ):
        self._config, self._seen, self._kind = config, SeenHashes() if seen is None else seen, kind
        self._tag, self._held_out, self._min_score = tag, held_out, min_score
        self._count_words = _count_single_spaces if normalized else _count_words
        languages = config.source_language, config.target_language
        self._checks = pair_checks(config.filters, *(reversed(languages) if swap else languages))
        reasons = ["empty", "too long", "length ratio"]
        reasons += ["low score"] * (min_score is not None) + list(self._checks) + ["held out"] * bool(held_out)
        self.counts = dict.fromkeys([*reasons, "duplicate", "kept"], 0)

    def keep(self, rows: Sequence[tuple[str, str] | tuple[str, str, float]]) -> list[bool]:
        """For each pair, with its score where there is `min_score`: is it kept? Counts them. Many at a time are faster."""
        reasons = [self._reason(*row) for row in rows]
        if self._config.deduplicate:
            kept = [i for i, reason in enumerate(reasons) if reason == "kept"]
            hashes = b"".join([self._pair_hash(*rows[i][:2]) for i in kept])
            for i, is_new in zip(kept, self._seen.add(np.frombuffer(hashes, "<u8")).tolist(), strict=True):
                reasons[i] = "kept" if is_new else "duplicate"
        for reason, count in Counter(reasons).items():
            self.counts[reason] += count
        return [reason == "kept" for reason in reasons]

    def _reason(self, source: str, target: str, score: float = 0.0) -> str:
        """The first reason but for `duplicate`."""
        shorter, longer = sorted((self._count_words(source), self._count_words(target)))
        if shorter == 0:
            return "empty"
        if longer > self._config.max_words:
            return "too long"
        if longer > self._config.max_ratio * shorter + 5:
            return "length ratio"
        if self._min_score is not None and score < self._min_score:
            return "low score"
        if self._checks or self._held_out:
            text = source.removeprefix(self._tag).lstrip() if self._tag else source
            for name, check in self._checks.items():
                if not check(text, target):
                    return name
            if self._held_out and (held_out_form(text) in self._held_out or held_out_form(target) in self._held_out):
                return "held out"
        return "kept"

    def _pair_hash(self, source: str, target: str) -> bytes:
        # No line has a line break.
        text = f"{source}\n{target}\n{self._kind}" if self._kind else f"{source}\n{target}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()


def pair_checks(filters: str, source_language: str, target_language: str) -> dict[str, PairCheck]:
    """The filters that `filters` names (`data.filters`), in the order in which they are applied: true for a pair that stays.
    Raises UserError for what is no filter, for a language of which a filter knows nothing, and where the filter `language`
    needs a package that is not installed.

    >>> checks = pair_checks("numbers+script", "en", "de")
    >>> list(checks), checks["numbers"]("in 1984", "im Jahr 1948")
    (['script', 'numbers'], False)
    """
    languages = source_language, target_language
    return {name: _pair_check(name, limit, *languages) for name, limit in parse_filters(filters).items()}


def held_out_form(text: str) -> str:
    """A sentence as held-out sentences are compared: normalised, without regard to case.

    >>> held_out_form(" The\u00a0DOG ") == held_out_form("the dog")
    True
    """
    return normalize(text).casefold()


def _pair_check(name: str, limit: float | None, source_language: str, target_language: str) -> PairCheck:
    if name in ("script", "language"):
        make = has_script if name == "script" else is_in_language
        of_source, of_target = make(source_language, limit), make(target_language, limit)
        return lambda source, target: of_source(source) and of_target(target)
    return {
        "encoding": lambda source, target: is_well_encoded(source) and is_well_encoded(target),
        "copies": is_translated,
        "repeats": lambda source, target: repeats(source) == repeats(target),
        "long_words": lambda source, target: max(longest_word(source), longest_word(target)) <= limit,
        "numbers": numbers_agree,
        "urls": urls_agree,
        "currencies": currencies_agree,
    }[name]


def _count_words(text: str) -> int:
    return len(text.split())


def _count_single_spaces(text: str) -> int:
    return text.count(" ") + 1 if text else 0
