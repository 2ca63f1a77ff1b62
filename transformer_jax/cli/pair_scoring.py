"""What `transformer-jax score_pairs` does: a text to a file of scores, block by block."""

import dataclasses
import itertools
import logging
import time
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.cli.continuation import CountedLines, model_digest
from transformer_jax.cli.pair_scoring_job import PairScoringJob
from transformer_jax.cli.progress_bar import count_lines, lines_bar
from transformer_jax.config import Config
from transformer_jax.data.corpus import iter_pairs, one_source, text_files
from transformer_jax.errors import UserError
from transformer_jax.inference.pair_scores import score_pairs
from transformer_jax.inference.translator import Translator, load_translator
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.storage.files import is_remote
from transformer_jax.storage.growing_files import GrowingFiles
from transformer_jax.storage.text_files import iter_lines
from transformer_jax.training.preemption import Preemption

__all__ = ["score_file"]

log = logging.getLogger(__name__)

_TELL_EVERY = 60  # seconds
_BINS = 100_000  # of scores from 0 to 1
_SHARES = (0.95, 0.9, 0.8, 0.7, 0.5)


class _Model(NamedTuple):
    translator: Translator
    config: Config


_Models = dict[str, _Model | None]  # forward, backward


def score_file(job: PairScoringJob) -> None:
    """Writes the scores of all pairs of `job.text`, `job.batch_size` of them at a time, so that memory does not grow with the
    text. The log says how far it is, how many pairs have no score but 0, and which number keeps how many pairs.

    A call with the same job goes on after the last block that was written (`storage.growing_files`), and the file is the one
    that an uninterrupted call writes. Raises UserError for bad input, for a text that begins with other pairs than those that
    are scored, and as `GrowingFiles` does; ToBeContinued after SIGTERM, SIGHUP and Ctrl-C.
    """
    with Preemption():  # holds nothing: what is not written is scored again
        _score_blocks(job)


def _score_blocks(job: PairScoringJob) -> None:
    models = {name: _load(getattr(job, name)) for name in ("forward", "backward")}
    languages = _languages(job, models)
    spec = one_source(job.text, *languages)
    if spec.tag:
        raise UserError(f"{job.text}: leave the tag out; pairs are scored as they are")
    shortest = min(model.config.batch.max_length for model in models.values() if model)
    job = dataclasses.replace(job, max_length=job.max_length or shortest)
    digests = {name: model and model_digest(model.translator) for name, model in models.items()}
    output = GrowingFiles([job.output], digests | dict(batch_size=job.batch_size, max_length=job.max_length))
    pairs, before = CountedLines(iter_pairs(spec, *languages)), output.done
    pairs.skip(before, f"{job.text}: its first {before.lines:,} pairs are not those whose scores {job.output} has")
    first = list(itertools.islice(pairs, job.batch_size))  # before the output is opened: a text that cannot be read makes none
    if before.complete and not first:
        log.info("%s is there already, of this text and these models", job.output)
        return
    if before.lines:
        log.info("%s: goes on after %s pairs", job.output, f"{before.lines:,}")
    with output.open():
        _write(job, output, pairs, first, models, _count(text_files(spec, *languages)))
    _tell_thresholds(job.output)


def _load(name: str | None) -> _Model | None:
    if name is None:
        return None
    folder, checkpoint = split_run_name(name)
    run = Run(folder)
    translator, described = load_translator(run, CheckpointName.parse(checkpoint))
    log.info("%s: %s", folder, described)
    return _Model(translator, run.config)


def _languages(job: PairScoringJob, models: _Models) -> tuple[str, str]:
    """The languages of the text, source and target, which both models have to have."""
    forward, backward = models["forward"], models["backward"]
    found = [(forward.config.data.source_language, forward.config.data.target_language)] if forward else []
    found += [(backward.config.data.target_language, backward.config.data.source_language)] if backward else []
    if len(set(found)) > 1:
        directions = " to ".join(found[0]), " to ".join(reversed(found[1]))
        ways = f"--forward={job.forward} translates {directions[0]} and --backward={job.backward} {directions[1]}"
        raise UserError(f"{ways}: expected models of two opposite directions")
    return found[0]


def _write(
    job: PairScoringJob,
    output: GrowingFiles,
    pairs: CountedLines[tuple[str, str]],
    first: list[tuple[str, str]],
    models: _Models,
    lines: int | None,
) -> None:
    """Scores the `first` block and all that come after it in `pairs`."""
    translators = {name: model and model.translator for name, model in models.items()}
    before, blank, too_long, block = output.done.lines, 0, 0, first
    began = told = time.monotonic()
    with lines_bar("scoring", lines) as show:
        while block:
            scores, *without = score_pairs(*map(list, zip(*block, strict=True)), **translators, max_length=job.max_length)
            output.append(["".join(f"{score:.6g}\n" for score in scores)], pairs.done())
            blank, too_long = blank + without[0], too_long + without[1]
            if show:
                show(pairs.count)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                speed = (pairs.count - before) / (told - began)
                log.info("%s%s pairs, %.0f a second", f"{pairs.count:,}", f" of {lines:,}" if lines else "", speed)
            block = list(itertools.islice(pairs, job.batch_size))
        output.append([""], pairs.done()._replace(complete=True))
    log.info(
        "%s: %s scores; 0 for %s pairs with a blank side and %s of more than %d tokens%s",
        job.output,
        f"{pairs.count:,}",
        f"{blank:,}",
        f"{too_long:,}",
        job.max_length,
        f" (of those after the first {before:,})" if before else "",
    )


def _tell_thresholds(path: str) -> None:
    """Logs which `min_score` keeps which share of the pairs: by a histogram, which does not grow with the text."""
    counts, lines = np.zeros(_BINS + 1, int), iter_lines(path)
    while block := list(itertools.islice(lines, 100_000)):
        counts += np.bincount((np.array(block, float) * _BINS).astype(int), minlength=_BINS + 1)
    kept = counts[::-1].cumsum()[::-1] / counts.sum()  # by the lower edge of each bin
    edges = {share: int(np.flatnonzero(kept >= share)[-1]) for share in _SHARES}
    told = ", ".join(f"{edge / _BINS:g} keeps {kept[edge]:.0%}" for edge in edges.values())
    log.info("%s: min_score=%s", path, told)


def _count(files: list[Any]) -> int | None:
    return count_lines(str(files[0])) if files and not is_remote(files[0]) else None
