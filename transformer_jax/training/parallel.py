"""One program over all accelerators of all processes: where the state lies, and who works on which rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.config import Config
from transformer_jax.errors import UserError

__all__ = ["Parallel"]

_AXIS = "data"


class Parallel:
    """The training state and step over `devices` (all of all processes), in the way that `config.parallel.mode` names.

    * `pmap`: every process has the whole state as plain arrays, without a device axis, copied to each of its devices.
    * `sharded`: the state is of global arrays over a mesh, of which each device has a part (FSDP, Rajbhandari et al. 2020): an
      array of `min_sharded_size` or more numbers is cut along its longest axis that divides, smaller ones are whole everywhere.

    Either way the rows of a batch are split over the devices, in their order, and a checkpoint is the same. Raises UserError
    where the rows do not divide by devices and accumulation.
    """

    def __init__(self, config: Config, devices: list[jax.Device] | None = None):
        devices = devices or jax.devices()
        self.devices = len(devices)
        self._local = [device for device in devices if device.process_index == jax.process_index()]
        self._sharded = config.parallel.mode == "sharded"
        self._min_sharded_size = config.parallel.min_sharded_size
        self._several_processes = jax.process_count() > 1
        self._mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self._copy_to_all = jax.jit(lambda params: params, out_shardings=NamedSharding(self._mesh, P()))
        row_multiple, accumulation = config.batch.row_multiple, config.train.accumulation
        if row_multiple % (self.devices * accumulation):
            nearest = _nearest_multiple(row_multiple, self.devices * accumulation)
            raise UserError(
                f"config: batch.row_multiple={row_multiple} should be a multiple of {self.devices} devices times "
                f"train.accumulation={accumulation}; the nearest is {nearest}"
            )

    @property
    def part_of_rows(self) -> tuple[int, int]:
        """(i, n): this process works on the i-th of n equal parts of each batch's rows."""
        return jax.process_index(), jax.process_count()

    def create(self, make_state: Callable[[jax.Array], Any], key: jax.Array) -> Any:
        """The state `make_state(key)` (of a key, or a tree of parameters), made where it is to lie: a sharded one is never
        whole on one device."""
        if self._sharded:
            shardings = self._shardings(jax.eval_shape(make_state, key))
        else:
            shardings = NamedSharding(self._mesh.local_mesh, P())
        return jax.jit(make_state, out_shardings=shardings)(key)

    def step(self, train_step: Callable) -> Callable:
        """step(state, batch, key) -> (state, sums): `train_step` with this process's rows of each batch, compiled.

        The state's memory is reused for the new one.
        """
        if self._sharded:
            return self._sharded_step(train_step)
        if self.devices == 1:
            return jax.jit(train_step, donate_argnums=0)
        program, local = self._mapped(train_step), len(self._local)

        def step(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
            # [B, ...] -> [devices, B / devices, ...]
            return program(state, jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), batch), key)

        return step

    def lower(self, train_step: Callable, state: Any, batch: Any, key: Any) -> jax.stages.Lowered:
        """The program that `step` runs for arrays of these shapes, to be looked into: nothing is computed, and the devices may
        be those of a machine that is not there (`jax.experimental.topologies`)."""
        state, batch, key = jax.eval_shape(lambda *arguments: arguments, state, batch, key)
        if self._sharded:
            return self._sharded_program(train_step, state).lower(state, batch, key)
        if self.devices == 1:
            return jax.jit(train_step, donate_argnums=0).lower(state, batch, key)
        local = len(self._local)
        split = jax.tree.map(lambda x: jax.ShapeDtypeStruct((local, x.shape[0] // local, *x.shape[1:]), x.dtype), batch)
        return self._mapped(train_step).lower(state, split, key)

    def _mapped(self, train_step: Callable) -> Callable:
        def summed_over_devices(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
            return train_step(state, batch, key, axis_name=_AXIS)

        return jax.pmap(
            summed_over_devices,
            axis_name=_AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            donate_argnums=0,
            devices=None if self._several_processes else self._local,
        )

    def _sharded_step(self, train_step: Callable) -> Callable:
        # The shapes of a state are known when there is one.
        @functools.cache
        def compiled(treedef: Any, shapes: tuple) -> Callable:
            state = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
            return self._sharded_program(train_step, state)

        def step(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
            leaves, treedef = jax.tree.flatten(state)
            place = functools.partial(jax.make_array_from_process_local_data, NamedSharding(self._mesh, P(_AXIS)))
            program = compiled(treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
            return program(state, jax.tree.map(place, batch), key)

        return step

    def _sharded_program(self, train_step: Callable, state: Any) -> Callable:
        replicated, rows = NamedSharding(self._mesh, P()), NamedSharding(self._mesh, P(_AXIS))

        # Left to itself, XLA sometimes moves the activations of all rows to the parts of a parameter, rather than the parts to
        # the rows: the parts of the table of embeddings, and where there are few rows any others.
        @jax.custom_vjp
        def whole(params: Any) -> Any:
            return jax.lax.with_sharding_constraint(params, replicated)

        # Each device's gradient, of the whole, is added up over devices; then each keeps its part.
        def whole_backward(_: None, gradient: Any) -> tuple[Any]:
            added = jax.lax.with_sharding_constraint(gradient, replicated)
            return (jax.lax.with_sharding_constraint(added, self._shardings(gradient)),)

        whole.defvjp(lambda params: (whole(params), None), whole_backward)
        step = functools.wraps(train_step)(functools.partial(train_step, whole=whole))
        state = self._shardings(state)
        return jax.jit(step, donate_argnums=0, in_shardings=(state, rows, replicated), out_shardings=(state, replicated))

    def whole(self, params: Any) -> Any:
        """`params` of a state as arrays that this process alone can work with: whole on each device."""
        if not self._sharded:
            return params
        return self._of_this_process(self._copy_to_all(params))

    def to_save(self, state: Any) -> Any:
        """`state` as global arrays, of which every process writes its part."""
        if self._sharded or not self._several_processes:
            return state
        return multihost_utils.host_local_array_to_global_array(state, self._mesh, P())

    def to_restore(self, state: Any) -> Any:
        """Shapes, types and places of the global arrays that `state` is to be read as."""
        abstract = jax.eval_shape(lambda: state)
        shardings = self._shardings(abstract)
        return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), abstract, shardings)

    def restored(self, state: Any) -> Any:
        """From the global arrays that were read (`to_restore`) to the state that `step` takes."""
        return state if self._sharded or not self._several_processes else self._of_this_process(state)

    def _of_this_process(self, arrays: Any) -> Any:
        return multihost_utils.global_array_to_host_local_array(arrays, self._mesh, P()) if self._several_processes else arrays

    def _shardings(self, state: Any) -> Any:
        return jax.tree.map(lambda x: NamedSharding(self._mesh, self._part(x.shape)), state)

    def _part(self, shape: tuple[int, ...]) -> P:
        dividing = [axis for axis, size in enumerate(shape) if size % self.devices == 0]
        if not self._sharded or not dividing or np.prod(shape) < self._min_sharded_size:
            return P()
        longest = max(dividing, key=lambda axis: shape[axis])
        return P(*[_AXIS if axis == longest else None for axis in range(len(shape))])


def _nearest_multiple(value: int, of: int) -> int:
    """
    >>> _nearest_multiple(64, 6), _nearest_multiple(1, 4)
    (66, 4)
    """
    return max(round(value / of), 1) * of
