"""The start, folders, pictures and processes of the benchmarks; missing packages and unwritable files are one-line errors."""

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from transformer_jax.cli.program import set_up
from transformer_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def set_up_or_end(trains: bool = False) -> None:
    """`program.set_up`, for a script that imports JAX at its top; what it refuses ends the script as `program.main`
    would end it."""
    try:
        set_up(trains=trains)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def cpu_seconds() -> float:
    """The CPU time of this process and of those of its own that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def require(*packages: str) -> None:
    """Raises UserError if one of these packages is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"this benchmark needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def make_folder(path: Path) -> Path:
    """The folder `path`, created if it does not exist. Raises UserError if it cannot be created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the folder cannot be made ({error.strerror}); name another") from None
    return path


def temporary_folder() -> tempfile.TemporaryDirectory:
    """The folder of XDG_CACHE_HOME, if it is set: its disk has space for a corpus."""
    place = os.environ.get("XDG_CACHE_HOME")
    return tempfile.TemporaryDirectory(dir=make_folder(Path(place)) if place else None)


def new_figure(width: float, height: float, dpi: int = 150) -> "Figure":
    """An empty picture, in inches. `require("matplotlib")` comes first."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=dpi)


def save_figure(figure: "Figure", file: Path) -> None:
    """The format follows the file's ending. Raises UserError if the file cannot be written."""
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # no such folder; no format with this ending
        raise UserError(f"{file}: the picture cannot be written ({error})") from None


def output_of(command: list[str], environment: dict[str, str]) -> str:
    """Standard output of another Python process. If that ends with an error, which it has printed, this one ends likewise."""
    done = subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 1)
    return done.stdout
