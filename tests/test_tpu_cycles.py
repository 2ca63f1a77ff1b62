"""Cycles of a compiled TPU program (benchmarks/tpu_cycles.py), read from small programs written by hand."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "tpu_cycles.py"


@pytest.fixture(scope="module")
def tpu_cycles():
    spec = spec_from_file_location("tpu_cycles", FILE)
    module = sys.modules["tpu_cycles"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["tpu_cycles"]


def fusion(cycles: int) -> str:
    return f'fusion(%x), kind=kLoop, calls=%fused, backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


def loop(name: str, body: str, limit: str = "constant(5)", step: str = "constant(2)", test: str = "LT") -> str:
    """Two computations: a loop whose counter is the first part of (counter, x, limit), and does `body` each time."""
    state = "(s32[]{:T(128)}, f32[8]{0:T(128)}, /*index=2*/s32[]{:T(128)})"
    return f"""
%{name}.condition (p: (s32[], f32[8], s32[])) -> pred[] {{
  %limit = s32[]{{:T(128)}} {limit}
  %p = {state} parameter(0)
  %counter = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  ROOT %more = pred[]{{:T(512)}} compare(%counter, %limit), direction={test}, metadata={{op_name="while/cond/lt"}}
}}

%{name}.body (p: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {{
  %p = {state} parameter(0)
  %counter = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  %x = f32[8]{{0:T(128)}} get-tuple-element(%p), index=1
  %last = s32[]{{:T(128)}} get-tuple-element(%p), index=2
  %by = s32[]{{:T(128)}} {step}
  {body}
  %next = s32[]{{:T(128)}} add(%counter, %by)
  ROOT %result = {state} tuple(%next, %y, /*index=2*/%last)
}}
"""


def entry(attributes: str = "") -> str:
    return f"""
%fused (x: f32[8]) -> f32[8] {{
  ROOT %inside = f32[8]{{0:T(128)}} negate(%x), backend_config={{"estimated_cycles":"100000"}}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0:T(128)}} parameter(0)
  %zero = s32[]{{:T(128)}} constant(0)
  %start = s32[]{{:T(128)}} copy(%zero)
  %seven = s32[]{{:T(128)}} constant(7)
  %before = f32[8]{{0:T(128)}} {fusion(1000)}
  %begin = (s32[]{{:T(128)}}, f32[8]{{0:T(128)}}, s32[]{{:T(128)}}) tuple(%start, %before, %seven)
  %while.1 = (s32[], f32[8], s32[]) while(%begin), condition=%outer.condition, body=%outer.body{attributes}
  ROOT %x.2 = f32[8]{{0:T(128)}} get-tuple-element(%while.1), index=1
}}
"""


SIMPLE = f"%y = f32[8]{{0:T(128)}} {fusion(10)}"


def test_a_loop_counts_as_often_as_it_turns(tpu_cycles):
    """The counter goes 0, 2, 4; what is inside a fused operation is in its own estimate."""
    assert tpu_cycles.estimated_cycles(loop("outer", SIMPLE) + entry()) == (1000 + 3 * 10, 3 * 10, 0)


def test_the_limit_may_come_into_the_loop_with_the_counter(tpu_cycles):
    text = loop("outer", SIMPLE, limit="get-tuple-element(%p), index=2", step="constant(1)") + entry()
    assert tpu_cycles.estimated_cycles(text).in_loops == 7 * 10


def test_the_compilers_own_number_of_turns_comes_first(tpu_cycles):
    text = loop("outer", SIMPLE) + entry(', backend_config={"known_trip_count":{"n":"11"},"flag_configs":[]}')
    assert tpu_cycles.estimated_cycles(text).in_loops == 11 * 10


def test_loops_in_loops_multiply(tpu_cycles):
    inner = f"""%zero = s32[]{{:T(128)}} constant(1)
  %begin = (s32[]{{:T(128)}}, f32[8]{{0:T(128)}}, s32[]{{:T(128)}}) tuple(%zero, %x, %last)
  %while.2 = (s32[], f32[8], s32[]) while(%begin), condition=%inner.condition, body=%inner.body
  %z = f32[8]{{0:T(128)}} {fusion(100)}
  %y = f32[8]{{0:T(128)}} get-tuple-element(%while.2), index=1"""
    text = loop("inner", SIMPLE, step="constant(1)") + loop("outer", inner) + entry()
    assert tpu_cycles.estimated_cycles(text).in_loops == 3 * (100 + 4 * 10)


@pytest.mark.parametrize("unknown", [{"limit": "copy(%elsewhere)"}, {"step": "copy(%elsewhere)"}, {"test": "NE"}])
def test_a_loop_of_unknown_turns_needs_their_number(tpu_cycles, unknown):
    text = loop("outer", SIMPLE, **unknown) + entry()
    assert tpu_cycles.estimated_cycles(text, turns=20).in_loops == 20 * 10
    with pytest.raises(ValueError, match=r"while\.1"):
        tpu_cycles.estimated_cycles(text)


def test_of_a_conditions_branches_the_longest_counts(tpu_cycles):
    branches = f"""
%short (x: f32[8]) -> f32[8] {{
  ROOT %y = f32[8]{{0:T(128)}} {fusion(10)}
}}

%long (x: f32[8]) -> f32[8] {{
  ROOT %y = f32[8]{{0:T(128)}} {fusion(30)}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0:T(128)}} parameter(0)
  %which = s32[]{{:T(128)}} constant(0)
  %y = f32[8]{{0:T(128)}} conditional(%which, %x, %x), branch_computations={{%short, %long}}
  ROOT %z = f32[8]{{0:T(128)}} call(%y), to_apply=%short
}}
"""
    assert tpu_cycles.estimated_cycles(branches) == (30 + 10, 0, 0)


@pytest.mark.parametrize(
    ("start", "name", "beside"),
    [
        ("all-reduce-start(%x)", "all-reduce-start.1", 30),
        ('call-start(%x), async_execution_thread="sparsecore", to_apply=%fused', "all-reduce.7.cloned.1.call-start", 30),
        ('call-start(%x), async_execution_thread="sparsecore", to_apply=%fused', "gather.7.cloned.1.call-start", 0),
        ("copy-start(%x)", "copy-start.1", 0),
    ],
)
def test_what_stands_between_the_start_and_the_end_of_a_collective_goes_on_beside_it(tpu_cycles, start, name, beside):
    done = start.split("(")[0].replace("start", "done")
    text = f"""
ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0:T(128)}} parameter(0)
  %before = f32[8]{{0:T(128)}} {fusion(1000)}
  %{name} = (f32[8]{{0:T(128)}}, f32[8]{{0:T(128)}}) {start}
  %meanwhile = f32[8]{{0:T(128)}} {fusion(10)}
  %too = f32[8]{{0:T(128)}} {fusion(20)}
  %sum = f32[8]{{0:T(128)}} {done}(%{name})
  ROOT %after = f32[8]{{0:T(128)}} {fusion(100)}
}}
"""
    assert tpu_cycles.estimated_cycles(text) == (1130, 0, beside)
