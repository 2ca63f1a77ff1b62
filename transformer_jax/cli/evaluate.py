"""What evaluate.py does: checkpoints of a run on test sets, to scores, reports and pages."""

import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from transformer_jax.cli.evaluation_files import check_files, robustness_tables, write_files
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.cli.progress_bar import lines_bar
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.sources import fetch, is_on_this_disk
from transformer_jax.data.training_words import words_outside
from transformer_jax.distributed import collectives
from transformer_jax.distributed.log_of_first import first_speaks
from transformer_jax.errors import UserError
from transformer_jax.evaluation.analysis import analyse, training_targets, unseen_words
from transformer_jax.evaluation.metrics import metrics
from transformer_jax.evaluation.report import Report, evaluate, in_words
from transformer_jax.evaluation.robustness import PLAIN, NoisedSet, Robustness, noised_sets, references_of
from transformer_jax.evaluation.significance import Comparison, differences
from transformer_jax.evaluation.watch_checkpoints import new_checkpoints
from transformer_jax.inference.translator import Translator, load_others
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.storage.files import to_path
from transformer_jax.storage.text_files import read_lines

__all__ = ["evaluate_run"]

log = logging.getLogger(__name__)

Systems = Iterator[tuple[Translator, str]]  # with the name of the checkpoint


class _TestSet(NamedTuple):
    name: str
    pairs: Pairs
    noised: NoisedSet | None = None  # with `--robustness`


class _OtherSystem(NamedTuple):
    """The system of `--compare`."""

    name: str
    translations: Callable[[int], list[str]]  # of the test set with this index


class _TrainingText(NamedTuple):
    """What is known of the run's training text."""

    unseen: set[str] | None  # words of the references that it does not have; None: not known
    name: str  # of the text, or why `unseen` is not known


class _Setting(NamedTuple):
    """What all reports of a job have in common."""

    job: EvaluationJob
    target_language: str
    rouge: bool  # are its scores in the reports?
    align: bool
    other: _OtherSystem | None
    training_text: _TrainingText | None  # None: no report is analysed


@first_speaks()
def evaluate_run(job: EvaluationJob) -> list[Report]:
    """Scores each checkpoint of a run (`best` if none is named; with `job.watch` each that training writes) on each test set.

    Prints every report as it is ready, and writes them and the translations to files. Several processes share the work, and the
    first prints and writes. The page of `--html` has word alignments if the model has attention to the source. Raises UserError
    for bad input; all of it is read before the first sentence is translated.
    """
    first = collectives.is_first()
    if sys.stdout is None and first:
        raise UserError("standard output, where the scores go, is closed; open it, or send it to a file or /dev/null")
    run = Run(job.workdir)
    rouge = job.rouge or run.config.train.metric.startswith("rouge")
    metrics(job.tokenize, job.lowercase, job.bootstrap, rouge)
    sets = _read_sets(job, run)
    other = _other_system(job, run, sets) if job.compare else None
    systems = _systems(job, run)
    if first:
        check_files(job)
    setting = _Setting(
        job, run.config.data.target_language, rouge, _aligns(job, run), other, _training_text(job, run, sets, first)
    )
    reports: list[Report] = []
    for translator, checkpoint in systems:
        if setting.align:
            translator.align_with(job.alignment_layer)
        for index, test_set in enumerate(sets):
            reports.append(_report(setting, translator, checkpoint, index, test_set))
            if test_set.noised:
                reports[-1].robustness = _robustness(reports, test_set.noised)
            if first:
                print(reports[-1].as_line() if job.watch else reports[-1].as_text(), flush=True)
                if _ends_table(sets, index):
                    print(robustness_tables(reports)[-1], flush=True)
                write_files(job, reports, [sets[i % len(sets)].pairs for i in range(len(reports))])
    return reports


def _report(setting: _Setting, translator: Translator, checkpoint: str, index: int, test_set: _TestSet) -> Report:
    """The report of one checkpoint on the test set with this index."""
    job, pairs = setting.job, test_set.pairs
    words = dict(tokenize=job.tokenize, lowercase=job.lowercase)
    with lines_bar(f"translating {test_set.name}", len(pairs.source)) as progress:
        report = evaluate(
            translator,
            *pairs,
            test=test_set.name,
            checkpoint=checkpoint,
            papers_bleu_of=setting.target_language if job.paper_bleu else "",
            bootstrap=job.bootstrap,
            rouge=setting.rouge,
            align=setting.align,
            progress=progress,
            **words,
            **job.search,
        )
    if setting.other:
        lines = setting.other.translations(index)
        differing = differences(report.hypotheses, lines, pairs.target, rouge=setting.rouge, **words)
        report.comparison = Comparison(setting.other.name, differing, lines)
    if setting.training_text:
        unseen, name = setting.training_text
        report.analysis = analyse(report.hypotheses, pairs, unseen, name, bootstrap=job.bootstrap, **words)
    return report


def _robustness(reports: Sequence[Report], noised: NoisedSet) -> Robustness:
    """The row of the last report, beside the last one of a set without noise."""
    bleu, chrf, *_ = (score.value for score in reports[-1].scores)
    plain = next((report.scores[0].value for report in reversed(reports) if _is_plain(report)), bleu)
    difference, looping = (0.0 if noised.noise == PLAIN else bleu - plain), len(reports[-1].checks.looping)
    references = references_of(noised.noise)
    return Robustness(noised.plain, noised.noise, noised.changed, references, bleu, chrf, difference, looping)


def _is_plain(report: Report) -> bool:
    return report.robustness is not None and report.robustness.noise == PLAIN


def _ends_table(sets: Sequence[_TestSet], index: int) -> bool:
    """Whether the test set with this index is the last row of a table of robustness."""
    following = sets[index + 1 :]
    return bool(sets[index].noised) and (not following or following[0].noised.noise == PLAIN)


