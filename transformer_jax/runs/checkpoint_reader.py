"""Reads checkpoints: finds those that a name stands for, verifies them, and loads their parameters or the training state."""

import logging
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.models.adapters import Adapters
from transformer_jax.runs.checkpoint_damage import MISNAMED, misnamed, none_whole, require_step, unreadable
from transformer_jax.runs.checkpoint_name import INTERRUPTED, CheckpointName
from transformer_jax.runs.orbax_manager import ORBAX_ERRORS, array_items, open_manager
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.storage.checksums import find_damage
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["CheckpointReader"]

log = logging.getLogger(__name__)

_PROGRESS = "progress"  # the item beside the arrays


class CheckpointReader:
    """The checkpoints of a run, to read.

    Each has a manifest of checksums. Before an item of a checkpoint is read its files are verified: once, and of several
    processes by the first, which tells the others; all processes must therefore call the same methods in the same order.

    `kept` is how many of the latest checkpoints the run keeps: an older one is the best, and in no average. With `ema` the
    checkpoints have moving averages of the parameters, with `adapters` their factors beside parameters that stay: what is read
    for a model is merged. Raises UserError if there is no such folder.

    Attributes:
        folder: that of the checkpoints, with one folder for each step
    """

    def __init__(
        self,
        folder: epath.Path,
        *,
        kept: int,
        ema: bool,
        manager: ocp.CheckpointManager | None = None,
        adapters: Adapters | None = None,
    ):
        if manager is None:
            if not folder.is_dir():
                raise _none_yet(folder)
            # Without the last two orbax warns that their defaults do not go with read_only.
            options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
            manager = open_manager(folder, options)
        self.folder = folder
        self._kept, self._ema, self._manager, self._adapters = kept, ema, manager, adapters
        self._listing: tuple[list[int], list[int]] | None = None  # own steps, and those of the first process
        self._damage: dict[tuple[int, str], str] = {}  # of the items that were verified, by step and item

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones included, ascending."""
        return sorted(self._manager.all_steps())

    def progress(self, step: int) -> TrainProgress:
        """What was saved beside the arrays of `step`. Raises UserError if that is damaged, or another step's."""
        content = self._restore(step, progress=ocp.args.JsonRestore()).progress
        try:
            progress = TrainProgress.parse(content)
        except ValueError as error:
            raise unreadable(self._path(step), error) from error
        require_step(self._path(step), progress)
        return progress

    def restore(self, step: int, state: Any) -> tuple[Any, TrainProgress]:
        """The training state saved at `step`, in the shapes and with the shardings of `state` (a `TrainState` of arrays, or of
        their shapes), and the progress saved beside it. Raises UserError if the checkpoint is damaged."""
        arrays = self._restore(step, **{name: ocp.args.StandardRestore(tree) for name, tree in array_items(state).items()})
        progress = self.progress(step)
        counts = {"step": np.int32(step), "skipped": np.int32(progress.skipped)}
        return (
            state._replace(
                **counts,
                params=arrays.params,
                optimizer_state=arrays.optimizer,
                ema=arrays.get("ema"),
                adapters=arrays.get("adapters"),
            ),
            progress,
        )

    def check_belongs(self, step: int, tokenizer: str, corpus: str | None = None) -> None:
        """Raises UserError unless `step` was trained with the tokenizer and, if given, the corpus of these fingerprints."""
        progress = self.progress(step)
        if progress.tokenizer != tokenizer:
            raise UserError(
                f"{self._path(step)}: was trained with another tokenizer than the one in the run folder "
                f"(SHA-256 {progress.tokenizer[:12]}, not {tokenizer[:12]}); bring back the tokenizer of this run"
            )
        if corpus is not None and progress.corpus != corpus:
            raise UserError(
                f"{self._path(step)}: the training text has changed since; bring it back, or train in another --workdir"
            )

    def parameters(self, name: CheckpointName, abstract_params: Any, tokenizer: Tokenizer) -> tuple[Any, str]:
        """The parameters that `name` stands for as a tree of NumPy arrays, of an average their mean, and in words which they
        are. Raises UserError if there are no such checkpoints, if they do not have the shapes of `abstract_params`, or if they
        were trained with another tokenizer."""
        steps = self.resolve(name)
        weights = self._weights(name, steps)
        for step in steps:
            self._require_whole(step, self._items(weights))
        for step in steps:
            self.check_belongs(step, tokenizer.fingerprint)
        mean = None
        for step in steps:
            params = self._parameters_at(step, weights, abstract_params)
            # Sums in float64, so that the mean does not depend on the order.
            wide = jax.tree.map(lambda x: x.astype(np.float64), params) if len(steps) > 1 else params
            mean = wide if mean is None else jax.tree.map(np.add, mean, wide)
        described = f"step {steps[0]}"
        if len(steps) > 1:
            mean = jax.tree.map(lambda x: (x / len(steps)).astype(np.float32), mean)
            described = f"average of {len(steps)} checkpoints, steps {steps[0]} to {steps[-1]}"
        return mean, f"{described}, {weights} weights" if self._ema else described

    def adapters(self, name: CheckpointName, abstract_params: Any, tokenizer: Tokenizer) -> tuple[Any, Any, str]:
        """Of a checkpoint of a run with adapters, the parameters that stay, the factors, and in words which these are. Raises
        UserError as `parameters` does."""
        (step,) = self.resolve(name)
        weights = self._weights(name, [step])
        self._require_whole(step, self._items(weights))
        self.check_belongs(step, tokenizer.fingerprint)
        item, of_factors, _ = self._items(weights)
        params = self._arrays_at(step, item, abstract_params)
        factors = self._arrays_at(step, of_factors, self._adapters.abstract(abstract_params))
        return params, factors, f"step {step}, {weights} weights" if self._ema else f"step {step}"

    def weights(self, name: CheckpointName) -> str:
        """Which parameters `parameters` reads, "ema" (moving averages) or "raw": those that `name` asks for, else the averages
        if there are some. A copy by `lean.copy_run` has one of the two. Raises UserError as `resolve` does, and if the
        checkpoint does not have those that `name` asks for."""
        return self._weights(name, self.resolve(name))

    def resolve(self, name: CheckpointName) -> list[int]:
        """The steps that `name` stands for, ascending. Raises UserError if they do not exist.

        `latest` is the newest whose parameters and progress are whole, and `best` is looked up there. Newer ones that are
        damaged are named in the log.
        """
        steps = self._steps_of_first()
        if not steps and (names := misnamed(self.folder)):
            raise UserError(f"{self.folder / names[0]}: {MISNAMED}; and there is no other checkpoint")
        if not steps:
            raise _none_yet(self.folder)
        if name.kind == "step":
            if name.number not in steps:
                raise UserError(f"{self.folder}: no checkpoint of step {name.number}; there are {', '.join(map(str, steps))}")
            return [name.number]
        if name.kind == "average":
            if name.number > self._kept:
                raise UserError(
                    f"{self.folder}: the run keeps the latest {self._kept} checkpoints, cannot average {name.number}"
                )
            if name.number > len(steps):
                raise UserError(
                    f"{self.folder}: has {len(steps)} checkpoints, cannot average {name.number}; "
                    f"name average:{len(steps)} or fewer"
                )
            return steps[-name.number :]
        newest = self._newest_whole(steps, self._items(name.weights or self._usual_weights()))
        if name.kind == "best":
            best = self.progress(newest).best_step
            if best not in steps:
                raise UserError(f"{self.folder}: no evaluation has named a best checkpoint yet; ask for latest")
            return [best]
        return [newest]

    def _steps_of_first(self) -> list[int]:
        """`steps()` as the first process sees them. It is asked once for each listing, so that a process that fails to read a
        checkpoint has taken part in as many exchanges as those that do not."""
        own = self.steps()
        if self._listing is None or self._listing[0] != own:
            self._listing = own, collectives.from_first(lambda: own)
        return self._listing[1]

    def _usual_weights(self) -> str:
        return "ema" if self._ema else "raw"

    def _weights(self, name: CheckpointName, steps: Sequence[int]) -> str:
        if name.weights == "ema" and not self._ema:
            raise UserError(f"{self.folder}: was trained without train.ema_decay, there is no {name}; leave out :ema")
        usual = name.weights or self._usual_weights()
        for step in steps:  # first, so that an item that is missing but listed in the manifest counts as damage
            self._require_whole(step, self._items(usual))

        def present() -> list[bool]:
            items = map(self._items, ("raw", "ema"))
            return [all((self._path(step) / item).is_dir() for step in steps for item in of_weights) for of_weights in items]

        has_raw, has_averages = collectives.from_first(present)
        if name.weights and has_raw != has_averages and name.weights != ("raw" if has_raw else "ema"):
            raise UserError(f"{self._path(steps[-1])}: was copied without what {name} asks for; leave out :{name.weights}")
        return "raw" if not name.weights and has_raw and not has_averages else usual

    def _newest_whole(self, steps: Sequence[int], items: Collection[str]) -> int:
        for step in reversed(steps):
            known = all((step, item) in self._damage for item in items)
            damage = self._find_damage(step, items)
            if not damage:
                return step
            if not known:
                log.warning("%s: %s; taking the one before", self._path(step), damage)
        raise none_whole(self.folder, steps)

    def _find_damage(self, step: int, items: Collection[str]) -> str:
        """The damage to these items of a checkpoint; "" if they are whole."""
        unknown = [item for item in items if (step, item) not in self._damage]
        if unknown:
            damage = collectives.from_first(lambda: find_damage(self._path(step), unknown))
            self._damage |= {(step, item): damage for item in unknown}
        return next(filter(None, (self._damage[step, item] for item in items)), "")

    def _require_whole(self, step: int, items: Collection[str]) -> None:
        damage = self._find_damage(step, items)
        if damage:
            raise UserError(f"{self._path(step)}: {damage}; choose another with --checkpoint=STEP")

    def _items(self, weights: str) -> tuple[str, ...]:
        """The items that `_parameters_at` reads, and the progress."""
        if self._adapters:
            return "params", "adapters" if weights == "raw" else "ema", _PROGRESS
        return "params" if weights == "raw" else "ema", _PROGRESS

    def _parameters_at(self, step: int, weights: str, abstract_params: Any) -> Any:
        item, *of_factors, _ = self._items(weights)
        params = self._arrays_at(step, item, abstract_params)
        if not of_factors:
            return params
        factors = self._arrays_at(step, of_factors[0], self._adapters.abstract(abstract_params))
        return jax.device_get(jax.jit(self._adapters.merge)(params, factors))

    def _arrays_at(self, step: int, item: str, abstract_params: Any) -> Any:
        try:
            target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params)
        except (MemoryError, ValueError):
            raise UserError(
                f"{self._path(step)}: config.json describes a model larger than this machine's memory; bring back the "
                "config of this run"
            ) from None
        params = self._restore(step, **{item: ocp.args.StandardRestore(target)})[item]
        # Orbax returns the shape that is stored, whatever shape is asked for.
        for (path, leaf), expected in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(target), strict=True):
            if leaf.shape != expected.shape:
                raise UserError(
                    f"{self._path(step)}: belongs to another model than config.json describes: "
                    f"{jax.tree_util.keystr(path)} is {leaf.shape}, not {expected.shape}; bring back the config of this run"
                )
        return params

    def _restore(self, step: int, **items: Any) -> Any:
        """These items, verified and read."""
        self._require_whole(step, items)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except ORBAX_ERRORS as error:
            raise unreadable(self._path(step), error) from error

    def _path(self, step: int) -> epath.Path:
        return self.folder / str(step)


def _none_yet(folder: epath.Path) -> UserError:
    message = f"{folder}: no checkpoint there yet; train.py writes the first after train.checkpoint_every steps"
    if (folder.parent / INTERRUPTED).is_dir():
        message += " and was stopped before; its command goes on, also with a smaller --config.train.checkpoint_every"
    return UserError(message)
