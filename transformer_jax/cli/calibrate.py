"""What `transformer-jax calibrate` does: a run's translations of a dev set, to the confidence that is kept with the run."""

import dataclasses
from typing import Any

from transformer_jax.cli.calibration_job import CalibrationJob
from transformer_jax.cli.confidence_gate import require_search
from transformer_jax.cli.progress_bar import lines_bar
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.errors import UserError
from transformer_jax.evaluation.analysis import sentence_chrf
from transformer_jax.inference.confidence import best_feature, features_of, isotonic
from transformer_jax.inference.translator import Translator
from transformer_jax.runs.calibration import CONFIDENCE, Calibration, relevant_options
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run

__all__ = ["calibrate", "calibrate_run"]

_FEWEST = 20  # sentences: of fewer, the function would be that of chance


def calibrate_run(job: CalibrationJob) -> Calibration:
    """Translates the dev set, writes `confidence.json` into the run folder, and prints what it found. Raises UserError for bad
    input, for sampling and minimum Bayes risk, and for too few sentences."""
    run = Run(job.workdir)
    data = run.config.data
    dev = job.dev or data.dev
    if not dev:
        raise UserError(f"{job.workdir}: was trained without a dev set; name one with --dev")
    name = CheckpointName.parse(job.checkpoint)
    translator = Translator.of_run(run, calibrated=False)  # it may be damaged: it is made anew
    options = translator.search_config(**job.search)
    require_search(options, "calibrate")
    pairs = read_pairs(dev, data.source_language, data.target_language)
    with run.checkpoints() as checkpoints:
        translator, described = translator.with_checkpoint(checkpoints, name)
    with lines_bar(f"translating {dev}", len(pairs.source)) as progress:
        found = calibrate(translator, pairs, feature=job.feature, progress=progress, **job.search)
    found = dataclasses.replace(found, dev=dev, checkpoint=described)
    try:
        found.write(run.workdir)
    except OSError as error:
        raise UserError(f"{run.workdir / CONFIDENCE}: cannot be written ({error.strerror})") from None
    print(f"{dev}: {found.sentences} sentences, {described}")
    print("  Spearman's rank correlation with sentence chrF:")
    for feature, value in found.correlations.items():
        shown = "none: all are equal" if value is None else f"{value:.3f}"
        print(f"    {feature:11} {shown}{'   <- kept' * (feature == found.feature)}")
    print(f"  confidence from {found.values[0]:.3f} to {found.values[-1]:.3f}, in {run.workdir / CONFIDENCE}")
    return found


def calibrate(
    translator: Translator, pairs: Pairs, *, feature: str | None = None, progress: Any = None, **search: Any
) -> Calibration:
    """The calibration of a translator's search on sentences with their references: the isotonic regression of sentence chrF
    over 100 on a feature of the log-probabilities, on the one that correlates best unless `feature` names it."""
    found = translator.translate(pairs.source, nbest=1, progress=progress, **search)
    lines = [
        (features, sentence_chrf(translation.text, reference) / 100)
        for translation, reference in zip(found, pairs.target, strict=True)
        if (features := features_of(translation, translator.tokenizer))
    ]
    if len(lines) < _FEWEST:
        raise UserError(f"{len(lines)} sentences that are not blank are too few to calibrate with; expected {_FEWEST} or more")
    features, quality = zip(*lines, strict=True)
    best, correlations = best_feature(features, quality)
    feature = feature or best
    at, values = isotonic([each[feature] for each in features], quality)
    steps, weights = translator.origin
    options = relevant_options(translator.search_config(**search))
    return Calibration(feature, at, values, correlations, len(lines), "", "", steps, weights, options)
