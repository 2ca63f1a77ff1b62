"""The checkpoints of a run: what is saved, which are kept, and which one somebody means."""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.runs.progress import Progress
from transformer_jax.storage.checksums import problem, sealed, write_manifest
from transformer_jax.storage.files import is_remote, read_plain
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["Checkpoints", "is_step", "parse_checkpoint"]

log = logging.getLogger(__name__)

_MISNAMED = "a checkpoint's folder has the number of its step as its name, so this one is not read; rename it back"
_METADATA = "_CHECKPOINT_METADATA"  # orbax's, of the whole checkpoint
_LARGEST_METADATA = 1 << 20  # bytes
# What orbax's parsers raise of files that are not as it wrote them.
_ORBAX_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, OSError, RecursionError)
_ITEMS = ("params", "optimizer", "ema", "progress")


@dataclasses.dataclass
class _LatestAndBest:
    """What orbax does not delete. Not its own BestN: that one forgets all scores at a restart, and of equal scores it keeps the
    last, where the best of `Progress` is the first."""

    latest: int | None
    best_step: int = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self.latest
        return [i >= first or checkpoint.step == self.best_step for i, checkpoint in enumerate(checkpoints)]


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Orbax would ask JAX, with its steps, what `training.preemption` asks with its own count: then neither is told.
        return False


