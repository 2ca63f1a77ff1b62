"""Orbax's checkpoint manager as this project uses it, and the items of a checkpoint."""

from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from transformer_jax.platform import without_lines
from transformer_jax.runs.checkpoint_damage import check_folder
from transformer_jax.storage.files import is_remote

__all__ = ["ORBAX_ERRORS", "array_items", "open_manager"]

# Exceptions of orbax's parsers for files that differ from what it wrote.
ORBAX_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, OSError, RecursionError)
_ITEMS = ("params", "adapters", "optimizer", "ema", "progress")


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Orbax and `training.preemption` would ask JAX the same with different counts of steps, and neither would be answered.
        return False


def open_manager(folder: epath.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """The manager of a folder of checkpoints. Raises UserError as `check_folder` does."""
    check_folder(folder)
    with without_lines("absl", "Given directory is read only"):
        return _Manager(folder if is_remote(folder) else folder.resolve(), options=options, item_names=_ITEMS)


def array_items(state: Any) -> dict[str, Any]:
    """The items of a checkpoint that are arrays, of a `TrainState`; there is no `ema` without moving averages, and there are no
    `adapters` where parameters train."""
    items = {"params": state.params, "optimizer": state.optimizer_state, "ema": state.ema}
    items["adapters"] = getattr(state, "adapters", None)
    return {name: tree for name, tree in items.items() if tree is not None}
