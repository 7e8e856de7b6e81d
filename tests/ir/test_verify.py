"""The verifier: a sound graph passes, and every invariant that is broken once is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings

from specc.diagnostics import SpeccError
from specc.ir.dims import symbol
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.testing import graphs


def sound() -> Graph:
    """input 0, weight 1, convolution 2, relu 3, add 4, softmax 5, which nobody needs."""
    graph = Graph("Sound")
    x = graph.input("x", TensorType((symbol("n"), 4, 8, 8)))
    conv = graph.call("conv2d", [x], {"out": 4, "bias": False}, "c")
    graph.outputs = [graph.apply("add", [graph.apply("relu", [conv]), x])]
    graph.apply("softmax", [x])
    return graph


@given(graph=graphs())
@settings(max_examples=40, deadline=None)
def test_generated_graphs_are_sound(graph: Graph) -> None:
    verify(graph)


def cycle(graph: Graph) -> None:
    graph.set_operand(3, 0, Value(4))


def missing_result(graph: Graph) -> None:
    graph.set_operand(3, 0, Value(2, 1))


def missing_operand(graph: Graph) -> None:
    graph.structure.remove_edge(0, 2, 0)


def extra_operand(graph: Graph) -> None:
    graph.structure.add_edge(0, 3, key=1, result=0)


def missing_output(graph: Graph) -> None:
    graph.outputs.append(Value(99))


def missing_output_result(graph: Graph) -> None:
    graph.outputs.append(Value(4, 1))


def unknown_operator(graph: Graph) -> None:
    graph.update(3, op="relu7")


def bare_node(graph: Graph) -> None:
    graph.structure.add_node(7)


def wrong_type(graph: Graph) -> None:
    graph.update(3, types=(TensorType((1, 4, 8, 8)),))


def wrong_attribute(graph: Graph) -> None:
    graph.update(2, attrs={**graph.node(2).attrs, "stride": (0, 1)})


def attribute_not_normal(graph: Graph) -> None:
    graph.update(2, attrs={**graph.node(2).attrs, "stride": 1})


def unknown_attribute(graph: Graph) -> None:
    graph.update(3, attrs={"slope": 0.1})


def stray_dimension(graph: Graph) -> None:
    wide = TensorType((symbol("q"), 4, 1, 1))
    graph.parameter("wide", wide)


def two_inputs_of_one_name(graph: Graph) -> None:
    graph.input("x", TensorType((1,)))


def two_parameters_of_one_key(graph: Graph) -> None:
    graph.parameter("c.weight", TensorType((1,)))


def group_not_convex(graph: Graph) -> None:
    graph.outputs = [graph.apply("add", [graph.apply("neg", [Value(3)]), Value(3)])]
    graph.update(3, group=0)
    graph.update(graph.outputs[0].node, group=0)


def groups_in_a_cycle(graph: Graph) -> None:
    one = graph.apply("neg", [Value(3)])
    two = graph.apply("abs", [Value(3)])
    graph.outputs = [graph.apply("exp", [one]), graph.apply("tanh", [two])]
    for identity, group in ((one.node, 0), (graph.outputs[1].node, 0), (two.node, 1), (graph.outputs[0].node, 1)):
        graph.update(identity, group=group)


def frozen_in_a_group(graph: Graph) -> None:
    graph.update(1, group=0)


CASES: list[tuple[Callable[[Graph], None], str]] = [
    (cycle, "is part of a cycle"),
    (missing_result, "operand 0 is result 1 of node 2: there is none"),
    (missing_operand, "its operands are numbered [1]"),
    (extra_operand, "takes 1 operands"),
    (missing_output, "does not exist"),
    (missing_output_result, "does not exist"),
    (unknown_operator, "applies no known operator"),
    (bare_node, "applies no known operator"),
    (wrong_type, "follows as float32[n, 4, 8, 8]"),
    (wrong_attribute, "`stride` is at least 1"),
    (attribute_not_normal, "are not in normal form"),
    (unknown_attribute, "there is no argument `slope`"),
    (stray_dimension, "no input has the dimension q"),
    (two_inputs_of_one_name, "2 inputs are called `x`"),
    (two_parameters_of_one_key, "2 parameters are called `c.weight`"),
    (group_not_convex, "are not convex"),
    (groups_in_a_cycle, "are not convex"),
    (frozen_in_a_group, "runs with no inference"),
]


@pytest.mark.parametrize("spoil, words", CASES, ids=[case[0].__name__ for case in CASES])
def test_a_broken_invariant_is_named(spoil: Callable[[Graph], None], words: str) -> None:
    graph = sound()
    verify(graph)
    spoil(graph)
    with pytest.raises(SpeccError) as problem:
        verify(graph)
    assert {diagnostic.code for diagnostic in problem.value.diagnostics} == {"S0701"}
    assert any(words in diagnostic.message for diagnostic in problem.value.diagnostics), str(problem.value)


def test_several_broken_invariants_are_reported_at_once() -> None:
    graph = sound()
    wrong_type(graph)
    two_inputs_of_one_name(graph)
    with pytest.raises(SpeccError) as problem:
        verify(graph)
    assert len(problem.value.diagnostics) >= 2


def test_a_place_in_the_spec_is_pointed_at() -> None:
    from specc.diagnostics import Span

    graph = sound()
    span = Span("net.specc", 3, 5, 3, 9)
    graph.update(3, span=span, types=(replace(graph.node(3).types[0], dtype="float64"),))
    with pytest.raises(SpeccError) as problem:
        verify(graph)
    assert problem.value.diagnostics[0].labels[0].span == span
