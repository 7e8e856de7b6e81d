"""The memory of a plan: never more than PyTorch's allocator would hold for the same network.

PyTorch's caching allocator is modelled from below: eager execution of a graph, node after node in its order, without
inputs and weights; a result takes its bytes, rounded up to 512 as the allocator rounds, from the node that makes it
until the last one that reads it or a view of it. What the real one holds is this at least: it keeps blocks that it has
split, and every operator's own buffers come on top. Against it stands the arena. The outputs count on neither side:
they are the caller's memory here, given before the run, and PyTorch makes them during it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

import specc
from specc import grammar, targets, zoo
from specc.backends import tvm as backend
from specc.backends.torch import freeze
from specc.backends.tvm.memory import Plan
from specc.ir.graph import Graph, Value
from specc.ir.placement import size
from specc.ir.specialize import specialize
from specc.ir.types import TensorType
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.testing import graphs
from specc.weights import random_weights

EXAMPLES = Path(__file__).parents[3] / "examples"
ROUNDING = 512


def eager_peak(graph: Graph) -> int:
    """The most bytes that the results of nodes hold at one time, see the head of the module."""
    live = graph.live()
    place = {identity: position for position, identity in enumerate(live)}

    def stored(value: Value) -> Value:
        """The value whose bytes a view shows."""
        while value.node in place and "view" in graph.node(value.node).record.traits:
            value = graph.operands(value.node)[0]
        return value

    last: dict[Value, int] = {}
    for identity in live:
        last |= {stored(operand): place[identity] for operand in graph.operands(identity)}
    outputs = {stored(value) for value in graph.outputs}
    held = peak = 0
    for identity in live:
        for result, type in enumerate(graph.node(identity).types):
            value = Value(identity, result)
            if stored(value) == value and value not in outputs:
                last.setdefault(value, place[identity])
                held += -(-size(type) // ROUNDING) * ROUNDING
        peak = max(peak, held)
        gone = [v for v, end in last.items() if end == place[identity] and v.node in place and v not in outputs]
        held -= sum(-(-size(graph.type(value)) // ROUNDING) * ROUNDING for value in gone)
    return peak


def test_the_model_of_eager_execution() -> None:
    """x -> a -> (view) -> b -> c, and a again at the end: a and two others live at once; an output is none of them."""
    graph = Graph("Eager")
    x = graph.input("x", TensorType((4, 32)))
    a = graph.apply("relu", [x])
    b = graph.apply("tanh", [graph.apply("reshape", [a], {"shape": (128,)})])
    c = graph.apply("reshape", [graph.apply("exp", [b])], {"shape": (4, 32)})
    graph.outputs = [graph.apply("add", [a, c])]
    assert eager_peak(graph) == 3 * 512
    graph.outputs = [c]
    graph.prune()
    assert eager_peak(graph) == 2 * 512
    graph.outputs.append(b)
    assert eager_peak(graph) == 512


def compiled(graph: Graph, level: int, target: str) -> tuple[Graph, Plan]:
    """The graph after the passes of a level, and its plan."""
    machine = targets.find(target)
    optimized, _ = run_passes(graph, pipeline(level, machine))
    optimized.prune()
    return optimized, backend.lower(optimized, machine, freeze(optimized, random_weights(graph))).sizes[0].plan


@pytest.mark.parametrize("level", [0, 1, 2])
@given(graph=graphs(max_steps=12))
@settings(max_examples=30, deadline=None)
def test_a_plan_needs_no_more_memory_than_eager_execution(graph: Graph, level: int) -> None:
    """Of the graph that the kernels compute: blocks of channels are larger than the channels, for PyTorch too."""
    optimized, plan = compiled(graph, level, "x86-64-v3")
    assert plan.least <= plan.arena <= eager_peak(optimized)


def small(entry: zoo.Entry) -> Graph:
    """The small network of an entry of the zoo's index."""
    chosen = entry.small.get("variant") or next(iter(entry.variants))
    if "arguments" in entry.small:
        network = next(offer.network for offer in grammar.offers(entry.path))
        text = entry.path.read_text(encoding="utf-8")
        text += f"\nvariants {network}:\n    of_the_index: {entry.small['arguments']}\n"
        graph = grammar.loads(text, variant="of_the_index", file=entry.file, directory=entry.path.parent)
    else:
        graph = specc.load(entry.path, variant=chosen)
    return specialize(graph, entry.small.get("shapes"))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.entries())
def test_every_family_needs_no_more_memory_than_eager_execution(name: str) -> None:
    optimized, plan = compiled(small(zoo.entries()[name]), 2, "x86-64-v4")
    assert plan.least <= plan.arena <= eager_peak(optimized)


@pytest.mark.parametrize(
    "name",
    [
        "digits:",
        "cnn/mobilenetv3:small_100",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("reparam/repvit:m0_9", "cnn/resnet:resnet18", "cnn/mobilenetv2:w100", "cnn/efficientnet:b0")
        ),
    ],
)
def test_a_network_needs_no_more_memory_than_in_pytorch(name: str) -> None:
    file, _, variant = name.partition(":")
    spec = specialize(specc.load(EXAMPLES / f"{file}.specc", variant=variant or None))
    spec.prune()
    _, plan = compiled(spec, 2, "x86-64-v4")
    assert plan.least <= plan.arena <= eager_peak(spec)
