"""Reading sentence pairs from a source: files, the built-in corpus, TFDS, sacreBLEU's test sets."""

import contextlib
import difflib
import itertools
import math
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from etils import epath

from transformer_jax.data.noise import change_pairs
from transformer_jax.data.source_syntax import Spec, parse_spec
from transformer_jax.errors import UserError
from transformer_jax.storage.files import is_remote, to_path
from transformer_jax.storage.text_files import iter_lines

__all__ = ["Pairs", "iter_pairs", "iter_scored_pairs", "one_source", "read_pairs", "text_files"]

_KINDS = "demo:SPLIT, a PREFIX of two files, FILE.tsv, FILE.tsv.gz, tfds:NAME or sacrebleu:NAME"
_NETWORK_TIMEOUT = 10.0  # seconds without an answer


class Pairs(NamedTuple):
    """Two lists of equally many sentences; line i of one is the translation of line i of the other."""

    source: Sequence[str]
    target: Sequence[str]


def read_pairs(spec: str | Spec, source_language: str, target_language: str) -> Pairs:
    """Reads a whole source of text, unfiltered: N lines in the files are N pairs, empty lines included.

    `spec` is one of (`DataConfig` describes them)

        demo:train                 the built-in corpus (English to German)
        data/train                 data/train.en and data/train.de, each plain or .gz
        data/train.tsv[.gz]        source, tab, target (either kind of file also on gs://)
        sacrebleu:wmt14/full       a named test set, downloaded by sacreBLEU where it is not there yet; its first reference
        tfds:wmt14_translate/de-en#validation    a data set of TFDS (see `tfds_source`), without #SPLIT its training split
        data/all.tsv (columns=3,1) of more columns than two: those of source and target, from 1
        any of these (tag=WORD)    with WORD and a space before each source sentence
        any of these (upper)       each line with this noise (`data.noise`), the same at each call; some, with (upper=0.2)
        "data/new (1), b" (...)    a path in double quotes, which may have anything in it

    Raises UserError, in one line, where there is no such source or file, the sides differ in number, a file is empty or a line
    is not UTF-8 or not a pair.
    """
    pairs = Pairs([], [])
    for source, target in iter_pairs(spec, source_language, target_language):
        pairs.source.append(source)
        pairs.target.append(target)
    return pairs


def iter_pairs(spec: str | Spec, source_language: str, target_language: str) -> Iterator[tuple[str, str]]:
    """As `read_pairs`, one pair (source, target) at a time as they come."""
    spec = one_source(spec, source_language, target_language)
    pairs = _iter_source(spec, source_language, target_language)
    if spec.swap:
        pairs = ((source, target) for target, source in pairs)
    if spec.noise:
        pairs = change_pairs(spec.noise, pairs)
    return ((f"{spec.tag} {source}", target) for source, target in pairs) if spec.tag else pairs


def iter_scored_pairs(spec: Spec, source_language: str, target_language: str) -> Iterator[tuple[str, str, float]]:
    """As `iter_pairs`, with the score of each pair: of `spec.score_column`, or of the file `spec.scores`. Raises UserError,
    which names file and line, for what is not a number, for NaN, and where the file does not have a score for each pair."""
    if spec.score_column:
        (path,) = text_files(spec, source_language, target_language)
        columns = *spec.columns, spec.score_column
        for number, (source, target, score) in enumerate(_iter_tsv(path, columns), 1):
            source, target = (target, source) if spec.swap else (source, target)
            yield f"{spec.tag} {source}" if spec.tag else source, target, _score(score, path, number)
        return
    pairs = iter_pairs(spec, source_language, target_language)
    scores = iter_lines(spec.scores, expected=True)
    for before, (pair, score) in enumerate(itertools.zip_longest(pairs, scores)):
        if pair is None or score is None:
            longer = before + 1 + sum(1 for _ in itertools.chain(pairs, scores))
            counts = (before, longer) if pair is None else (longer, before)
            raise UserError(
                f"{spec.name} has {counts[0]} pairs and {spec.scores} has {counts[1]} scores; expected one for each"
            )
        yield *pair, _score(score, spec.scores, before + 1)


def one_source(spec: str | Spec, source_language: str, target_language: str) -> Spec:
    """The source that a text names: a path as it is written, where there are such files, or else what `parse_spec` reads.

    Raises UserError as that does, TypeError for what is no text.
    """
    if isinstance(spec, Spec):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"a source of text is named by a string such as 'data/train', not by {spec!r:.40}")
    if spec.startswith((" ", '"')) or spec.endswith((")", " ")):
        paths = [spec] if spec.endswith((".tsv", ".tsv.gz")) else [f"{spec}.{source_language}", f"{spec}.{source_language}.gz"]
        if any(to_path(path).is_file() for path in paths):
            return Spec(spec, spec, {})
    return parse_spec(spec)


