"""The filters of training text: which pairs are left out, and why."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.config import DataConfig
from transformer_jax.config.text_filters import parse_filters
from transformer_jax.data.pair_checks import currencies_agree, is_translated, numbers_agree, urls_agree
from transformer_jax.data.seen_hashes import SeenHashes
from transformer_jax.data.text_checks import has_script, is_in_language, is_well_encoded, longest_word, repeats
from transformer_jax.storage.text_hashes import text_hashes
from transformer_jax.tokenization.normalization import normalize

__all__ = ["RULES", "Cleaned", "Cleaning", "PairCheck", "held_out_form", "pair_checks"]

RULES = 1  # the number of the filters' rules: text that was cleaned by others is cleaned anew
PairCheck = Callable[[str, str], bool]  # of source and target: may the pair stay?


class Cleaned(NamedTuple):
    r"""What a `Cleaning` has left of some pairs: their lines as UTF-8, with `\n` between two (`lines_on_disk.joined`)."""

    source: bytes
    target: bytes
    hashes: np.ndarray | None  # uint64 [pairs], by which duplicates are found; None where they may stay
    counts: Mapping[str, int]  # of the pairs that were left out, by reason, and of those that were `kept`

    def lines(self) -> tuple[list[str], list[str]]:
        """The sources and the targets."""
        return tuple(side.decode("utf-8").split("\n") if self.counts["kept"] else [] for side in (self.source, self.target))

    def without_duplicates(self, seen: SeenHashes) -> "Cleaned":
        """Without those whose hashes are in `seen`, to which it adds the others'."""
        if self.hashes is None or (is_new := seen.add(self.hashes)).all():
            return self
        sides = (b"\n".join(itertools.compress(side.split(b"\n"), is_new)) for side in (self.source, self.target))
        kept = int(np.count_nonzero(is_new))
        return Cleaned(*sides, None, {**self.counts, "duplicate": len(is_new) - kept, "kept": kept})


class Cleaning:
    """The filters of training text: a function of some pairs, which may be called in another process (`pickle`).
    Pairs of more than `batch.max_length` tokens on a side are left out later, when batches are made (`data.stream`).

    Words are separated by white space. A pair is left out for the first of these reasons that holds:

    * `empty`: a side has no words
    * `too long`: a side has more than `config.max_words` words
    * `length ratio`: the longer side has more than `config.max_ratio` times the words of the shorter, plus 5
    * `low score`: its score is less than `min_score`
    * those of `config.filters`, by their names, in the order of `parse_filters` (`pair_checks`)
    * `held out`: a side is one of the sentences `held_out`, all in `held_out_form`
    * `duplicate`, which `Cleaned.without_duplicates` finds: the same pair came before (if `config.deduplicate`). Pairs are
      compared by 64 bits of a hash: of ten million pairs, one is left out by mistake with probability 1 in 400,000. Pairs of
      another `kind` are others: the text of one source may be there plain and with noise

    With `normalized` lines are normalised (`normalize`) before all of this. The word `tag` before the source is no text for the
    filters; with `swap` the source is in `config.target_language`.

    >>> cleaned = Cleaning(DataConfig())([("a b", "", "a b"), ("c", "d", "c")])
    >>> cleaned.without_duplicates(SeenHashes()).lines()
    (['a b'], ['c'])

    Attributes:
        reasons: the names above, of all that are asked for, and `kept`; those of `Cleaned.counts` are among them
    """

    def __init__(
        self,
        config: DataConfig,
        kind: str = "",
        *,
        tag: str = "",
        swap: bool = False,
        held_out: Collection[str] = (),
        min_score: float | None = None,
        normalized: bool = False,
    ):
        options = dict(kind=kind, tag=tag, swap=swap, held_out=held_out, min_score=min_score, normalized=normalized)
        self._again = functools.partial(type(self), config, **options)
        self._config, self._kind, self._held_out, self._min_score = config, kind, held_out, min_score
        self._tag, self._normalized = normalize(tag) if normalized else tag, normalized
        self._count_words = _count_single_spaces if normalized else _count_words
        languages = config.source_language, config.target_language
        self._checks = pair_checks(config.filters, *(reversed(languages) if swap else languages))
        low_score, held = ["low score"] * (min_score is not None), ["held out"] * bool(held_out)
        self.reasons = ["empty", "too long", "length ratio", *low_score, *self._checks, *held, "duplicate", "kept"]

    def __reduce__(self) -> tuple:
        return self._again, ()  # filters are closures, which pickle does not take

    def __call__(self, columns: Sequence[Sequence]) -> Cleaned:
        """Cleans the pairs of these columns: sources, targets and, where there is a `min_score`, the scores."""
        sources, targets, *scores = columns
        if self._normalized:
            sources, targets = list(map(normalize, sources)), list(map(normalize, targets))
        reasons = list(map(self._reason, sources, targets, *scores))
        counts = Counter(reasons)
        if len(counts) > 1 or "kept" not in counts:
            is_kept = [reason == "kept" for reason in reasons]
            sources, targets = list(itertools.compress(sources, is_kept)), list(itertools.compress(targets, is_kept))
        hashes = None
        if self._config.deduplicate:
            hashes = text_hashes(map(self._pair_text, sources, targets))
        return Cleaned("\n".join(sources).encode("utf-8"), "\n".join(targets).encode("utf-8"), hashes, counts)

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

    def _pair_text(self, source: str, target: str) -> str:
        # No line has a line break.
        return f"{source}\n{target}\n{self._kind}" if self._kind else f"{source}\n{target}"


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
