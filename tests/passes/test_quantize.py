"""Quantization: what integers of 8 bits lose is what rounding loses, and what cannot be one says why."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specc import ops
from specc.backends.torch import evaluate, intermediates
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.passes.fusion import fuse
from specc.passes.layout import layout
from specc.passes.quantize import QUANTIZING, Grid, hands_on, quantize, stands_apart
from specc.passes.rewrite import Journal
from specc.testing import check_pass
from specc.weights import random_inputs, random_weights


def intervals(graph: Graph, weights: Any, inputs: Any) -> dict[Value, tuple[float, float]]:
    found = intermediates(graph, weights, inputs)
    return {v: (float(a.min()), float(a.max())) for v, a in found.items() if a.dtype.kind == "f" and a.size}


def quantized(graph: Graph, journal: Journal | None = None) -> Graph:
    """The graph with every layer that can be one of integers, from the ranges of inputs that are drawn."""
    return quantize(graph, intervals(graph, random_weights(graph), random_inputs(graph)), None, journal)


def one_layer(seed: int) -> Graph:
    """A convolution or a linear layer of some shape, of more products than are left as they are."""
    rng = random.Random(seed)
    graph = Graph("One")
    bias = rng.random() < 0.7
    channels, out = rng.choice((4, 17, 32, 64)), rng.choice((16, 33, 64))
    if rng.random() < 0.7:
        extent = rng.randint(14, 20)
        x = graph.input("x", TensorType((1, channels, extent, extent + 3)))
        k = rng.choice((1, 2, 3))
        arguments = {"out": out, "k": k, "s": rng.choice((1, 1, 2)), "p": rng.randint(0, k - 1), "bias": bias}
        value = graph.call("conv2d", [x], arguments, "layer")
    else:
        x = graph.input("x", TensorType((rng.choice((64, 300)), channels)))
        value = graph.call("linear", [x], {"out": out, "bias": bias}, "layer")
    graph.outputs = [value]
    return graph


@pytest.mark.parametrize(
    ("channels", "taps", "groups"), [(57, 3, 1), (60, 3, 1), (1200, 1, 1), (2, 25, 1), (130, 3, 2)]
)
def test_sums_of_the_reference_are_exact(channels: int, taps: int, groups: int) -> None:
    """The greatest sums that there are, and odd ones, beyond what a float32 holds; in parts or in float64."""
    record, extent = ops.get("conv2d_integer"), taps + 1
    x = torch.full((1, channels, extent, extent), 255, dtype=torch.uint8)
    x[:, ::2, 0] -= 1
    weight = torch.full((4 * groups, channels // groups, taps, taps), -128, dtype=torch.int8)
    weight[1] = 127
    window = {"stride": (1, 1), "padding": (1, 0, 0, 1), "dilation": (1, 1), "groups": groups, "outside": 3}
    bias = torch.arange(4 * groups, dtype=torch.int32)
    found = record.torch(x, weight, bias, **window)
    padded = torch.nn.functional.pad(x.double(), (0, 1, 1, 0), value=3)
    expected = torch.nn.functional.conv2d(padded, weight.double(), bias.double(), groups=groups)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    if groups == 1:
        rows, matrix = x.reshape(-1, channels), weight[:, :, 0, 0]
        found = ops.get("linear_integer").torch(rows, matrix, bias)
        np.testing.assert_array_equal(found.numpy(), (rows.double() @ matrix.double().T + bias).numpy())


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_error_of_a_layer_is_that_of_rounding(seed: int) -> None:
    graph = one_layer(seed)
    weights, inputs = random_weights(graph, seed % 7), random_inputs(graph, seed % 5)
    result = quantize(graph, intervals(graph, weights, inputs))
    verify(result)
    layer = next(i for i in graph.live())
    if layer not in QUANTIZING.candidates(graph):
        assert result.count(graph.node(layer).op) == 1
        return
    (expected,), (found,) = evaluate(graph, weights, inputs), evaluate(result, weights, inputs)
    x, w = inputs["x"], weights["layer.weight"]
    b = weights.get("layer.bias", np.zeros(len(w)))
    grid = Grid.over((float(x.min()), float(x.max())))
    step = np.abs(w).reshape(len(w), -1).max(1) / 127
    # |a b - a' b'| <= |a| |b - b'| + |b| |a - a'| + |a - a'| |b - b'|, summed over the products
    node = graph.node(layer)
    apply = ops.get(node.op).torch

    def products(left: Any, right: Any) -> Any:
        import torch

        return apply(torch.tensor(left, dtype=torch.float64), torch.tensor(right, dtype=torch.float64), **node.attrs)

    steps = np.broadcast_to(step.reshape(-1, *(1,) * (w.ndim - 1)), w.shape)
    half = np.full(x.shape, grid.scale / 2)
    bound = products(np.abs(x), steps / 2) + products(half, np.abs(w)) + products(half, steps / 2)
    channel = (-1, 1, 1) if node.op == "conv2d" else (-1,)
    bound = bound.numpy() + (grid.scale * step / 2).reshape(channel) + 1e-6 * (1 + np.abs(b).reshape(channel))
    assert (np.abs(found - expected) <= bound * (1 + 1e-5)).all()


def residual(shift: float = 0.0) -> Graph:
    """Two convolutions and the sum of what they read and make, three times, then a classifier."""
    graph = Graph("Residual")
    x = graph.input("x", TensorType((1, 16, 12, 12)))
    for block in range(3):
        y = graph.call("conv2d", [x], {"out": 16, "k": 3}, f"{block}.a")
        y = graph.apply("relu", [y]) if not shift else graph.apply("silu", [y])
        y = graph.call("conv2d", [y], {"out": 16, "k": 3}, f"{block}.b")
        x = graph.apply("relu", [graph.apply("add", [x, y])])
    pooled = graph.call("global_avg_pool", [x], {})
    graph.outputs = [graph.call("linear", [pooled], {"out": 10}, "head")]
    return graph


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_pass_like_others_but_for_its_error(shift: float) -> None:
    result = check_pass(quantized, residual(shift), tolerance=0.05)
    assert result.count("conv2d_integer") == 6 and result.count("conv2d") == 0


def test_what_a_layer_reads_as_integers_is_stored_as_integers() -> None:
    """Behind fusion, every kernel but those at the ends reads and writes 8 bits: sums take theirs as they are."""
    graph = fuse(layout(quantized(residual()), 16))
    verify(graph)
    stored = [
        graph.type(Value(identity)).dtype
        for identity in graph.live()
        if any(graph.node(user).group != graph.node(identity).group for user, _ in graph.users(Value(identity)))
    ]
    assert stored.count("uint8") == 6 and stored.count("float32") == 3  # the input in blocks, and both ends of the mean
    fronts = [i for i in graph.live() if graph.node(i).op == "dequantize" and _reads_bytes(graph, i)]
    assert len(fronts) == 2, "residual sums read integers; the first one reads the network's input"
    for identity in fronts:
        ((user, _),) = graph.users(Value(identity))
        assert graph.node(user).group == graph.node(identity).group


def _reads_bytes(graph: Graph, identity: int) -> bool:
    return graph.type(graph.operands(identity)[0]).dtype == "uint8"


def test_each_channel_has_its_own_scale() -> None:
    """Channels of very different magnitudes: one scale for all would lose the small ones."""
    graph = Graph("Channels")
    x = graph.input("x", TensorType((1, 16, 16, 16)))
    graph.outputs = [graph.call("conv2d", [x], {"out": 32, "k": 3, "bias": False}, "layer")]
    weights, inputs = random_weights(graph), random_inputs(graph)
    weights["layer.weight"] = weights["layer.weight"] * np.logspace(-4, 0, 32).reshape(-1, 1, 1, 1)
    (expected,) = evaluate(graph, weights, inputs)

    def errors(values: Any) -> Any:
        (found,) = evaluate(quantize(graph, intervals(graph, weights, inputs)), values, inputs)
        apart = np.abs(found - expected).max((0, 2, 3))
        return apart / np.abs(expected).max((0, 2, 3))

    per_channel = errors(weights)
    step = np.abs(weights["layer.weight"]).max() / 127
    per_tensor = errors({"layer.weight": np.round(weights["layer.weight"] / step) * step})
    assert per_channel.max() < 0.05 < 0.5 < per_tensor.max()


def test_a_bias_beside_tiny_weights_stays_in_32_bits() -> None:
    graph = Graph("Bias")
    x = graph.input("x", TensorType((1, 16, 16, 16)))
    graph.outputs = [graph.call("conv2d", [x], {"out": 64}, "layer")]
    weights, inputs = random_weights(graph), random_inputs(graph)
    weights["layer.weight"][0], weights["layer.bias"][0] = 1e-12, 5.0
    weights["layer.weight"][1], weights["layer.bias"][1] = 0.0, 0.0
    (found,) = evaluate(quantize(graph, intervals(graph, weights, inputs)), weights, inputs)
    assert np.allclose(found[:, 0], 5.0, rtol=1e-6) and not found[:, 1].any()


def test_a_range_always_holds_zero() -> None:
    assert Grid.over((1.0, 3.0)) == Grid(3 / 255, 0)
    assert Grid.over((-2.0, -1.0)) == Grid(2 / 255, 255)
    assert Grid.over((0.0, 0.0)) == Grid(1.0, 0)
    assert Grid.over((-1.0, 1.0)).zero in (127, 128)


def test_what_stays_real_says_why() -> None:
    graph = Graph("Refusals")
    x = graph.input("x", TensorType((1, 3, 40, 40)))
    filters = graph.input("filters", TensorType((32, 32, 3, 3)))
    one = graph.apply("slice", [x], {"axis": 1, "start": 0, "stop": 1, "step": 1})
    stem = graph.call("conv2d", [one], {"out": 32, "k": 3}, "stem")
    grouped = graph.call("conv2d", [stem], {"out": 32, "k": 3, "groups": 32}, "grouped")
    dynamic = graph.apply("conv2d", [grouped, filters], {"padding": 1}, "dynamic")
    dense = graph.call("conv2d", [dynamic], {"out": 32, "k": 3}, "dense")
    small = graph.call("linear", [graph.call("global_avg_pool", [dense], {})], {"out": 10}, "small")
    graph.outputs = [small]
    journal = Journal()
    assert quantize(graph, {}, None, journal).count("conv2d_integer") == 0
    reasons = {event.path: event.reason or "" for event in journal.refused}
    assert "reads 1 channel" in reasons["stem"] and "grouped" in reasons["grouped"]
    assert "weights depend on an input" in reasons["dynamic"] and "is small" in reasons["small"]
    assert "samples" in reasons["dense"]


def test_the_greatest_of_a_window_is_taken_of_integers() -> None:
    graph = Graph("Stem")
    x = graph.input("x", TensorType((1, 3, 64, 64)))
    stem = graph.apply("silu", [graph.call("conv2d", [x], {"out": 16, "k": 3, "s": 2}, "stem")])
    pooled = graph.call("max_pool2d", [stem], {"k": 3, "s": 2, "p": 1})
    both = graph.call("conv2d", [pooled], {"out": 32, "k": 3}, "a")
    graph.outputs = [graph.call("conv2d", [both], {"out": 32, "k": 3}, "b")]
    result = check_pass(quantized, graph, tolerance=0.1)
    assert result.count("conv2d_integer") == 3 and result.count("conv2d") == 0
    assert result.count("quantize") - quantized_weights(result) == 3, "one of each layer's operand"
    (pool,) = (i for i in result.live() if result.node(i).op == "max_pool2d")
    assert result.node(pool).types[0].dtype == "uint8"


def quantized_weights(graph: Graph) -> int:
    return sum(graph.node(i).op == "quantize" and graph.is_frozen(i) for i in graph.order())


def test_only_the_layers_that_are_named() -> None:
    graph = residual()
    known = intervals(graph, random_weights(graph), random_inputs(graph))
    first, *_ = QUANTIZING.candidates(graph)
    assert quantize(graph, known, [first]).count("conv2d_integer") == 1


def handing_on(seed: int) -> Graph:
    """A layer of some shape whose results could be its operand."""
    rng = random.Random(seed)
    graph, channels, bias = Graph("Handing on"), rng.choice((17, 32, 48)), rng.random() < 0.5
    if rng.random() < 0.3:
        x = graph.input("x", TensorType((rng.choice((500, 600)), channels)))
        graph.outputs = [graph.call("linear", [x], {"out": channels, "bias": bias}, "layer")]
        return graph
    x = graph.input("x", TensorType((1, channels, 24, rng.randint(20, 26))))
    k, dilation = rng.choice(((1, 1), (3, 1), (3, 2), (5, 1)))
    arguments = {"out": channels, "k": k, "p": k // 2 * dilation, "d": dilation, "bias": bias}
    graph.outputs = [graph.call("conv2d", [x], arguments, "layer")]
    return graph


def middle(weight: Any) -> tuple[Any, ...]:
    channels = np.arange(len(weight))
    return (channels, channels, *(extent // 2 for extent in weight.shape[2:]))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_weights_for_itself_stand_apart_exactly(seed: int) -> None:
    """Where all other weights and the operand are integers, nothing is rounded: conv(x, w) = conv(x, w - d) + d * x."""
    graph, rng = handing_on(seed), np.random.default_rng(seed)
    layer = next(i for i in graph.live())
    assert hands_on(graph, layer)
    weights, (spec,) = random_weights(graph), graph.inputs
    weight = rng.integers(-127, 128, weights["layer.weight"].shape).astype(np.float32)
    weight[:, -1] = weight[:, 0] = 127
    weight[middle(weight)] = own = (1e4 * rng.standard_normal(len(weight))).astype(np.float32)
    weights["layer.weight"] = weight
    if "layer.bias" in weights:
        weights["layer.bias"] = rng.integers(-1000, 1000, len(weight)).astype(np.float32)
    assert stands_apart(weight) or (own**2).mean() < 4 * 127**2
    shape = graph.node(spec).types[0].concrete
    low = int(rng.integers(-255, 1))
    x = rng.integers(low, low + 256, shape).astype(np.float32)
    result = quantize(graph, {Value(spec): (low, low + 255)}, None, None, {layer})
    verify(result)
    (expected,), (found,) = evaluate(graph, weights, {"x": x}), evaluate(result, weights, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(own).max() * 255)
    (lost,) = evaluate(quantize(graph, {Value(spec): (low, low + 255)}), weights, {"x": x})
    assert np.abs(lost - expected).max() > 10 * np.abs(found - expected).max()


def test_which_layers_can_hand_on_their_operand() -> None:
    graph = Graph("Shapes")
    x = graph.input("x", TensorType((1, 16, 12, 12)))
    for name, arguments, can in (
        ("same", {"out": 16, "k": 3}, True),
        ("pointwise", {"out": 16, "k": 1}, True),
        ("dilated", {"out": 16, "k": 3, "p": 2, "d": 2}, True),
        ("wider", {"out": 32, "k": 3}, False),
        ("strided", {"out": 16, "k": 3, "s": 2}, False),
        ("even", {"out": 16, "k": 2, "p": (0, 0, 1, 1)}, False),
        ("moved", {"out": 16, "k": 3, "p": (0, 1, 2, 1)}, False),
    ):
        layer = graph.call("conv2d", [x], arguments, name)
        assert hands_on(graph, layer.node) is can, name
    flat = graph.input("flat", TensorType((16, 16)))
    assert hands_on(graph, graph.call("linear", [flat], {"out": 16}, "linear").node)


def test_only_weights_that_are_much_greater_stand_apart() -> None:
    weight = np.random.default_rng(0).standard_normal((24, 24, 3, 3))
    assert not stands_apart(weight) and not stands_apart(weight[:, :, 0, 0])
    for shape in ((24, 24, 3, 3), (24, 24)):
        greater = np.random.default_rng(0).standard_normal(shape)
        greater[middle(greater)] += 20
        assert stands_apart(greater)
        assert not stands_apart(np.roll(greater, 1, 0)), "those of another channel do not"
