"""The command `transformer-jax`, and `python -m transformer_jax`: which subcommands there are, and the call of one."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from transformer_jax.cli import program
from transformer_jax.errors import UserError
from transformer_jax.version import __version__

__all__ = ["COMMANDS", "main", "run"]

# Of each subcommand, what it does.
COMMANDS = {
    "train": "trains a translation model, or goes on with a training",
    "evaluate": "scores checkpoints on test sets: BLEU, chrF, TER, ROUGE",
    "translate": "translates sentences or files",
    "serve": "serves models to clients of LibreTranslate and DeepL, and on a page",
    "score_pairs": "scores sentence pairs by models of both directions, to keep the better part of a text",
    "calibrate": "makes a confidence of log-probabilities, by a dev set, and keeps it with the run",
    "shortlist": "makes the table that lets a search choose among the likely pieces of each sentence alone",
    "spelling": "keeps with a run which words its training text has, by which spelling is corrected",
    "average": "averages the parameters of checkpoints, in a copy of the run without optimizer state",
    "adapter": "writes a run's adapters alone, or merges adapters into a copy of the run they belong to",
    "export": "writes a run's model for CTranslate2, Hugging Face or Marian",
    "import": "makes a run folder of a model of Marian (OPUS-MT), Hugging Face or CTranslate2 (Argos Translate)",
}
_MODULES = {"import": "import_model"}  # where the module cannot have the subcommand's name


def main() -> NoReturn:
    """The entry point of the command: `run`, with the exit codes of `program.main`."""
    program.main(run)


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand that is the first of the arguments, by default those of the process. Raises UserError if it is
    missing or there is no such subcommand, naming the nearest."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"transformer_jax {__version__}")
    elif name in COMMANDS:
        module = import_module(f"transformer_jax.cli.commands.{_MODULES.get(name, name)}")
        module.run(rest, f"transformer-jax {name}")
    else:
        raise _no_such(name)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: transformer-jax COMMAND ...",
            "",
            "English-German neural machine translation in JAX and Flax. The commands:",
            "",
            *lines,
            "",
            "transformer-jax COMMAND --help lists a command's flags, transformer-jax --version tells the version.",
        ]
    )


def _no_such(name: str) -> UserError:
    known = ", ".join(COMMANDS)
    if not name or name.startswith("-"):
        before = f" before {name}" if name else ""
        return UserError(f"transformer-jax: expected a command{before}, one of {known}; --help says what each does")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return UserError(f"transformer-jax: unknown command {name}{hint}; there are {known}; --help says what each does")
