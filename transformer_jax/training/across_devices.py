"""One training step over all accelerators of all processes: where the state is placed, and which rows each works on."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.config import Config
from transformer_jax.errors import UserError

__all__ = ["Parallel", "ParallelStep", "StepMemory"]

_AXIS = "data"


class StepMemory(NamedTuple):
    """What a training step takes of the memory of each device, in bytes."""

    state: int  # parameters and optimizer state, moving averages included
    total: int | None  # these, the batch and the workspace of the compiled program; None where the program does not tell
    devices: int


class ParallelStep:
    """step(state, batch, key) -> (state, sums): a training step of this process's rows of each batch, compiled once for each
    shape of batches. `program(state)` is the jitted function for states of these shapes, `place(batch)` its argument. Where the
    program `can_be_lowered`, it tells its memory."""

    def __init__(self, program: Callable[[Any], Any], place: Callable[[Any], Any], devices: int, can_be_lowered: bool = True):
        self._program, self._place, self._devices, self._can_be_lowered = program, place, devices, can_be_lowered

    def __call__(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        """Runs the step. It donates the state's memory to the new state."""
        return self._program(state)(state, self._place(batch), key)

    def memory(self, state: Any, batch: Any, key: jax.Array) -> StepMemory:
        """The memory that the step takes for these arguments, as XLA has planned it. The program is compiled if it is not yet;
        the step then finds it compiled."""
        of_state = sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves(state))
        plan = None
        if self._can_be_lowered:
            plan = self._program(state).lower(state, self._place(batch), key).compile().memory_analysis()
        if plan is None:  # nor does every kind of device tell
            return StepMemory(of_state, None, self._devices)
        return StepMemory(of_state, _planned_bytes(plan), self._devices)


def _planned_bytes(plan: Any) -> int:
    """The memory that a compiled program takes of each device, by its `memory_analysis()`."""
    # The results that take over the memory of arguments are among both.
    arguments_and_results = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return arguments_and_results + plan.temp_size_in_bytes


def _bytes_on_a_device(array: jax.Array | np.ndarray) -> int:
    """Of NumPy's arrays, as some come from a checkpoint, each device gets the whole."""
    shape = array.sharding.shard_shape(array.shape) if isinstance(array, jax.Array) else array.shape
    return math.prod(shape) * array.dtype.itemsize