def _aligns(job: EvaluationJob, run: Run) -> bool:
    """Are words aligned? For a page, unless the model has no attention; a layer that is named must exist."""
    has_attention = (run.config.model.family, run.config.model.attention) != ("lstm", "none")
    return job.html is not None and (job.alignment_layer is not None or has_attention)


def _read_sets(job: EvaluationJob, run: Run) -> list[_TestSet]:
    data = run.config.data
    with collectives.first_before_others("test sets"):
        fetch(job.test)
    if job.robustness is not None:
        noised = [each for name in job.test for each in noised_sets(name, data, job.robustness)]
        return [_TestSet(each.name, each.pairs, each) for each in noised]
    return [_TestSet(name, read_pairs(name, data.source_language, data.target_language)) for name in job.test]


def _systems(job: EvaluationJob, run: Run) -> Systems:
    if job.watch:
        systems = new_checkpoints(job.workdir, job.watch_minutes, compute_dtype=job.compute_dtype)
    else:
        systems = _chosen(run, list(map(CheckpointName.parse, job.checkpoint or ["best"])), job.compute_dtype)
    if job.compute_dtype:
        systems = ((translator, f"{name}, in {job.compute_dtype}") for translator, name in systems)
    if not job.ensemble:
        return systems
    others, weights = load_others(job.ensemble, job.compute_dtype), job.ensemble_weights or None
    names = ", ".join(job.ensemble) + (f", weights {' '.join(map(format, weights))}" if weights else "")
    return ((translator.together_with(others, weights), f"{name}, together with {names}") for translator, name in systems)


def _chosen(run: Run, names: Sequence[CheckpointName], compute_dtype: str | None) -> Systems:
    """Translators of these checkpoints, each loaded when it is asked for. Raises UserError at once if one does not exist or is
    damaged."""
    translator = Translator.of_run(run, compute_dtype=compute_dtype)
    with run.checkpoints() as checkpoints:
        for step in dict.fromkeys(step for name in names for step in checkpoints.resolve(name)):
            checkpoints.progress(step)

    def load(name: CheckpointName) -> tuple[Translator, str]:
        with run.checkpoints() as checkpoints:
            return translator.with_checkpoint(checkpoints, name)

    first = load(names[0])
    return itertools.chain([first], map(load, names[1:]))


def _other_system(job: EvaluationJob, run: Run, sets: Sequence[_TestSet]) -> _OtherSystem:
    """The system that `job.compare` names: a file, which is read now, or a run, which translates a test set when it is first
    asked for. Raises UserError."""
    compare, data = job.compare, run.config.data
    if to_path(compare).is_file():
        lines, sizes = read_lines(compare), [len(each.pairs.target) for each in sets]
        if len(lines) != sum(sizes):
            raise UserError(f"--compare={compare}: has {len(lines)} lines, expected {sum(sizes)}: one for each sentence")
        rest = iter(lines)
        return _OtherSystem(compare, [list(itertools.islice(rest, size)) for size in sizes].__getitem__)
    workdir, checkpoint = split_run_name(compare)
    if not to_path(workdir).is_dir():
        raise UserError(f"--compare={compare}: no such file or run; expected RUN, RUN:CHECKPOINT or a file of translations")
    other = Run(workdir)
    languages = other.config.data.source_language, other.config.data.target_language
    if languages != (data.source_language, data.target_language):
        raise UserError(f"--compare={compare}: translates {languages[0]} to {languages[1]}, unlike --workdir; name another")
    (translator, name), *_ = _chosen(other, [CheckpointName.parse(checkpoint)], job.compute_dtype)

    @functools.cache
    def translations(index: int) -> list[str]:
        source = sets[index].pairs.source
        with lines_bar(f"translating {sets[index].name} with {workdir}", len(source)) as progress:
            return [translation.text for translation in translator.translate(source, progress=progress, **job.search)]

    return _OtherSystem(f"{workdir}, {name}, {in_words(translator.search_config(**job.search))}", translations)


def _training_text(job: EvaluationJob, run: Run, sets: Sequence[_TestSet], first: bool) -> _TrainingText | None:
    """What is known of the training text, for the analysis of reports, which the first process alone writes; else None."""
    if not (job.report or job.html):
        return None
    trained_here = job.watch or _was_trained_here(run)  # by all processes, as they read checkpoints together
    return _unseen_words(run, trained_here, [line for each in sets for line in each.pairs.target]) if first else None


def _was_trained_here(run: Run) -> bool:
    """False for imported parameters, whose training text the run does not know."""
    with run.checkpoints() as checkpoints:
        steps = checkpoints.steps()
        return not steps or bool(checkpoints.progress(steps[-1]).corpus)


def _unseen_words(run: Run, trained_here: bool, references: Sequence[str]) -> _TrainingText:
    """The words of the references that the training text does not have: by the words that were kept with the run, or by the
    text itself if it is on this disk; nothing is downloaded."""
    data = run.config.data
    try:
        if (words := run.words()) is not None:
            return _TrainingText(words_outside(words, references, run.config.tokenizer.normalize), data.train)
        if not trained_here:
            return _TrainingText(None, "the training text of this model is not known: it was not trained here")
        if not is_on_this_disk(data):
            return _TrainingText(None, f"its words were not kept with the run, and {data.train} is not on this disk")
        log.info("reading the words of the training text %s", data.train)
        return _TrainingText(unseen_words(references, training_targets(data)), data.train)
    except UserError as error:
        return _TrainingText(None, f"the training text cannot be read here ({error})")


if __name__ == "__main__":
    from transformer_jax.cli.commands.evaluate import run
    from transformer_jax.cli.program import main

    main(run)
