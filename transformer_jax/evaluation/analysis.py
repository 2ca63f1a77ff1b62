"""Where a system translates well or badly: by the length of the source, by unseen words, sentence by sentence."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from sacrebleu.metrics import CHRF

from transformer_jax.config import DataConfig
from transformer_jax.data.corpus import Pairs
from transformer_jax.data.sources import cleaned_text, cleaning_of, held_out_sentences, parse_sources
from transformer_jax.data.training_words import words_of, words_of_part
from transformer_jax.evaluation.metrics import LEAST_SENTENCES, check_lines, metrics, score_with, with_interval

__all__ = ["Analysis", "Group", "Sentence", "analyse", "sentence_chrf", "training_targets", "unseen_words"]

_LENGTHS = (5, 10, 15, 20, 30, 40, 60)  # the largest number of source words in each group except the last
_WORST = 20
_BLOCK = 10_000  # lines of training text that are searched together


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of sentences, and its scores."""

    label: str
    sentences: int
    bleu: float  # percent
    interval: tuple[float, float] | None  # 95% confidence; None of fewer than `metrics.LEAST_SENTENCES`
    length_ratio: float  # words of the translations over words of the references


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence of the test set and its translation."""

    line: int  # in the test set, from 1
    chrf: float  # see `sentence_chrf`
    source: str
    hypothesis: str
    reference: str


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The analysis that `evaluate.py --report` and `--html` add to the scores. Words are those of `words_of`."""

    by_length: list[Group]  # by the number of words of the source
    by_unseen: list[Group] | None  # by the number of words of the reference that the training text does not contain
    unseen: list[int] | None  # that number for each sentence
    training_text: str  # where the training text was read, or why there is no `by_unseen`
    sentence_chrf: list[float]  # of each sentence, in percent
    worst: list[Sentence]  # the twenty sentences with the lowest chrF, worst first

    def as_text(self) -> str:
        """Some lines for a person."""
        all_groups = [*self.by_length, *(self.by_unseen or [])]
        some = any(group.interval for group in all_groups) and not all(group.interval for group in all_groups)
        words = "words: sacreBLEU's 13a" + f"; intervals from {LEAST_SENTENCES} sentences" * some
        lines = [f"  BLEU by words of the source ({words}):", *map(_row, self.by_length)]
        if self.by_unseen is None:
            lines.append(f"  no BLEU by unseen words: {self.training_text}")
        else:
            lines += [f"  BLEU by words of the reference that {self.training_text} does not have:", *map(_row, self.by_unseen)]
        lines.append(f"  the {len(self.worst)} worst sentences, by chrF:")
        for sentence in self.worst:
            lines.append(f"    line {sentence.line}, chrF {sentence.chrf:.1f}")
            lines += [f"      {name:11} {getattr(sentence, name)}" for name in ("source", "hypothesis", "reference")]
        return "\n".join(lines)


def analyse(
    hypotheses: Sequence[str],
    pairs: Pairs,
    unseen: set[str] | None,
    training_text: str,
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    bootstrap: int = 0,
) -> Analysis:
    """Scores groups of the sentences of a translated test set. `unseen` are the words that the training text does not contain
    (None: unknown).

    `training_text` names that text, or says why `unseen` is unknown; other arguments and errors are those of `score`. Groups
    without a sentence are left out. BLEU of a group of few sentences says little, so each group has its number of sentences.
    """
    source, references = pairs
    check_lines(hypotheses, references, "translations")
    bleu = metrics(tokenize, lowercase, bootstrap)[0]

    def groups(labels: Sequence[str], group_of_line: Sequence[int]) -> list[Group]:
        members = [[i for i, of_line in enumerate(group_of_line) if of_line == number] for number in range(len(labels))]
        return [group(label, lines) for label, lines in zip(labels, members, strict=True) if lines]

    def group(label: str, lines: Sequence[int]) -> Group:
        hypothesis, reference = [hypotheses[i] for i in lines], [references[i] for i in lines]
        scored = score_with(bleu, hypothesis, reference, bootstrap)
        ratio = sum(len(words_of(line)) for line in hypothesis) / max(1, sum(len(words_of(line)) for line in reference))
        return Group(label, len(lines), scored.value, scored.interval, ratio)

    between = [f"{low + 1} to {high}" for low, high in itertools.pairwise(_LENGTHS)]
    lengths = [f"up to {_LENGTHS[0]}", *between, f"over {_LENGTHS[-1]}"]
    length_of_line = [sum(len(words_of(line)) > limit for limit in _LENGTHS) for line in source]
    counts = None if unseen is None else [sum(word in unseen for word in words_of(line)) for line in references]
    chrf = [sentence_chrf(*pair) for pair in zip(hypotheses, references, strict=True)]
    worst = sorted(range(len(chrf)), key=chrf.__getitem__)[:_WORST]
    return Analysis(
        by_length=groups(lengths, length_of_line),
        by_unseen=None if counts is None else groups(["0", "1", "2", "3 or more"], [min(count, 3) for count in counts]),
        unseen=counts,
        training_text=training_text,
        sentence_chrf=chrf,
        worst=[Sentence(i + 1, chrf[i], source[i], hypotheses[i], references[i]) for i in worst],
    )


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """chrF (Popovic 2015) of one sentence, in percent.

    BLEU is defined for whole sets: for a sentence without a common four-gram it is 0, or a value that depends on the
    smoothing. chrF needs no smoothing, counts the common characters of inflected forms, and agrees better with human judgement
    of single sentences.
    """
    # An empty translation of an empty reference is right; sacreBLEU gives it 0.
    return 100.0 if hypothesis == reference else _chrf.sentence_score(hypothesis, [reference]).score


def unseen_words(references: Iterable[str], training: Iterable[str]) -> set[str]:
    """The words of `references` that no line of `training` contains, which is read once and not kept in memory. This is
    for runs without `words.npy`; else `data.training_words.words_outside` finds them from the hashes that are kept there.

    >>> sorted(unseen_words(["Ja, der Hund.", "Ein Hund!"], ["der Hund, ein Tier."]))
    ['!', 'Ein', 'Ja']
    """
    unseen = {word for line in references for word in words_of(line)}
    lines = iter(training)
    while unseen and (block := list(itertools.islice(lines, _BLOCK))):
        # Most words of a block occur in it many times; the set leaves each to be looked up once.
        for part in set(" ".join(block).split()):
            unseen.difference_update(words_of_part(part))
    return unseen


def training_targets(data: DataConfig) -> Iterator[str]:
    """The target sentences of `data.train` that training uses, one at a time, read from the files as they are now. Raises
    UserError as `read_pairs` does."""
    held_out = held_out_sentences(data)
    for source in parse_sources(data):
        for some in cleaned_text(source, cleaning_of(source, held_out)):  # duplicates have no new words
            yield from some.lines()[1]


_chrf = CHRF()


def _row(group: Group) -> str:
    count = f"{group.sentences} sentence{'s' * (group.sentences != 1)}, length ratio {group.length_ratio:.2f}"
    return f"    {group.label:10} {with_interval(group.bleu, group.interval)}   {count}"
