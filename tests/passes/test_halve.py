"""Numbers of 16 bits: what is rounded, where, and who reads it."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from specc.backends.torch import evaluate, freeze
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.passes import narrow
from specc.passes.fusion import fuse
from specc.passes.halve import HALVING, halve, pictures
from specc.passes.layout import layout
from specc.passes.rewrite import Journal
from specc.testing import check_pass, graphs
from specc.weights import random_inputs, random_weights

BF16 = partial(halve, dtype="bfloat16")


def residual(blocks: int = 3) -> Graph:
    """Two convolutions and the sum of what they read and make, three times or more, then a classifier."""
    graph = Graph("Residual")
    x = graph.input("x", TensorType((1, 16, 12, 12)))
    for block in range(blocks):
        y = graph.apply("relu", [graph.call("conv2d", [x], {"out": 16, "k": 3}, f"{block}.a")])
        y = graph.call("conv2d", [y], {"out": 16, "k": 3}, f"{block}.b")
        x = graph.apply("relu", [graph.apply("add", [x, y])])
    pooled = graph.apply("mean", [x], {"axes": (2, 3)})
    graph.outputs = [graph.call("linear", [pooled], {"out": 10}, "head")]
    return graph


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 0.002)])
def test_a_pass_like_others_but_for_its_error(dtype: str, tolerance: float) -> None:
    graph = residual()
    result = check_pass(partial(halve, dtype=dtype), graph, tolerance=tolerance)
    layers = [i for i in result.live() if result.node(i).op == "conv2d"]
    assert len(layers) == 6
    for layer in layers:
        assert [result.type(o).dtype for o in result.operands(layer)] == [dtype, dtype, "float32"]
        assert result.type(Value(layer)).dtype == "float32"
    weights, inputs = random_weights(graph), random_inputs(graph)
    apart = np.abs(evaluate(result, weights, inputs)[0] - evaluate(graph, weights, inputs)[0]).max()
    assert apart > tolerance / 1000, "it rounds"


@given(graph=graphs())
@settings(max_examples=40, deadline=None)
def test_any_network(graph: Graph) -> None:
    """Also the smallest layers. A sum may cancel, so its error is bounded loosely; every other relation holds."""
    before = narrow.SMALL_MACS
    narrow.SMALL_MACS = 0
    try:
        check_pass(BF16, graph, tolerance=0.25)
    finally:
        narrow.SMALL_MACS = before


def test_a_network_deeper_than_calls_may_nest() -> None:
    result = halve(residual(sys.getrecursionlimit() // 4), dtype="bfloat16")
    assert all(
        result.type(o).dtype == "bfloat16"
        for i in result.live()
        if result.node(i).op == "conv2d"
        for o in result.operands(i)[:2]
    )


def test_moves_deeper_than_calls_may_nest() -> None:
    """A value that is moved on and on before a layer is rounded before the first move."""
    graph = Graph("Moved")
    x = graph.input("x", TensorType((1, 64, 32, 32)))
    moved = graph.apply("relu", [x])
    for _ in range(sys.getrecursionlimit() + 100):
        moved = graph.apply("permute", [moved], {"order": (0, 1, 3, 2)})
    graph.outputs = [graph.call("conv2d", [moved], {"out": 64, "k": 3}, "a")]
    result = halve(graph, dtype="bfloat16")
    kinds = {(node.op, node.types[0].dtype) for node in map(result.node, result.live())}
    assert kinds == {("relu", "float32"), ("cast", "bfloat16"), ("permute", "bfloat16"), ("conv2d", "float32")}


def test_what_a_layer_reads_is_stored_in_16_bits() -> None:
    """Behind fusion, every kernel but those at the ends reads and writes 16 bits, and none of them only rounds."""
    graph = fuse(layout(BF16(residual()), 16))
    verify(graph)
    stored = [
        graph.type(Value(identity)).dtype
        for identity in graph.live()
        if any(graph.node(user).group != graph.node(identity).group for user, _ in graph.users(Value(identity)))
    ]
    assert stored.count("bfloat16") == 6 and stored.count("float32") == 2  # the input in blocks, and that of the mean
    groups = [graph.node(i).group for i in graph.live()]
    alone = [i for i in graph.live() if graph.node(i).op == "cast" and groups.count(graph.node(i).group) == 1]
    assert [graph.op(graph.operands(i)[0]) for i in alone] == ["convert_layout"], "of the network's input"


def test_weights_are_rounded_to_the_nearest() -> None:
    graph = Graph("One")
    x = graph.input("x", TensorType((1, 16, 24, 24)))
    graph.outputs = [graph.call("conv2d", [x], {"out": 32}, "layer")]
    weights = random_weights(graph)
    result = BF16(graph)
    (layer,) = [i for i in result.live() if result.node(i).op == "conv2d"]
    found = freeze(result, weights)[result.operands(layer)[1]]
    error = np.abs(found - weights["layer.weight"]) / np.abs(weights["layer.weight"])
    assert found.dtype == np.float32 and 0 < error.max() <= 2**-8
    assert not (found.view(np.uint32) & 0xFFFF).any()


def test_rounding_goes_before_what_moves_elements() -> None:
    """q, k and v are slices of one product: its kernel rounds it."""
    graph = Graph("Attention")
    x = graph.input("x", TensorType((1, 128, 96)))
    qkv = graph.call("linear", [x], {"out": 96}, "qkv")
    q, k, v = (graph.apply("slice", [qkv], {"axis": 2, "start": 32 * i, "stop": 32 * i + 32}) for i in range(3))
    q = graph.apply("mul", [q, graph.constant(0.3)])
    scores = graph.apply("softmax", [graph.apply("matmul", [q, graph.apply("permute", [k], {"order": (0, 2, 1)})])])
    mixed = graph.apply("reshape", [graph.apply("matmul", [scores, v])], {"shape": (128, 32)})
    graph.outputs = [graph.call("linear", [mixed], {"out": 96}, "out")]
    result = fuse(BF16(graph))
    casts = [i for i in result.live() if result.node(i).op == "cast"]
    made = sorted(result.op(result.operands(i)[0]) for i in casts)
    assert made == ["input", "linear", "matmul", "mul", "softmax"]
    products = [i for i in result.live() if result.node(i).op == "matmul"]
    assert {result.node(i).group for i in products} == {result.node(products[0]).group}, "still one kernel"
    (behind,) = [i for i in casts if result.op(result.operands(i)[0]) == "matmul"]
    assert result.node(behind).group == result.node(products[0]).group
    slices = [i for i in result.live() if result.node(i).op == "slice"]
    assert len(slices) == 3 and all(result.type(Value(i)).dtype == "bfloat16" for i in slices)


def test_a_concatenation_joins_what_is_rounded() -> None:
    graph = Graph("Dense")
    x = graph.input("x", TensorType((1, 16, 16, 16)))
    a = graph.call("conv2d", [x], {"out": 16, "k": 3}, "a")
    b = graph.call("conv2d", [a], {"out": 16, "k": 3}, "b")
    joined = graph.apply(
        "pad", [graph.apply("concat", [a, b], {"axis": 1})], {"before": (0,) * 4, "after": (0, 0, 1, 1)}
    )
    graph.outputs = [graph.call("conv2d", [joined], {"out": 16, "k": 3}, "c")]
    result = BF16(graph)
    (concat,) = [i for i in result.live() if result.node(i).op == "concat"]
    assert result.type(Value(concat)).dtype == "bfloat16"
    assert [result.op(o) for o in result.operands(concat)] == ["cast", "cast"]


def test_an_output_stays_float32() -> None:
    graph = residual()
    first = next(i for i in graph.live() if graph.node(i).op == "relu")
    graph.outputs = [*graph.outputs, Value(first)]
    result = check_pass(BF16, graph, tolerance=0.02)
    assert all(result.type(value).dtype == "float32" for value in result.outputs)


def test_what_stays_says_why() -> None:
    graph = Graph("Refusals")
    x = graph.input("x", TensorType((1, 3, 40, 40)))
    stem = graph.call("conv2d", [x], {"out": 32, "k": 3}, "stem")
    depthwise = graph.call("conv2d", [stem], {"out": 32, "k": 3, "groups": 32}, "depthwise")
    small = graph.call("linear", [graph.apply("mean", [depthwise], {"axes": (2, 3)})], {"out": 10}, "small")
    graph.outputs = [small]
    journal = Journal()
    result = halve(graph, "float16", None, journal)
    reasons = {event.path: event.reason or "" for event in journal.refused}
    assert "reads 3 channels" in reasons["stem"] and "is small" in reasons["small"] and len(reasons) == 2
    assert [result.node(i).path for i in HALVING.candidates(graph)] == ["depthwise"]
    again = Journal()
    halve(result, "float16", None, again)
    assert any("computes with float16" in (event.reason or "") for event in again.refused)


@pytest.mark.parametrize(("k", "groups", "rounded"), [(7, 1, True), (3, 1, False), (7, 3, False)])
def test_pictures_where_the_machine_multiplies_them(k: int, groups: int, rounded: bool) -> None:
    graph = Graph("Stem")
    x = graph.input("x", TensorType((1, 3, 40, 40)))
    graph.outputs = [graph.call("conv2d", [x], {"out": 33, "k": k, "groups": groups}, "stem")]
    journal = Journal()
    result = halve(graph, "bfloat16", None, journal, pictures(1024))
    (layer,) = (i for i in result.live() if result.node(i).op == "conv2d")
    assert (result.type(result.operands(layer)[0]).dtype == "bfloat16") == rounded
    assert len(journal.refused) == (not rounded)
    assert all("reads 3 channels" in (event.reason or "") for event in journal.refused)


@pytest.mark.parametrize("read", [False, True])
def test_the_greatest_elements_are_those_of_rounded_ones(read: bool) -> None:
    """Unless someone else reads them as they are: then the results are rounded."""
    graph = Graph("Pooled")
    x = graph.input("x", TensorType((1, 16, 12, 12)))
    y = graph.apply("relu", [x])
    pooled = graph.apply("max_pool2d", [y], {"k": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)})
    graph.outputs = [graph.call("conv2d", [pooled], {"out": 32, "k": 3}), *([y] if read else [])]
    result = check_pass(BF16, graph, tolerance=0.02)
    (pool,) = (i for i in result.live() if result.node(i).op == "max_pool2d")
    assert result.type(result.operands(pool)[0]).dtype == ("float32" if read else "bfloat16")
    weights, inputs = random_weights(graph), random_inputs(graph)
    after = graph.copy()
    after.outputs = [after.apply("cast", [pooled], {"dtype": "bfloat16"})]
    result.outputs = [Value(result.users(Value(pool))[0][0])]
    assert np.array_equal(evaluate(result, weights, inputs)[0], evaluate(after, weights, inputs)[0])


def test_only_the_layers_that_are_named() -> None:
    graph = residual()
    first, *_ = HALVING.candidates(graph)
    result = halve(graph, "bfloat16", [first])
    rounded: list[Any] = [i for i in result.live() if result.type(result.operands(i)[0]).dtype in HALVES]
    assert [result.node(i).path for i in rounded if result.node(i).op == "conv2d"] == ["0.a"]
