"""Workflows of several trainings and translations, such as those in `recipes/`: each stage is done once, and gone on with."""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from etils import epath

from transformer_jax.cli import program
from transformer_jax.cli.config_files import ConfigFile
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.progress_bar import count_lines
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.config import Config, SearchOptions, to_json
from transformer_jax.config.text_sources import train_text
from transformer_jax.data.source_syntax import swapped
from transformer_jax.errors import UserError
from transformer_jax.runs.checkpoint_name import CHECKPOINTS
from transformer_jax.storage.files import is_remote, write_whole
from transformer_jax.storage.text_files import iter_lines, open_output

__all__ = ["Workflow", "line_pairs", "main", "make_parser", "run", "source"]

_STAGES = "stages.json"
_SEARCH = [field.name for field in dataclasses.fields(SearchOptions)]


def make_parser(description: str) -> Parser:
    """The flags that every workflow has, to which it adds its own. Beside them it takes overrides, `--config.KEY=VALUE`."""
    parser = Parser(description)
    parser.add_argument("--config", required=True, help="a recipe's name, a file with get_config(), or a run's config.json")
    parser.add_argument("--workdir", required=True, help="the folder of the workflow: a run folder and files for each stage")
    parser.add_argument("--steps", type=int, metavar="N", help="updates of each training (default: the config's)")
    parser.add_argument("--batch_size", type=int, default=1000, metavar="N", help="lines translated together (default: 1000)")
    parser.add_search()
    parser.add_processes()
    return parser


