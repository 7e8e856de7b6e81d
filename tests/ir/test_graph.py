"""The graph: its order, copies, changes, specialization, and what it says when asked for the impossible."""

from __future__ import annotations

import random

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.diagnostics import SpeccError
from specc.ir.dims import symbol
from specc.ir.graph import Graph, Value
from specc.ir.specialize import specialize
from specc.ir.text import parse_graph, print_graph
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.ops.record import Illegal
from specc.testing import graphs, renumbered

n, h, w = map(symbol, ("n", "h", "w"))
GENERATED = settings(max_examples=40, deadline=None)


def small() -> Graph:
    graph = Graph("Small", defaults={"n": 1, "h": 8, "w": 8})
    x = graph.input("image", TensorType((n, 3, h, w)))
    conv = graph.call("conv2d", [x], {"out": 4, "k": 3, "s": 2}, "stem.c")
    norm = graph.call("batch_norm", [conv], {}, "stem.bn")
    graph.outputs = [graph.apply("add", [graph.apply("relu", [norm]), conv])]
    return graph


@given(graph=graphs())
@GENERATED
def test_order_puts_operands_before_users(graph: Graph) -> None:
    order = graph.order()
    assert sorted(order) == sorted(graph.structure)
    place = {identity: position for position, identity in enumerate(order)}
    assert all(place[source] < place[user] for source, user in graph.structure.edges())
    assert order[: len(graph.inputs)] == graph.inputs


@given(graph=graphs(), seed=st.integers(0, 2**32 - 1))
@GENERATED
def test_order_depends_on_the_graph_alone(graph: Graph, seed: int) -> None:
    other = renumbered(graph, random.Random(seed))
    verify(other)
    assert [other.node(i) for i in other.order()] == [graph.node(i) for i in graph.order()]
    assert nx.is_isomorphic(nx.DiGraph(graph.structure), nx.DiGraph(other.structure))


@given(graph=graphs())
@GENERATED
def test_frozen_live_and_inputs_are_all(graph: Graph) -> None:
    frozen, live, inputs = graph.frozen(), graph.live(), graph.inputs
    assert sorted([*frozen, *live, *inputs]) == sorted(graph.structure)
    reached = set(inputs).union(*(nx.descendants(graph.structure, i) for i in inputs))
    assert set(live) == reached - set(inputs)


@given(graph=graphs())
@GENERATED
def test_prune_keeps_what_outputs_need(graph: Graph) -> None:
    pruned = graph.copy()
    pruned.prune()
    verify(pruned)
    needed = {v.node for v in graph.outputs}.union(*(nx.ancestors(graph.structure, v.node) for v in graph.outputs))
    assert set(pruned.structure) == needed | set(graph.inputs)
    assert pruned.outputs == graph.outputs


def test_a_copy_is_on_its_own() -> None:
    graph = small()
    before = print_graph(graph)
    copy = graph.copy()
    assert print_graph(copy) == before
    copy.outputs = [copy.apply("relu", copy.outputs)]
    copy.defaults["n"] = 7
    copy.update(copy.outputs[0].node, group=1)
    copy.set_operand(copy.outputs[0].node, 0, Value(copy.inputs[0]))
    copy.prune()
    assert print_graph(graph) == before
    assert print_graph(copy) != before


def test_replace_moves_every_use() -> None:
    graph = small()
    (result,) = graph.outputs
    relu, conv = graph.operands(result.node)
    assert graph.uses(conv) == 2 and graph.users(conv) == [(graph.operands(relu.node)[0].node, 0), (result.node, 1)]
    doubled = graph.apply("mul", [conv, graph.constant(2.0)])
    graph.replace(conv, doubled)
    assert graph.users(conv) == [(doubled.node, 0)]
    assert graph.operands(result.node) == (relu, doubled)
    graph.replace(result, relu)
    assert graph.outputs == [relu] and graph.uses(relu) == 2
    verify(graph)


def test_replace_by_a_user_of_itself_makes_no_cycle() -> None:
    graph = small()
    (result,) = graph.outputs
    graph.replace(result, graph.apply("neg", [result]))
    verify(graph)
    assert [graph.op(value) for value in graph.outputs] == ["neg"]


def test_parameters_and_checkpoint() -> None:
    graph = small()
    assert list(graph.parameters) == [
        "stem.c.weight",
        "stem.c.bias",
        "stem.bn.running_mean",
        "stem.bn.running_var",
        "stem.bn.weight",
        "stem.bn.bias",
    ]
    assert graph.checkpoint == {**graph.parameters, "stem.bn.num_batches_tracked": TensorType((), "int64")}


