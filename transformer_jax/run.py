"""The run folder: all that a training leaves behind, and all that evaluating it needs. Nothing in it is ever executed.

WORKDIR/config.json           the config, as data
WORKDIR/tokenizer/            the SentencePiece model and the special ids
WORKDIR/checkpoints/STEP/     params, optimizer, progress (orbax)
WORKDIR/metrics.jsonl         one line for each log entry and evaluation
WORKDIR/tensorboard/          the same numbers, and sample translations
"""

import json
import logging
import shutil
from pathlib import Path

from transformer_jax.checkpoints import Checkpoints
from transformer_jax.config import Config, differences, from_json, to_json
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError

__all__ = ["MetricsWriter", "Run"]

log = logging.getLogger(__name__)


class Run:
    """A run folder that exists. Raises UserError where a part is missing or damaged."""

    def __init__(self, workdir: str | Path):
        self.workdir = Path(workdir)
        self.config_file = self.workdir / "config.json"
        if not self.workdir.is_dir():
            raise UserError(f"{workdir}: no such run folder; train.py --workdir={workdir} makes one")
        if not self.config_file.is_file():
            raise UserError(f"{workdir}: not a run folder, it has no config.json")
        self.config = from_json(self.config_file.read_text(encoding="utf-8", errors="replace"), str(self.config_file))

    @classmethod
    def open_or_create(cls, workdir: str | Path, config: Config) -> "Run":
        """A new folder with `config`, or the one that is there, if its config has the same result as `config`.

        A folder without a checkpoint, as a failed first attempt leaves it, has nothing to lose and is begun anew. Raises
        UserError naming what differs, or where the folder holds something else or cannot be written.
        """
        workdir = Path(workdir)
        try:
            if not (workdir / "config.json").exists():
                if workdir.is_dir() and any(workdir.iterdir()):
                    raise UserError(f"{workdir}: is not empty and not a run folder; name another --workdir")
                workdir.mkdir(parents=True, exist_ok=True)
            elif not any(path.name.isdecimal() for path in workdir.glob("checkpoints/*")):
                shutil.rmtree(workdir / "tokenizer", ignore_errors=True)
            else:
                forbidden, allowed = differences(cls(workdir).config, config)
                if forbidden:
                    raise UserError(
                        f"{workdir}: was trained with another config ({'; '.join(forbidden)}); "
                        "use that one, or another --workdir"
                    )
                for line in allowed:
                    log.info("config changed: %s", line)
            _write_whole(workdir / "config.json", to_json(config))
        except OSError as error:
            raise UserError(f"{workdir}: cannot be written ({error.strerror}); name another --workdir") from None
        return cls(workdir)

    @property
    def tokenizer_folder(self) -> Path:
        return self.workdir / "tokenizer"

    @property
    def tokenizer_file(self) -> Path:
        """Written last of all in the tokenizer's folder: where it is, the tokenizer is whole."""
        return self.tokenizer_folder / "tokenizer.json"

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_folder)

    def checkpoints(self, keep: int | None = None) -> "Checkpoints":
        """To read; with `keep`, to write, and then only the latest so many are kept, and the best."""
        return Checkpoints(self.workdir / "checkpoints", keep, latest=self.config.train.keep_checkpoints)


class MetricsWriter:
    """Numbers to `metrics.jsonl` and TensorBoard, from `start_step` on: what a killed run wrote beyond it is taken back."""

    def __init__(self, workdir: Path, start_step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            _write_whole(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= start_step))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, split: str, numbers: dict[str, float], texts: list[str] | None = None) -> None:
        self._file.write(json.dumps({"step": step, "split": split} | numbers) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if texts:
            self._board.add_text(f"{split}/translations", "\n\n".join(texts), step)
        self._board.flush()


def _write_whole(path: Path, text: str) -> None:
    """Replaces a file such that a kill leaves the old one or the new one, never a part."""
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _step_of(line: str) -> float:
    # A line cut in the middle by a kill belongs to the time after the last checkpoint.
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
