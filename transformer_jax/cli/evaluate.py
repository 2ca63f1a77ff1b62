"""What evaluate.py does: checkpoints of a run on test sets, to scores, reports and pages."""

import dataclasses
import functools
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from transformer_jax.config import DataConfig
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.known_words import words_outside
from transformer_jax.data.sources import fetch, is_on_this_disk
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.evaluation.analysis import analyse, training_targets, unseen_words
from transformer_jax.evaluation.metrics import metrics
from transformer_jax.evaluation.report import Report, evaluate, in_words
from transformer_jax.evaluation.significance import Comparison, differences
from transformer_jax.evaluation.watch import new_checkpoints
from transformer_jax.inference.translator import Translator, load_others
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.storage.files import finite_or_null, to_path
from transformer_jax.storage.text_files import check_writable, open_output, read_lines, refuse_same_files
from transformer_jax.visualization.report_page import write_report_page

__all__ = ["evaluate_run"]

log = logging.getLogger(__name__)

Systems = Iterator[tuple[Translator, str]]  # with the name of the checkpoint
OtherSystem = Callable[[int], tuple[str, list[str]]]  # of a test set's number: what the system is, and its translations


class _TestSet(NamedTuple):
    name: str
    pairs: Pairs


def evaluate_run(
    workdir: str,
    test: Sequence[str],
    checkpoint: Sequence[str] | None = None,
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    paper_bleu: bool = False,
    rouge: bool = False,
    bootstrap: int = 1000,
    compare: str | None = None,
    ensemble: Sequence[str] = (),
    output: str | None = None,
    report: str | None = None,
    html: str | None = None,
    alignment_layer: int | None = None,
    watch: bool = False,
    watch_minutes: float = 60.0,
    **search: Any,
) -> list[Report]:
    """Scores each checkpoint of a run (`best` if none is named; with `watch` each that training writes) on each test set.

    Prints every report as it is ready, and writes them and the translations to files. `compare` is another run, RUN or
    RUN:CHECKPOINT, searched with the same `search` where that is given, or a file of translations of the test sets. `ensemble`
    are further models that translate together with each checkpoint. ROUGE is among the scores with `rouge`, and where it is the
    metric of the run.

    `html` is a page with word alignments, where the model has attention to the source: by decoder layer `alignment_layer`, or
    as `Translator.align` chooses it.

    Raises UserError for bad input; all of it is read before the first sentence is translated.
    """
    if watch and checkpoint:
        raise UserError("--watch scores every checkpoint; leave --checkpoint out")
    if not watch_minutes > 0:
        raise UserError(f"--watch_minutes={watch_minutes:g} should be above 0")
    if sys.stdout is None and collectives.is_first():
        raise UserError("standard output, where the scores go, is closed; open it, or send it to a file or /dev/null")
    if alignment_layer is not None and not html:
        raise UserError("--alignment_layer is for --html, whose page has word alignments; leave it out")
    refuse_same_files(compare=compare, output=output, report=report, html=html)
    run = Run(workdir)
    rouge = rouge or run.config.train.metric.startswith("rouge")
    metrics(tokenize, lowercase, bootstrap, rouge)
    data, model = run.config.data, run.config.model
    align = html is not None and (alignment_layer is not None or (model.family, model.attention) != ("lstm", "none"))
    with collectives.first_before_others("test sets"):
        fetch(test)
    sets = [_TestSet(name, read_pairs(name, data.source_language, data.target_language)) for name in test]
    other = _other_system(compare, sets, data, search) if compare else None
    systems = new_checkpoints(workdir, watch_minutes) if watch else _chosen(run, checkpoint or ["best"])
    if ensemble:
        others = load_others(ensemble)
        systems = ((each.together_with(others), f"{found}, together with {', '.join(ensemble)}") for each, found in systems)
    files = _Files(workdir, sets, output, report, html)
    lines = [line for _, pairs in sets for line in pairs.target]
    trained_here = not (report or html) or watch or _was_trained_here(run)
    unseen, training_text = _unseen_words(run, trained_here, lines) if files.analysed else (None, "")
    words = dict(tokenize=tokenize, lowercase=lowercase)
    reports: list[Report] = []
    for translator, found in systems:
        if align:
            translator.align_with(alignment_layer)
        for number, (name, pairs) in enumerate(sets):
            each = evaluate(
                translator,
                *pairs,
                test=name,
                checkpoint=found,
                papers_bleu_of=data.target_language if paper_bleu else "",
                bootstrap=bootstrap,
                rouge=rouge,
                align=align,
                **words,
                **search,
            )
            if other:
                told, lines = other(number)
                differing = differences(each.hypotheses, lines, pairs.target, rouge=rouge, **words)
                each.comparison = Comparison(told, differing, lines)
            if files.analysed:
                each.analysis = analyse(each.hypotheses, pairs, unseen, training_text, bootstrap=bootstrap, **words)
            reports.append(each)
            if collectives.is_first():
                print(each.as_line() if watch else each.as_text(), flush=True)
                files.write(reports)
    return reports


