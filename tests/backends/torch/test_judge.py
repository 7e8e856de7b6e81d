"""The judge: exact numbers, every intermediate value, frozen values, and what it says of wrong input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from specc.backends.torch import evaluate, freeze, intermediates
from specc.diagnostics import SpeccError
from specc.ir.dims import symbol
from specc.ir.graph import Graph, Value
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.testing import graphs
from specc.weights import random_inputs, random_weights


def folded() -> Graph:
    """A batch norm folded into the weights of a linear layer, as a pass would leave it."""
    return parse_graph(
        """\
graph Folded
input x: float32[n, 3]
param w: float32[2, 3] kaiming
param b: float32[2] zeros
param var: float32[2] ones buffer
%0: float32[] = constant() {value=1e-05}
%1: float32[2] = add(@var, %0)
%2: float32[2] = rsqrt(%1)
%3: float32[2, 1] = reshape(%2) {shape=(2, 1)}
%4: float32[2, 3] = mul(@w, %3)
%5: float32[n, 2] = linear(x, %4, @b) group 0
%6: float32[n, 2] = relu(%5) group 0
return %6, %2
"""
    )


WEIGHTS = {
    "w": np.array([[1, 2, 3], [-1, 0.5, 4]], np.float32),
    "b": np.array([0.25, -3], np.float32),
    "var": np.array([4, 0.3], np.float32),
}


def by_hand(x: Any) -> Any:
    scale = 1 / np.sqrt(WEIGHTS["var"].astype(float) + 1e-5)
    return np.maximum(x.astype(float) @ (WEIGHTS["w"].astype(float) * scale[:, None]).T + WEIGHTS["b"], 0), scale


def test_numbers_are_exact_in_float64() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for result, expected in zip(evaluate(folded(), WEIGHTS, {"x": x}), by_hand(x), strict=True):
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=1e-14, atol=1e-14)


def test_float32_is_float32() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    results = evaluate(folded(), WEIGHTS, {"x": x}, dtype="float32")
    assert all(result.dtype == np.float32 for result in results)
    np.testing.assert_allclose(results[0], by_hand(x)[0], rtol=1e-5, atol=1e-5)


def test_every_value_is_given_in_order() -> None:
    graph, x = folded(), np.ones((2, 3), np.float32)
    values = intermediates(graph, WEIGHTS, {"x": x})
    assert [value.node for value in values] == graph.order()
    np.testing.assert_array_equal(values[Value(graph.inputs[0])], x)
    for value, expected in zip(graph.outputs, evaluate(graph, WEIGHTS, {"x": x})):
        np.testing.assert_array_equal(values[value], expected)


def test_frozen_values_are_those_that_inference_takes() -> None:
    graph = folded()
    values = freeze(graph, WEIGHTS)
    assert [graph.op(value) for value in values] == ["mul", "param", "rsqrt"]
    mul, bias, rsqrt = values.values()
    scale = by_hand(np.ones((1, 3)))[1]
    assert mul.dtype == rsqrt.dtype == np.float32
    # computed in float64 and rounded once
    np.testing.assert_array_equal(rsqrt, scale.astype(np.float32))
    np.testing.assert_array_equal(mul, (WEIGHTS["w"] * scale[:, None]).astype(np.float32))
    assert bias is WEIGHTS["b"]


@given(graph=graphs())
@settings(max_examples=40, deadline=None)
def test_frozen_values_are_the_intermediate_ones(graph: Graph) -> None:
    weights = random_weights(graph)
    known = intermediates(graph, weights, random_inputs(graph))
    frozen = freeze(graph, weights)
    live = set(graph.live())
    taken = {o for i in live for o in graph.operands(i)} | set(graph.outputs)
    assert frozen.keys() == {value for value in taken if value.node in graph.frozen()}
    for value, array in frozen.items():
        assert array.dtype == graph.type(value).dtype and array.shape == graph.type(value).concrete
        np.testing.assert_array_equal(array, known[value].astype(array.dtype))


def test_a_number_stays_a_number() -> None:
    graph = Graph("Number")
    graph.outputs = [graph.apply("neg", [graph.input("x", TensorType(()))])]
    (result,) = evaluate(graph, {}, {"x": np.float32(2)})
    assert result.shape == () and result == -2


def test_layouts_and_groups_change_nothing() -> None:
    graph = Graph("Blocked")
    x = graph.input("x", TensorType((1, 3, 2, 2)))
    blocked = graph.apply("convert_layout", [x], {"layout": "NCHW16c"})
    graph.outputs = [graph.apply("convert_layout", [graph.apply("neg", [blocked])], {"layout": ""})]
    array = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    np.testing.assert_array_equal(evaluate(graph, {}, {"x": array})[0], -array)


@pytest.mark.parametrize(
    "weights, inputs, code, words",
    [
        ({**WEIGHTS, "wx": 1}, {}, "S0907", "the input `x` is not given"),
        (WEIGHTS, {"y": np.ones((1, 3))}, "S0907", "there is no input `y`"),
        (WEIGHTS, {"x": np.ones((1, 4))}, "S0907", "4 at dimension 1 for 3"),
        ({"w": WEIGHTS["w"], "b": WEIGHTS["b"], "vars": WEIGHTS["var"]}, None, "S0603", "did you mean `vars`?"),
        ({**WEIGHTS, "b": np.ones(3)}, None, "S0603", "the value for `b` is [3], and `Folded` takes [2]"),
    ],
)
def test_wrong_input_is_named(weights: Any, inputs: Any, code: str, words: str) -> None:
    with pytest.raises(SpeccError) as problem:
        evaluate(folded(), weights, {"x": np.ones((1, 3))} if inputs is None else inputs)
    assert problem.value.diagnostics[0].code == code and words in str(problem.value)


def test_a_dimension_that_no_input_gives_away_is_named() -> None:
    graph = Graph("Product")
    graph.outputs = [graph.input("x", TensorType((symbol("a") * symbol("b"),)))]
    with pytest.raises(SpeccError, match=r"S0703.*`a` of `Product` cannot be read off"):
        evaluate(graph, {}, {"x": np.ones(6)})
