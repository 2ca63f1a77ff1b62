"""Runs a function of rows on all devices of this process."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

__all__ = ["over_rows"]


def over_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles `function(params, *rows, **static)` with the rows split over the local devices.

    Rows are the first axis of every array, in arguments and results, except in `params`; their number must be divisible by that
    of the devices. Each device works by itself: a loop in `function` ends on each when its own rows are done.
    """

    @functools.cache
    def compiled(static: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        of_rows = functools.partial(function, **dict(static))
        if jax.local_device_count() == 1:
            return jax.jit(of_rows)
        mesh = Mesh(np.array(jax.local_devices()), ("rows",), axis_types=(AxisType.Auto,))

        def split(params: Any, *rows: Any) -> Any:
            in_specs = (P(), *[P("rows")] * len(rows))
            return jax.shard_map(of_rows, mesh=mesh, in_specs=in_specs, out_specs=P("rows"), check_vma=False)(params, *rows)

        return jax.jit(split)

    return lambda params, *rows, **static: compiled(tuple(sorted(static.items())))(params, *rows)