def run(recipe: Callable[["Workflow", Namespace], None], parser: Parser, arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, by default those of the process, and calls `recipe` with the workflow and the flags. Raises
    UserError for bad input, ToBeContinued where a stage was asked to stop."""
    flags, overrides = parser.parse_with_overrides(arguments)
    processes = flags.coordinator, flags.processes, flags.process
    if flags.steps is not None:
        overrides.append(f"train.steps={flags.steps}")
    with program.report_to_all(processes):
        file = ConfigFile(flags.config)
    program.set_up(processes, trains=True)
    from transformer_jax.training.preemption import Preemption

    with Preemption():  # also between trainings and translations, which have their own
        recipe(Workflow(flags, file, overrides), flags)


def main(recipe: Callable[["Workflow", Namespace], None], parser: Parser) -> NoReturn:
    """`run`, with the exit codes of `program.main`."""
    program.main(functools.partial(run, recipe, parser))


def source(name: str | Path, weight: float = 1.0, options: str = "") -> str:
    """A source of `data.train`, as text.

    >>> source("runs/bt/synthetic.tsv", 0.5, "max_ratio=3 tag=<bt>")
    'runs/bt/synthetic.tsv * 0.5 (max_ratio=3 tag=<bt>)'
    """
    name = str(name)
    quoted = '"' + name.replace('"', '""') + '"' if re.search(r'[,*()"]|^\s|\s$', name) else name
    return f"{quoted}{f' * {weight!r}' if weight != 1 else ''}{f' ({options})' if options else ''}"


def line_pairs(sources: str | Path, targets: str | Path) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side. What is no text in them (a model of few updates may spell any bytes) becomes U+FFFD.
    Raises UserError for a file that cannot be read, and where one has more lines."""
    sides = (iter_lines(path, errors="replace") for path in (sources, targets))
    for number, pair in enumerate(itertools.zip_longest(*sides), 1):
        if None in pair:
            raise UserError(f"{sources} and {targets}: only one of them has a line {number}; expected a line for each line")
        yield pair


class Workflow:
    """Stages in a folder, which come in the same order at every call.

    A stage that was done with the same settings, after the same stages, is passed over; any other is begun, or gone on with
    where it stopped: trainings resume exactly, translations as `translate.py --resume` does, and what they refuse to go on with
    (another config, another text) is refused here too. Each stage prints a line with its minutes. Several processes work
    together as in training, in a folder that all can see.

        WORKDIR/NAME/          the run folder of a training
        WORKDIR/NAME.txt       a translation (NAME.jsonl with `nbest`), and beside it NAME.txt.progress
        WORKDIR/NAME.tsv       pairs
        WORKDIR/stages.json    which stages are done, and how long they took

    Attributes:
        folder: WORKDIR
        config: what `--config` and the overrides say; one that chooses by the number of pairs has those of its training text
        train_text: its `data.train`, as text
    """

    def __init__(self, flags: Namespace, file: ConfigFile, overrides: Sequence[str]):
        if is_remote(flags.workdir):
            raise UserError(f"--workdir={flags.workdir}: has text files too; name a folder on a local disk")
        self.folder = Path(flags.workdir)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={flags.workdir}: cannot be made ({error.strerror}); name another folder") from None
        self._flags, self._file, self._overrides = flags, file, list(overrides)
        self._search = {name: getattr(flags, name) for name in _SEARCH if getattr(flags, name, None) is not None}
        self._chain = ""  # a hash of the settings of all stages so far
        self.config = self._config(self._overrides, None)
        self.train_text: str = train_text(self.config.data.train)

    def train(self, name: str, train: str = "", *, swap: bool = False, overrides: Sequence[str] = ()) -> str:
        """Trains a run on `train` (`DataConfig`; empty: the config's), with further overrides, `KEY=VALUE`. With `swap` the
        model's direction is the other one: training text and dev set exchange their sides. Returns the run folder."""
        from transformer_jax.data.sources import text_fingerprint
        from transformer_jax.training.loop import train as train_run

        folder, data = str(self.folder / name), self.config.data
        train, dev = train or self.train_text, data.dev
        train, dev = (swapped(train), swapped(dev)) if swap else (train, dev)
        config = self._config([*self._overrides, *overrides, f"data.train={train}", f"data.dev={dev}"], folder)

        def work() -> str:
            progress = train_run(config, folder, name=self._flags.config)
            if progress.best_score is None:
                return f"{progress.step:,} updates"
            score = -progress.best_score if config.train.metric in ("ter", "loss") else progress.best_score
            return f"{config.train.metric} {score:.4g} on {dev} at step {progress.best_step:,} of {progress.step:,}"

        self._stage(name, [to_json(config), text_fingerprint(config.data)], work)
        return folder

    def pairs_of(self, train: str) -> float:
        """How many pairs an epoch of `train` has, those that its filters leave out counted, and each as its weight says."""
        from transformer_jax.data.corpus import iter_pairs
        from transformer_jax.data.sources import parse_sources

        data = dataclasses.replace(self.config.data, train=train)
        languages = data.source_language, data.target_language
        return sum(each.weight * sum(1 for _ in iter_pairs(each.spec, *languages)) for each in parse_sources(data))

    def text(self) -> tuple[Path, Path]:
        """Two files with the sources and the targets of the training text, line for line, as training has them: without the
        pairs that its filters leave out, each pair once."""
        from transformer_jax.data.sources import fetch, parse_sources, read_sources, text_fingerprint

        paths, data = (self.folder / "text.source.txt", self.folder / "text.target.txt"), self.config.data
        normalized = self.config.tokenizer.normalize

        def work() -> str:
            fetch(each.spec for each in parse_sources(data))
            pairs, _ = read_sources(data, normalized)
            _write_lines(paths[1], pairs.target)
            return f"{_write_lines(paths[0], pairs.source):,} pairs"

        self._stage("text", [repr(data), normalized, text_fingerprint(data)], functools.partial(_by_first, "text", work))
        return paths

    def translate(self, name: str, runs: Sequence[str], lines: str | Path, *, nbest: int = 0) -> Path:
        """Translates a file, with the search that the flags ask for, by a run (RUN, or RUN:CHECKPOINT), or several as an
        ensemble. Returns the file of the translations; with `nbest` it has a list of so many for each line (JSON)."""
        from transformer_jax.cli.translate import translate_lines
        from transformer_jax.runs.run_folder import split_run_name

        output, search = self.folder / f"{name}{'.jsonl' if nbest else '.txt'}", dict(self._search)
        if nbest and not search.get("temperature"):
            search["beam"] = max(nbest, search.get("beam", self.config.decode.beam))
        workdir, checkpoint = split_run_name(runs[0])
        job = TranslationJob(
            workdir=workdir,
            checkpoint=checkpoint,
            ensemble=tuple(runs[1:]),
            input=str(lines),
            output=str(output),
            batch_size=self._flags.batch_size,
            format="json" if nbest else "text",
            nbest=nbest or None,
            resume=True,
            search=search,
        )

        def work() -> str:
            translate_lines(job)
            return f"{count_lines(str(output)) or 0:,} lines"

        self._stage(name, [repr(job), _stamp(lines), *map(_checkpoints, runs)], work)
        return output

    def write_pairs(self, name: str, pairs: Callable[[], Iterable[tuple[str, str]]], *settings: object) -> Path:
        """Writes pairs to a file with a tab between; a tab in a text becomes a space. `settings` are what `pairs` depends on
        beside the stages before."""
        path = self.folder / f"{name}.tsv"

        def work() -> str:
            rows = ("\t".join(text.replace("\t", " ") for text in pair) for pair in pairs())
            return f"{_write_lines(path, rows):,} pairs"

        self._stage(path.name, [repr(settings)], functools.partial(_by_first, path.name, work))
        return path

    def _config(self, overrides: Sequence[str], workdir: str | None) -> Config:
        if not self._file.by_size:
            return self._file.config(overrides)
        from transformer_jax.cli.config_by_size import config_by_size

        return config_by_size(self._file, overrides, workdir)

    def _stage(self, name: str, settings: Sequence[object], work: Callable[[], str]) -> None:
        """Does a stage, unless it was done. `work` returns in words what came of it."""
        from transformer_jax.distributed import collectives

        self._chain = hashlib.blake2b(json.dumps([self._chain, name, *settings]).encode(), digest_size=16).hexdigest()
        before = collectives.from_first(lambda: self._stages().get(name, {}))
        done, minutes, said = before.get("done") == self._chain, before.get("minutes", 0.0), before.get("said", "")
        if not done:
            started = time.monotonic()
            try:
                said = work()
                done = True
            finally:
                minutes += (time.monotonic() - started) / 60
                if collectives.is_first():
                    entry = {"done": self._chain if done else "", "minutes": round(minutes, 3), "said": said}
                    content = json.dumps(self._stages() | {name: entry}, ensure_ascii=False, indent=1)
                    write_whole(epath.Path(self.folder / _STAGES), f"{content}\n")
        if collectives.is_first():
            print(f"{name}: {said}; {minutes:.1f} minutes{', done before' if done and before.get('done') else ''}", flush=True)

    def _stages(self) -> dict[str, dict]:
        path = self.folder / _STAGES
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError):
            raise UserError(f"{path}: is damaged; remove it: every stage looks for itself what is done") from None


def _by_first(name: str, work: Callable[[], str]) -> str:
    """What the first of several processes does, and the others wait for."""
    from transformer_jax.distributed import collectives

    with collectives.first_before_others(name) as first:
        return work() if first else ""


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes a file whole or not at all, and returns the number of its lines."""
    temporary, count = path.with_name(f"{path.name}.partial"), 0
    with open_output(temporary) as file:
        for count, line in enumerate(lines, 1):  # noqa: B007  returned
            file.write(f"{line}\n")
    temporary.replace(path)
    return count


def _stamp(path: str | Path) -> list[object]:
    """Changes with a file, and is had without reading it."""
    status = Path(path).stat() if Path(path).exists() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def _checkpoints(run: str) -> list[str]:
    from transformer_jax.runs.run_folder import split_run_name

    folder = Path(split_run_name(run)[0], CHECKPOINTS)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
