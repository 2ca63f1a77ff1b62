"""The run folder: all that a training leaves behind, and all that evaluating it needs. Nothing in it is ever executed.

    WORKDIR/config.json        the config, as data
    WORKDIR/tokenizer/         the SentencePiece model and the special ids
    WORKDIR/words.npy          hashes of the words of the training text's targets: which words of a test set are new
    WORKDIR/source_words.npz   how often each word of its sources comes, as hashes: for the spelling of others
    WORKDIR/confidence.json    what makes a confidence of log-probabilities, where a run was calibrated (calibration.py)
    WORKDIR/checkpoints/STEP/  params, optimizer, progress, with averages ema, with train.lora_rank adapters (orbax), and their
                               checksums
    WORKDIR/interrupted/STEP/  the same, of a training that was stopped between two checkpoints; it is in no average
    WORKDIR/damaged-*/         damaged checkpoints, moved aside
    WORKDIR/metrics.jsonl      one line for each log entry and evaluation (training/metrics_writer.py)
    WORKDIR/tensorboard/       the same numbers, and sample translations
    WORKDIR/lock               held while a training works on the folder (run_lock.py)

WORKDIR may be on an object store (gs://BUCKET/FOLDER).
"""

import dataclasses
import io
import logging
import re

import numpy as np
from etils import epath

from transformer_jax.config import Config, continued, differences, from_json, remedy, to_json
from transformer_jax.data.source_words import SourceWords
from transformer_jax.distributed.collectives import is_first
from transformer_jax.errors import UserError
from transformer_jax.models.adapters import Adapters
from transformer_jax.runs.calibration import CONFIDENCE
from transformer_jax.runs.checkpoint_name import CHECKPOINTS, INTERRUPTED, is_step
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.checkpoint_writer import CheckpointWriter
from transformer_jax.storage.checksums import is_complete
from transformer_jax.storage.files import read_plain, to_path, write_whole
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Run", "is_begun", "make_folder", "not_writable", "split_run_name"]

log = logging.getLogger(__name__)

_LOGS = "*.log", "*.out", "*.err", "*log*.txt", "*output*.txt"  # files that a new run folder may hold
_LARGEST_CONFIG = 1 << 20  # bytes
_WORDS = "words.npy"
_SOURCE_WORDS = "source_words.npz"


def split_run_name(name: str) -> tuple[str, str]:
    """Splits RUN or RUN:CHECKPOINT into the folder and the checkpoint's name, `best` if there is none. The name of an existing
    folder is not split.

    >>> split_run_name("runs/a"), split_run_name("runs/a:average:5:raw")
    (('runs/a', 'best'), ('runs/a', 'average:5:raw'))
    """
    if to_path(name).is_dir():
        return name, "best"
    return re.fullmatch(r"(.+?)(?::((?:average:\d+|[^:/]+)(?::raw|:ema)?))?", name, re.DOTALL).groups(default="best")


