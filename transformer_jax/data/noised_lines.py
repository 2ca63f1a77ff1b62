"""Training text with noise: the clean text is kept, and its noise is drawn while it is read, for each sample anew."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, overload

from transformer_jax.data.corpus import Pairs
from transformer_jax.data.lines_on_disk import CHUNK
from transformer_jax.data.noise import VERSION, change_pairs

__all__ = ["NoisedLines", "Part", "as_sample", "clean_pairs", "noise_identity", "tokenizer_lines", "with_noise"]


class Part(NamedTuple):
    """The next lines of a text, those of one source."""

    count: int
    noise: Mapping[str, float]  # the chance of each; empty: the lines are as they are
    tag: str  # the word before each source, which has no noise


class NoisedLines(Sequence[str]):
    """One side of training text, as its sample number `sample` has it. Line i is a function of pair i of the clean text, of
    the noise of its source, of its number in that source and of the number of the sample (`noise.change_pairs`), so that both
    sides, and all processes, draw the same.

    >>> lines = NoisedLines(Pairs(["a", "b", "<x> c"], ["d", "e", "f"]), [Part(1, {}, ""), Part(2, {"upper": 1}, "<x>")], 0)
    >>> list(lines), lines[2], list(lines.sample(1))
    (['a', 'B', '<x> C'], '<x> C', ['a', 'B', '<x> C'])
    """

    def __init__(self, clean: Pairs, parts: Sequence[Part], side: int, sample: int = 0):
        self.clean, self.parts = clean, tuple(parts)
        self._side, self._sample = side, sample
        self._starts = [0, *itertools.accumulate(part.count for part in parts)]

    def sample(self, number: int) -> "NoisedLines":
        """The same lines with the noise of another sample."""
        return NoisedLines(self.clean, self.parts, self._side, number)

    def __len__(self) -> int:
        return len(self.clean[self._side])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index):
        numbers = range(len(self))[index]
        if not isinstance(index, slice):
            return next(self._between(numbers, numbers + 1))
        if numbers.step != 1:
            return [self[number] for number in numbers]
        return list(self._between(numbers.start, numbers.stop))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self._between(start, min(start + CHUNK, len(self)))

    def _between(self, start: int, stop: int) -> Iterator[str]:
        for first, part in zip(self._starts, self.parts, strict=False):
            begin, end = max(start, first), min(stop, first + part.count)
            if begin >= end:
                continue
            if part.noise:
                pairs = zip(*(side[begin:end] for side in self.clean), strict=True)
                for pair in _change(part, pairs, begin - first, self._sample):
                    yield pair[self._side]
            else:
                yield from self.clean[self._side][begin:end]


def with_noise(pairs: Pairs, parts: Sequence[Part]) -> Pairs:
    """The pairs with the noise of their sources, of sample 0; as they are where no source has any."""
    return Pairs(*(NoisedLines(pairs, parts, side) for side in (0, 1))) if any(part.noise for part in parts) else pairs


def as_sample(lines: Sequence[str], number: int) -> Sequence[str]:
    """The lines as the sample of this number has them: without noise they are the same in all."""
    return lines.sample(number) if isinstance(lines, NoisedLines) else lines


def clean_pairs(pairs: Pairs) -> Pairs:
    """The pairs before their noise."""
    return pairs.source.clean if isinstance(pairs.source, NoisedLines) else pairs


def tokenizer_lines(pairs: Pairs, weights: Sequence[float]) -> Iterator[str]:
    """The lines that a tokenizer is trained on: all sources, then all targets, with the noise of sample 0. Of a source with
    noise and a weight w below 1 (`weights` has that of each source) these are a share w of its lines, at even distances: of
    text that is there plain, too, and in capitals with a weight of 0.1, half of the pieces would else be for capitals.

    >>> pairs = with_noise(Pairs(list("abab"), list("cdcd")), [Part(2, {}, ""), Part(2, {"upper": 1}, "")])
    >>> list(tokenizer_lines(pairs, [1.0, 0.5]))
    ['a', 'b', 'B', 'c', 'd', 'D']
    """
    for lines in pairs:
        if not isinstance(lines, NoisedLines):
            yield from lines
            continue
        of_line = itertools.chain(*(itertools.repeat(each, each[0].count) for each in zip(lines.parts, weights, strict=True)))
        number, before = 0, None
        for line, (part, weight) in zip(lines, of_line, strict=True):
            number, before = number + 1 if part is before else 1, part
            if not part.noise or weight >= 1 or int(number * weight) > int((number - 1) * weight):
                yield line


def noise_identity(pairs: Pairs) -> str:
    """What the noise of the pairs depends on beside their text, in one line; empty where there is none."""
    if not isinstance(pairs.source, NoisedLines):
        return ""
    return f" noise {VERSION} {[(part.count, dict(part.noise), part.tag) for part in pairs.source.parts]}"


def _change(part: Part, pairs: Iterator[tuple[str, str]], first: int, sample: int) -> Iterator[tuple[str, str]]:
    """With the noise of a part, whose tag stays as it is."""
    tag = f"{part.tag} "
    if not part.tag:
        return change_pairs(part.noise, pairs, first, sample)
    with_tag, pairs = itertools.tee(pairs)
    changed = change_pairs(part.noise, ((source.removeprefix(tag), target) for source, target in pairs), first, sample)
    return (
        (tag + source if tagged.startswith(tag) else source, target)
        for (tagged, _), (source, target) in zip(with_tag, changed, strict=True)
    )