class Checkpoints:
    """The checkpoints of a run. As a context manager it waits for the last save when it ends.

    Each is sealed by a manifest of its files' checksums once it is written, and verified when it is loaded.

    `keep` is how many of the latest are kept while this object writes (None: it only reads), `latest` how many the run keeps:
    what is older is there for being the best, and in no average. With `ema` they have moving averages of the parameters. An
    object that writes first puts checkpoints that are newer than the newest whole one out of the way (`damaged-...`); UserError
    if none is whole, unless all are `spare`. An object that reads raises UserError where there is no such folder.

    Attributes:
        folder: that of the checkpoints, one folder for each step
    """

    def __init__(self, folder: epath.Path, keep: int | None = None, *, latest: int, ema: bool, spare: bool = False):
        self.folder = folder
        self._ema = ema
        self._latest = latest
        self._kept = _LatestAndBest(keep)
        self._whole: set[int] = set()
        if keep is None:
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: no checkpoint there yet; train.py writes the first after train.checkpoint_every steps"
                )
            # Orbax warns of each of its defaults that does not go with read_only.
            options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
        else:
            with collectives.first_before_others(f"damaged checkpoints of {folder}") as first:
                if first:
                    _put_damaged_aside(folder, spare)
            options = ocp.CheckpointManagerOptions(preservation_policy=self._kept, cleanup_tmp_directories=True)
        _require_readable(folder)
        for name in _misnamed(folder):
            log.warning("%s: %s", folder / name, _MISNAMED)
        with _without_orbax_news():
            self._manager = _Manager(_absolute(folder), options=options, item_names=_ITEMS)
        self._sealer = ThreadPoolExecutor(1)
        self._sealing: Future | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        failed = kind is not None
        try:
            self.wait()
        except Exception:
            failed = True
            raise
        finally:
            self._sealer.shutdown()
            # A save that failed is told once; orbax would tell it again, in other words.
            with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
                self._manager.close()

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, whole or not, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: Any, progress: Progress) -> None:
        """Starts to write step `progress.step` of `state` (a `TrainState`); returns as soon as its arrays may be changed.

        Raises UserError where there is no room for this or the save before.
        """
        self.wait()
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in _arrays(state).items()}
        self._kept.best_step = progress.best_step
        with _room_for(self.folder, progress.step):
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(**arrays, progress=ocp.args.JsonSave(dataclasses.asdict(progress))),
            )
        self._sealing = self._sealer.submit(self._seal, progress.step)

    def _seal(self, step: int) -> None:
        with _room_for(self.folder, step):
            self._manager.wait_until_finished()
            if collectives.is_first():
                write_manifest(self.folder / str(step))

    def wait(self) -> None:
        """Until the last save is complete. Raises what went wrong in it."""
        sealing, self._sealing = self._sealing, None
        if sealing:
            sealing.result()

    def progress(self, step: int) -> Progress:
        """What was saved beside the arrays of `step`. Raises UserError if the checkpoint is damaged, or another step's."""
        found = self._restore(step, progress=ocp.args.JsonRestore()).progress
        try:
            progress = Progress.parse(found)
        except ValueError as error:
            raise self._unreadable(step, error) from error
        if progress.step != step:
            raise UserError(
                f"{self.folder / str(step)}: is the checkpoint of step {progress.step}, whose folder was renamed or copied; "
                f"rename it to {progress.step}, or move it out of {self.folder}"
            )
        return progress

    def restore(self, step: int, state: Any) -> tuple[Any, Progress]:
        """The training state saved at `step`, in the shapes and with the shardings of `state` (a `TrainState` of arrays, or of
        their shapes), and what was saved beside it. Raises UserError if the checkpoint is damaged."""
        found = self._restore(step, **{name: ocp.args.StandardRestore(tree) for name, tree in _arrays(state).items()})
        progress = self.progress(step)
        counts = {"step": np.int32(step), "skipped": np.int32(progress.skipped)}
        restored = state._replace(**counts, params=found.params, optimizer_state=found.optimizer, ema=found.get("ema"))
        return restored, progress

    def check_belongs(self, step: int, tokenizer: str, corpus: str | None = None) -> None:
        """Raises UserError if `step` was trained with a tokenizer or, where one is given, a corpus of other fingerprints."""
        progress = self.progress(step)
        if progress.tokenizer != tokenizer:
            raise UserError(
                f"{self.folder / str(step)}: was trained with another tokenizer than the one in the run folder "
                f"(SHA-256 {progress.tokenizer[:12]}, not {tokenizer[:12]}); bring back the tokenizer of this run"
            )
        if corpus is not None and progress.corpus != corpus:
            raise UserError(
                f"{self.folder / str(step)}: the training text has changed since; bring it back, or train in another --workdir"
            )

    def parameters(self, which: str, abstract_params: Any, tokenizer: Tokenizer) -> tuple[Any, str]:
        """The parameters of `latest`, `best`, a step or `average:N` (the mean of the latest N) as a tree of NumPy arrays, and
        in words which they are.

        Where the run has moving averages of its parameters, these, or with `:raw` after it the parameters themselves. Raises
        UserError if there are no such checkpoints, if they do not have the shapes of `abstract_params`, or if they were
        trained with another tokenizer.
        """
        steps, weights = self.resolve(which), self.weights(which)
        for step in steps:
            self.check_belongs(step, tokenizer.fingerprint)
        mean = None
        for step in steps:
            params = self._parameters_at(step, "params" if weights == "raw" else "ema", abstract_params)
            # Sums in float64, so that the mean does not depend on the order.
            wide = jax.tree.map(lambda x: x.astype(np.float64), params) if len(steps) > 1 else params
            mean = wide if mean is None else jax.tree.map(np.add, mean, wide)
        name = f"step {steps[0]}"
        if len(steps) > 1:
            mean = jax.tree.map(lambda x: (x / len(steps)).astype(np.float32), mean)
            name = f"average of {len(steps)} checkpoints, steps {steps[0]} to {steps[-1]}"
        return mean, f"{name}, {weights} weights" if self._ema else name

    def weights(self, which: str) -> str:
        """Which parameters `parameters` reads: "ema", the moving averages, where `which` asks for them, or does not ask for
        "raw" ones and they are there. A copy by `lean.copy_run` has one of the two. Raises UserError as `resolve` does, and
        where those that are asked for are not there."""
        asked = parse_checkpoint(which)[2]
        if asked == "ema" and not self._ema:
            raise UserError(f"{self.folder}: was trained without train.ema_decay, there is no {which}; leave out :ema")
        folders = [self.folder / str(step) for step in self.resolve(which)]
        has_raw, has_averages = (all((folder / item).is_dir() for folder in folders) for item in ("params", "ema"))
        if asked and has_raw != has_averages and asked != ("raw" if has_raw else "ema"):
            raise UserError(f"{folders[-1]}: was copied without what {which} asks for; leave out :{asked}")
        return asked or ("ema" if self._ema and (has_averages or not has_raw) else "raw")

    def resolve(self, which: str) -> list[int]:
        """The steps that `which` (see `parse_checkpoint`) stands for, ascending. Raises UserError if they are not there.

        `latest` is the newest that is whole; newer ones that are not are named in the log.
        """
        kind, number, _ = parse_checkpoint(which)
        steps = self.steps()
        if not steps and (names := _misnamed(self.folder)):
            raise UserError(f"{self.folder / names[0]}: {_MISNAMED}; and there is no other checkpoint")
        if not steps:
            raise UserError(
                f"{self.folder}: no checkpoint there yet; train.py writes the first after train.checkpoint_every steps"
            )
        if kind == "step":
            if number not in steps:
                raise UserError(f"{self.folder}: no checkpoint of step {number}; there are {', '.join(map(str, steps))}")
            return [number]
        if kind == "average":
            if number > self._latest:
                raise UserError(f"{self.folder}: the run keeps the latest {self._latest} checkpoints, cannot average {number}")
            if number > len(steps):
                raise UserError(f"{self.folder}: has {len(steps)} checkpoints, cannot average {number}")
            return steps[-number:]
        newest = self._newest_whole(steps)
        if kind == "best":
            best = self.progress(newest).best_step
            if best not in steps:
                raise UserError(f"{self.folder}: no evaluation has named a best checkpoint yet; ask for latest")
            return [best]
        return [newest]

    def _newest_whole(self, steps: list[int]) -> int:
        damaged = []
        for step in reversed(steps):
            wrong = self._problem(step)
            if not wrong:
                return step
            damaged.append(step)
            log.warning("%s: %s; taking the one before", self.folder / str(step), wrong)
        raise _none_whole(self.folder, damaged)

    def _problem(self, step: int) -> str:
        wrong = "" if step in self._whole else problem(self.folder / str(step))
        if not wrong:
            self._whole.add(step)
        return wrong

    def _parameters_at(self, step: int, item: str, abstract_params: Any) -> Any:
        try:
            target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params)
        except (MemoryError, ValueError):
            raise UserError(
                f"{self.folder / str(step)}: config.json describes a model larger than this machine's memory; bring back the "
                "config of this run"
            ) from None
        found = self._restore(step, **{item: ocp.args.StandardRestore(target)})[item]
        # Orbax takes the shape that is stored for the one asked for.
        for (path, leaf), expected in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(target), strict=True):
            if leaf.shape != expected.shape:
                raise UserError(
                    f"{self.folder / str(step)}: belongs to another model than config.json describes: "
                    f"{jax.tree_util.keystr(path)} is {leaf.shape}, not {expected.shape}; bring back the config of this run"
                )
        return found

    def _restore(self, step: int, **items: Any) -> Any:
        wrong = self._problem(step)
        if wrong:
            raise UserError(f"{self.folder / str(step)}: {wrong}; choose another with --checkpoint=STEP")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except _ORBAX_ERRORS as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{self.folder / str(step)}: cannot be read ({reason}); choose another with --checkpoint=STEP")