class Run:
    """A run folder that exists. Raises UserError for a part that is missing or damaged.

    Attributes:
        workdir: the folder, a path of etils' epath
        config_file: its config.json
        config: the config that is in it
    """

    def __init__(self, workdir: epath.PathLike):
        self.workdir = to_path(workdir)
        self.config_file = self.workdir / "config.json"
        if not self.workdir.is_dir():
            raise UserError(f"{workdir}: no such run folder; train.py --workdir={workdir} makes one")
        if not self.config_file.is_file():
            raise UserError(f"{workdir}: not a run folder, it has no config.json")
        try:
            content = read_plain(self.config_file, _LARGEST_CONFIG)
        except OSError as error:
            raise UserError(f"{self.config_file}: cannot be read ({error.strerror}); bring back this run's config") from None
        self.config = from_json(content.decode("utf-8", "replace"), str(self.config_file))

    @classmethod
    def open_or_create(cls, workdir: epath.PathLike, config: Config, extend: bool = False) -> "Run":
        """Makes a new folder with `config`, or opens an existing one whose config leads to the same result as `config`.

        With `extend`, the config may have more steps even where the learning rate decays over all of them.

        A folder without a checkpoint, as a failed first attempt leaves it, is begun anew. Raises UserError if the configs
        differ, naming the differences, if the folder holds something else, or if it cannot be written.
        """
        workdir = to_path(workdir)
        try:
            if not (workdir / "config.json").exists():
                make_folder(workdir)
            elif not is_begun(workdir):
                (workdir / "tokenizer").rmtree(missing_ok=True)
                for name in (_WORDS, _SOURCE_WORDS, CONFIDENCE):
                    (workdir / name).unlink(missing_ok=True)
            else:
                _require_optimizer_state(workdir)
                stored, requested = cls(workdir).config, config
                config = continued(stored, requested)
                if config.tokenizer != requested.tokenizer:
                    log.info("tokenizer.normalize stays false: the run was begun without")
                if config.batch != requested.batch:
                    log.info("batch.tokens=%d, with which the run was begun", config.batch.tokens)
                forbidden, allowed = differences(stored, config, extend)
                if forbidden:
                    raise UserError(
                        f"{workdir}: was trained with another config ({'; '.join(forbidden)}); "
                        f"{remedy(stored, config, str(workdir))}"
                    )
                for line in allowed:
                    log.info("config changed: %s", line)
            write_whole(workdir / "config.json", to_json(config))
        except OSError as error:
            raise not_writable(workdir, error) from None
        return cls(workdir)

    def keep_tokens(self, tokens: int) -> None:
        """Puts the number that was found where `batch.tokens` is 0 into the config, for as long as there is the run. All
        processes call this; the first one writes the file."""
        self.config = dataclasses.replace(self.config, batch=dataclasses.replace(self.config.batch, tokens=tokens, memory=0.0))
        if is_first():
            try:
                write_whole(self.config_file, to_json(self.config))
            except OSError as error:
                raise not_writable(self.workdir, error) from None

    @property
    def tokenizer_folder(self) -> epath.Path:
        """The folder of the tokenizer, which may not exist yet."""
        return self.workdir / "tokenizer"

    @property
    def tokenizer_file(self) -> epath.Path:
        """The file that is written last in the tokenizer's folder: if it exists, the tokenizer is whole."""
        return self.tokenizer_folder / "tokenizer.json"

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Raises UserError if it is missing or damaged, or has another number of source pieces than
        `model.source_vocab_size` says."""
        tokenizer, size = Tokenizer.load(self.tokenizer_folder), self.config.model.source_vocab_size
        if (size or tokenizer.has_source_vocabulary) and (size or tokenizer.vocab_size) != tokenizer.source_vocab_size:
            raise UserError(
                f"{self.config_file}: model.source_vocab_size={size} should be {tokenizer.source_vocab_size}, the source's "
                f"pieces of {self.tokenizer_folder}"
            )
        return tokenizer

    def words(self) -> np.ndarray | None:
        """The words that `keep_words` wrote; None in runs of older versions and of imported models. Raises UserError if they
        are damaged."""
        path = self.workdir / _WORDS
        try:
            words = np.load(io.BytesIO(read_plain(path)), allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError):
            words = None
        if words is None or words.dtype != np.uint64 or words.ndim != 1:
            raise UserError(f"{path}: damaged, expected the hashes of the training text's words; remove it, or bring it back")
        return words

    def keep_words(self, words: np.ndarray) -> None:
        """Writes the hashes of the words of the training text's targets, uint64 [words], as `data.training_words.vocabulary_of`
        computes them."""
        content = io.BytesIO()
        np.save(content, words)
        write_whole(self.workdir / _WORDS, content.getvalue())

    def has_source_words(self) -> bool:
        """Is there what `keep_source_words` wrote? It may be damaged."""
        return (self.workdir / _SOURCE_WORDS).exists()

    def source_words(self) -> SourceWords | None:
        """The words that `keep_source_words` wrote; None in a run that has none. Raises UserError if they are damaged."""
        path = self.workdir / _SOURCE_WORDS
        try:
            return SourceWords.from_bytes(read_plain(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            way_out = f"make it again with `transformer-jax spelling --workdir={self.workdir}`, or remove it"
            raise UserError(f"{path}: damaged, expected the words of the training text's sources; {way_out}") from None

    def keep_source_words(self, words: SourceWords) -> None:
        """Writes the words of the training text's sources. Raises UserError if it cannot."""
        try:
            write_whole(self.workdir / _SOURCE_WORDS, words.to_bytes())
        except OSError as error:
            raise not_writable(self.workdir, error) from None

    def copy_words_to(self, other: "Run") -> None:
        """Copies the words of both sides, where there are any. Raises UserError if they are damaged."""
        if (words := self.words()) is not None:
            other.keep_words(words)
        if source_words := self.source_words():
            other.keep_source_words(source_words)

    def checkpoints(self) -> CheckpointReader:
        """The checkpoints, to read. Raises UserError if there is no folder of them."""
        kept, adapters = self.config.train.keep_checkpoints, Adapters.of(self.config.train)
        return CheckpointReader(self.workdir / CHECKPOINTS, kept=kept, ema=self._ema, adapters=adapters)

    def checkpoint_writer(self, keep: int | None = None) -> CheckpointWriter:
        """The checkpoints, to write: of the latest, `keep` (`train.keep_checkpoints`) stay, and the best. Raises UserError if
        there are checkpoints and none is whole."""
        kept, adapters = self.config.train.keep_checkpoints, Adapters.of(self.config.train)
        return CheckpointWriter(self.workdir / CHECKPOINTS, keep=keep or kept, kept=kept, ema=self._ema, adapters=adapters)

    def interrupted(self) -> CheckpointWriter:
        """The checkpoint of a training that was asked to stop, to read and to write; one is kept."""
        adapters, folder = Adapters.of(self.config.train), self.workdir / INTERRUPTED
        return CheckpointWriter(folder, keep=1, kept=1, ema=self._ema, discardable=True, adapters=adapters)

    def has_checkpoints(self) -> bool:
        """Is there a folder of checkpoints, though perhaps an empty one?"""
        return (self.workdir / CHECKPOINTS).is_dir()

    def was_interrupted(self) -> bool:
        """Is there a folder of what training saved when it was asked to stop?"""
        return (self.workdir / INTERRUPTED).is_dir()

    @property
    def _ema(self) -> bool:
        return self.config.train.ema_decay > 0 or self.config.optimizer.name == "schedule_free"


