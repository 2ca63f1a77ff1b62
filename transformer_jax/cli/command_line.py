"""What the three scripts share: flags, config files with overrides, and how bad input ends."""

import argparse
import contextlib
import ctypes
import difflib
import errno
import logging
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from transformer_jax.config import (
    Config,
    SearchOptions,
    from_json,
    full_name,
    is_config_class,
    override,
    unknown_key,
    validate,
)
from transformer_jax.config.fields import Flag, annotations, record, value_type
from transformer_jax.distributed import cluster
from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.platform import find_devices, import_jax
from transformer_jax.storage.cache_folders import use_compilation_cache

__all__ = ["Parser", "Processes", "load_config", "main", "set_up", "told_to_all"]

_DASHES = "-\u2013\u2014"  # what a word processor makes of --
_TEXT = "\0"  # what argparse should not take for a flag begins with it; no argument of a program has it

Processes = tuple[str | None, int | None, int | None]  # the flags --coordinator, --processes and --process


class Parser(argparse.ArgumentParser):
    """argparse that names what is wrong in one line, and knows no abbreviations."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False)

    def add_processes(self) -> None:
        """Flags of a program that several processes run together; `set_up` takes them."""
        group = self.add_argument_group(
            "several processes, each with devices of its own (found by themselves on TPUs and Slurm)"
        )
        group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process, with a port that is free there")
        group.add_argument("--processes", type=int, metavar="N", help="how many there are; 1: alone, whatever Slurm says")
        group.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")

    def add_ensemble(self) -> None:
        """The flag `--ensemble`, which `translator.load_others` reads."""
        self.add_argument(
            "--ensemble",
            nargs="+",
            default=(),
            metavar="RUN[:CHECKPOINT]",
            help="further models, of the same tokenizer: the mean of all probabilities is what counts",
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
        """The flags, and text, which may stand between flags, begin with `-` if it has a space in it, and be anything after
        `--`. Raises UserError for an unknown flag, naming the nearest.

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
        """The known flags, and every `--config.KEY=VALUE` as `KEY=VALUE`. Raises UserError for any other, naming the nearest.

        >>> Parser("").parse_with_overrides(["--config.model.width=64"])
        (Namespace(), ['model.width=64'])
        """
        known, rest = self._parse(sys.argv[1:] if arguments is None else arguments, "--config.")
        for item in rest:
            if not (item.startswith("--config.") and "=" in item):
                self._unknown(item, "--config.")
        return known, [item.removeprefix("--config.") for item in rest]

    def _parse(self, arguments: Sequence[str], prefix: str = "") -> tuple[argparse.Namespace, list[str]]:
        """What argparse knows, and the rest. What is text for certain is hidden from it: it would take "-how?" for -h.

        Flags that begin with a `prefix` may be unknown.
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
        if prefix and not near:  # a key of the config, as it is or after something like the prefix
            near = next((f"{prefix}{key}" for key in map(full_name, (name, name.partition(".")[2])) if key), "")
        hint = f" (did you mean {near}?)" if near else ""
        if item.startswith("-") and any(not action.option_strings for action in self._actions):
            hint += "" if near and item.startswith("--") else "; a text that begins with - goes after --"
        self.error(f"unknown argument {item}{hint}")

    def _nearest(self, name: str, cutoff: float) -> str:
        """The flag that was meant; nothing where there is none like it."""
        flags = {_bare(flag): flag for action in self._actions for flag in action.option_strings if flag.startswith("--")}
        # A name with too much or too little at its end, such as beam_size, before one that looks alike.
        alike = [flag for flag in flags if f"{name}_".startswith(f"{flag}_") or (flag.startswith(name) and len(name) > 2)]
        near = sorted(alike, key=lambda flag: abs(len(flag) - len(name))) or difflib.get_close_matches(name, flags, 1, cutoff)
        return flags[near[0]] if near else ""


def _bare(item: str) -> str:
    return item.partition("=")[0].lstrip(_DASHES).replace("-", "_").lower()


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value.removeprefix(_TEXT) if isinstance(value, str) else value


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Runs the config file's `get_config()`, applies `KEY=VALUE` overrides, validates the whole.

    `FILE.py:ARGUMENT` runs `get_config(ARGUMENT)`; a `.json`, as a run folder has it, is read. Raises UserError, also for
    whatever the file itself raises: with its line, and the nearest key where it names an unknown.
    """
    arguments = []
    if not os.path.isfile(path) and ".py:" in path:
        path, _, argument = path.rpartition(":")
        arguments = [argument]
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        there = sorted(name for name in os.listdir(folder) if name.endswith(".py")) if os.path.isdir(folder) else []
        raise UserError(f"{path}: no such config file" + (f"; {folder} has {', '.join(there)}" if there else ""))
    if path.endswith(".json"):
        return _with_overrides(_read_config(path), overrides)
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config(*arguments) if get_config else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _in_config_file(path, error) from error
    if get_config is None:
        raise UserError(f"{path}: has no get_config() that returns a transformer_jax.Config")
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() should return a transformer_jax.Config, not a {type(config).__name__}")
    return _with_overrides(config, overrides)


