"""The training step compiled for a TPU slice, on a machine without TPUs.

    pip install 'jax[tpu]'
    python benchmarks/tpu_lowering.py --config=configs/transformer_base.py --shapes 1024x24x25

The TPU compiler (libtpu) gets a description of the slice. The compiled module shows the collectives, their bytes and whether
they are asynchronous, the memory that a device needs, and the share of it that is padding of arrays to tiles. Nothing runs: the
cycles are the compiler's estimate, those of a loop times its turns, without collectives, and not a time; of kernels
(`--attention splash`) it has none.
"""

import itertools
import math
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
# The process itself runs on CPU; the devices to compile for are described, not looked for.
# Nothing takes hold of a chip, so that several of these programs may run at a time.
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
from jax import Array
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from outputs import make_folder, require
from tpu_cycles import COLLECTIVES, NO_WORK, estimated_cycles, read_computations, starts_collective

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.config import Config
from transformer_jax.data.batching import Batch, Shape
from transformer_jax.errors import UserError
from transformer_jax.models.attention import attend, attention_weights, causal_mask
from transformer_jax.models.attention_kernel import Segments, splash_attention
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.training.across_devices import Parallel
from transformer_jax.training.batch_fit import abstract_batch
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step

# The model must be the one that a TPU has (`platform.py`).
jax.default_backend = lambda: "tpu"

PRODUCTS = "convolution", "dot"  # what the compiler makes of a product of matrices
HOST = "infeed", "outfeed", "send", "recv"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?\S+ = (.*?) ([a-z][a-z0-9-]*)\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::(?:T\(([\d,]+)\))?[^}]*)?\})?")


class Size(NamedTuple):
    """Bytes of the arrays of an instruction's result, without and with padding to whole tiles."""

    real: int
    padded: int


