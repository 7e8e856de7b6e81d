"""The memory of whole networks: never more than PyTorch's allocator would hold for the same network.

PyTorch's caching allocator is modelled from below: eager execution of the spec's graph, node after node, without the
inputs and the weights; a result takes its bytes, rounded up to 512 as the allocator rounds, from the node that makes it
until the last one that reads it or a view of it; outputs stay. What the real one holds is this at least: it keeps
blocks that it has split, and every operator's own buffers come on top. Against it stand the arena and the outputs.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import specc
from specc import targets
from specc.backends import tvm as backend
from specc.backends.torch import freeze
from specc.ir.graph import Graph, Value, specialize
from specc.ir.types import DTYPES, TensorType
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.weights import random_weights

EXAMPLES = Path(__file__).parents[3] / "examples"
ROUNDING = 512


def size(type: TensorType) -> int:
    return math.prod(type.concrete) * DTYPES[type.dtype]


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
    last |= {stored(value): len(live) for value in graph.outputs}
    held = peak = 0
    for identity in live:
        for result, type in enumerate(graph.node(identity).types):
            value = Value(identity, result)
            if stored(value) == value:
                last.setdefault(value, place[identity])
                held += -(-size(type) // ROUNDING) * ROUNDING
        peak = max(peak, held)
        gone = [value for value, end in last.items() if end == place[identity] and value.node in place]
        held -= sum(-(-size(graph.type(value)) // ROUNDING) * ROUNDING for value in gone)
    return peak


def test_the_model_of_eager_execution() -> None:
    """x -> a -> (view) -> b -> c, and a again at the end: a and two others live at once."""
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
    machine = targets.find("x86-64-v4")
    graph, _ = run_passes(spec, pipeline(2, machine))
    plan = backend.lower(graph, machine, freeze(graph, random_weights(spec))).plan
    outputs = sum(size(spec.type(value)) for value in spec.outputs)
    assert plan.least <= plan.arena
    assert plan.arena + outputs <= eager_peak(spec)
