"""The training step across the local devices."""

from collections.abc import Callable
from typing import Any

import jax

from transformer_jax.config import Config
from transformer_jax.errors import UserError

__all__ = ["parallel_step"]


def parallel_step(train_step: Callable, config: Config) -> Callable:
    """step(state, batch, key) -> (state, sums): `train_step` with the rows of each batch split over all local devices.

    The state goes in and comes out as one replicated array without a device axis (and its memory is reused for the new one), so
    that checkpoints and evaluation are the same for one device and for many. One device needs no axis: there it is plain `jit`.
    Raises UserError where the rows do not divide by the devices.
    """
    devices = jax.local_device_count()
    row_multiple, accumulation = config.batch.row_multiple, config.train.accumulation
    if row_multiple % (devices * accumulation):
        raise UserError(
            f"config: batch.row_multiple={row_multiple} should be a multiple of {devices} devices times "
            f"train.accumulation={accumulation}; the nearest is {_nearest_multiple(row_multiple, devices * accumulation)}"
        )
    if devices == 1:
        return jax.jit(train_step, donate_argnums=0)
    axis = "data"
    mapped = jax.pmap(
        lambda state, batch, key: train_step(state, batch, key, axis_name=axis),
        axis_name=axis,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
    )

    def step(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        # Each device takes whole slices of the accumulation: [B, ...] -> [devices, B / devices, ...].
        return mapped(state, jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch), key)

    return step


def _nearest_multiple(value: int, of: int) -> int:
    """
    >>> _nearest_multiple(64, 6), _nearest_multiple(1, 4)
    (66, 4)
    """
    return max(round(value / of), 1) * of