def size_of(type: str) -> Size:
    """
    >>> size_of("(bf16[25,512]{1,0:T(8,128)(2,1)}, f32[]{:T(128)})")
    Size(real=25604, padded=33280)
    """
    real = padded = 0
    for name, dims, order, tile in ARRAY.findall(type):
        width, sizes = BYTES.get(name, 0), [int(size) for size in dims.split(",") if size]
        real += width * math.prod(sizes)
        major_first = [sizes[int(axis)] for axis in reversed(order.split(",")) if axis] or sizes
        tiles = [int(size) for size in tile.split(",") if size]
        major_first = [1] * (len(tiles) - len(major_first)) + major_first
        for axis, multiple in enumerate(reversed(tiles), 1):
            major_first[-axis] = -(-major_first[-axis] // multiple) * multiple
        padded += width * math.prod(major_first)
    return Size(real, padded)


class Module(NamedTuple):
    """Figures from the text of a compiled module."""

    collectives: dict[str, list[int]]  # the bytes of each result
    asynchronous: int  # those that begin at one instruction and end at another
    beside: int  # of the cycles those of the work that stands between the two
    host: int  # instructions that wait for the host
    results: Size  # of all instructions at the top
    cycles: int  # estimated by the compiler, loops times their turns
    products: int  # of matrices, those inside fused instructions too
    exact: int  # those of them whose operands are float32 and not rounded
    kernels: int  # calls of kernels of which the compiler estimates no cycles


def read_module(text: str) -> Module:
    """But for the cycles, instructions inside a loop count once. A reduction of which each device keeps a part is a function of
    that name here."""
    collectives, host, real, padded, computation = defaultdict(list), 0, 0, 0, ""
    products = exact = kernels = 0
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            computation = line.split()[0].removeprefix("%")
        found = INSTRUCTION.match(line)
        if not found:
            continue
        type, name = found.groups()
        kind = name.removesuffix("-start")
        if kind in COLLECTIVES:
            # The result of a start instruction also has its argument and context words.
            arrays = [size_of(each.group()).real for each in ARRAY.finditer(type)]
            scattered = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
            collectives["reduce-scatter" if scattered else kind].append(max(arrays) if name != kind else sum(arrays))
        products += kind in PRODUCTS
        exact += kind in PRODUCTS and "operand_precision={highest,highest}" in line
        kernels += kind == "custom-call" and 'custom_call_target="tpu_custom_call"' in line
        host += kind in HOST or (kind == "custom-call" and "callback" in line)
        if computation == "ENTRY" and name not in NO_WORK and not name.endswith("-done"):
            size = size_of(type)
            real, padded = real + size.real, padded + size.padded
    computations, _ = read_computations(text)
    asynchronous = sum(starts_collective(each) for part in computations.values() for each in part.values())
    cycles, results = estimated_cycles(text), Size(real, padded)
    of_collectives = dict(collectives), asynchronous, cycles.beside_collectives
    return Module(*of_collectives, host, results, cycles.total, products, exact, kernels)


def compiled(config: Config, pieces: int, shape: Shape, devices: list) -> jax.stages.Compiled:
    """The step that `train.py` would run on these devices: in bfloat16 as on any TPU, unless the config says float32."""
    train_step, *arguments = training_step(config, pieces, shape)
    return Parallel(config, devices).lower(train_step, *arguments).compile()


def training_step(config: Config, pieces: int, shape: Shape) -> tuple[Callable, TrainState, Batch, Any]:
    """The training step, and the shapes of its arguments: state, batch and key."""
    model, optimizer = build_model(config.model, pieces), make_optimizer(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: TrainState.create(init_parameters(model, key), optimizer, config.train.ema_decay), key)
    return make_train_step(model, optimizer, config.train), state, abstract_batch(shape), key


def attention_alone(config: Config, shape: Shape, device: Any) -> jax.stages.Compiled:
    """Causal self-attention of rows with segments on one chip, forwards and backwards, without its projections: `shape.rows`
    of `shape.target_length` tokens, in bfloat16."""
    model, rows, length = config.model, shape.rows, shape.target_length

    def attention(query: Array, key: Array, value: Array, segment: Array) -> Array:
        if model.attention_kernel == "splash":
            return splash_attention(query, key, value, Segments(segment, segment, causal=True))
        return attend(attention_weights(query, key, causal_mask(segment)), value)

    def there_and_back(query: Array, key: Array, value: Array, segment: Array, gradient: Array) -> Any:
        out, backward = jax.vjp(lambda *arrays: attention(*arrays, segment), query, key, value)
        return out, backward(gradient)

    heads, keys, values = model.heads, model.key_head_width, model.value_head_width
    shapes = [(rows, length, heads, keys), (rows, heads, keys, length), (rows, heads, length, values), (rows, length)]
    types = ["bfloat16"] * 3 + ["int32", "bfloat16"]
    arrays = [jax.ShapeDtypeStruct(*each) for each in zip([*shapes, (rows, length, heads, values)], types, strict=True)]
    on_device = SingleDeviceSharding(device)
    return jax.jit(there_and_back, in_shardings=on_device, out_shardings=on_device).lower(*arrays).compile()


def row(program: jax.stages.Compiled, module: Module) -> list[str]:
    memory, flops = program.memory_analysis(), program.cost_analysis()["flops"]
    told = [
        f"{len(sizes)} ({sum(sizes) / 1e6:,.1f} MB)" for sizes in (module.collectives.get(kind, []) for kind in COLLECTIVES)
    ]
    state, other = memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6
    padding = 1 - module.results.real / module.results.padded
    beside = f"{module.asynchronous} ({module.beside / 1e6:.1f} Mcycles)"
    numbers = [beside, str(module.host), f"{state:,.0f} + {other:,.0f} MB", f"{flops / 1e9:,.0f}"]
    cycles = f"{module.cycles / 1e6:.1f}" + f" and {module.kernels} kernels" * bool(module.kernels)
    return [*told, *numbers, cycles, f"{padding:.1%}", f"{module.exact} of {module.products}"]


def shape_named(name: str) -> Shape:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", name):
        raise UserError(f"--shapes {name}: expected ROWSxSOURCExTARGET, such as 1024x24x25")
    return Shape(*map(int, name.split("x")))


def devices_of(topology: str) -> list:
    """The described chips of one host. Raises UserError for an unknown name."""
    bounds = re.fullmatch(r"\w+:(\d+)x(\d+)(?:x(\d+))?", topology)
    if not bounds:
        raise UserError(f"--topology={topology}: expected KIND:ROWSxCOLUMNS, such as v5e:2x4")
    host = tuple(int(each or 1) for each in bounds.groups())
    try:
        return list(topologies.get_topology_desc(topology, "tpu", chips_per_host_bounds=host).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={topology}: libtpu knows no such slice ({error})") from None


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", default="configs/transformer_base.py")
    parser.add_argument("--topology", default="v5e:2x4", help="as `jax.experimental.topologies` names it; one host's")
    parser.add_argument("--modes", nargs="+", default=["pmap", "sharded"])
    parser.add_argument(
        "--part",
        default="step",
        choices=["step", "attention"],
        help="the training step, or causal self-attention of a chip alone",
    )
    parser.add_argument("--shapes", nargs="+", default=["1024x24x25"], help="rows x source x target positions")
    parser.add_argument("--pieces", nargs="+", type=int, default=[37_000], help="sizes of the vocabulary")
    parser.add_argument("--remat", nargs="+", default=["none"], choices=["none", "layers", "products"], help="as train.remat")
    parser.add_argument(
        "--attention", nargs="+", default=["plain"], choices=["plain", "splash"], help="as model.attention_kernel"
    )
    parser.add_argument("--keep", metavar="FOLDER", help="write the modules' text there")
    flags, overrides = parser.parse_with_overrides()
    if min(flags.pieces) < 1:
        parser.error("--pieces should be at least 1")
    require("libtpu")
    shapes, devices = {name: shape_named(name) for name in flags.shapes}, devices_of(flags.topology)
    if flags.keep:
        make_folder(Path(flags.keep))
    print(f"{Path(flags.config).stem}, {len(devices)} x {devices[0].device_kind}", *overrides, sep=", ")
    head = [
        "mode",
        "shape",
        "pieces",
        "remat",
        "attention",
        *COLLECTIVES,
        "asynchronous (beside them)",
        "host",
        "arguments + temporary",
        "GFLOP",
        "Mcycles",
        "padding",
        "exact products",
    ]
    print(f"| {' | '.join(head)} |\n|---|---|{'---:|' * (len(head) - 2)}")
    combinations = itertools.product(flags.modes, shapes, flags.pieces, flags.remat, flags.attention)
    for mode, name, pieces, remat, attention in combinations:
        chosen = [f"parallel.mode={mode}", f"train.remat={remat}", f"model.attention_kernel={attention}"]
        config = load_config(flags.config, [*overrides, *chosen])
        started = time.perf_counter()
        if flags.part == "attention":
            program = attention_alone(config, shapes[name], devices[0])
        else:
            program = compiled(config, pieces, shapes[name], devices)
        text = program.as_text()
        if flags.keep:
            named = [each for each in (remat, attention) if each not in ("none", "plain")]
            of_what = [Path(flags.config).stem, mode, name, str(pieces), *named]
            Path(flags.keep, f"{'-'.join(of_what)}.txt").write_text(text)
        first = [mode, name, f"{pieces:,}", remat, attention]
        print(f"| {' | '.join([*first, *row(program, read_module(text))])} |", flush=True)
        print(f"compiled in {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(run)
