"""Transposed convolutions as phases: what each kind becomes, what stays, and every attribute against PyTorch."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specc.ir.graph import Graph
from specc.ir.text import parse_graph
from specc.ir.types import TensorType
from specc.ops import OPERATORS
from specc.passes.phases import phases
from specc.passes.registry import pipeline
from specc.passes.rewrite import Journal
from specc.targets import TARGETS
from specc.testing import check_pass


def transposed(
    x: str, weight: str, result: str, attrs: str = "", bias: str = "", op: str = "conv_transpose2d"
) -> Graph:
    lines = ["graph Net", f"input x: float32[{x}]", f"param w: float32[{weight}] normal(1)"]
    lines += [f"param b: float32[{bias}] normal(1)"] if bias else []
    operands = "x, @w, @b" if bias else "x, @w"
    lines += [f"%0: float32[{result}] = {op}({operands}) {{{attrs}}}", "return %0"]
    graph = parse_graph("\n".join(lines) + "\n")
    graph.defaults = {name: extent for name, extent in zip("nhw", (2, 3, 5)) if name in graph.symbols()}
    return graph


def left(graph: Graph) -> str:
    """The operators of the live nodes, in order, without views."""
    nodes = [graph.node(identity) for identity in graph.live()]
    return " ".join(node.op for node in nodes if "view" not in node.record.traits)


def kernel(graph: Graph) -> tuple[object, ...]:
    """The shape of the weight of the one convolution."""
    (conv,) = (identity for identity in graph.live() if graph.node(identity).op in ("conv2d", "conv3d"))
    return graph.type(graph.operands(conv)[1]).shape


CASES: dict[str, tuple[Graph, str, tuple[int, ...]]] = {
    "kernels as large as the stride are points": (
        transposed("1, 3, 4, 5", "3, 2, 2, 2", "1, 2, 8, 10", "stride=(2, 2)", bias="2"),
        "conv2d permute",
        (8, 3, 1, 1),
    ),
    "a border that is cut off": (
        transposed("2, 3, 4, 5", "3, 2, 4, 4", "2, 2, 8, 10", "stride=(2, 2); padding=(1, 1, 1, 1)", bias="2"),
        "conv2d permute slice slice",
        (8, 3, 2, 2),
    ),
    "a kernel that the stride does not divide": (
        transposed(
            "1, 3, 4, 5",
            "3, 2, 3, 3",
            "1, 2, 8, 10",
            "stride=(2, 2); padding=(1, 1, 1, 1); output_padding=(1, 1)",
        ),
        "conv2d permute slice slice",
        (8, 3, 2, 2),
    ),
    "no stride: the kernel in reverse": (
        transposed("1, 3, 4, 5", "3, 2, 3, 3", "1, 2, 4, 5", "padding=(1, 1, 1, 1)"),
        "conv2d",
        (2, 3, 3, 3),
    ),
    "no stride: taps apart": (
        transposed("1, 3, 4, 5", "3, 2, 3, 3", "1, 2, 8, 9", "dilation=(2, 2)"),
        "conv2d",
        (2, 3, 3, 3),
    ),
    "groups": (
        transposed("1, 4, 3, 3", "4, 3, 2, 2", "1, 6, 6, 6", "stride=(2, 2); groups=2", bias="6"),
        "conv2d permute",
        (24, 2, 1, 1),
    ),
    "another stride on each axis": (
        transposed("1, 2, 3, 4", "2, 1, 3, 2", "1, 1, 9, 5", "stride=(3, 1)"),
        "conv2d permute",
        (3, 2, 1, 2),
    ),
    "a picture out of a vector": (
        transposed("2, 5, 1, 1", "5, 3, 4, 4", "2, 3, 4, 4", "stride=(1, 1)", bias="3"),
        "conv2d permute",
        (48, 5, 1, 1),
    ),
    "a sequence": (
        transposed("2, 3, 6", "3, 2, 4", "2, 2, 14", "stride=(2,)", "2", "conv_transpose1d"),
        "conv2d permute",
        (4, 3, 1, 2),
    ),
    "a stride and a dilation": (
        transposed("1, 3, 4, 5", "3, 2, 3, 3", "1, 2, 9, 11", "stride=(2, 2); dilation=(2, 2); padding=(1, 1, 1, 1)"),
        "conv2d permute slice slice",
        (8, 3, 3, 3),
    ),
    "a dilation that the stride divides keeps a part of it": (
        transposed(
            "1, 2, 4, 4", "2, 3, 2, 2", "1, 3, 14, 14", "stride=(3, 3); dilation=(6, 6); padding=(1, 1, 1, 1)", "3"
        ),
        "conv2d permute slice slice",
        (27, 2, 2, 2),
    ),
    "a stride that does not divide the dilation": (
        transposed("1, 2, 1, 6", "2, 3, 1, 3", "1, 3, 1, 17", "stride=(1, 2); dilation=(1, 3)", "3"),
        "conv2d permute slice",
        (6, 2, 1, 4),
    ),
    "a sequence with a stride and a dilation": (
        transposed("2, 3, 6", "3, 2, 2", "2, 2, 13", "stride=(2,); dilation=(2,)", "2", "conv_transpose1d"),
        "conv2d permute slice",
        (4, 3, 1, 2),
    ),
    "extents that are not known": (
        transposed("n, 3, h, w", "3, 2, 2, 2", "n, 2, 2*h, 2*w", "stride=(2, 2)", bias="2"),
        "conv2d permute",
        (8, 3, 1, 1),
    ),
    "extents that are not known, and a border": (
        transposed("n, 3, h, w", "3, 2, 4, 4", "n, 2, 2*h, 2*w", "stride=(2, 2); padding=(1, 1, 1, 1)"),
        "conv2d permute slice slice",
        (8, 3, 2, 2),
    ),
    "volumes": (
        transposed(
            "2, 3, 2, 4, 3",
            "3, 2, 4, 3, 2",
            "2, 2, 4, 8, 6",
            "stride=(2, 2, 2); padding=(1, 1, 0, 1, 1, 0); output_padding=(0, 1, 0)",
            bias="2",
            op="conv_transpose3d",
        ),
        "conv3d permute slice slice",
        (16, 3, 2, 2, 1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_transposed_convolution_becomes(name: str) -> None:
    graph, operators, weight = CASES[name]
    found = check_pass(phases, graph)
    assert left(found) == operators
    assert kernel(found) == weight


@pytest.mark.parametrize("target", ["x86-64-v4", "cuda:sm_90"])
def test_a_batch_norm_behind_the_shuffle_goes_into_the_weights(target: str) -> None:
    graph = Graph("Net")
    x = graph.input("x", TensorType((1, 3, 4, 4)))
    weight = graph.parameter("w", TensorType((3, 2, 2, 2)), "normal(1)")
    y = graph.apply("conv_transpose2d", [x, weight], {"stride": (2, 2)})
    statistics = [graph.parameter(key, TensorType((2,)), init) for key, init in zip("mvgb", ("zeros", "ones") * 2)]
    graph.outputs = [graph.apply("batch_norm", [y, *statistics])]
    found = graph
    for each in pipeline(2, TARGETS[target])[:4]:
        found = each(found)
    assert left(found) == "conv2d permute"


@given(seed=st.integers(0, 10**6), op=st.sampled_from(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")))
@settings(max_examples=60, deadline=None)
def test_every_attribute(seed: int, op: str) -> None:
    """Equal numbers; without a dilation never more taps for an element than the kernel has, with one a few times."""
    (x, *weights), attrs = OPERATORS[op].example(random.Random(seed))
    graph = Graph("Net")
    operands = [graph.parameter(f"w{i}", type, "normal(1)") for i, type in enumerate(weights)]
    graph.outputs = [graph.apply(op, [graph.input("x", x), *operands], attrs)]
    journal = Journal()
    found = check_pass(lambda each: phases(each, journal), graph)
    assert not journal.refused
    taps = (1, *weights[0].shape[2:])[-3 if op == "conv_transpose3d" else -2 :]
    more = 1 if set(attrs["dilation"]) == {1} else 4
    assert all(have <= more * most for have, most in zip(kernel(found)[2:], taps, strict=True))


def test_a_dilation_far_above_the_stride_stays() -> None:
    graph = transposed("1, 3, 1, 4", "3, 2, 1, 3", "1, 2, 1, 49", "stride=(1, 2); dilation=(1, 21)")
    journal = Journal()
    assert left(check_pass(lambda each: phases(each, journal), graph)) == "conv_transpose2d"
    assert {event.reason for event in journal.refused} == {
        "with a stride of 2, 3 taps so far apart would be 22 in each phase"
    }


def test_weights_that_depend_on_an_input_stay() -> None:
    graph = Graph("Net")
    x, weight = graph.input("x", TensorType((1, 3, 4, 4))), graph.input("w", TensorType((3, 2, 2, 2)))
    graph.outputs = [graph.apply("conv_transpose2d", [x, weight], {"stride": (2, 2)})]
    assert left(check_pass(phases, graph)) == "conv_transpose2d"
