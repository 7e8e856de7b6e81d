"""Strips: the first stages a few rows at a time, equal to the whole, and with less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

import specc
from specc import targets
from specc.backends import tvm as backend
from specc.backends.torch import freeze
from specc.ir.graph import Graph, Value
from specc.ir.liveness import peak
from specc.ir.specialize import specialize
from specc.ir.types import TensorType
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.passes.rewrite import Journal, Refused
from specc.passes.strips import split, stages, strips
from specc.testing import check_pass, graphs
from specc.weights import random_weights

EXAMPLES = Path(__file__).parents[2] / "examples"


def network(*calls: tuple[str, dict[str, object]], rows: int = 24, channels: int = 2) -> Graph:
    """A chain of calls on a picture, and a mean behind it."""
    graph = Graph("Net")
    value = graph.input("x", TensorType((1, channels, rows, 9)))
    for number, (op, arguments) in enumerate(calls):
        value = graph.call(op, [value], arguments, f"{op}{number}")
    graph.outputs = [graph.apply("mean", [value], {"axes": (2, 3), "keep": True})]
    return graph


CHAINS = {
    "padding": [("conv2d", {"out": 8, "k": 3, "p": 1})],
    "bias under padding": [("conv2d", {"out": 8}), ("conv2d", {"out": 8, "k": 5, "p": 2})],
    "stride": [("conv2d", {"out": 8, "k": 3, "s": 2, "p": 1}), ("conv2d", {"out": 4, "k": 2, "s": 2, "p": 0})],
    "dilation": [("conv2d", {"out": 8, "k": 3, "d": 3, "p": 3})],
    "groups": [("conv2d", {"out": 8}), ("conv2d", {"out": 8, "k": 3, "p": 1, "groups": 8})],
    "asymmetric padding": [("conv2d", {"out": 8, "k": (4, 2), "p": (0, 1, 3, 0)})],
    "batch norm": [("conv2d", {"out": 8, "k": 3, "p": 1}), ("batch_norm", {}), ("relu", {})],
    "max pool": [("conv2d", {"out": 8}), ("max_pool2d", {"k": 3, "s": 2, "p": 1})],
    "average pool": [("avg_pool2d", {"k": 3, "s": 2, "p": 1})],
    "average pool without padding": [("avg_pool2d", {"k": 3, "s": 1, "p": 1, "count_padding": False})],
}


def cut(number: int, count: int, at: int = 0) -> Callable[[Graph], Graph]:
    """A pass that splits stage `number` of those that hold node `at` of a graph."""

    def run(graph: Graph) -> Graph:
        try:
            return split(graph, stages(graph, graph.live()[at])[number], count)
        except Refused:
            return graph.copy()

    return run


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_strips_are_the_whole(name: str, count: int) -> None:
    graph = network(*CHAINS[name])
    assert len(stages(graph, graph.live()[0])) == len(CHAINS[name])
    for number in range(len(CHAINS[name])):
        made = check_pass(cut(number, count), graph, idempotent=False)
        assert made.count("concat") == 1
        assert len(made.live()) > len(graph.live()) + (count - 1) * (number + 1)


def test_branches_take_the_rows_that_each_needs() -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((1, 4, 12, 5)))
    a = graph.call("conv2d", [x], {"out": 4, "k": 5, "p": 2}, "a")
    b = graph.call("conv2d", [a], {"out": 4, "k": 3, "p": 1}, "b")
    table = graph.parameter("table", TensorType((4, 12, 1)))
    joint = graph.apply("concat", [graph.apply("add", [a, b]), graph.apply("mul", [x, table])], {"axis": 1})
    graph.outputs = [graph.apply("mean", [joint], {"axes": (2, 3), "keep": True})]
    found = stages(graph, a.node)
    assert [len(stage.nodes) for stage in found] == [1, 3, 5], "b alone leaves a to be read outside"
    for number in range(len(found)):
        check_pass(cut(number, 3), graph, idempotent=False)


@given(graph=graphs(max_steps=10))
@settings(max_examples=25, deadline=None)
def test_every_stage_of_a_grown_network_can_be_cut(graph: Graph) -> None:
    graph.prune()
    for number in range(len(stages(graph, graph.live()[0])) if graph.live() else 0):
        check_pass(cut(number, 2), graph, idempotent=False)


def test_what_has_too_few_rows_is_refused() -> None:
    graph = network(("conv2d", {"out": 8, "k": 3, "p": 1}), rows=3)
    (stage,) = stages(graph, graph.live()[0])
    with pytest.raises(Refused, match="it has 3 rows"):
        split(graph, stage, 4)
    padded = network(("conv2d", {"out": 8, "k": 1, "p": 2}), rows=4)
    (stage,) = stages(padded, padded.live()[0])
    with pytest.raises(Refused, match="rows 0 to 2 of `conv2d` see padding alone"):
        split(padded, stage, 4)


def test_the_journal_says_what_was_won_and_what_is_in_the_way() -> None:
    calls = [("conv2d", {"out": 32, "k": 3, "p": 1}), ("conv2d", {"out": 64}), ("conv2d", {"out": 2, "s": 2, "p": 0})]
    graph, journal = network(*calls, rows=64), Journal()
    cut = check_pass(lambda g: strips(g, 4, journal), graph)
    assert peak(cut)[0] < 0.4 * peak(graph)[0]
    assert journal.fired[0].path == "conv2d2"
    assert "held at one time become" in journal.fired[0].rule
    squeezed, journal = network(*calls[:2]), Journal()
    gate = graph.live()[-1]
    assert graph.node(gate).op == "mean"
    x = Value(squeezed.inputs[0])
    scaled = squeezed.apply("mul", [x, squeezed.apply("mean", [x], {"axes": (2, 3), "keep": True})])
    squeezed.outputs = [squeezed.call("conv2d", [squeezed.apply("gelu", [scaled])], {"out": 1, "k": 3}, "last")]
    squeezed.prune()
    assert len(strips(squeezed, 4, journal).live()) == len(squeezed.live())
    assert any("`mean` before it needs all rows for one" in str(event.reason) for event in journal.refused)


@pytest.mark.parametrize("name", ["digits:", pytest.param("cnn/mobilenetv2:w100", marks=pytest.mark.slow)])
def test_the_arena_falls(name: str) -> None:
    file, _, variant = name.partition(":")
    spec = specialize(specc.load(EXAMPLES / f"{file}.specc", variant=variant or None))
    machine = targets.find("x86-64-v4")
    arenas = []
    for count in (1, 4):
        graph, _ = run_passes(spec, pipeline(2, machine, count))
        arenas.append(backend.lower(graph, machine, freeze(graph, random_weights(spec))).arena)
    assert arenas[1] < 0.75 * arenas[0]