def test_a_wrong_call_adds_nothing() -> None:
    graph = small()
    nodes = len(graph)
    with pytest.raises(Illegal):
        graph.call("conv2d", [graph.outputs[0]], {"out": 3, "groups": 2}, "wrong")
    with pytest.raises(Illegal):
        graph.apply("softmax", [graph.outputs[0]], {"axis": 4})
    assert len(graph) == nodes


def test_a_cycle_has_no_order() -> None:
    graph = small()
    relu = graph.operands(graph.outputs[0].node)[0].node
    graph.set_operand(relu, 0, graph.outputs[0])
    with pytest.raises(ValueError, match="cycle"):
        graph.order()


def test_a_deep_graph_is_ordered_without_recursion() -> None:
    graph = Graph("Deep")
    value = graph.input("x", TensorType((1,)))
    for _ in range(5000):
        value = graph.apply("relu", [value])
    graph.outputs = [value]
    assert graph.order() == list(range(5001))


def test_infer_follows_a_changed_input() -> None:
    graph = small()
    (image,) = graph.inputs
    graph.update(image, attrs={"name": "image", "type": TensorType((2, 3, 9, 7))})
    graph.infer()
    assert graph.type(graph.outputs[0]).shape == (2, 4, 5, 4)
    graph.update(image, attrs={"name": "image", "type": TensorType((2, 5, 9, 7))})
    with pytest.raises(Illegal):
        graph.infer()


def test_specialize_fixes_every_dimension() -> None:
    graph = small()
    before = print_graph(graph)
    fixed = specialize(graph, {"h": 17})
    verify(fixed)
    assert fixed.type(fixed.outputs[0]).shape == (1, 4, 9, 4)
    assert not fixed.symbols() and not fixed.defaults
    assert print_graph(graph) == before
    assert print_graph(specialize(fixed)) == print_graph(fixed)


def test_specialize_binds_attributes() -> None:
    graph = Graph("Flat")
    x = graph.input("x", TensorType((n, 3, h, w)))
    graph.outputs = [graph.apply("reshape", [x], {"shape": (n, 3, h * w)})]
    fixed = specialize(graph, {"n": 2, "h": 3, "w": 5})
    assert fixed.node(fixed.outputs[0].node).attrs["shape"] == (2, 3, 15)
    verify(fixed)


@pytest.mark.parametrize(
    "shapes, code, words",
    [
        ({"hight": 3}, "S0703", "`Small` has no dimension `hight`; there are h, n, w"),
        ({"h": 0}, "S0703", "the dimension `h` is at least 1, not 0"),
    ],
)
def test_specialize_says_what_is_wrong(shapes: dict[str, int], code: str, words: str) -> None:
    with pytest.raises(SpeccError) as problem:
        specialize(small(), shapes)
    assert problem.value.diagnostics[0].code == code
    assert words in str(problem.value)


def test_specialize_asks_for_what_is_missing() -> None:
    graph = small()
    graph.defaults = {"n": 1}
    with pytest.raises(SpeccError, match=r"error\[S0703\].*`h`.*give --shapes h=...,w=..."):
        specialize(graph)


def test_specialize_refuses_extents_that_an_operator_cannot_take() -> None:
    text = "graph G\ninput x: float32[1, 2, h, 8]\n%0: float32[1, 2, h//2 - 1, 3] = max_pool2d(x) "
    graph = parse_graph(text + "{k=(4, 4); stride=(2, 2)}\nreturn %0\n")
    with pytest.raises(SpeccError, match=r"error\[S0301\].*`max_pool2d` does not take.*h = 3.*window of 4") as problem:
        specialize(graph, {"h": 3})
    assert len(problem.value.diagnostics) == 1


def test_extents_are_integers_of_any_kind() -> None:
    graph = Graph("Any")
    graph.outputs = [graph.input("x", TensorType((symbol("n"), 3)))]
    assert specialize(graph, {"n": np.int64(4)}).type(graph.outputs[0]) == TensorType((4, 3))  # type: ignore[dict-item]
    for wrong in (4.0, "4", None):
        with pytest.raises(SpeccError, match=r"S0703.*`n` is an integer"):
            specialize(graph, {"n": wrong})  # type: ignore[dict-item]
