"""Flags: argparse with one-line errors, the flags that several scripts share, and those made from the fields of a job."""

import argparse
import dataclasses
import difflib
import math
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar, get_args

from transformer_jax.config import SearchOptions, full_name
from transformer_jax.config.fields import Flag, annotations, record, value_type
from transformer_jax.errors import UserError

__all__ = ["COMPUTE_DTYPES", "Parser", "check_compute_dtype", "check_ensemble", "flag", "job_of"]

COMPUTE_DTYPES = "float32", "bfloat16", "auto"  # those of `model.compute_dtype`
_DASHES = "-\u2013\u2014"  # a word processor turns -- into one of the last two
_TEXT = "\0"  # marks an argument that argparse must not take for a flag; no argument of a program contains it

Job = TypeVar("Job")


def flag(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    positional: bool = False,
    nargs: str | None = None,
    metavar: str | None = None,
    action: str | None = None,
) -> Any:
    """A field of a job, a frozen dataclass, that `Parser.add_job` makes a flag of; without a default the flag is required."""
    return dataclasses.field(
        default=default,
        metadata={"help": help, "positional": positional, "nargs": nargs, "metavar": metavar, "action": action},
    )


def job_of(job: type[Job], flags: Mapping[str, Any]) -> Job:
    """The job that parsed flags describe. A flag with the name of a field is that field; the others are those of
    `Parser.add_search`, of which `search` holds those that were given."""
    names = {field.name for field in dataclasses.fields(job)}
    search = {name: value for name, value in flags.items() if name not in names and value is not None}
    return job(**{name: value for name, value in flags.items() if name in names}, search=search)


def check_compute_dtype(dtype: str | None) -> None:
    """Raises UserError unless it is None or one of `COMPUTE_DTYPES`."""
    if dtype not in (None, *COMPUTE_DTYPES):
        raise UserError(f"--compute_dtype={dtype} should be one of {', '.join(COMPUTE_DTYPES)}")