def _chosen(run: Run, which: Sequence[str]) -> Systems:
    """Translators of these checkpoints, each loaded in its turn. Raises UserError at once if one is not there, or damaged."""
    translator = Translator.of_run(run)
    with run.checkpoints() as checkpoints:
        for step in {step: None for each in which for step in checkpoints.resolve(each)}:
            checkpoints.progress(step)

    def load(each: str) -> tuple[Translator, str]:
        with run.checkpoints() as checkpoints:
            return translator.with_checkpoint(checkpoints, each)

    first = load(which[0])
    return itertools.chain([first], map(load, which[1:]))


def _other_system(compare: str, sets: Sequence[_TestSet], data: DataConfig, search: dict[str, Any]) -> OtherSystem:
    """What `compare` names, read; a run translates a test set when it is first asked for. Raises UserError."""
    whole = to_path(compare)
    if whole.is_file():
        lines, sizes = read_lines(compare), [len(pairs.target) for _, pairs in sets]
        if len(lines) != sum(sizes):
            raise UserError(f"--compare={compare}: has {len(lines)} lines, expected {sum(sizes)}: one for each sentence")
        rest = iter(lines)
        parts = [list(itertools.islice(rest, size)) for size in sizes]
        return lambda number: (compare, parts[number])
    workdir, checkpoint = split_run_name(compare)
    if not to_path(workdir).is_dir():
        raise UserError(f"--compare={compare}: no such file or run; expected RUN, RUN:CHECKPOINT or a file of translations")
    run = Run(workdir)
    languages = run.config.data.source_language, run.config.data.target_language
    if languages != (data.source_language, data.target_language):
        raise UserError(f"--compare={compare}: translates {languages[0]} to {languages[1]}, unlike --workdir; name another")
    (translator, name), *_ = _chosen(run, [checkpoint])
    told = f"{workdir}, {name}, {in_words(translator.search_config(**search))}"
    return functools.cache(lambda i: (told, [each.text for each in translator.translate(sets[i].pairs.source, **search)]))


def _was_trained_here(run: Run) -> bool:
    """False for imported parameters, which no text of this run has made."""
    with run.checkpoints() as checkpoints:
        steps = checkpoints.steps()
        return not steps or bool(checkpoints.progress(steps[-1]).corpus)


def _unseen_words(run: Run, trained_here: bool, references: Sequence[str]) -> tuple[set[str] | None, str]:
    """The words of all references that the training text does not have, and its name; None and why, if that is not known. The
    run's own list of words tells it, or the text itself where it is on this disk: nothing is downloaded."""
    data = run.config.data
    try:
        if (words := run.words()) is not None:
            return words_outside(words, references, run.config.tokenizer.normalize), data.train
        if not trained_here:
            return None, "the training text of this model is not known: it was not trained here"
        if not is_on_this_disk(data):
            return None, f"its words were not kept with the run, and {data.train} is not on this disk"
        log.info("reading the words of the training text %s", data.train)
        return unseen_words(references, training_targets(data)), data.train
    except UserError as error:
        return None, f"the training text cannot be read here ({error})"


class _Files:
    """What the reports are written to; of several processes, by the first. Raises UserError at once if one cannot be written:
    a wrong path should not cost a translation of the test set."""

    def __init__(self, workdir: str, sets: Sequence[_TestSet], output: str | None, report: str | None, html: str | None):
        self._workdir, self._sets = workdir, sets
        self._output, self._report, self._html = output, report, html
        self.analysed = collectives.is_first() and bool(report or html)
        if collectives.is_first():
            for path in filter(None, (output, report, html)):
                check_writable(path)

    def write(self, reports: Sequence[Report]) -> None:
        if self._output:
            with open_output(self._output) as file:
                file.writelines(f"{line}\n" for each in reports for line in each.hypotheses)
        if self._report:
            with open_output(self._report) as file:
                file.write(_as_text(reports) if self._report.endswith((".txt", ".txt.gz")) else _as_json(reports))
        if self._html:
            pairs = [pairs for _, pairs in self._sets]
            write_report_page(self._html, self._workdir, reports, [pairs[i % len(pairs)] for i in range(len(reports))])


def _as_text(reports: Sequence[Report]) -> str:
    return "\n\n".join(f"{each.as_text()}\n{each.analysis.as_text()}" for each in reports) + "\n"


def _as_json(reports: Sequence[Report]) -> str:
    plain = finite_or_null([dataclasses.asdict(each) for each in reports])
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
