"""A test set under each noise of `data.noise`, side by side."""

import dataclasses
from collections.abc import Iterator, Sequence

from transformer_jax.config import DataConfig
from transformer_jax.data.corpus import Pairs, one_source, read_pairs
from transformer_jax.data.noise import NOISES, changes_target

__all__ = ["PLAIN", "NoisedSet", "Robustness", "as_table", "noised_sets", "references_of"]

PLAIN = "none"  # what stands for a noise where there is none


@dataclasses.dataclass(frozen=True)
class NoisedSet:
    """A test set with a noise on each line."""

    name: str  # with the noise, as `--test` takes it
    pairs: Pairs
    plain: str  # its name without the noise
    noise: str  # its name, or `PLAIN`
    changed: int  # how many of its sources have changed


@dataclasses.dataclass(frozen=True)
class Robustness:
    """The scores of a test set under a noise, beside those without: a row of the table of `evaluate.py --robustness`."""

    plain: str  # the name of the test set
    noise: str  # none: this row is the test set as it is
    changed: int  # lines whose source the noise has changed
    references: str  # as they are | changed alike: they have the noise too, as translations should
    bleu: float
    chrf: float
    difference: float  # bleu less that of the test set as it is
    looping: int  # translations that loop


def noised_sets(name: str, data: DataConfig, noises: Sequence[str]) -> Iterator[NoisedSet]:
    """The test set of this name as it is, and with each of the `noises` (all, if there are none) that changes a line of it;
    other noises that it has stay. The word of `tag` has no noise. Raises UserError as `read_pairs` does."""
    languages = data.source_language, data.target_language
    spec = one_source(name, *languages)
    plain = read_pairs(spec, *languages)
    yield NoisedSet(name, plain, name, PLAIN, 0)
    for noise in noises or NOISES:
        options = spec.options | {noise: "1"}
        pairs = read_pairs(spec._replace(options=options), *languages)
        changed = sum(map(str.__ne__, pairs.source, plain.source))
        if changed:
            text = f"{spec.text.rstrip()[:-1]} {noise})" if spec.options else f"{spec.text} ({noise})"
            yield NoisedSet(text, pairs, name, noise, changed)


def references_of(noise: str) -> str:
    """What the references under this noise are, in words."""
    return "changed alike" if changes_target(noise) else "as they are"


def as_table(rows: Sequence[Robustness]) -> str:
    """The rows of one test set and checkpoint, for a person; the first is without noise."""
    width = max(len(row.noise) for row in rows)
    lines = [f"{rows[0].plain}, robustness:"]
    lines.append(f"  {'noise':{width}}    BLEU  difference   chrF2  looping  lines changed  references")
    for row in rows:
        figures = f"{row.bleu:6.2f}  {row.difference:+10.2f}  {row.chrf:6.2f}  {row.looping:7}  {row.changed:13}"
        lines.append(f"  {row.noise:{width}}  {figures}  {row.references}")
    return "\n".join(lines)
