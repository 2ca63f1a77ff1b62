"""The cycles of a program for a TPU, as its compiler estimates them: those inside a loop times the loop's turns.

A fused operation of a compiled module's text has its estimate beside it (`estimated_cycles`). A loop's body stands there once,
and how often it runs only if the compiler has worked that out.
"""

import re
from typing import NamedTuple

# Their memory traffic is in the operations that use them, or goes on beside other work.
NO_WORK = "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "copy-start"
COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*?)\)(.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")


class Instruction(NamedTuple):
    """One line of a module's text."""

    root: bool  # whether it is its computation's result
    name: str
    kind: str
    operands: list[str]  # names; of a constant and of a parameter what is in its parentheses
    attributes: str  # all that follows the operands


Computation = dict[str, Instruction]


class Cycles(NamedTuple):
    """The compiler's estimate for a program."""

    total: int
    in_loops: int
    beside_collectives: int  # of what stands between the start and the end of an asynchronous collective that is in no loop


def estimated_cycles(text: str, turns: int | None = None) -> Cycles:
    """The cycles of a compiled module: the sum over its instructions, a loop's body and condition times the loop's turns.

    These are the compiler's (`known_trip_count`), or those of a counter that begins at a constant, grows by a constant and is
    compared with one. For any other loop they are `turns`: such is a search, which ends when all sentences have. Of the
    branches of a condition the longest counts. Collectives have no estimate, nor have operations that are in no fusion. The
    order of a module's lines is the order in which the chip begins them.

    Raises ValueError for a loop of unknown turns where `turns` is None.
    """
    computations, entry = read_computations(text)

    def of_computation(name: str) -> int:
        return sum(of_instruction(instruction, computations[name]) for instruction in computations[name].values())

    def of_instruction(instruction: Instruction, around: Computation) -> int:
        if instruction.kind == "while":
            times = trip_count(instruction, around, computations)
            if times is None and turns is None:
                raise ValueError(f"{instruction.name}: how often this loop turns is not in the program")
            parts = _called("body", instruction) + _called("condition", instruction)
            return (turns if times is None else times) * sum(map(of_computation, parts))
        if instruction.kind == "conditional":
            branches = _called("(?:true|false)_computation|branch_computations", instruction)
            return max(map(of_computation, branches), default=0)
        if instruction.kind == "call":
            return sum(map(of_computation, _called("to_apply", instruction)))
        if instruction.kind in NO_WORK or instruction.kind.endswith("-done"):
            return 0
        estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
        return int(estimate[1]) if estimate else 0

    main = computations[entry]
    loops = [instruction for instruction in main.values() if instruction.kind == "while"]
    beside, running = 0, set()
    for instruction in main.values():
        if starts_collective(instruction):
            running.add(instruction.name)
        elif instruction.kind.endswith("-done"):
            running.discard(instruction.operands[0])
        elif running:
            beside += of_instruction(instruction, main)
    return Cycles(of_computation(entry), sum(of_instruction(loop, main) for loop in loops), beside)


def starts_collective(instruction: Instruction) -> bool:
    """Whether it begins a collective beside which other work goes on: one with its own kind of start, or a call that has the
    collective's name and that another core of the chip works off, as the sparse cores of v5p and v6e do."""
    is_named_so = instruction.name.startswith(COLLECTIVES) and "execution_thread=" in instruction.attributes
    kind, _, start = instruction.kind.rpartition("-")
    return start == "start" and (kind in COLLECTIVES or (kind in ("call", "async") and is_named_so))


def read_computations(text: str) -> tuple[dict[str, Computation], str]:
    """All computations of a module's text by name, and the name of the one that is run."""
    computations: dict[str, Computation] = {}
    entry = name = ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        found = _INSTRUCTION.match(line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = {}
        elif found and name:
            root, own, _, kind, inside, attributes = found.groups()
            operands = [part.strip().lstrip("%") for part in re.sub(r"/\*.*?\*/", "", inside).split(",")]
            computations[name][own] = Instruction(bool(root), own, kind, operands, attributes)
    return computations, entry


def trip_count(loop: Instruction, around: Computation, computations: dict[str, Computation]) -> int | None:
    """How often a loop of the computation `around` turns; None if the program does not say."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
        return int(known[1])
    condition, body = (computations[_called(part, loop)[0]] for part in ("condition", "body"))
    begin = around[loop.operands[0]].operands if around[loop.operands[0]].kind == "tuple" else None
    test, result = (next(each for each in part.values() if each.root) for part in (condition, body))
    if begin is None or test.kind != "compare" or "direction=LT" not in test.attributes or result.kind != "tuple":
        return None
    number = _element(test.operands[0], condition)
    if number is None:
        return None
    step = body.get(result.operands[number])
    if step is None or step.kind != "add" or number not in (_element(name, body) for name in step.operands):
        return None
    grows = next((name for name in step.operands if _element(name, body) != number), "")
    # The limit and the step are in the loop, or came into it with the counter.
    start = _constant(begin[number], around)
    limit, stride = (_constant(name, part, begin, around) for name, part in ((test.operands[1], condition), (grows, body)))
    if start is None or limit is None or not stride or stride < 0:
        return None
    return max(-(-(limit - start) // stride), 0)


def _called(attribute: str, instruction: Instruction) -> list[str]:
    """The computations that an attribute names."""
    found = re.findall(rf"\b(?:{attribute})=(\{{[^}}]*\}}|%?[^\s,}}]+)", instruction.attributes)
    return [name.strip().lstrip("%") for group in found for name in group.strip("{}").split(",")]


def _element(name: str, computation: Computation) -> int | None:
    """Which part of the computation's argument this is; None if it is none."""
    found = _source(name, computation)
    if found is None or found.kind != "get-tuple-element" or computation[found.operands[0]].kind != "parameter":
        return None
    return int(re.search(r"index=(\d+)", found.attributes)[1])


def _constant(name: str, computation: Computation, begin: list[str] = (), around: Computation | None = None) -> int | None:
    """The value of an integer constant, which a loop may have been given as a part of its argument `begin`."""
    found = _source(name, computation)
    if found is not None and found.kind == "constant":
        return int(found.operands[0]) if re.fullmatch(r"-?\d+", found.operands[0]) else None
    number = _element(name, computation) if around is not None else None
    return None if number is None else _constant(begin[number], around)


def _source(name: str, computation: Computation) -> Instruction | None:
    """The instruction whose value this is, past copies."""
    found = computation.get(name)
    while found is not None and found.kind in ("copy", "bitcast"):
        found = computation.get(found.operands[0])
    return found
