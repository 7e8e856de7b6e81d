"""The relations catch what they are for: a pass with one mistake each is found out, and by the right relation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, find, given, settings

from specc import ops
from specc.ir.graph import Graph, Value
from specc.ir.text import print_graph
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.testing import check_pass, graphs, grow


def network() -> Graph:
    """A convolution, a batch norm and a sum; one dead node."""
    graph = Graph("Net")
    x = graph.input("x", TensorType((1, 3, 6, 6)))
    y = graph.input("y", TensorType((1, 3, 6, 6)))
    conv = graph.call("conv2d", [x], {"out": 3, "k": 3}, "conv")
    norm = graph.call("batch_norm", [conv], {}, "norm")
    graph.apply("neg", [x])
    graph.outputs = [graph.apply("sub", [graph.apply("add", [norm, x]), y]), norm]
    return graph


def changes_its_input(graph: Graph) -> Graph:
    graph.update(graph.live()[-1], group=0)
    return graph.copy()


def breaks_the_graph(graph: Graph) -> Graph:
    result = graph.copy()
    result.update(result.outputs[0].node, types=(TensorType((2,)),))
    return result


def drops_an_output(graph: Graph) -> Graph:
    result = graph.copy()
    result.outputs.pop()
    return result


def changes_a_shape(graph: Graph) -> Graph:
    result = graph.copy()
    result.outputs[0] = result.apply("flatten", [result.outputs[0]])
    return result


def renames_an_input(graph: Graph) -> Graph:
    result = graph.copy()
    node = result.node(result.inputs[0])
    result.update(result.inputs[0], attrs={**node.attrs, "name": "z"})
    return result


def invents_a_parameter(graph: Graph) -> Graph:
    result = graph.copy()
    one = result.parameter("one", TensorType(()), "ones")
    result.outputs[0] = result.apply("mul", [result.outputs[0], one])
    return result


def forgets_the_mean(graph: Graph) -> Graph:
    """Folds a batch norm as if its mean were 0: right for fresh statistics, and wrong."""
    result = graph.copy()
    for identity in [i for i in result.live() if result.op(Value(i)) == "batch_norm"]:
        x, mean, *rest = result.operands(identity)
        zero = result.apply("sub", [mean, mean])
        result.replace(Value(identity), result.apply("batch_norm", [x, zero, *rest], result.node(identity).attrs))
    return result


def adds_a_millionth(graph: Graph) -> Graph:
    """An error that a comparison in float32 would let pass."""
    result = graph.copy()
    result.outputs[0] = result.apply("add", [result.outputs[0], result.constant(1e-6)])
    return result


def swaps_operands(graph: Graph) -> Graph:
    result = graph.copy()
    for identity in result.live():
        if result.node(identity).op == "sub":
            a, b = result.operands(identity)
            result.set_operand(identity, 0, b)
            result.set_operand(identity, 1, a)
    return result


def grows_every_time(graph: Graph) -> Graph:
    result = graph.copy()
    result.outputs[0] = result.apply("neg", [result.apply("neg", [result.outputs[0]])])
    return result


def follows_the_numbers(graph: Graph) -> Graph:
    """Its result depends on how nodes are numbered."""
    result = graph.copy()
    last = max(result.live())
    result.update(last, path=f"node{last}")
    return result


CALLS = Counter[str]()


def follows_the_run(graph: Graph) -> Graph:
    result = graph.copy()
    CALLS["runs"] += 1
    result.update(result.outputs[0].node, path=f"run{CALLS['runs']}")
    return result


def rounds_a_dtype(graph: Graph) -> Graph:
    result = graph.copy()
    result.defaults = {}
    image = result.inputs[0]
    result.update(image, attrs={"name": "x", "type": TensorType((1, 3, 6, 6), "float64")})
    return result


CASES: list[tuple[Callable[[Graph], Graph], str]] = [
    (changes_its_input, "changed the graph that it was given"),
    (breaks_the_graph, "breaks an invariant"),
    (drops_an_output, "changes the outputs"),
    (changes_a_shape, "changes the outputs"),
    (renames_an_input, "changes the inputs"),
    (invents_a_parameter, "has no such parameters"),
    (forgets_the_mean, "output 0 differs"),
    (adds_a_millionth, "output 0 differs by 1e-06"),
    (swaps_operands, "output 0 differs"),
    (grows_every_time, "done twice"),
    (follows_the_numbers, "depends on the order"),
    (follows_the_run, "a second run"),
    (rounds_a_dtype, "breaks an invariant"),
]


@pytest.mark.parametrize("wrong, words", CASES, ids=[case[0].__name__ for case in CASES])
def test_a_mistake_is_caught(wrong: Callable[[Graph], Graph], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_pass(wrong, network())


def test_a_right_pass_passes() -> None:
    def prune(graph: Graph) -> Graph:
        result = graph.copy()
        result.prune()
        return result

    result = check_pass(prune, network())
    assert len(result) == len(network()) - 1


def test_a_mistake_shrinks_to_a_few_nodes() -> None:
    def fails(graph: Graph) -> bool:
        try:
            check_pass(forgets_the_mean, graph)
        except AssertionError:
            return True
        return False

    bounded = settings(max_examples=500, suppress_health_check=list(HealthCheck))
    smallest = find(graphs(), fails, settings=bounded, random=random.Random(1))
    assert smallest.count("batch_norm") == 1 and len(smallest.live()) <= 4, print_graph(smallest)


@given(graph=graphs(symbolic=True))
@settings(max_examples=40, deadline=None)
def test_generated_graphs_are_legal_and_small(graph: Graph) -> None:
    verify(graph)
    assert graph.outputs and 1 <= len(graph.inputs) <= 2


def test_every_operator_is_grown() -> None:
    grown = Counter[str]()
    shared = several = dead = 0
    shapes = [TensorType((1, 4, 7, 8)), TensorType((2, 3)), TensorType((1, 8, 5, 5)), TensorType((1, 4, 3, 4, 4))]
    for seed in range(400):
        graph = grow([seed * 1000 + step for step in range(12)], [shapes[seed % 4]], 1 + seed % 3)
        grown.update(graph.node(i).op for i in graph)
        shared += any(graph.uses(Value(i)) > 1 for i in graph if graph.node(i).op == "param")
        several += len(graph.outputs) > 1
        pruned = graph.copy()
        pruned.prune()
        dead += len(pruned) < len(graph)
    missing = set(ops.OPERATORS) - set(grown)
    assert not missing, f"never grown: {', '.join(sorted(missing))}"
    assert min(shared, several, dead) > 15


def test_growth_is_a_function_of_the_seeds() -> None:
    shape = [TensorType((1, 4, 7, 8))]
    assert print_graph(grow(range(9), shape)) == print_graph(grow(range(9), shape))
    assert print_graph(grow(range(9), shape)) != print_graph(grow(range(1, 10), shape))
