"""The checkpoints of a run: what is saved, which are kept, and which one somebody means."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError

__all__ = ["Checkpoints", "Progress", "parse_checkpoint"]

_ITEMS = ("params", "optimizer", "progress")


@dataclasses.dataclass
class Progress:
    """Where a run stands: what a checkpoint keeps beside the arrays."""

    step: int = 0
    epoch: int = 0
    offset: int = 0  # pairs of the epoch that are done
    tokenizer: str = ""  # fingerprint of the tokenizer these parameters belong to
    corpus: str = ""  # fingerprint of the tokenised training text that `epoch` and `offset` count in
    score: float | None = None  # of the evaluation at this step, higher is better; None: there was none
    best_score: float | None = None
    best_step: int = 0
    evaluations_without_better: int = 0
    alignment_layer: int = 0  # whose attention aligned the dev set best at the last evaluation, from 1; 0: nobody knows
    stopped: bool = False  # training ended early: the dev score had stopped rising
    unwritten: list[float] = dataclasses.field(default_factory=list)  # of `training.metrics.Meter`: sums not in the metrics yet

    def evaluated(self, score: float, patience: int, alignment_layer: int = 0) -> "Progress":
        """After an evaluation at this step: stopped if `patience` of them in a row (0: any number) brought nothing better."""
        better = self.best_score is None or score > self.best_score
        without = 0 if better else self.evaluations_without_better + 1
        return dataclasses.replace(
            self,
            score=score,
            best_score=score if better else self.best_score,
            best_step=self.step if better else self.best_step,
            evaluations_without_better=without,
            alignment_layer=alignment_layer,
            stopped=0 < patience <= without,
        )


@dataclasses.dataclass
class _LatestAndBest:
    """What orbax does not delete. Not its own BestN: that one forgets all scores at a restart, and of equal scores it keeps the
    last, where the best of `Progress` is the first."""

    latest: int | None
    best_step: int = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self.latest
        return [i >= first or checkpoint.step == self.best_step for i, checkpoint in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of a run. As a context manager it waits for the last save when it ends.

    `keep` is how many of the latest are kept while this object writes (None: it only reads), `latest` how many the run keeps:
    what is older is there for being the best, and in no average.
    """

    def __init__(self, folder: Path, keep: int | None = None, *, latest: int):
        self.folder = folder
        self._latest = latest
        self._kept = _LatestAndBest(keep)
        if keep is None:
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: no checkpoint there yet; train.py writes the first after train.checkpoint_every steps"
                )
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(preservation_policy=self._kept, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=_ITEMS)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, state: Any, progress: Progress) -> None:
        """Starts to write step `progress.step`; returns as soon as `state` may be changed."""
        save = ocp.args.StandardSave
        self._kept.best_step = progress.best_step
        self._manager.save(
            progress.step,
            args=ocp.args.Composite(
                params=save(state.params),
                optimizer=save(state.optimizer_state),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )

    def progress(self, step: int) -> Progress:
        found = self._restore(step, progress=ocp.args.JsonRestore()).progress
        try:
            return Progress(**found)
        except TypeError as error:
            raise self._unreadable(step, error) from error

    def restore(self, step: int, state: Any) -> tuple[Any, Progress]:
        """The training state saved at `step`, in the shapes and on the devices of `state`."""
        restore = ocp.args.StandardRestore
        found = self._restore(step, params=restore(state.params), optimizer=restore(state.optimizer_state))
        progress = self.progress(step)
        restored = state._replace(step=np.int32(step), params=found.params, optimizer_state=found.optimizer)
        return restored, progress

    def check_belongs(self, step: int, tokenizer: Tokenizer, corpus: str | None = None) -> None:
        """Raises UserError if `step` was trained with another tokenizer or, where one is given, on another corpus."""
        progress = self.progress(step)
        if progress.tokenizer != tokenizer.fingerprint:
            raise UserError(
                f"{self.folder / str(step)}: was trained with another tokenizer than the one in the run folder "
                f"(SHA-256 {progress.tokenizer[:12]}, not {tokenizer.fingerprint[:12]}); bring back the tokenizer of this run"
            )
        if corpus is not None and progress.corpus != corpus:
            raise UserError(
                f"{self.folder / str(step)}: the training text has changed since; bring it back, or train in another --workdir"
            )

    def parameters(self, which: str, abstract_params: Any, tokenizer: Tokenizer) -> tuple[Any, str]:
        """The parameters of `latest`, `best`, a step or `average:N` (the mean of the latest N) as NumPy arrays, and their name.

        Raises UserError if there are no such checkpoints, if they do not have the shapes of `abstract_params`, or if they
        were trained with another tokenizer.
        """
        steps = self.resolve(which)
        self.check_belongs(steps[-1], tokenizer)
        mean = None
        for step in steps:
            params = self._parameters_at(step, abstract_params)
            # Sums in float64, so that the mean does not depend on the order.
            wide = jax.tree.map(lambda x: x.astype(np.float64), params) if len(steps) > 1 else params
            mean = wide if mean is None else jax.tree.map(np.add, mean, wide)
        if len(steps) == 1:
            return mean, f"step {steps[0]}"
        mean = jax.tree.map(lambda x: (x / len(steps)).astype(np.float32), mean)
        return mean, f"average of {len(steps)} checkpoints, steps {steps[0]} to {steps[-1]}"

    def resolve(self, which: str) -> list[int]:
        """The steps that `which` (see `parse_checkpoint`) stands for, ascending. Raises UserError if they are not there."""
        kind, number = parse_checkpoint(which)
        steps = self.steps()
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
        if kind == "best":
            best = self.progress(steps[-1]).best_step
            if best not in steps:
                raise UserError(f"{self.folder}: no evaluation has named a best checkpoint yet; ask for latest")
            return [best]
        return steps[-1:]

    def _parameters_at(self, step: int, abstract_params: Any) -> Any:
        target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params)
        found = self._restore(step, params=ocp.args.StandardRestore(target)).params
        # Orbax takes the shape that is stored for the one asked for.
        for (path, leaf), expected in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(target), strict=True):
            if leaf.shape != expected.shape:
                raise UserError(
                    f"{self.folder / str(step)}: belongs to another model than config.json describes: "
                    f"{jax.tree_util.keystr(path)} is {leaf.shape}, not {expected.shape}; bring back the config of this run"
                )
        return found

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{self.folder / str(step)}: cannot be read ({reason}); choose another with --checkpoint=STEP")


def parse_checkpoint(which: str) -> tuple[str, int]:
    """
    >>> parse_checkpoint("latest"), parse_checkpoint("8000"), parse_checkpoint("average:5")
    (('latest', 0), ('step', 8000), ('average', 5))
    """
    if which in ("latest", "best"):
        return which, 0
    if which.isdecimal():
        return "step", int(which)
    kind, _, number = which.partition(":")
    if kind == "average" and number.isdecimal() and int(number) > 0:
        return kind, int(number)
    raise UserError(f"checkpoint {which!r} should be latest, best, a step, or average:N")