def text_files(spec: str | Spec, source_language: str, target_language: str) -> list[epath.Path]:
    """The one or two files of a source; none for the kinds that are not read from files. Raises UserError where there is no
    such kind or file."""
    spec = one_source(spec, source_language, target_language)
    name = spec.name
    if name.startswith(("demo:", "sacrebleu:", "tfds:")):
        return []
    scheme = re.match(r"([A-Za-z]\w+):", name)
    if scheme and not is_remote(name) and not Path(name).parent.is_dir():
        raise UserError(f"{name}: unknown kind of source {scheme[0]!r}, expected {_KINDS}")
    if name.endswith((".tsv", ".tsv.gz")):
        return [to_path(name)]
    if not name:
        raise UserError(f"data: the name of a source is empty, expected {_KINDS}")
    _refuse_one_side(name, (source_language, target_language))
    return [_plain_or_gz(spec, source_language), _plain_or_gz(spec, target_language)]


def _iter_source(spec: Spec, source_language: str, target_language: str) -> Iterator[tuple[str, str]]:
    name = spec.name.partition(":")[2]
    languages = source_language, target_language
    if spec.name.startswith("demo:"):
        return _iter_demo(name, *languages)
    if spec.name.startswith("sacrebleu:"):
        return _iter_sacrebleu(name, *languages)
    if spec.name.startswith("tfds:"):
        from transformer_jax.data.tfds_source import iter_tfds

        return iter_tfds(name, *languages)
    files = text_files(spec, *languages)
    return _iter_tsv(*files, spec.columns) if len(files) == 1 else _iter_files(*files)


def _iter_demo(split: str, source_language: str, target_language: str) -> Iterator[tuple[str, str]]:
    if (source_language, target_language) != ("en", "de"):
        raise UserError(f"demo:{split}: the built-in corpus is en to de, not {source_language} to {target_language}")
    from transformer_jax.data import demo

    try:
        examples = demo.generate(split)
    except ValueError as error:
        raise UserError(f"demo:{split}: {error}") from None
    return ((example.source, example.target) for example in examples)


def _refuse_one_side(name: str, languages: tuple[str, str]) -> None:
    """Raises UserError where the name is that of one of the two files, not their prefix."""
    prefix, _, language = name.removesuffix(".gz").rpartition(".")
    if prefix and language in languages and to_path(name).is_file() and not to_path(f"{name}.{languages[0]}").is_file():
        both = " and ".join(f"{prefix}.{each}" for each in languages)
        raise UserError(f"{name}: is one side of the text; give the prefix {prefix}, which stands for {both}")


def _plain_or_gz(spec: Spec, language: str) -> epath.Path:
    paths = [to_path(f"{spec.name}.{language}"), to_path(f"{spec.name}.{language}.gz")]
    for path in paths:
        if path.is_file():
            return path
    advice = f"; {spec.advice}" if spec.advice else ""
    raise UserError(f"{spec.name}: no such file {paths[0]} (nor {paths[1].name}); a source is one of {_KINDS}{advice}")


def _iter_files(source: epath.Path, target: epath.Path) -> Iterator[tuple[str, str]]:
    sides = iter_lines(source, expected=True), iter_lines(target, expected=True)
    for before, pair in enumerate(itertools.zip_longest(*sides)):
        if None in pair:
            longer = before + 1 + sum(1 for _ in itertools.chain(*sides))
            counts = (before, longer) if pair[0] is None else (longer, before)
            raise UserError(
                f"{source} has {counts[0]} lines and {target} has {counts[1]}; expected one line for each of the other"
            )
        yield pair


def _iter_tsv(path: epath.Path, columns: tuple[int, ...] | None) -> Iterator[tuple[str, ...]]:
    for number, line in enumerate(iter_lines(path, expected=True), 1):
        row = line.split("\t")
        if columns is None and len(row) != 2:
            more = "; name the columns of both with (columns=1,2)" if len(row) > 2 else ""
            raise UserError(f"{path}: line {number} has {len(row) - 1} tabs, expected one, between source and target{more}")
        chosen = columns or (1, 2)
        if len(row) < max(chosen):
            options = f"columns={chosen[0]},{chosen[1]}" + "".join(f" score_column={column}" for column in chosen[2:])
            raise UserError(f"{path}: line {number} has only {len(row)} columns, {options} needs {max(chosen)}")
        yield tuple(row[column - 1] for column in chosen)


def _score(text: str, path: str | epath.Path, number: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise UserError(f"{path}: line {number}: expected a number as the pair's score, found {text!r:.60}")
    return score


def _iter_sacrebleu(name: str, source_language: str, target_language: str) -> Iterator[tuple[str, str]]:
    from sacrebleu.dataset import DATASETS
    from sacrebleu.utils import get_reference_files, get_source_file

    languages = f"{source_language}-{target_language}"
    known = [key for key, dataset in DATASETS.items() if languages in dataset.langpairs]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean sacrebleu:{near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
        raise UserError(f"sacrebleu:{name}: sacreBLEU has no test set of that name for {languages}; {hint}")
    try:
        with _socket_timeout(_NETWORK_TIMEOUT):
            paths = get_source_file(name, languages), get_reference_files(name, languages)[0]
    except (Exception, SystemExit) as error:  # sacreBLEU exits the process on a damaged download
        problem = " ".join(str(error).split())
        raise UserError(f"sacrebleu:{name}: not here and cannot be downloaded ({problem}); connect and try again") from None
    return _iter_files(epath.Path(paths[0]), epath.Path(paths[1]))


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # sacreBLEU opens its downloads without a timeout: a network that drops packets would block for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