def _require_optimizer_state(workdir: epath.Path) -> None:
    """Raises UserError if no checkpoint has the optimizer's state, as in a copy by `lean.copy_run`."""
    folders = [workdir / kind for kind in (CHECKPOINTS, INTERRUPTED)]
    steps = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if is_step(path.name)]
    if steps and all(is_complete(path) and not (path / "optimizer").is_dir() for path in steps):
        raise UserError(
            f"{workdir}: has no optimizer state to go on from: begin with its parameters in another --workdir, with "
            f"--config.train.init_from={workdir}"
        )


def is_begun(workdir: epath.PathLike) -> bool:
    """Is this a run folder with checkpoints, from which a training would go on?"""
    workdir = to_path(workdir)
    has_steps = any(_has_steps(workdir / kind) for kind in (CHECKPOINTS, INTERRUPTED))
    return has_steps and (workdir / "config.json").exists()


def _has_steps(folder: epath.Path) -> bool:
    """Does a folder have checkpoints, under any name?"""
    return folder.is_dir() and any(is_step(path.name) or is_complete(path) for path in folder.iterdir())


def make_folder(workdir: epath.Path) -> None:
    """Makes an empty run folder. Raises UserError if there is one with other content."""
    others = sorted(path.name for path in workdir.iterdir() if not _may_stay(path)) if workdir.is_dir() else []
    if others:
        shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        raise UserError(
            f"{workdir}: is not empty and not a run folder: it holds {shown}; name another --workdir "
            f"(one with nothing but log files, {', '.join(_LOGS)}, would do)"
        )
    workdir.mkdir(parents=True, exist_ok=True)


def _may_stay(path: epath.Path) -> bool:
    """May a new run folder hold this? Yes, if it is the lock, a log (`> runs/x/train.log`) or a hidden file."""
    return path.name == "lock" or (path.is_file() and any(map(path.match, (".*", *_LOGS))))


def not_writable(workdir: epath.Path, error: OSError) -> UserError:
    """The error for a run folder that cannot be written."""
    return UserError(f"{workdir}: cannot be written ({error.strerror or error}); name another --workdir")