@contextlib.contextmanager
def _without_orbax_news() -> Iterator[None]:
    """Orbax warns that a folder that is only read is only read."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Given directory is read only")

    logger = logging.getLogger("absl")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def _arrays(state: Any) -> dict[str, Any]:
    """The items of a checkpoint that are arrays; where there is no moving average, none is written."""
    items = {"params": state.params, "optimizer": state.optimizer_state, "ema": state.ema}
    return {name: tree for name, tree in items.items() if tree is not None}


def _require_readable(folder: epath.Path) -> None:
    """Raises UserError where what orbax reads of every checkpoint before any checksum is verified is a device or a pipe, which
    might never end, or is not JSON's null or an object."""
    if is_remote(folder) or not folder.is_dir():
        return
    for path in folder.iterdir():
        if not os.path.lexists(path / _METADATA):
            continue
        try:
            content = read_plain(path / _METADATA, _LARGEST_METADATA)
            if content and not isinstance(json.loads(content), dict | types.NoneType):
                raise ValueError("not an object with keys")
        except json.JSONDecodeError:  # orbax goes on without it, and the checksums tell
            pass
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", error)
            raise UserError(
                f"{path}: {_METADATA} is damaged ({reason}); bring back a copy, or remove this checkpoint"
            ) from None


def _put_damaged_aside(folder: epath.Path, spare: bool) -> None:
    steps = sorted(int(path.name) for path in folder.iterdir() if is_step(path.name)) if folder.is_dir() else []
    names = _misnamed(folder)
    if names and not steps and not spare:
        raise UserError(f"{folder / names[0]}: {_MISNAMED}; and there is no other checkpoint to go on from")
    damaged = []
    for step in reversed(steps):
        wrong = problem(folder / str(step))
        if not wrong:
            break
        damaged.append((step, wrong))
    # A kill can leave one checkpoint without its manifest, the newest; if that is the first, training begins anew.
    begun = len(steps) == 1 and not sealed(folder / str(steps[0]))
    if steps and len(damaged) == len(steps) and not (begun or spare):
        raise _none_whole(folder, steps)
    for step, wrong in damaged:
        aside = folder.parent / f"damaged-{folder.name}-{step}"
        log.warning("%s: %s; now %s", folder / str(step), wrong, aside.name)
        aside.rmtree(missing_ok=True)
        (folder / str(step)).rename(aside)


