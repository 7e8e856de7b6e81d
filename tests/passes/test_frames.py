"""Convolutions over time as convolutions of pictures: what each kind becomes, what stays, every attribute."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.ir.graph import Graph
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.ops import OPERATORS
from specc.passes.frames import frames
from specc.passes.registry import pipeline
from specc.targets import TARGETS
from specc.testing import check_pass


def video(x: str, weight: str, result: str, attrs: str = "", bias: str = "") -> Graph:
    lines = ["graph Net", f"input x: float32[{x}]", f"param w: float32[{weight}] normal(1)"]
    lines += [f"param b: float32[{bias}] normal(1)"] if bias else []
    operands = "x, @w, @b" if bias else "x, @w"
    lines += [f"%0: float32[{result}] = conv3d({operands}) {{{attrs}}}", "return %0"]
    graph = parse_graph("\n".join(lines) + "\n")
    graph.defaults = {name: extent for name, extent in zip("nthw", (2, 4, 3, 5)) if name in graph.symbols()}
    return graph


def left(graph: Graph) -> str:
    """The operators of the live nodes, in order, without views."""
    nodes = [graph.node(identity) for identity in graph.live()]
    return " ".join(node.op for node in nodes if "view" not in node.record.traits)


CASES = {
    "time alone is an axis of a picture": (
        video("2, 3, 4, 5, 6", "2, 3, 3, 1, 1", "2, 2, 4, 5, 6", "padding=(1, 0, 0, 1, 0, 0)", bias="2"),
        "conv2d",
    ),
    "time alone, strides and gaps": (
        video("1, 4, 9, 2, 3", "6, 2, 3, 1, 1", "1, 6, 3, 2, 3", "stride=(2, 1, 1); dilation=(2, 1, 1); groups=2"),
        "conv2d",
    ),
    "points": (video("1, 3, 4, 5, 6", "2, 3, 1, 1, 1", "1, 2, 4, 5, 6"), "conv2d"),
    "points that leave places out": (
        video("1, 3, 4, 5, 6", "2, 3, 1, 1, 1", "1, 2, 2, 3, 3", "stride=(2, 2, 2)"),
        "permute slice conv2d permute",
    ),
    "frames apart": (
        video("2, 3, 4, 5, 6", "2, 3, 1, 3, 3", "2, 2, 4, 5, 6", "padding=(0, 1, 1, 0, 1, 1)", bias="2"),
        "permute conv2d permute",
    ),
    "frames side by side": (
        video("2, 3, 4, 5, 6", "2, 3, 2, 3, 3", "2, 2, 3, 3, 4", bias="2"),
        "permute slice slice concat conv2d permute",
    ),
    "groups": (
        video("1, 4, 3, 4, 4", "6, 2, 2, 3, 3", "1, 6, 4, 2, 2", "padding=(1, 0, 0, 1, 0, 0); groups=2"),
        "pad permute slice slice concat conv2d permute",
    ),
    "depthwise": (
        video("1, 3, 4, 4, 4", "6, 1, 2, 3, 3", "1, 6, 3, 2, 2", "groups=3", bias="6"),
        "permute slice conv2d slice conv2d add permute",
    ),
    "extents that are not known": (
        video("n, 3, t, h, w", "2, 3, 3, 3, 3", "n, 2, t, h, w", "padding=(1, 1, 1, 1, 1, 1)", bias="2"),
        "pad permute slice slice slice concat conv2d permute",
    ),
    "time that is not known": (
        video("n, 3, t, h, w", "2, 3, 3, 1, 1", "n, 2, t - 2, h, w"),
        "conv2d",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_convolution_over_time_becomes(name: str) -> None:
    graph, operators = CASES[name]
    assert left(check_pass(frames, graph)) == operators


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_attribute(seed: int) -> None:
    (x, *weights), attrs = OPERATORS["conv3d"].example(random.Random(seed))
    graph = Graph("Net")
    operands = [graph.parameter(f"w{i}", type, "normal(1)") for i, type in enumerate(weights)]
    graph.outputs = [graph.apply("conv3d", [graph.input("x", x), *operands], attrs)]
    assert "conv3d" not in left(check_pass(frames, graph))


@pytest.mark.parametrize("target", ["x86-64-v4", "cuda:sm_90"])
def test_batch_norms_go_into_the_weights_and_moves_between_two_are_left_out(target: str) -> None:
    graph = Graph("Net")
    value = graph.input("x", TensorType((1, 3, 4, 6, 6)))
    for layer in range(2):
        weight = graph.parameter(f"w{layer}", TensorType((3, 3, 1, 3, 3)), "normal(1)")
        value = graph.apply("conv3d", [value, weight], {"padding": (0, 1, 1, 0, 1, 1)})
        keys = zip("mvgb", ("zeros", "ones") * 2)
        statistics = [graph.parameter(f"{key}{layer}", TensorType((3,)), init) for key, init in keys]
        value = graph.apply("relu", [graph.apply("batch_norm", [value, *statistics])])
    graph.outputs = [value]
    found = graph
    for each in pipeline(2, TARGETS[target])[:5]:
        found = each(found)
    assert left(found) == "permute conv2d relu conv2d permute relu"


def test_weights_that_depend_on_an_input_stay() -> None:
    graph = Graph("Net")
    x, weight = graph.input("x", TensorType((1, 3, 4, 4, 4))), graph.input("w", TensorType((3, 3, 2, 2, 2)))
    graph.outputs = [graph.apply("conv3d", [x, weight])]
    assert left(check_pass(frames, graph)) == "conv3d"
