"""What `transformer-jax score_pairs` does: a text to a file of scores, block by block."""

import hashlib
import itertools
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

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
from transformer_jax.storage.resumable_lines import ResumableLines

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
    text. The log says how far it is, how many pairs have no score but 0, and which number keeps how many pairs. Raises
    UserError for bad input, and as `ResumableLines` does."""
    models = {name: _load(getattr(job, name)) for name in ("forward", "backward")}
    source_language, target_language = _languages(job, models)
    spec = one_source(job.text, source_language, target_language)
    if spec.tag:
        raise UserError(f"{job.text}: leave the tag out; pairs are scored as they are")
    files = text_files(spec, source_language, target_language)
    max_length = job.max_length or min(model.config.batch.max_length for model in models.values() if model)
    settings = dict(
        text=[job.text, *([str(file), file.stat().length, file.stat().mtime] for file in files)],
        **{name: model and _hash_of(model.translator) for name, model in models.items()},
        batch_size=job.batch_size,
        max_length=max_length,
    )
    with ResumableLines(job.output, settings, job.batch_size, _is_score) as output:
        if output.complete:
            log.info("%s is there already, of this text and these models", job.output)
            return
        pairs = iter_pairs(spec, source_language, target_language)
        _write(job, output, pairs, _count(files), models, max_length)
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
    output: ResumableLines,
    pairs: Iterator[tuple[str, str]],
    lines: int | None,
    models: _Models,
    max_length: int,
) -> None:
    if output.done:
        log.info("%s: goes on after %s pairs", job.output, f"{output.done:,}")
    read = sum(1 for _ in itertools.islice(pairs, output.done))
    if read < output.done:
        raise UserError(f"{job.output}.partial has {output.done} scores, and {job.text} only {read} pairs; remove it")
    translators = {name: model and model.translator for name, model in models.items()}
    began, told, before, blank, too_long = time.monotonic(), time.monotonic(), output.done, 0, 0
    with lines_bar("scoring", lines) as show:
        while block := list(itertools.islice(pairs, job.batch_size)):
            scores, *without = score_pairs(*map(list, zip(*block, strict=True)), **translators, max_length=max_length)
            output.append([f"{score:.6g}" for score in scores])
            blank, too_long = blank + without[0], too_long + without[1]
            if show:
                show(output.done)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                speed = (output.done - before) / (told - began)
                log.info("%s%s pairs, %.0f a second", f"{output.done:,}", f" of {lines:,}" if lines else "", speed)
    output.finish()
    log.info(
        "%s: %s scores; 0 for %s pairs with a blank side and %s of more than %d tokens%s",
        job.output,
        f"{output.done:,}",
        f"{blank:,}",
        f"{too_long:,}",
        max_length,
        f" (of those after the first {before:,})" if before else "",
    )


def _tell_thresholds(path: str) -> None:
    """Logs which `min_score` keeps which share of the pairs: by a histogram, which does not grow with the text."""
    counts = np.zeros(_BINS + 1, int)
    with open(path, encoding="utf-8") as file:
        while block := list(itertools.islice(file, 100_000)):
            counts += np.bincount((np.array(block, float) * _BINS).astype(int), minlength=_BINS + 1)
    kept = counts[::-1].cumsum()[::-1] / counts.sum()  # by the lower edge of each bin
    edges = {share: int(np.flatnonzero(kept >= share)[-1]) for share in _SHARES}
    told = ", ".join(f"{edge / _BINS:g} keeps {kept[edge]:.0%}" for edge in edges.values())
    log.info("%s: min_score=%s", path, told)


def _hash_of(translator: Translator) -> str:
    digest = hashlib.blake2b(translator.tokenizer.fingerprint.encode(), digest_size=16)
    for path, array in jax.tree.leaves_with_path(translator.params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(array)).tobytes())
    return digest.hexdigest()


def _count(files: list[Any]) -> int | None:
    return count_lines(str(files[0])) if files and not is_remote(files[0]) else None


def _is_score(line: str) -> bool:
    try:
        return math.isfinite(float(line))
    except ValueError:
        return False