def is_step(name: str) -> bool:
    """Is it the name of a checkpoint's folder: a whole number as it is written, without a 0 before it?

    >>> is_step("1500"), is_step("01500"), is_step("1500.bak")
    (True, False, False)
    """
    return name.isascii() and name.isdecimal() and name == str(int(name))


def _misnamed(folder: epath.Path) -> list[str]:
    """Folders that hold a checkpoint, but do not have the name of a step."""
    return sorted(path.name for path in folder.iterdir() if not is_step(path.name) and sealed(path)) if folder.is_dir() else []


def _none_whole(folder: epath.Path, steps: Sequence[int]) -> UserError:
    names = ", ".join(map(str, sorted(steps)))
    return UserError(f"{folder}: no checkpoint is whole (of steps {names}); bring back a copy, or train in another --workdir")


@contextlib.contextmanager
def _room_for(folder: epath.Path, step: int) -> Iterator[None]:
    """Turns the ways in which orbax and its libraries say that a disk is full into one."""
    try:
        yield
    except Exception as error:
        chain, full = error, False
        while chain is not None and not full:
            full = getattr(chain, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(chain)
            chain = chain.__cause__ or chain.__context__
        if not full:
            raise
        raise UserError(
            f"{folder}: the disk is full, step {step} is not saved; the checkpoints before it are whole: free some space and "
            "run the same command again"
        ) from error


def _absolute(folder: epath.Path) -> epath.Path:
    return folder if is_remote(folder) else folder.resolve()


def parse_checkpoint(which: str) -> tuple[str, int, str]:
    """(which checkpoints, their step or number, their `ema` or `raw` weights; "": moving averages if the run has them). Raises
    UserError for anything else.

    >>> parse_checkpoint("latest"), parse_checkpoint("8000"), parse_checkpoint("average:5:raw")
    (('latest', 0, ''), ('step', 8000, ''), ('average', 5, 'raw'))
    """
    if not isinstance(which, str):
        raise TypeError(f"checkpoint should be a string, such as 'best' or '1500', not {which!r}")
    steps, weights = which, ""
    if which.endswith((":raw", ":ema")):
        steps, _, weights = which.rpartition(":")
    if steps in ("latest", "best"):
        return steps, 0, weights
    if steps.isdecimal():
        return "step", int(steps), weights
    kind, _, number = steps.partition(":")
    if kind == "average" and number.isdecimal() and int(number) > 0:
        return kind, int(number), weights
    raise UserError(f"checkpoint {which!r} should be latest, best, a step, or average:N, each also with :raw or :ema after it")
