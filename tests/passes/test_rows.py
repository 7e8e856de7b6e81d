"""Windows, rolls and other moves of whole rows stand at attention and nowhere else, and those that are undone go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.ir.graph import Graph, Value
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.passes import rows as module
from specc.passes.fusion import fuse
from specc.passes.rewrite import Journal
from specc.passes.rows import rows
from specc.testing import check_pass

Chain = list[tuple[str, dict[str, Any]]]

WIDTH, HEADS = 4, 2


def moved(graph: Graph, value: Value, chain: Chain) -> Value:
    """`value` after a chain of moves; `concat` stands for a roll that is written as two slices and a concat."""
    for op, attrs in chain:
        if op == "concat":
            axis, at = attrs["axis"], attrs["at"]
            extent = graph.type(value).shape[axis]
            parts = [
                graph.apply("slice", (value,), {"axis": axis, "start": start, "stop": stop, "step": 1})
                for start, stop in ((at, extent), (0, at))
            ]
            value = graph.apply("concat", parts, {"axis": axis})
        elif op == "reshape":
            value = graph.apply(op, (value,), {"shape": (*attrs["shape"], graph.type(value).shape[-1])})
        else:
            value = graph.apply(op, (value,), attrs)
    return value


def linear(graph: Graph, value: Value, name: str, width: int) -> Value:
    inputs = graph.type(value).shape[-1]
    weight = graph.parameter(f"{name}.weight", TensorType((width, inputs)), "kaiming")
    bias = graph.parameter(f"{name}.bias", TensorType((width,)), "fan_in_bias")
    return graph.apply("linear", (value, weight, bias))


def attention(graph: Graph, value: Value) -> Value:
    """Of [groups, l, 3 * c], the heads' attention as [groups, l, c]."""
    count, length, width = (int(e) for e in graph.type(value).concrete)
    width //= 3
    factors = []
    for part in range(3):
        cut = {"axis": 2, "start": part * width, "stop": (part + 1) * width, "step": 1}
        x = graph.apply("slice", (value,), cut)
        x = graph.apply("reshape", (x,), {"shape": (count, length, HEADS, width // HEADS)})
        factors.append(graph.apply("permute", (x,), {"order": (0, 2, 3, 1) if part == 1 else (0, 2, 1, 3)}))
    scores = graph.apply("softmax", (graph.apply("matmul", factors[:2]),), {"axis": 3})
    mixed = graph.apply("matmul", (scores, factors[2]))
    mixed = graph.apply("permute", (mixed,), {"order": (0, 2, 1, 3)})
    return graph.apply("reshape", (mixed,), {"shape": (count, length, width)})


def network(shape: tuple[int, ...], before: Chain, after: Chain) -> Graph:
    """Moves, a projection, attention, another projection, moves, and what is added to the input where it can be."""
    graph = Graph("Net")
    x = graph.input("x", TensorType((*shape, WIDTH)))
    y = attention(graph, linear(graph, moved(graph, x, before), "qkv", 3 * WIDTH))
    y = moved(graph, linear(graph, y, "proj", WIDTH), after)
    graph.outputs.append(graph.apply("add", (x, y)) if graph.type(y) == graph.type(x) else graph.apply("relu", (y,)))
    return graph


WINDOWS: Chain = [
    ("concat", {"axis": 1, "at": 1}),
    ("concat", {"axis": 2, "at": 1}),
    ("reshape", {"shape": (1, 2, 3, 2, 3)}),
    ("permute", {"order": (0, 1, 3, 2, 4, 5)}),
    ("reshape", {"shape": (4, 9)}),
]
BACK: Chain = [
    ("reshape", {"shape": (1, 2, 2, 3, 3)}),
    ("permute", {"order": (0, 1, 3, 2, 4, 5)}),
    ("reshape", {"shape": (1, 6, 6)}),
    ("roll", {"shifts": (1, 1), "axes": (1, 2)}),
]


def outside(graph: Graph) -> set[str]:
    """The operators in groups without an attention."""
    fused = fuse(graph)
    members: dict[Any, set[str]] = {}
    for identity in fused.live():
        node = fused.node(identity)
        members.setdefault(node.group, set()).add(node.op)
    return set().union(*(ops for ops in members.values() if "softmax" not in ops))


def test_shifted_windows_are_read_and_written_by_attention() -> None:
    graph = network((1, 6, 6), WINDOWS, BACK)
    assert {"permute", "concat", "slice", "roll"} <= outside(graph)
    journal = Journal()
    found = rows(graph, journal)
    check_pass(rows, graph)
    assert outside(found) == {"linear", "add"}
    assert [event.rule.partition(" =>")[0] for event in journal.fired] == [
        "attention(linear(move(x)))",
        "move(linear(attention(..)))",
    ]
    groups = {found.op(Value(i)): fuse(found).node(i).group for i in found.live() if found.op(Value(i)) == "add"}
    layers = [fuse(found).node(i).group for i in found.live() if found.op(Value(i)) == "linear"]
    assert groups["add"] in layers, "the residual is added by the kernel of the linear layer"


@st.composite
def chains(draw: st.DrawFn, shape: tuple[int, ...], last: tuple[int, ...] | None = None) -> Chain:
    """Moves of the rows of a tensor of `shape`, which end as `last` where that is said."""
    chain: Chain = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(("reshape", "permute", "roll", "concat")))
        rank = len(shape)
        if kind == "reshape":
            count = 1
            for extent in shape:
                count *= extent
            first = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
            second = draw(st.sampled_from([n for n in range(1, count // first + 1) if count // first % n == 0]))
            shape = (first, second, count // first // second)
            chain.append(("reshape", {"shape": shape}))
        elif kind == "permute":
            order = tuple(draw(st.permutations(range(rank))))
            shape = tuple(shape[axis] for axis in order)
            chain.append(("permute", {"order": (*order, rank)}))
        else:
            axis = draw(st.integers(0, rank - 1))
            if kind == "roll":
                chain.append(("roll", {"shifts": (draw(st.integers(-5, 5)),), "axes": (axis,)}))
            elif shape[axis] > 1:
                chain.append(("concat", {"axis": axis, "at": draw(st.integers(1, shape[axis] - 1))}))
    return [*chain, ("reshape", {"shape": last})] if last else chain


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([(1, 4, 6), (12, 2), (2, 3, 2, 2)]), st.sampled_from([(4, 6), (2, 12), (1, 24)]))
def test_any_moves_give_the_same_network(data: st.DataObject, shape: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    before, after = data.draw(chains(shape, tokens)), data.draw(chains(tokens))
    graph = network(shape, before, after)
    check_pass(rows, graph)
    left = outside(rows(graph)) & {"permute", "roll", "concat", "slice"}
    assert not left


@pytest.mark.parametrize(
    "mistake",
    [
        {"shifts": (1,), "axes": (1,)},
        {"shifts": (-1,), "axes": (2,)},
    ],
    ids=["another direction", "another axis"],
)
def test_a_roll_read_wrong_is_found(mistake: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    true = module._rolled

    def rolled(graph: Graph, value: Value) -> Any:
        found = true(graph, value)
        return found and module.Move(found.op, mistake, found.operand, found.result, found.nodes)

    monkeypatch.setattr(module, "_rolled", rolled)
    with pytest.raises(AssertionError):
        check_pass(rows, network((1, 6, 6), WINDOWS, BACK))


def test_moves_in_the_wrong_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    above = module._above
    monkeypatch.setattr(module, "_above", lambda *a: [m for m in above(*a) if m.op != "permute"])
    with pytest.raises(AssertionError):
        check_pass(rows, network((1, 6, 6), WINDOWS, BACK))


# ---- what is undone


def layered(*lines: str) -> Graph:
    weights = ["param w: float32[8, 4] kaiming", "param v: float32[4, 8] kaiming", "param g: float32[8] ones"]
    weights.append("param p: float32[3, 4] normal(1)")
    return parse_graph("\n".join(["graph Net", "input x: float32[2, 3, 6, 4]", *weights, *lines]))


def test_attention_that_others_read_is_written_as_it_is() -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((4, 9, WIDTH)))
    y = attention(graph, linear(graph, x, "qkv", 3 * WIDTH))
    rolled = graph.apply("roll", (linear(graph, y, "proj", WIDTH),), {"shifts": (2,), "axes": (1,)})
    graph.outputs = [rolled, graph.apply("relu", (y,))]
    check_pass(rows, graph)
    assert rows(graph).op(rows(graph).outputs[0]) == "roll"


def test_a_perceptron_between_moves_that_undo_each_other() -> None:
    graph = layered(
        "%0: float32[2, 6, 3, 4] = permute(x) {order=(0, 2, 1, 3)}",
        "%1: float32[36, 4] = reshape(%0) {shape=(36, 4)}",
        "%2: float32[36, 8] = linear(%1, @w)",
        "%3: float32[36, 8] = layer_norm(%2, @g, @g)",
        "%4: float32[36, 8] = gelu(%3)",
        "%5: float32[36, 4] = linear(%4, @v)",
        "%6: float32[2, 6, 3, 4] = reshape(%5) {shape=(2, 6, 3, 4)}",
        "%7: float32[2, 3, 6, 4] = permute(%6) {order=(0, 2, 1, 3)}",
        "%8: float32[2, 3, 6, 4] = add(x, %7)",
        "return %8",
    )
    check_pass(rows, graph)
    found = rows(graph)
    assert [found.node(i).op for i in found.live()] == ["linear", "layer_norm", "gelu", "linear", "add"]


@pytest.mark.parametrize(
    "lines",
    [
        (
            "%0: float32[36, 4] = reshape(x) {shape=(36, 4)}",
            "%1: float32[36, 8] = linear(%0, @w)",
            "%2: float32[2, 6, 3, 8] = reshape(%1) {shape=(2, 6, 3, 8)}",
            "return %2",
        ),
        (
            "%0: float32[2, 3, 6, 4] = roll(x) {shifts=(1,); axes=(1,)}",
            "%1: float32[2, 3, 6, 8] = linear(%0, @w)",
            "%2: float32[2, 3, 6, 8] = roll(%1) {shifts=(1,); axes=(1,)}",
            "return %2",
        ),
        (
            "%0: float32[2, 3, 4, 6] = permute(x) {order=(0, 1, 3, 2)}",
            "%1: float32[2, 3, 4, 6] = gelu(%0)",
            "%2: float32[2, 3, 6, 4] = permute(%1) {order=(0, 1, 3, 2)}",
            "return %2",
        ),
        (
            "%0: float32[36, 4] = reshape(x) {shape=(36, 4)}",
            "%1: float32[36, 8] = linear(%0, @w)",
            "%2: float32[36, 8] = softmax(%1) {axis=0}",
            "%3: float32[2, 3, 6, 8] = reshape(%2) {shape=(2, 3, 6, 8)}",
            "return %3",
        ),
        (
            "%0: float32[2, 6, 3, 4] = permute(x) {order=(0, 2, 1, 3)}",
            "%1: float32[2, 6, 3, 4] = add(%0, @p)",
            "%2: float32[2, 3, 6, 4] = permute(%1) {order=(0, 2, 1, 3)}",
            "return %2",
        ),
        (
            "%0: float32[2, 3, 6, 4] = gelu(x)",
            "%1: float32[2, 2, 6, 4] = slice(x) {axis=1; start=1; stop=3}",
            "%2: float32[2, 1, 6, 4] = slice(%0) {axis=1; start=0; stop=1}",
            "%3: float32[2, 3, 6, 4] = concat(%1, %2) {axis=1}",
            "%4: float32[2, 3, 6, 8] = linear(%3, @w)",
            "%5: float32[2, 3, 6, 8] = roll(%4) {shifts=(1,); axes=(1,)}",
            "return %5",
        ),
    ],
    ids=["another shape", "twice the same", "not of rows", "not of each row", "not alike for rows", "of two tensors"],
)
def test_what_stays(lines: tuple[str, ...]) -> None:
    graph = layered(*lines)
    check_pass(rows, graph)
    assert len(rows(graph).live()) == len(graph.live())