def _read_config(path: str) -> Config:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return from_json(file.read(), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    for item in overrides:
        key, _, value = item.partition("=")
        override(config, key, value)
    return validate(config)


def main(run: Callable[[], Any]) -> NoReturn:
    """Runs a script and exits: with 0, or after a UserError (and a full disk) with its line on standard error and code 2, after
    ToBeContinued, or when another process of the same program was lost, with a line and code 75.

    Any other exception is a bug and keeps its traceback.
    """
    _open_standard_streams()
    try:
        run()
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        _end(f"error: {error}", cluster.BAD_INPUT)
    except ToBeContinued as error:
        _end(str(error), cluster.TO_BE_CONTINUED)
    except BrokenPipeError:
        _drop_standard_output()  # its reader has left (`| head`): nothing to say, and nobody to say it to
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f"{error.filename}: " if error.filename else ""
            _end(f"error: {where}{error.strerror}: free some and run the same command again", cluster.BAD_INPUT)
        end = cluster.end_of_another() if cluster.shows_loss(error) else None
        if end:
            _end(end[1], end[0])
        if cluster.shows_loss(error):
            _end(cluster.LOST, cluster.TO_BE_CONTINUED)
        traceback.print_exc()
        cluster.leave(1, f"{type(error).__name__}: {error}")
    sys.exit(0)


def _end(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    with contextlib.suppress(OSError):  # the reader of standard error may have left
        print(line, file=sys.stderr, flush=True)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # Python would try again at its end, and fail
        _drop_standard_output()
    cluster.leave(code, line)


def _drop_standard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_streams() -> None:
    """Opens closed standard streams (`>&-`) on nothing, before a file gets the number of one, and lines for the one go into the
    other. Python has None for a stream that was closed when it started."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def _in_config_file(path: str, error: BaseException) -> UserError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)  # a SyntaxError has no frame in the file
    where = f"{path}: line {line}" if line else path
    key = _key_of_config(error)
    if key:
        return unknown_key(key, where)
    if isinstance(error, SystemExit):
        return UserError(f"{where}: ends the program (SystemExit: {error}), where get_config() should return a Config")
    hint = ""
    if isinstance(error, TypeError) and str(error).startswith("get_config() missing") and not frames:
        hint = "; its argument is written after the file's name, as in FILE.py:ARGUMENT"
    return UserError(f"{where}: {type(error).__name__}: {error}{hint}")


def _key_of_config(error: BaseException) -> str:
    """The name that is no field of one of the config's classes, if that is what the error is about."""
    if isinstance(error, AttributeError):
        found = re.match(r"'(\w+)' object has no attribute '(\w+)'", str(error))
        # Setting an attribute tells of the object from Python 3.13 on.
        kind = type(error.obj) if error.obj is not None else None
    elif isinstance(error, TypeError):
        found, kind = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)), None
    else:
        return ""
    ours = found and is_config_class(kind or found[1])
    return found[2] if ours else ""


def set_up(processes: Processes | None = None) -> None:
    """Once, before JAX is imported: log lines on standard error, compiled programs kept on disk from run to run, the devices
    found, and the other processes of a cluster.

    With `processes`, the three flags, the other processes are joined: those of the flags, or where they are all None Slurm's
    and a TPU slice's. Without, the program has no use for others and is alone, wherever it runs. Raises UserError for flags
    and environment variables that cannot be.
    """
    _keep_freed_memory()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    logging.getLogger("transformer_jax").setLevel(logging.INFO)
    # What orbax's threads log as an error is also raised, and told once.
    for name, level in {"absl": logging.CRITICAL, "orbax": logging.CRITICAL, "jax": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # a GPU or TPU that this jaxlib cannot use
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # Several virtual devices on few cores starve each other of threads in a reduction, until XLA gives up after 40 s.
        os.environ.setdefault("PJRT_NPROC", "16")
    import_jax()
    use_compilation_cache()
    if processes is None:
        cluster.stay_alone()
    else:
        cluster.join(*processes)
    find_devices()


@contextlib.contextmanager
def told_to_all(processes: Processes) -> Iterator[None]:
    """For what a program does before `set_up`: where bad input ends it and it is one of several, it first joins the others,
    which would wait for it in vain, and they end with it."""
    try:
        yield
    except UserError:
        if cluster.others(*processes):
            set_up(processes)
        raise


def _keep_freed_memory() -> None:
    """Has the C library keep the memory that a step frees, for the next step.

    XLA on CPU asks for its whole workspace at each step and gives it back; the kernel then has to clear every page anew.
    Keeping it took a step of Transformer-tiny (10k vocabulary, 3072 positions, two cores) from 0.72 to 0.55 s, with 0 instead
    of 153,000 page faults. There is no limit above which it is given back: workspaces of several GB are no rarity. It must come
    before the first thread starts. Elsewhere than on glibc there is no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2  # the names in malloc.h
        for name, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1), (top_pad, 2**26)):
            mallopt(name, value)
