"""The memory plan: buffers that live at the same time share no byte, and the arena is close to what must be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from specc import targets
from specc.backends.torch import freeze
from specc.backends.tvm import lower
from specc.backends.tvm.memory import Place, Slot, assign, neighbours, plan
from specc.backends.tvm.program import Call, Part, Program, Storage, aligned
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.weights import random_weights


@st.composite
def slots(draw: st.DrawFn) -> list[Slot]:
    calls = draw(st.integers(1, 12))
    found = []
    for _ in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, calls - 1))
        found.append(Slot(draw(st.integers(0, 1000)), first, draw(st.integers(first, calls - 1))))
    return found


@given(slots())
def test_slots_that_meet_do_not_overlap(given: list[Slot]) -> None:
    offsets = [place.offset for place in assign(given)]
    assert all(offset % 64 == 0 for offset in offsets)
    for i, (a, at) in enumerate(zip(given, offsets)):
        for b, bt in zip(given[:i], offsets[:i]):
            assert not a.meets(b) or at + a.size <= bt or bt + b.size <= at or not (a.size and b.size)


@given(slots())
def test_each_slot_stands_beside_those_that_it_meets(given: list[Slot]) -> None:
    for number, beside in enumerate(neighbours(given)):
        assert sorted(beside) == [i for i, other in enumerate(given) if i != number and other.meets(given[number])]


def chain(*sizes: int, overwrites: tuple[int, ...] = ()) -> Program:
    """Calls one after the other, each of the last one's result."""
    types = [TensorType((size // 4,)) for size in sizes]
    places = [Storage("input", 0), *(Storage("buffer", i) for i in range(len(sizes) - 1))]
    calls = tuple(
        Call("k", (a,), (b,), overwrites if sizes[i] == sizes[i + 1] else ())
        for i, (a, b) in enumerate(pairwise(places))
    )
    return Program("n", ("x",), ("y",), (types[0],), (), tuple(types[1:]), calls, (types[-1],), (places[-1],))


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    planned = plan(chain(64, 256, 512, 128, 128, 64))
    assert planned.arena == 256 + 512
    assert planned.least == planned.arena - 64  # a plan could put that much where the output will be
    assert planned.places[Storage("buffer", 4)] == Place("output", 0)
    assert not planned.copies


def test_a_pointwise_call_writes_in_place() -> None:
    apart, together = plan(chain(64, 256, 256, 256, 64)), plan(chain(64, 256, 256, 256, 64, overwrites=(0,)))
    assert apart.arena == 512
    assert together.arena == 256
    assert together.places[Storage("buffer", 0)] == together.places[Storage("buffer", 2)]


@given(st.lists(st.integers(0, 20).map(lambda n: 64 * n), min_size=3, max_size=12))
def test_kernels_get_the_longest_run_of_the_arena_that_is_free(sizes: list[int]) -> None:
    program = chain(*sizes)
    planned = plan(program)
    for call, (begin, length) in zip(program.calls, planned.rooms, strict=True):
        places = [(planned.places[storage], program.size(storage)) for storage in (*call.operands, *call.results)]
        held = sorted((at.offset, at.offset + size) for at, size in places if at.space == "arena")
        edges = [(0, 0), *held, (planned.arena, planned.arena)]
        assert length == max(b[0] - a[1] for a, b in pairwise(edges))
        assert all(end <= begin or begin + length <= start for start, end in held)


def test_a_residual_is_added_in_its_place() -> None:
    """x -> a -> b, c = conv(b) + a: c lies where a does, and the kernel's memory beside its result stands apart."""
    graph = Graph("Residual")
    x = graph.input("x", TensorType((1, 16, 8, 8)))
    values = [x]
    for number in range(3):
        made = graph.call("conv2d", [values[-1]], {"out": 16, "k": 1}, f"conv{number}")
        values.append(graph.apply("add", [made, values[-2]]) if number == 2 else graph.apply("relu", [made]))
    graph.outputs = [graph.call("conv2d", [values[-1]], {"out": 32, "k": 1}, "last")]
    target = targets.find("x86-64-v4")
    optimized, _ = run_passes(graph, pipeline(2, target))
    size = lower(optimized, target, freeze(optimized, random_weights(graph))).sizes[0]
    *_, added, _ = size.program.calls
    assert "add" in added.title and added.overwrites
    assert size.plan.places[added.results[0]] == size.plan.places[added.operands[added.overwrites[0]]]


def test_memory_of_a_kernel_is_not_put_over_an_operand() -> None:
    x, type = Storage("input", 0), TensorType((16,))
    a, b, beside, c = (Storage("buffer", i) for i in range(4))
    calls = (Call("k", (x,), (a,)), Call("k", (a,), (b, beside), (0,)), Call("k", (b,), (c,)))
    planned = plan(Program("n", ("x",), ("y",), (type,), (), (type,) * 4, calls, (type,), (c,)))
    assert planned.places[a] == planned.places[b] != planned.places[beside]


def test_what_dies_before_an_output_is_written_uses_its_memory() -> None:
    planned = plan(chain(64, 256, 128, 64, 1024))
    assert [planned.places[Storage("buffer", i)] for i in range(4)] == [
        Place("output", 0),  # 256 bytes, of calls 0 and 1
        Place("output", 0, 256),  # 128, of calls 1 and 2
        Place("arena", 0),  # read when the output is written
        Place("output", 0),
    ]
    assert planned.arena == 64


def test_what_is_read_later_is_not_overwritten() -> None:
    a, b, c = (Storage("buffer", i) for i in range(3))
    x, type = Storage("input", 0), TensorType((16,))
    calls = (Call("k", (x,), (a,)), Call("k", (a,), (b,), (0,)), Call("k", (a, b), (c,), (0, 1)))
    planned = plan(Program("n", ("x",), ("y",), (type,), (), (type,) * 3, calls, (type,), (c,)))
    assert planned.places[a] == planned.places[c] == Place("output", 0)
    assert planned.places[b] == Place("arena", 0)


def test_what_the_call_itself_reads_in_another_way_is_not_overwritten() -> None:
    """Two operands of a call are one storage where one is a view of the other."""
    a, b, c = (Storage("buffer", i) for i in range(3))
    x, type = Storage("input", 0), TensorType((16,))
    calls = (Call("k", (x,), (a,)), Call("k", (a, a), (b,), (0,)), Call("k", (b,), (c,)))
    planned = plan(Program("n", ("x",), ("y",), (type,), (), (type,) * 3, calls, (type,), (c,)))
    assert planned.places[a] != planned.places[b]


def test_the_second_result_of_a_call_is_an_output_that_nobody_writes_over() -> None:
    a, b, c, d = (Storage("buffer", i) for i in range(4))
    x, type = Storage("input", 0), TensorType((16,))
    calls = (Call("k", (x,), (a, b)), Call("k", (a,), (c,)), Call("k", (c,), (d,)))
    planned = plan(Program("n", ("x",), ("p", "q"), (type,), (), (type,) * 4, calls, (type,) * 2, (d, b)))
    assert planned.places[b] == Place("output", 1)
    assert planned.places[c].space == "arena"


def test_an_operand_lies_where_the_output_is_written_over_it() -> None:
    """Also where the kernel has memory besides."""
    a, b, beside = (Storage("buffer", i) for i in range(3))
    x, type = Storage("input", 0), TensorType((16,))
    calls = (Call("k", (x,), (a,)), Call("k", (a,), (b, beside), (0,)))
    planned = plan(Program("n", ("x",), ("y",), (type,), (), (type,) * 3, calls, (type,), (b,)))
    assert planned.places[a] == planned.places[b] == Place("output", 0)


def test_an_output_that_is_a_part_lives_to_the_end() -> None:
    """It is copied then: nothing may lie where its whole does."""
    whole, a, c, d = (Storage("buffer", i) for i in range(4))
    x, half, type = Storage("input", 0), TensorType((16,)), TensorType((32,))
    calls = (Call("k", (x,), (whole,)), Call("k", (x,), (c,)), Call("k", (c,), (d,)))
    program = Program("n", ("x",), ("p", "q"), (type,), (), (type, half, type, half), calls, (half,) * 2, (d, a))
    planned = plan(replace(program, parts={a: Part(whole, 64)}))
    assert planned.copies == ((1, a),)
    assert planned.places[whole] != planned.places[c]


def test_outputs_that_nobody_computes_in_place_are_copied() -> None:
    x, w, a, type = Storage("input", 0), Storage("weight", 0), Storage("buffer", 0), TensorType((16,))
    program = Program(
        "n", ("x",), ("p", "q", "r", "s"), (type,), (64,), (type,), (Call("k", (x,), (a,)),), (type,) * 4, (x, w, a, a)
    )
    planned = plan(program)
    assert planned.places[a] == Place("output", 2)
    assert planned.copies == ((0, x), (1, w), (3, a))
    assert planned.arena == 0


@given(slots())
def test_the_arena_is_never_below_what_must_be_and_seldom_far_above(given: list[Slot]) -> None:
    offsets = [place.offset for place in assign(given)]
    arena = max((offset + slot.size for offset, slot in zip(offsets, given)), default=0)
    calls = max((slot.last for slot in given), default=0) + 1
    least = max(sum(slot.size for slot in given if slot.first <= call <= slot.last) for call in range(calls))
    assert least <= arena <= sum(aligned(slot.size) for slot in given)


def test_the_buffer_that_ends_highest_gets_its_place_first_in_another_try() -> None:
    """The first of 128 bytes is placed below 320, where the other one of 128 would have left room for the later 320."""
    slots = [Slot(320, 4, 6), Slot(128, 3, 4), Slot(128, 1, 3), Slot(320, 1, 2)]
    places = assign(slots)
    assert max(place.offset + slot.size for place, slot in zip(places, slots)) == 320 + 128
