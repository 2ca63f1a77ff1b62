"""What counts as a damaged checkpoint, and what is done about one.

A checkpoint, the folder WORKDIR/checkpoints/STEP, is damaged if

* it has no manifest: it was not written to its end (`storage.checksums.is_complete`);
* one of its files is missing or has changed, or there is one in its subfolders that was not saved with it
  (`storage.checksums.find_damage`);
* orbax's metadata file is not JSON, or no plain file (`check_folder`);
* orbax cannot read it although the checksums are right (`unreadable`);
* the progress in it is that of another step: the folder was renamed or copied (`require_step`).

Reading verifies the items that are read: parameters can be loaded although the optimizer's state is damaged. A training that
goes on verifies checkpoints from the newest back to the first whole one, and moves those that are not away, by the first two of
these signs (`move_damaged_aside`). A checkpoint whose folder is not named after a step is
left where it is and not read (`misnamed`).
"""

import json
import logging
import os
import types
from collections.abc import Sequence

from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.runs.checkpoint_name import is_step
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.storage.checksums import find_damage, is_complete
from transformer_jax.storage.files import is_remote, read_plain

__all__ = [
    "MISNAMED",
    "check_folder",
    "misnamed",
    "move_damaged_aside",
    "none_whole",
    "require_step",
    "unreadable",
]

log = logging.getLogger(__name__)

# What is said about a checkpoint whose folder is not named after a step.
MISNAMED = "a checkpoint's folder has the number of its step as its name, so this one is not read; rename it back"
_METADATA = "_CHECKPOINT_METADATA"  # orbax's file about the whole checkpoint
_LARGEST_METADATA = 1 << 20  # bytes


def check_folder(folder: epath.Path) -> None:
    """Raises UserError if orbax cannot open the folder of checkpoints, and logs the names of `misnamed` ones.

    Orbax reads a metadata file of every checkpoint before any checksum is verified. It must not be a device or a pipe, which
    might never end, and must hold JSON's null or an object.
    """
    if not folder.is_dir():
        return
    for path in [] if is_remote(folder) else folder.iterdir():
        if not os.path.lexists(path / _METADATA):
            continue
        try:
            content = read_plain(path / _METADATA, _LARGEST_METADATA)
            if content and not isinstance(json.loads(content), dict | types.NoneType):
                raise ValueError("not an object with keys")
        except json.JSONDecodeError:  # orbax goes on without it, and the checksums reveal it
            pass
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", error)
            raise UserError(
                f"{path}: {_METADATA} is damaged ({reason}); bring back a copy, or remove this checkpoint"
            ) from None
    for name in misnamed(folder):
        log.warning("%s: %s", folder / name, MISNAMED)


def misnamed(folder: epath.Path) -> list[str]:
    """The names of folders that hold a checkpoint, but are not named after a step."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if not is_step(path.name) and is_complete(path))


def move_damaged_aside(folder: epath.Path, discardable: bool) -> None:
    """Renames the checkpoints that are newer than the newest whole one to `damaged-...`, beside `folder`.

    Raises UserError if none is whole. There is no error if the checkpoints are `discardable`, which means that training has
    others to go on from, or if the only one was never written to its end: then training begins anew.
    """
    steps = sorted(int(path.name) for path in folder.iterdir() if is_step(path.name)) if folder.is_dir() else []
    names = misnamed(folder)
    if names and not steps and not discardable:
        raise UserError(f"{folder / names[0]}: {MISNAMED}; and there is no other checkpoint to go on from")
    damaged = []
    for step in reversed(steps):
        damage = find_damage(folder / str(step))
        if not damage:
            break
        damaged.append((step, damage))
    # A kill can leave the newest checkpoint without its manifest. If that is the only one, training begins anew.
    only_begun = len(steps) == 1 and not is_complete(folder / str(steps[0]))
    if steps and len(damaged) == len(steps) and not (only_begun or discardable):
        raise none_whole(folder, steps)
    for step, damage in damaged:
        aside = folder.parent / f"damaged-{folder.name}-{step}"
        log.warning("%s: %s; now %s", folder / str(step), damage, aside.name)
        aside.rmtree(missing_ok=True)
        (folder / str(step)).rename(aside)


def none_whole(folder: epath.Path, steps: Sequence[int]) -> UserError:
    """The error for a folder whose checkpoints are all damaged."""
    names = ", ".join(map(str, sorted(steps)))
    return UserError(f"{folder}: no checkpoint is whole (of steps {names}); bring back a copy, or train in another --workdir")


def unreadable(checkpoint: epath.Path, error: Exception) -> UserError:
    """The error for a checkpoint that orbax, or `TrainProgress.parse`, cannot read."""
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{checkpoint}: cannot be read ({reason}); choose another with --checkpoint=STEP")


def require_step(checkpoint: epath.Path, progress: TrainProgress) -> None:
    """Raises UserError if `progress`, which was read from this checkpoint, is that of another step."""
    if str(progress.step) != checkpoint.name:
        raise UserError(
            f"{checkpoint}: is the checkpoint of step {progress.step}, whose folder was renamed or copied; "
            f"rename it to {progress.step}, or move it out of {checkpoint.parent}"
        )