def check_ensemble(names: Sequence[str], weights: Sequence[float]) -> None:
    """Raises UserError unless there is a weight above 0 for the run itself and for each of `names`, or no weight."""
    if weights and not names:
        raise UserError("--ensemble_weights is about the models of --ensemble, which is not given")
    if weights and len(weights) != len(names) + 1:
        expected = f"{len(names) + 1}: that of --workdir first, then those of --ensemble"
        raise UserError(f"--ensemble_weights: {len(weights)} weights, expected {expected}")
    for weight in weights:
        if not 0 < weight < math.inf:
            raise UserError(f"--ensemble_weights: {weight:g} should be more than 0; leave a model without weight out")


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises one-line errors, accepts no abbreviated flags, and shows a description's indented lines as
    they are. `prog` is the command's name in the usage, by default that of the script."""

    def __init__(self, description: str, prog: str | None = None):
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_KeepsExamples)

    def add_job(self, job: type) -> None:
        """A flag for each field of `job` that `flag` made. A truth value is a flag without a value; the field's type says
        whether a value is a number."""
        for field in dataclasses.fields(job):
            if not field.metadata:
                continue
            kinds = {field.type, *get_args(field.type)}
            options = {name: value for name, value in field.metadata.items() if name != "positional" and value is not None}
            if bool in kinds:
                options["action"] = "store_true"
            elif int in kinds or float in kinds:
                options["type"] = int if int in kinds else float
            if field.metadata["positional"]:
                self.add_argument(field.name, **options)
            elif field.default is dataclasses.MISSING:
                self.add_argument(f"--{field.name}", required=True, **options)
            else:
                self.add_argument(f"--{field.name}", default=field.default, **options)

    def add_processes(self) -> None:
        """Adds the flags of a program that several processes run together; `program.set_up` takes their values."""
        group = self.add_argument_group(
            "several processes, each with devices of its own (found by themselves on TPUs and Slurm)"
        )
        group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process, with a port that is free there")
        group.add_argument("--processes", type=int, metavar="N", help="how many there are; 1: alone, whatever Slurm says")
        group.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")

    def add_ensemble(self) -> None:
        """Adds the flags `--ensemble`, whose values `translator.load_others` reads, and `--ensemble_weights`."""
        self.add_argument(
            "--ensemble",
            nargs="+",
            default=(),
            metavar="RUN[:CHECKPOINT]",
            help="further models, or checkpoints of this one, of the same tokenizer: the mean of all probabilities is what "
            "counts (with --mbr: the candidates of all)",
        )
        self.add_argument(
            "--ensemble_weights",
            nargs="+",
            type=float,
            default=(),
            metavar="WEIGHT",
            help="how much each model counts, --workdir's first, then those of --ensemble (default: alike)",
        )

    def add_search(self) -> None:
        """A flag for each field of `SearchOptions` that has a `Flag`."""
        group = self.add_argument_group("search, and sampling (default: the config's decode)")
        for name, annotation in annotations(SearchOptions).items():
            flag = record(annotation, Flag)
            if flag is not None:
                kind = value_type(annotation)
                group.add_argument(f"--{flag.name or name}", type=kind, dest=name, metavar=flag.metavar, help=flag.help)

    def error(self, message: str) -> NoReturn:
        """Raises UserError, where argparse would print its usage and exit."""
        raise UserError(f"{message}; --help lists the flags")

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses flags and text. Text may stand between flags, may begin with `-` if it has a space in it, and may be anything
        after `--`. Raises UserError for an unknown flag, naming the nearest one.

        >>> parser = Parser("")
        >>> _ = parser.add_argument("text", nargs="*"), parser.add_argument("--beam", type=int)
        >>> parser.parse_args(["- Hello!", "--beam=2", "--", "-5"])
        Namespace(beam=2, text=['- Hello!', '-5'])
        """
        known, rest = self._parse(sys.argv[1:] if args is None else args)
        if rest:
            self._unknown(rest[0])
        return known

    def parse_with_overrides(self, arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The known flags, and every `--config.KEY=VALUE` as `KEY=VALUE`. Raises UserError for any other flag, naming the
        nearest one.

        >>> Parser("").parse_with_overrides(["--config.model.width=64"])
        (Namespace(), ['model.width=64'])
        """
        known, rest = self._parse(sys.argv[1:] if arguments is None else arguments, "--config.")
        for item in rest:
            if not (item.startswith("--config.") and "=" in item):
                self._unknown(item, "--config.")
        return known, [item.removeprefix("--config.") for item in rest]

    def _parse(self, arguments: Sequence[str], prefix: str = "") -> tuple[argparse.Namespace, list[str]]:
        """The flags that argparse knows, and the remaining arguments. Arguments that must be text are marked first, because
        argparse would take "-how?" for -h. Flags that begin with `prefix` may be unknown.
        """
        end = arguments.index("--") if "--" in arguments else len(arguments)
        flags = {flag for action in self._actions for flag in action.option_strings}
        hidden = []
        for item in arguments[:end]:
            first = re.split(r"[\s=]", item)[0]
            if first in flags and re.match(rf"{re.escape(first)}\s", item):
                self.error(f"{item!r} is one argument: write {first} and its value apart, or -- before what is text")
            is_text = item.startswith("-") and re.search(r"\s", item) and not re.match(r"--?[A-Za-z][\w.-]*=", item)
            is_flag = re.match(r"--.|-[A-Za-z]", item) or (re.match(f"[{_DASHES}]", item) and f"--{_bare(item)}" in flags)
            if is_flag and not is_text and first not in flags and not (prefix and item.startswith(prefix)):
                self._unknown(item, prefix)
            hidden.append(f"{_TEXT}{item}" if is_text else item)
        hidden += [f"{_TEXT}{item}" for item in arguments[end + 1 :]]
        known, rest = self.parse_known_intermixed_args(hidden)
        return argparse.Namespace(**{name: _shown(value) for name, value in vars(known).items()}), _shown(rest)

    def _unknown(self, item: str, prefix: str = "") -> NoReturn:
        if prefix and item.startswith(prefix):
            self.error(f"unknown argument {item}; an override is written {prefix}KEY=VALUE")
        name = _bare(item)
        near = self._nearest(name, 0.6 if item.startswith("--") else 0.8) if item[0] in _DASHES else ""
        if prefix and not near:  # perhaps a key of the config, alone or after a misspelt prefix
            near = next((f"{prefix}{key}" for key in map(full_name, (name, name.partition(".")[2])) if key), "")
        hint = f" (did you mean {near}?)" if near else ""
        if item.startswith("-") and any(not action.option_strings for action in self._actions):
            hint += "" if near and item.startswith("--") else "; a text that begins with - goes after --"
        self.error(f"unknown argument {item}{hint}")

    def _nearest(self, name: str, cutoff: float) -> str:
        """The known flag most similar to `name`; "" if none is similar."""
        flags = {_bare(flag): flag for action in self._actions for flag in action.option_strings if flag.startswith("--")}
        # A name that has too much or too little at its end, such as beam_size, is preferred to a similar spelling.
        alike = [flag for flag in flags if f"{name}_".startswith(f"{flag}_") or (flag.startswith(name) and len(name) > 2)]
        near = sorted(alike, key=lambda flag: abs(len(flag) - len(name))) or difflib.get_close_matches(name, flags, 1, cutoff)
        return flags[near[0]] if near else ""


class _KeepsExamples(argparse.HelpFormatter):
    """Fills paragraphs, but for those whose lines are all indented: these are commands or their output."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n"))
        return "\n\n".join(
            textwrap.indent(paragraph, indent)
            if all(line.startswith("    ") for line in paragraph.splitlines())
            else super(_KeepsExamples, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


def _bare(item: str) -> str:
    return item.partition("=")[0].lstrip(_DASHES).replace("-", "_").lower()


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value.removeprefix(_TEXT) if isinstance(value, str) else value
