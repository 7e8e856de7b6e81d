"""Layout: where conversions stand, and that no cheaper place is left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as joined
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specc
from specc.backends.torch import evaluate
from specc.ir.graph import Graph
from specc.ir.text import parse_graph, print_graph
from specc.ir.types import TensorType
from specc.passes.canonicalize import canonicalize
from specc.passes.layout import PREFERS_BLOCKS, PREFERS_ROWS, SLOWDOWN, arrange, how_it_works, layout, reads_plainly
from specc.passes.registry import Fusion, Layout
from specc.testing import check_pass, graphs
from specc.weights import random_weights


def layouts(graph: Graph) -> list[tuple[str, str]]:
    return [(graph.node(i).op, graph.node(i).types[0].layout) for i in graph.live()]


def chain(*lines: str, source: str = "float32[1, 32, 8, 8]") -> Graph:
    return parse_graph("\n".join(["graph Net", f"input x: {source}", *lines]))


def test_a_chain_of_convolutions_is_converted_once_each_way() -> None:
    graph = chain(
        "param a: float32[32, 32, 3, 3] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a) {padding=(1, 1, 1, 1)}",
        "%1: float32[1, 32, 8, 8] = gelu(%0)",
        "%2: float32[1, 32, 8, 8] = conv2d(%1, @b)",
        "%3: float32[1, 32, 8, 8] = add(%2, %0)",
        "return %3",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert layouts(layout(graph, 16)) == [
        ("convert_layout", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("gelu", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("add", "NCHW16c"),
        ("convert_layout", ""),
    ]


def test_the_first_convolution_reads_the_plain_image_and_converts_what_it_writes() -> None:
    graph = chain(
        "param a: float32[32, 3, 3, 3] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 6, 6] = conv2d(x, @a)",
        "%1: float32[1, 32, 6, 6] = relu(%0)",
        "%2: float32[1, 32, 6, 6] = conv2d(%1, @b)",
        "%3: float32[1, 32] = mean(%2) {axes=(2, 3)}",
        "return %3",
        source="float32[1, 3, 8, 8]",
    )
    assert layouts(layout(graph, 16)) == [
        ("conv2d", ""),
        ("convert_layout", "NCHW16c"),
        ("relu", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("mean", ""),  # [n, c] has one layout; the reduction reads the blocks
    ]


def test_what_grows_to_five_dimensions_stays_plain() -> None:
    graph = chain(
        "input y: float32[2, 1, 32, 8, 8]",
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[2, 1, 32, 8, 8] = add(%0, y)",
        "%2: float32[2, 1, 32, 8, 8] = softmax(%1) {axis=4}",
        "%3: float32[2, 1, 32, 8, 8] = matmul(%2, %1)",
        "return %3",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert layouts(layout(graph, 16))[-4:] == [("convert_layout", ""), ("add", ""), ("softmax", ""), ("matmul", "")]


def test_operators_that_name_a_dimension_work_in_whole_blocks() -> None:
    graph = chain(
        "param a: float32[16, 32, 1, 1] kaiming",
        "param b: float32[24, 24, 3, 3] kaiming",
        "%0: float32[1, 16, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 8, 8, 8] = slice(%0) {axis=1; start=8; stop=16}",
        "%2: float32[1, 24, 8, 8] = concat(%0, %1)",
        "%3: float32[1, 24, 8, 8] = conv2d(%2, @b) {padding=(1, 1, 1, 1)}",
        "%4: float32[1, 24, 8, 10] = pad(%3) {before=(0, 0, 0, 1); after=(0, 0, 0, 1)}",
        "%5: float32[1, 24, 8, 10] = softmax(%4) {axis=1}",
        "%6: float32[1, 24, 4, 5] = max_pool2d(%5) {k=(2, 2); stride=(2, 2)}",
        "%7: float32[1, 4, 5, 24] = permute(%6) {order=(0, 2, 3, 1)}",
        "return %7",
    )
    check_pass(lambda g: layout(g, 8), graph)
    expected = ["convert_layout", "conv2d", "slice", "concat", "conv2d", "pad", "softmax", "max_pool2d"]
    assert layouts(layout(graph, 8)) == [*((op, "NCHW8c") for op in expected), ("permute", "")]


def test_a_picture_is_resized_and_pooled_in_blocks() -> None:
    """What interpolates along height and width is the same for all channels: a decoder stays in blocks."""
    graph = chain(
        "param a: float32[16, 32, 1, 1] kaiming",
        "param b: float32[16, 16, 3, 3] kaiming",
        "%0: float32[1, 16, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 16, 16, 16] = resize(%0) {size=(16, 16)}",
        "%2: float32[1, 16, 14, 14] = conv2d(%1, @b)",
        "%3: float32[1, 16, 9, 14] = resize(%2) {size=(9, 14); mode='bicubic'}",
        "%4: float32[1, 16, 3, 4] = adaptive_avg_pool(%3) {size=(3, 4)}",
        "%5: float32[1, 16, 2, 2] = adaptive_max_pool(%4) {size=(2, 2)}",
        "return %5",
    )
    check_pass(lambda g: layout(g, 8), graph)
    ops = ["convert_layout", "conv2d", "resize", "conv2d", "resize", "adaptive_avg_pool", "adaptive_max_pool"]
    assert layouts(layout(graph, 8)) == [*((op, "NCHW8c") for op in ops), ("convert_layout", "")]


def test_a_cut_within_a_block_is_made_plainly() -> None:
    graph = chain(
        "param a: float32[16, 32, 1, 1] kaiming",
        "%0: float32[1, 16, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 12, 8, 8] = slice(%0) {axis=1; start=4; stop=16}",
        "%2: float32[1, 28, 8, 8] = concat(%1, %0)",
        "return %2",
    )
    check_pass(lambda g: layout(g, 8), graph)
    assert layouts(layout(graph, 8))[-2:] == [("slice", ""), ("concat", "")]


def test_a_mask_of_one_channel_lies_plainly_beside_blocks() -> None:
    """Spatial attention: the mean over channels reads blocks, and its result has no channels to be in blocks."""
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 1, 8, 8] = mean(%0) {axes=(1,); keep=True}",
        "%2: float32[1, 32, 8, 8] = mul(%0, %1)",
        "%3: float32[1, 32, 8, 8] = conv2d(%2, @a)",
        "return %3",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert layouts(layout(graph, 16)) == [
        ("convert_layout", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("mean", ""),
        ("mul", "NCHW16c"),
        ("conv2d", "NCHW16c"),
        ("convert_layout", ""),
    ]


def test_a_value_with_two_blocked_users_is_converted_once() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = permute(x) {order=(0, 1, 3, 2)}",
        "%1: float32[1, 32, 8, 8] = conv2d(%0, @a)",
        "%2: float32[1, 32, 8, 8] = conv2d(%0, @b)",
        "%3: float32[1, 32, 8, 8] = mul(%1, %2)",
        "return %3",
    )
    assert [op for op, _ in layouts(layout(graph, 16))].count("convert_layout") == 2


def test_an_elementwise_island_is_not_worth_a_conversion() -> None:
    graph = chain("%0: float32[1, 32, 8, 8] = relu(x)", "%1: float32[1, 32, 8, 8] = tanh(%0)", "return %1")
    assert print_graph(layout(graph, 16)) == print_graph(graph)


def test_an_elementwise_chain_between_convolutions_stays_in_blocks() -> None:
    """The plain operand of the sum is converted, rather than the result of the convolution and the sum."""
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "param b: float32[32, 32, 1, 1] kaiming",
        "param position: float32[1, 32, 8, 8] zeros",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 32, 8, 8] = add(%0, @position)",
        "%2: float32[1, 32, 8, 8] = conv2d(%1, @b)",
        "return %2",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert ("add", "NCHW16c") in layouts(layout(graph, 16))


def test_every_operand_of_a_concat_is_read_plainly() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 64, 8, 8] = concat(x, %0)",
        "return %1",
    )
    check_pass(lambda g: layout(g, 16), graph)


def test_a_kernel_that_depends_on_the_input_is_read_plainly() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[1, 32, 8, 8] = conv2d(x, @a)",
        "%1: float32[1, 1, 1, 1] = conv2d(x, %0)",
        "return %1",
    )
    check_pass(lambda g: layout(g, 16), graph)
    assert layouts(layout(graph, 16))[-2:] == [("conv2d", "NCHW16c"), ("convert_layout", "")]


def test_a_blocked_mean_is_converted_for_a_plain_reader() -> None:
    graph = chain(
        "param a: float32[1, 8, 1, 1] kaiming",
        "%0: float32[1, 1, 1, 4] = conv2d(x, @a) {padding=(0, 1, 0, 2)}",
        "%1: float32[1, 1, 1, 1] = mean(%0) {axes=(2, 3); keep=True}",
        "%2: float32[1, 1, 1, 4] = sub(%0, %1)",
        "return %2",
        source="float32[1, 8, 1, 1]",
    )
    check_pass(lambda g: layout(g, 16), graph)


# ---- no cheaper place


def cost(graph: Graph, block: int) -> int:
    """What an arrangement costs: the bytes that conversions move, and what kernels lose in the layout they got."""
    total = 0
    frozen = graph.frozen()
    for identity in graph.live():
        node, (source, *_) = graph.node(identity), graph.operands(identity)
        size = 4 * int(np.prod(graph.type(source).concrete))
        if node.op == "convert_layout":
            total += 0 if source.node in frozen or reads_plainly(graph, source.node, block) else size
        elif node.op in PREFERS_BLOCKS and not graph.type(source).layout and not reads_plainly(graph, identity, block):
            total += SLOWDOWN * size
        elif node.op in PREFERS_ROWS and graph.type(source).layout:
            total += size
    return total


def arrangements(graph: Graph, block: int) -> Iterator[set[int]]:
    """Every set of nodes that could work in blocks."""
    able = [identity for identity in graph.live() if how_it_works(graph, identity, block) == "blocked"]
    for chosen in joined.from_iterable(combinations(able, count) for count in range(len(able) + 1)):
        yield set(chosen)


@st.composite
def pictures(draw: st.DrawFn) -> Graph:
    """Small networks over pictures of 8 or 16 channels, with the operators that layouts are about, used twice."""
    graph = Graph("Pictures")
    values = [graph.input("x", TensorType((1, draw(st.sampled_from((3, 8, 16))), 4, 4)))]
    for number in range(draw(st.integers(2, 7))):
        x = draw(st.sampled_from(values[-3:]))
        shape = graph.type(x).concrete
        c = shape[1]
        kind = draw(
            st.sampled_from(
                ("conv", "conv", "relu", "add", "concat", "slice", "odd", "softmax", "turn", "mask", "table")
            )
        )
        if kind == "conv":
            out = draw(st.sampled_from((8, 16)))
            values.append(graph.call("conv2d", [x], {"out": out, "bias": False}, f"c{number}"))
        elif kind == "relu":
            values.append(graph.apply("relu", [x]))
        elif kind == "add":
            same = [v for v in values if graph.type(v).shape == shape]
            values.append(graph.apply("add", [x, draw(st.sampled_from(same))]))
        elif kind == "concat":
            values.append(graph.apply("concat", [x, draw(st.sampled_from(values))]))
        elif kind == "slice":
            values.append(graph.apply("slice", [x], {"axis": 1, "start": 8 if c > 8 else 0, "stop": c}))
        elif kind == "odd":
            values.append(graph.apply("slice", [x], {"axis": 1, "start": 1, "stop": c}))
        elif kind == "softmax":
            values.append(graph.apply("softmax", [x], {"axis": 1}))
        elif kind == "turn":
            values.append(graph.apply("permute", [x], {"order": (0, 1, 3, 2)}))
        elif kind == "mask":
            mask = graph.apply("mean", [x], {"axes": (1,), "keep": True})
            values.append(graph.apply("mul", [x, mask]))
        else:
            table = graph.parameter(f"t{number}", TensorType(shape), "normal(1)")
            values.append(graph.apply("add", [x, table]))
    unused = [value for value in values if not graph.uses(value)]
    graph.outputs = [*unused, *draw(st.lists(st.sampled_from(values), max_size=1))]
    return graph


@given(graph=pictures())
@settings(max_examples=60, deadline=None)
def test_no_assignment_is_cheaper(graph: Graph) -> None:
    """Against every assignment, by brute force: one that leaves out a conversion, or makes one elsewhere."""
    chosen = check_pass(lambda g: layout(g, 8), graph)
    able = sum(how_it_works(graph, identity, 8) == "blocked" for identity in graph.live())
    if able > 9:
        return
    best = min(cost(arrange(graph, blocked, 8), 8) for blocked in arrangements(graph, 8))
    assert cost(chosen, 8) == best


@given(graph=pictures())
@settings(max_examples=40, deadline=None)
def test_what_lies_in_blocks_can_be_canonicalized(graph: Graph) -> None:
    turned = graph.copy()
    turns = [turned.apply("permute", [value], {"order": (0, 2, 3, 1)}) for value in graph.outputs]
    turned.outputs = [*turns, *(turned.apply("amax", [value], {"axes": (1, 2)}) for value in turns)]
    turned.outputs += [turned.apply("flatten", [value]) for value in turns]
    check_pass(canonicalize, layout(turned, 8))


@pytest.mark.parametrize("seed", range(4))
def test_what_works_in_blocks_compiles(seed: int) -> None:
    """Kernels over blocks of 8 channels against the reference, for networks of the operators that name dimensions."""
    graph = Graph("Blocks")
    x = graph.input("x", TensorType((2, 16, 5, 6)))
    value = graph.call("conv2d", [x], {"out": 24, "k": 3}, "a")
    part = graph.apply("slice", [value], {"axis": 1, "start": 8, "stop": 19 + seed})
    value = graph.apply("concat", [value, part])
    if seed % 2:
        value = graph.apply(
            "concat", [value, graph.apply("slice", [value], {"axis": 2, "start": 1, "stop": 4})], {"axis": 2}
        )
    value = graph.apply("pad", [value], {"before": (0, 0, 1, 0), "after": (1, 0, 0, 2), "value": 0.5})
    if seed < 2:
        value = graph.apply("softmax", [value], {"axis": 1})
    mask = graph.apply("amax", [value], {"axes": (1,), "keep": True})
    value = graph.call("conv2d", [graph.apply("mul", [value, mask])], {"out": 9}, "b")
    graph.outputs = [
        graph.apply("permute", [value], {"order": (2, 3, 0, 1)}),
        graph.apply("sum", [value], {"axes": (0, 1)}),
    ]
    artifact = specc.compile(graph, passes=(Layout(8), Fusion()))
    assert max(artifact.self_test()) < 1e-5


@pytest.mark.parametrize(
    "op, attrs",
    [
        ("resize", {"size": (10, 12)}),
        ("resize", {"size": (4, 9)}),
        ("resize", {"size": (7, 13), "mode": "bilinear", "align_corners": True}),
        ("resize", {"size": (8, 8), "mode": "bicubic"}),
        ("adaptive_avg_pool", {"size": (3, 4)}),
        ("adaptive_max_pool", {"size": (3, 2)}),
    ],
)
def test_a_picture_of_another_extent_is_made_in_blocks(op: str, attrs: dict[str, Any]) -> None:
    """With what follows, in one kernel; the last block is half full."""
    graph = Graph("Resized")
    x = graph.input("x", TensorType((2, 12, 5, 6)))
    value = graph.call("conv2d", [x], {"out": 12, "k": 3}, "a")
    value = graph.apply(op, [value], attrs)
    graph.outputs = [graph.call("conv2d", [graph.apply("silu", [value])], {"out": 9}, "b")]
    artifact = specc.compile(graph, passes=(Layout(8), Fusion()))
    assert any(row["kernel"].startswith(f"{op}_silu_") for row in artifact.manifest.sizes[0].facts["kernels"])
    assert max(artifact.self_test()) < 1e-5


# ---- dimensions without a value


@given(graph=graphs(symbolic=True))
@settings(max_examples=30, deadline=None)
def test_a_symbolic_graph_is_laid_out_and_fused(graph: Graph) -> None:
    def run(graph: Graph) -> Graph:
        return Fusion()(Layout(8)(graph))

    check_pass(run, graph, idempotent=False)


def test_a_symbolic_batch_lies_in_blocks_all_the_same() -> None:
    graph = chain(
        "param a: float32[32, 32, 1, 1] kaiming",
        "%0: float32[n, 32, h, 8] = conv2d(x, @a)",
        "%1: float32[n, 32, h, 8] = relu(%0)",
        "%2: float32[n, 32, h, 8] = conv2d(%1, @a)",
        "return %2",
        source="float32[n, 32, h, 8]",
    )
    after = layout(graph, 16)
    assert [op for op, name in layouts(after) if name] == ["convert_layout", "conv2d", "relu", "conv2d"]
    inputs = {"x": np.ones((3, 32, 5, 8))}
    weights = random_weights(graph)
    assert np.array_equal(evaluate(after, weights, inputs)[0], evaluate(graph, weights, inputs)[0])
