"""Zero-copy concat and split: calls that only move bytes go, no byte is written while another value needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from specc import targets
from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, lower
from specc.backends.tvm.lowering import Lowered
from specc.backends.tvm.memory import Place, plan
from specc.backends.tvm.program import Call, Part, Program, Storage
from specc.backends.tvm.sharing import share, without
from specc.ir.graph import Graph, Value
from specc.ir.placement import ALIGNMENT, begin, joined, size
from specc.ir.types import TensorType
from specc.model import Model
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.testing import graphs
from specc.weights import random_inputs, random_weights

NATIVE = targets.native()


def lowered(graph: Graph, level: int = 2) -> Lowered:
    optimized, _ = run_passes(graph, pipeline(level, NATIVE))
    return lower(optimized, NATIVE, freeze(optimized, random_weights(graph)))


def moves(found: Lowered) -> list[str]:
    return [call.title for call in found.sizes[0].program.calls if call.title in ("concat", "slice")]


def check(graph: Graph, left: Sequence[str] = ()) -> Lowered:
    """The compiled graph gives what PyTorch gives, and of its concats and slices these are calls."""
    found = lowered(graph)
    assert moves(found) == list(left)
    inputs = random_inputs(graph)
    results = Model(build(found, NATIVE), found.weights).run([a.astype("float32") for a in inputs.values()])
    for result, expected in zip(results, evaluate(graph, random_weights(graph), inputs), strict=True):
        assert np.abs(result - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    return found


def picture(channels: int = 32, extent: int = 8, batch: int = 1) -> tuple[Graph, Value]:
    graph = Graph("Net")
    return graph, graph.input("x", TensorType((batch, channels, extent, extent)))


def conv(graph: Graph, x: Value, out: int = 32, name: str = "") -> Value:
    made = graph.call("conv2d", [x], {"out": out, "k": 3}, name or f"conv{len(graph)}")
    return graph.apply("gelu", [made])


def test_the_pieces_are_written_where_the_whole_is_read() -> None:
    graph, x = picture()
    a, b = conv(graph, x), conv(graph, x, 64)
    graph.outputs = [conv(graph, graph.apply("concat", [a, b], {"axis": 1}))]
    found = check(graph)
    assert set(found.sizes[0].program.parts.values()) == {
        Part(found.sizes[0].program.calls[-1].operands[0], 0),
        Part(found.sizes[0].program.calls[-1].operands[0], 32 * 64 * 4),
    }


def test_a_dense_block_grows_in_one_buffer() -> None:
    graph, x = picture()
    value = conv(graph, x)
    for _ in range(4):
        value = graph.apply("concat", [value, conv(graph, value)], {"axis": 1})
    graph.outputs = [conv(graph, value)]
    found = check(graph)
    assert len(found.sizes[0].program.parts) == 8


def test_all_pieces_of_an_earlier_concat_are_one_piece_of_a_later_one() -> None:
    """A dense block as some write it: every layer joins all that was before it."""
    graph, x = picture()
    values = [conv(graph, x), conv(graph, x)]
    for _ in range(3):
        values.append(conv(graph, graph.apply("concat", values, {"axis": 1})))
    graph.outputs = [conv(graph, graph.apply("concat", values, {"axis": 1}))]
    check(graph)


def test_slices_are_read_where_the_whole_was_written() -> None:
    graph, x = picture()
    y = conv(graph, x, 64)
    parts = [graph.apply("slice", [y], {"axis": 1, "start": i, "stop": i + 32}) for i in (0, 32)]
    graph.outputs = [graph.apply("add", [conv(graph, parts[0]), conv(graph, parts[1])])]
    check(graph)


def test_an_input_is_read_in_parts_and_an_output_written_in_parts() -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((4, 64)))
    halves = [graph.apply("slice", [x], {"axis": 0, "start": i, "stop": i + 2}) for i in (0, 2)]
    joint = [graph.apply("softmax", [halves[1]], {"axis": 1}), graph.apply("softmax", [halves[0]], {"axis": 1})]
    graph.outputs = [graph.apply("concat", joint, {"axis": 0})]
    found = check(graph)
    spaces = {
        found.sizes[0].plan.places[storage]
        for call in found.sizes[0].program.calls
        for storage in call.operands + call.results
    }
    assert spaces == {Place("input", 0), Place("input", 0, 512), Place("output", 0), Place("output", 0, 512)}
    assert found.arena == 0


@pytest.mark.parametrize("why", ["batch", "input", "twice", "output", "scattered"])
def test_what_has_no_place_of_its_own_is_copied(why: str) -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((2, 4, 16) if why == "batch" else (1, 4, 16)))
    a, b = (graph.apply("softmax", [x], {"axis": axis}) for axis in (1, 2))
    pieces = {"input": [x, a], "twice": [a, b, a]}.get(why, [a, b])
    joint = graph.apply("concat", pieces, {"axis": 2 if why == "scattered" else 1})
    graph.outputs = [graph.apply("softmax", [joint], {"axis": 1}), *([a] if why == "output" else [])]
    check(graph, ["concat"])


def test_a_piece_of_two_concats_lies_in_the_first() -> None:
    x, (a, b, c, first, second, y) = Storage("input", 0), [Storage("buffer", i) for i in range(6)]
    made = [Call("k", (x,), (piece,)) for piece in (a, b, c)]
    joins = [Call("concat", pair, (to,), joins=(0, 64)) for pair, to in (((a, b), first), ((b, c), second))]
    types = (TensorType((16,)),) * 3 + (TensorType((32,)),) * 2 + (TensorType((16,)),)
    calls = (*made, *joins, Call("k", (first, second), (y,)))
    shared, dropped = without(Program("n", ("x",), ("y",), types[:1], (), types, calls, types[:1], (y,)), set())
    assert dropped == {3}
    assert shared.parts == {a: Part(first, 0), b: Part(first, 64)}


def test_a_slice_that_is_a_piece_is_copied_into_its_place() -> None:
    graph, x = picture(64)
    y = conv(graph, x, 64)
    left, right = (graph.apply("slice", [y], {"axis": 1, "start": i, "stop": i + 32}) for i in (0, 32))
    graph.outputs = [conv(graph, graph.apply("concat", [left, conv(graph, right)], {"axis": 1}))]
    check(graph, ["slice"])
    graph, x = picture(64)
    y = conv(graph, x, 64)
    left, right = (graph.apply("slice", [y], {"axis": 1, "start": i, "stop": i + 32}) for i in (0, 32))
    graph.outputs = [conv(graph, graph.apply("concat", [right, left], {"axis": 1}))]
    check(graph, ["concat"])


def test_nothing_is_written_over_what_a_part_still_needs() -> None:
    """y is read by a pointwise call for the last time, and its slice by another one later."""
    graph, x = picture(64)
    y = conv(graph, x, 64)
    part = graph.apply("slice", [y], {"axis": 1, "start": 32, "stop": 64})
    z = conv(graph, graph.apply("tanh", [y]))
    graph.outputs = [graph.apply("add", [conv(graph, z), conv(graph, part)])]
    check(graph)


def test_a_pointwise_call_does_not_write_over_what_it_reads_in_parts() -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((2, 16)))
    y = graph.apply("softmax", [x], {"axis": 1})
    first = graph.apply("slice", [y], {"axis": 0, "start": 1, "stop": 2})
    graph.outputs = [graph.apply("softmax", [graph.apply("mul", [y, first])], {"axis": 0})]
    check(graph)


def test_memory_is_worth_more_than_a_copy() -> None:
    """The early piece waits for a large late one, while other calls need much: then the concat is a call."""
    small, large, between = TensorType((64,)), TensorType((256,)), TensorType((1024,))
    x, (a, m, n, b, c, y) = Storage("input", 0), [Storage("buffer", i) for i in range(6)]
    calls = (
        Call("k", (x,), (a,)),
        Call("k", (x,), (m,)),
        Call("k", (m,), (n,)),
        Call("k", (n,), (b,)),
        Call("concat", (a, b), (c,), joins=(0, 256)),
        Call("k", (c,), (y,)),
    )
    joint = TensorType((64 + 256,))
    types = (small, between, between, large, joint, small)
    program = Program("n", ("x",), ("y",), (small,), (), types, calls, (small,), (y,))
    assert share(program) == program
    few = tuple(small if type == between else type for type in types)
    smaller = share(Program("n", ("x",), ("y",), (small,), (), few, calls, (small,), (y,)))
    assert len(smaller.calls) == 5
    assert plan(smaller).arena <= plan(program).arena


@given(graph=graphs())
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("level", [0, 2])
def test_every_value_is_whole_when_it_is_read(graph: Graph, level: int) -> None:
    play(lowered(graph, level))


def play(found: Lowered) -> None:
    """Runs the program with call numbers for bytes: every call finds its operands as they were written for it."""
    (one,) = found.sizes
    program, places = one.program, one.plan.places
    memory = {("output", i): np.full(size(type), -1) for i, type in enumerate(program.outputs)}
    memory[("arena", 0)] = np.full(one.plan.arena, -1)

    def bytes_of(storage: Storage) -> np.ndarray[Any, Any]:
        space, number, offset = places[storage]
        found = memory[space, number][offset : offset + program.size(storage)]
        assert found.size == program.size(storage) and offset % ALIGNMENT == 0
        return found

    written: dict[Storage, list[tuple[int, int, int]]] = {}

    def check(storage: Storage) -> None:
        host, begin = program.root(storage)
        if host.space == "buffer":
            end, known = begin + program.size(storage), 0
            for start, stop, call in written[host]:
                first, last = max(start, begin), min(stop, end)
                assert (bytes_of(storage)[first - begin : max(first, last) - begin] == call).all(), (
                    f"overwritten: {call}"
                )
                known += max(0, last - first)
            assert known == program.size(storage), "a part was never written"

    for number, call in enumerate(program.calls):
        for operand in call.operands:
            check(operand)
        for result in call.results:
            bytes_of(result)[:] = number
            host, begin = program.root(result)
            written.setdefault(host, []).append((begin, begin + program.size(result), number))
    for number, storage in enumerate(program.results):
        assert number in dict(one.plan.copies) or places[storage] == Place("output", number)
        check(storage)


def test_where_parts_lie() -> None:
    blocked, plain = TensorType((1, 32, 4, 4), layout="NCHW16c"), TensorType((1, 32, 4, 4))
    assert joined([blocked, blocked], TensorType((1, 64, 4, 4), layout="NCHW16c"), 1) == (0, 2048)
    assert joined([plain, plain], TensorType((1, 64, 4, 4)), -3) == (0, 2048)
    assert joined([plain, plain], TensorType((2, 32, 4, 4)), 0) == (0, 2048)
    assert joined([plain, plain], TensorType((1, 32, 8, 4)), 2) is None
    odd = TensorType((3, 5))
    assert joined([odd, odd], TensorType((6, 5)), 0) is None, "the second would begin at byte 60"
    assert joined([TensorType((1, 4)), TensorType((1, 3))], TensorType((1, 7)), 1) is None
    attrs = {"axis": 1, "start": 16, "stop": 32, "step": 1}
    assert begin(blocked, TensorType((1, 16, 4, 4), layout="NCHW16c"), attrs) == 1024
    assert begin(blocked, TensorType((1, 10, 4, 4), layout="NCHW16c"), {**attrs, "stop": 26}) is None
    assert begin(plain, TensorType((1, 10, 4, 4)), {**attrs, "stop": 26}) == 1024
    assert begin(plain, TensorType((1, 8, 4, 4)), {**attrs, "step": 2}) is None
    assert begin(plain, TensorType((1, 16, 2, 4)), {**attrs, "axis": 2, "start": 0, "stop": 2}) is None