class Parallel:
    """The training state and step over `devices` (default: all of all processes), in the mode `config.parallel.mode`.

    * `pmap`: every process has the whole state as plain arrays, without a device axis, replicated on each of its devices.
      Gradients are added up over devices in the type `reduce_dtype`.
    * `sharded`: the state consists of global arrays over a mesh (FSDP, Rajbhandari et al. 2020). An array of
      `min_sharded_size` or more elements is partitioned along the longest axis that the devices divide, smaller ones are
      replicated.

    In both modes the rows of a batch are split over the devices, in their order, and checkpoints are the same. Raises
    UserError where devices and accumulation do not divide the rows.
    """

    def __init__(self, config: Config, devices: list[jax.Device] | None = None):
        devices = devices or jax.devices()
        self.devices = len(devices)
        self._local = [device for device in devices if device.process_index == jax.process_index()]
        self._sharded = config.parallel.mode == "sharded"
        self._min_sharded_size = config.parallel.min_sharded_size
        self._reduce_dtype = config.parallel.reduce_dtype
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
    def process_shard(self) -> tuple[int, int]:
        """(i, n): this process works on the i-th of n equal shards of each batch's rows."""
        return jax.process_index(), jax.process_count()

    def create(self, make_state: Callable[[jax.Array], Any], key: jax.Array) -> Any:
        """The state `make_state(key)` (`key` may be a tree of parameters), created where it is placed: a sharded state is never
        whole on one device."""
        if self._sharded:
            shardings = self._shardings(jax.eval_shape(make_state, key))
        else:
            shardings = NamedSharding(self._mesh.local_mesh, P())
        return jax.jit(make_state, out_shardings=shardings)(key)

    def step(self, train_step: Callable) -> ParallelStep:
        """step(state, batch, key) -> (state, sums): `train_step` of this process's rows of each batch, compiled. It donates the
        state's memory to the new state."""
        if self._sharded:
            return self._sharded_step(train_step)
        if self.devices == 1:
            single = jax.jit(train_step, donate_argnums=0)
            return ParallelStep(lambda state: single, lambda batch: batch, 1)
        program, local = self._mapped(train_step), len(self._local)
        # [B, ...] -> [devices, B / devices, ...]
        split = functools.partial(jax.tree.map, lambda x: x.reshape(local, -1, *x.shape[1:]))
        # Of several processes, the lowering of a pmap would delete the arrays that the step donates.
        return ParallelStep(lambda state: program, split, self.devices, can_be_lowered=not self._several_processes)

    def lower(self, train_step: Callable, state: Any, batch: Any, key: Any) -> jax.stages.Lowered:
        """The program that `step` runs for arrays of these shapes, for inspection: nothing is computed, and the devices may be
        described without being present (`jax.experimental.topologies`)."""
        state, batch, key = jax.eval_shape(lambda *arguments: arguments, state, batch, key)
        if self._sharded:
            return self._sharded_program(train_step, state).lower(state, batch, key)
        if self.devices == 1:
            return jax.jit(train_step, donate_argnums=0).lower(state, batch, key)
        local = len(self._local)
        split = jax.tree.map(lambda x: jax.ShapeDtypeStruct((local, x.shape[0] // local, *x.shape[1:]), x.dtype), batch)
        return self._mapped(train_step).lower(state, split, key)

    def planned_bytes(self, train_step: Callable, state: Any, batch: Any, key: Any) -> int | None:
        """The memory that a step for arrays of these shapes takes of each device, as XLA plans it: the program is compiled and
        not run. `batch` is the global one. None where this kind of device does not tell."""
        if self._several_processes and not self._sharded:
            # Of several processes, a pmap takes no shapes in place of arrays; but it is this program that it makes.
            specs = dict(in_specs=(P(), P(_AXIS), P()), out_specs=(P(), P()), check_vma=False)
            program = jax.jit(jax.shard_map(self._summed_over_devices(train_step), mesh=self._mesh, **specs), donate_argnums=0)
            lowered = program.lower(state, batch, key)
        else:
            lowered = self.lower(train_step, state, batch, key)
        plan = lowered.compile().memory_analysis()
        return None if plan is None else _planned_bytes(plan)

    def _summed_over_devices(self, train_step: Callable) -> Callable:
        def summed_over_devices(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
            return train_step(state, batch, key, axis_name=_AXIS, reduce_dtype=self._reduce_dtype)

        return summed_over_devices

    def _mapped(self, train_step: Callable) -> Callable:
        return jax.pmap(
            self._summed_over_devices(train_step),
            axis_name=_AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            donate_argnums=0,
            devices=None if self._several_processes else self._local,
        )

    def _sharded_step(self, train_step: Callable) -> ParallelStep:
        # The program needs the state's shapes, which are known at the first call.
        @functools.cache
        def compiled(treedef: Any, shapes: tuple) -> Callable:
            state = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
            return self._sharded_program(train_step, state)

        def program(state: Any) -> Callable:
            leaves, treedef = jax.tree.flatten(state)
            return compiled(treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))

        to_global = functools.partial(jax.make_array_from_process_local_data, NamedSharding(self._mesh, P(_AXIS)))
        return ParallelStep(program, functools.partial(jax.tree.map, to_global), self.devices)

    def _sharded_program(self, train_step: Callable, state: Any) -> Callable:
        replicated, rows = NamedSharding(self._mesh, P()), NamedSharding(self._mesh, P(_AXIS))

        # Without these constraints XLA sometimes moves the activations of all rows to the shards of a parameter instead of the
        # shards to the rows: for the embedding table, and with few rows for other parameters.
        @jax.custom_vjp
        def gather_params(params: Any) -> Any:
            return jax.lax.with_sharding_constraint(params, replicated)

        # The gradients of the gathered parameters are summed over devices; each device keeps its shard of the sum.
        def backward(_: None, gradient: Any) -> tuple[Any]:
            total = jax.lax.with_sharding_constraint(gradient, replicated)
            return (jax.lax.with_sharding_constraint(total, self._shardings(gradient)),)

        gather_params.defvjp(lambda params: (gather_params(params), None), backward)
        step = functools.wraps(train_step)(functools.partial(train_step, gather_params=gather_params))
        state = self._shardings(state)
        return jax.jit(step, donate_argnums=0, in_shardings=(state, rows, replicated), out_shardings=(state, replicated))

    def gather_params(self, params: Any) -> Any:
        """`params` of a state as arrays of this process alone, replicated on its devices."""
        if not self._sharded:
            return params
        return self._of_this_process(self._copy_to_all(params))

    def to_save(self, state: Any) -> Any:
        """`state` as global arrays, of which every process writes its shard."""
        if self._sharded or not self._several_processes:
            return state
        return multihost_utils.host_local_array_to_global_array(state, self._mesh, P())

    def to_restore(self, state: Any) -> Any:
        """Shapes, types and shardings of the global arrays that `state` is restored as."""
        abstract = jax.eval_shape(lambda: state)
        shardings = self._shardings(abstract)
        return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, shardings)

    def restored(self, state: Any) -> Any:
        """The state that `step` takes, from the global arrays that were read as `to_restore` describes."""
        return state if self._sharded or not self._several_processes else self._of_this_process(state)

    def _of_this_process(self, arrays: Any) -> Any:
        return multihost_utils.global_array_to_host_local_array(arrays, self._mesh, P()) if self._several_processes else arrays

    def _shardings(self, state: Any) -> Any:
        return jax.tree.map(lambda x: NamedSharding(self._mesh, self._partition(x.shape)), state)

    def _partition(self, shape: tuple[int, ...]) -> P:
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
