"""Graphs as specs: read again, a spec is the graph that it was written from."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import assume, given, settings

from specc import grammar
from specc.backends.torch import evaluate
from specc.compare import difference
from specc.diagnostics import SpeccError
from specc.grammar import write_graph
from specc.grammar.literals import abbreviated, literal
from specc.grammar.printer import print_expression
from specc.ir.body import Body
from specc.ir.dims import parse_dim, symbol
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.passes.registry import pipeline
from specc.targets import find
from specc.testing import graphs
from specc.weights import random_inputs, random_weights


def flat(graph: Graph) -> bool:
    """Whether no node of the graph runs a graph of its own: these have no flat form."""
    return not any(isinstance(value, Body) for i in graph.order() for value in graph.node(i).attrs.values())


def assert_same(graph: Graph, back: Graph) -> None:
    """The same parameters, and from the same numbers the same results."""
    assert dict(sorted(back.parameters.items())) == dict(sorted(graph.parameters.items()))
    weights, inputs = random_weights(graph), random_inputs(graph)
    for a, b in zip(evaluate(graph, weights, inputs), evaluate(back, weights, inputs), strict=True):
        assert difference(a, b) <= 1e-12


@settings(max_examples=80)
@given(graphs(symbolic=True))
def test_what_is_written_is_the_graph(graph: Graph) -> None:
    assume(flat(graph))
    text = write_graph(graph)
    assert_same(graph, grammar.loads(text))
    assert grammar.format_text(text) == text


@settings(max_examples=15)
@given(graphs())
def test_so_is_a_graph_that_passes_have_changed(graph: Graph) -> None:
    """Computed weights, shared ones, and blocked layouts, which a spec leaves out."""
    assume(flat(graph))
    for step in pipeline(2, find("x86-64-v3")):
        graph = step(graph)
    assert_same(graph, grammar.loads(write_graph(graph)))


def test_a_spec_is_written_as_it_reads() -> None:
    text = """\
graph N [n = 1, h = 8]
input image: float32[n, 3, h, h]
param layer1.0.conv.weight: float32[4, 3, 3, 3] kaiming
param layer1.0.conv.bias: float32[4] fan_in_bias
param scale: float32[4, 1, 1, 1] normal(0.5)
%0: float32[n, 4, (h + 1)//2, (h + 1)//2] = \
conv2d(image, @layer1.0.conv.weight, @layer1.0.conv.bias) {stride=(2, 2); padding=(1, 1, 1, 1)} in layer1.0.conv
%1: float32[] = constant() {value=0.5}
%2: float32[n, 4, (h + 1)//2, (h + 1)//2] = mul(%0, %1)
%3: float32[n, 4, (h + 1)//2, (h + 1)//2] = conv2d(%2, @scale) {groups=4}
%4: float32[n, 4] = mean(%3) {axes=(2, 3)}
return %4
"""
    assert (
        write_graph(parse_graph(text), "One of each.", checked=True)
        == '''\
specc 1
"""One of each."""

network N(image: [n = 1, 3, h = 8, h]) -> [n, 4]:
    layer1[0]["conv"] = conv2d(image, 4, k=3, s=2)
    mul_2 = layer1[0]["conv"] * 0.5
    param scale: [4, 1, 1, 1] init normal(0.5)
    conv2d_2 = conv2d(mul_2, 4, groups=4, bias=false, weight=scale)
    mean_2 = mean(conv2d_2, [2, 3])
    return mean_2

check N:
    params == 116
    macs == 1792
'''
    )


@pytest.mark.parametrize(
    "keys",
    [
        ["0.weight", "1.weight"],
        ["a-b.weight", "a_b.weight"],
        ["for.weight", "none.weight"],
        ["a.weight", "a.b.weight"],
        ["a", "a.b", "a.b.c"],
        ["x.weight", "n.weight"],
    ],
)
def test_names_that_the_language_cannot_say_are_renamed(keys: list[str]) -> None:
    graph = Graph("N", defaults={"n": 2})
    value = graph.input("x", TensorType((symbol("n"), 4, 3, 3)))
    for key in keys:
        weight = graph.parameter(key, TensorType((4, 4, 1, 1)), "kaiming")
        value = graph.apply("conv2d", [value, weight], path=key.rpartition(".")[0])
    graph.outputs = [value]
    back = grammar.loads(write_graph(graph))
    weights, inputs = random_weights(graph), random_inputs(graph)
    from specc.weights import in_memory, match

    found = match(back, in_memory(weights))
    assert len(found) == len(keys)
    (a,), (b,) = evaluate(graph, weights, inputs), evaluate(back, found, inputs)
    assert difference(a, b) <= 1e-12


def test_a_network_of_blocks_is_written_flat() -> None:
    graph = tiny.graph()
    assert_same(specialize(graph), grammar.loads(write_graph(specialize(graph))))
    assert_same(graph, grammar.loads(write_graph(graph)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("graph N [h = 2]\ninput x: float32[2*h]\nreturn x\n", "stands only inside other dimensions"),
        ("graph N\n%0: float32[] = constant() {value=1.0}\nreturn %0\n", "takes no tensor"),
    ],
)
def test_what_no_spec_can_say(text: str, reason: str) -> None:
    with pytest.raises(SpeccError, match="S0711") as problem:
        write_graph(parse_graph(text))
    assert reason in str(problem.value)


@pytest.mark.parametrize("text", ["h", "2*h + 1", "(h + 1)//2", "-h", "w - 3*h", "h*w//4", "h*((w + 3)//4)", "-1", "0"])
def test_dimensions(text: str) -> None:
    written = print_expression(literal(parse_dim(text)))
    assert parse_dim(written) == parse_dim(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-5"), (0.5, "0.5"), (-2.0, "-2.0"), (1e22, "1e22"), (None, "none"), ((1, 2), "[1, 2]"), ("a", '"a"')],
)
def test_literals(value: object, text: str) -> None:
    assert print_expression(literal(value)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (9999, "9999"), (11689512, "11.69M"), (2542856, "2.543M"), (10_000_000, "10.00M")]
)
def test_counts(value: int, text: str) -> None:
    assert abbreviated(value) == text
