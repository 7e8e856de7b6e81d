"""Several forms of a network: each gives what it gives alone, and what they have in common is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from specc.backends.torch import Shared, evaluate, freeze, side_by_side
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.passes.halve import HALVING, halve
from specc.testing import graphs
from specc.weights import random_inputs, random_weights


def chain() -> Graph:
    """Four linear layers with a residual sum around the two in the middle."""
    graph = Graph("Chain")
    first = graph.call("linear", [graph.input("x", TensorType((64, 64)))], {"out": 64}, "first")
    inner = graph.apply("relu", [graph.call("linear", [first], {"out": 64}, "second")])
    third = graph.call("linear", [inner], {"out": 64}, "third")
    graph.outputs = [graph.call("linear", [graph.apply("add", [third, first])], {"out": 8}, "last")]
    graph.outputs.append(first)
    return graph


@given(graph=graphs())
@settings(max_examples=30, deadline=None)
def test_a_form_gives_what_its_graph_gives(graph: Graph) -> None:
    weights, inputs = random_weights(graph), random_inputs(graph)
    form = Shared(weights, "float64").form(graph)
    for found, expected in zip(form.outputs(inputs), evaluate(graph, weights, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # what is frozen is rounded to float32


def test_a_run_begins_where_forms_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one layer rounded, all that stands in front of it is taken from the run of the other form."""
    graph = chain()
    weights, inputs = random_weights(graph), random_inputs(graph)
    shared = Shared(weights)
    real = shared.form(graph)
    values = {real.key(value): value for value in real.values()}
    whole = dict(real.observe(inputs, set(values.values())))
    known = {real.key(value): array for value, array in whole.items()}
    second, third = HALVING.candidates(graph)[1:3]
    for layer, paths in ((second, ["first"]), (third, ["", "first"])):
        form = shared.form(halve(graph, "bfloat16", [layer]))
        border = form.border(values)
        assert sorted(form.graph.node(value.node).path for value in border) == paths
        needed = {form.key(value): known[form.key(value)] for value in border}
        for found, expected in zip(form.outputs(inputs, needed), form.outputs(inputs), strict=True):
            np.testing.assert_array_equal(found, expected)
        computed: list[str] = []
        monkeypatch.setattr("specc.backends.torch.judge._step", _noting(computed))
        form.outputs(inputs, needed)
        monkeypatch.undo()
        assert computed.count("linear") == (3 if layer == second else 2)


def _noting(computed: list[str]) -> Any:
    from specc.backends.torch import judge

    step = judge._step

    def noted(graph: Graph, identity: int, operands: list[Any], half_sums: bool) -> Any:
        computed.append(graph.node(identity).op)
        return step(graph, identity, operands, half_sums)

    return noted


def test_what_is_frozen_alike_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    weights = random_weights(graph)
    asked: list[int] = []

    def counted(graph: Graph, weights: Any, values: Any = None) -> Any:
        asked.append(len(values))
        return freeze(graph, weights, values)

    monkeypatch.setattr("specc.backends.torch.shared.freeze", counted)
    shared = Shared(weights)
    layers = HALVING.candidates(graph)
    shared.form(graph)
    shared.form(halve(graph, "bfloat16", layers))
    alone = shared.form(halve(graph, "bfloat16", layers[:1]))
    assert asked == [8, len(layers), 0], "four weights and biases, then the rounded weights, then nothing new"
    rounded = alone.frozen[alone.graph.operands(layers[0])[1]]
    expected = freeze(alone.graph, weights)[Value(alone.graph.operands(layers[0])[1].node)]
    np.testing.assert_array_equal(rounded.numpy(), expected)


def test_runs_side_by_side_keep_their_order_and_give_threads_back() -> None:
    before = torch.get_num_threads()
    graph = chain()
    form = Shared(random_weights(graph)).form(graph)
    many = [random_inputs(graph, seed) for seed in range(5)]
    for found, inputs in zip(side_by_side(form.outputs, many), many, strict=True):
        for one, other in zip(found, form.outputs(inputs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda number: 1 // number, [1, 0, 1]))
    assert torch.get_num_threads() == before
    assert list(side_by_side(str, [])) == []
