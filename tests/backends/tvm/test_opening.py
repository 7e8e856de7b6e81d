"""Sizes with open dimensions: every operator that takes them, and networks, at several values, against PyTorch."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from kernel_programs import NATIVE

from specc import driver, ops
from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, join, lower
from specc.backends.tvm.opening import MOST_ELEMENTS, Opening, _most, written
from specc.diagnostics import SpeccError
from specc.grammar import loads
from specc.ir.dims import Dim, floordiv, substitute, symbol
from specc.ir.graph import Graph
from specc.ir.specialize import specialize
from specc.ir.types import TensorType
from specc.model import Model
from specc.targets import find
from specc.weights import random_inputs, random_weights

OPEN = [name for name, record in ops.OPERATORS.items() if "open" in record.traits]
N, L = symbol("n"), symbol("l")


def opened(value: Any, extent: int) -> Any:
    """A shape, or an attribute that holds one, with the dimension n in place of an extent."""
    if isinstance(value, TensorType):
        return TensorType(opened(value.shape, extent), value.dtype)
    if isinstance(value, tuple):
        return tuple(opened(part, extent) for part in value)
    return N if value == extent and not isinstance(value, bool) else value


def example(name: str, rng: random.Random) -> tuple[Graph, int] | None:
    """A random call of an operator, one extent of its operands being n, and what that was; None where it cannot be."""
    record = ops.get(name)
    types, given = record.example(rng)
    attrs = ops.complete(record, given)
    count = len(record.call_operands) if record.weights else len(types)
    extents = [extent for t in types[:count] for extent in t.shape if isinstance(extent, int) and extent > 1]
    extent = rng.choice(extents) if extents else attrs.get("stop", 0)
    if name in ("reshape", "expand", "slice", "arange"):
        attrs = {key: opened(v, extent) if key in ("shape", "stop") else v for key, v in attrs.items()}
    graph = Graph(name)
    operands = [graph.input(f"x{i}", opened(t, extent) if i < count else t) for i, t in enumerate(types)]
    try:
        results = [graph.apply(name, operands, attrs)]
    except (ops.Illegal, SpeccError):
        return None
    node = graph.node(results[0].node)
    graph.outputs = [type(results[0])(results[0].node, i) for i in range(len(node.types))]
    if not any(t.symbols() for t in node.types) or not graph.symbols():
        return None
    return graph, extent


def compiled(graph: Graph, weights: Mapping[str, Any], at: Mapping[str, int]) -> Model:
    lowered = join([lower(graph, NATIVE, freeze(graph, weights), at=at)])
    return Model(build(lowered, NATIVE), lowered.weights)


def agree(model: Model, graph: Graph, weights: Mapping[str, Any], values: Mapping[str, int]) -> None:
    here = specialize(graph, values)
    inputs = random_inputs(here)
    if graph.name == "batch_norm":  # no variance is negative
        inputs = {name: np.abs(array) for name, array in inputs.items()}
    expected = evaluate(here, weights, inputs)
    given = [array.astype(here.node(i).types[0].dtype) for array, i in zip(inputs.values(), here.inputs)]
    for found, wanted in zip(model.run(given), expected, strict=True):
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 2e-5 * max(1.0, np.abs(wanted).max()), f"{values}"


@pytest.mark.parametrize("name", [name for name in OPEN if name != "arange"])
def test_every_operator(name: str) -> None:
    rng, tried = random.Random(name), 0
    for _ in range(40):
        found = example(name, rng)
        if found is None:
            continue
        graph, extent = found
        values = []
        for value in (extent, 1, extent + 1, 2 * extent, 37):
            try:
                specialize(graph, {"n": value})
            except SpeccError:
                continue
            values.append({"n": value})
        model = compiled(graph, {}, values[0])
        for value in values:
            agree(model, graph, {}, value)
        tried += len(values) > 1
        if tried == 2:
            return
    raise AssertionError(f"{tried} calls of {name} with an open dimension were found")


TRANSFORMER = """specc 1
use std.attention: SelfAttention

network Words(tokens: [n, l] int64) -> [n, l, 20]:
    x = embedding(tokens, 20, 16)
    param places: [24, 16] init normal(0.02)
    cls = x + slice(places, axis=0, stop=l)
    norm1 = layer_norm(cls)
    mixed = SelfAttention(norm1, heads=2)
    sum1 = cls + mixed
    norm2 = layer_norm(sum1)
    up = linear(norm2, 32)
    down = linear(gelu(up), 16)
    head = linear(sum1 + down, 20)
    return softmax(head, axis=-1)
"""

CONVOLUTIONS = """specc 1
use std.conv: ConvBN

network Pictures(image: [n, 3, h, w]) -> [n, 5]:
    stem = ConvBN(image, 17, k=3, s=2)
    a = relu(stem)
    b = ConvBN(a, 17, k=3)
    c = concat(a, max_pool2d(b + a, 3, s=1, p=1), axis=1)
    deep = conv2d(c, 8, k=3, p=0)
    return linear(global_avg_pool(silu(deep)), 5)
"""


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (TRANSFORMER, [{"n": 2, "l": 2}, {"n": 1, "l": 1}, {"n": 3, "l": 24}, {"n": 2, "l": 2}, {"n": 9, "l": 7}]),
        (CONVOLUTIONS, [{"n": 2, "h": 9, "w": 5}, {"n": 1, "h": 33, "w": 40}, {"n": 4, "h": 7, "w": 5}]),
    ],
)
def test_networks(text: str, sizes: list[dict[str, int]], level: int) -> None:
    """In an order in which the arena grows and is too large again."""
    graph = loads(text)
    weights = random_weights(graph)
    optimized = graph
    for each in driver._passes_for_open(level, NATIVE):
        optimized = each(optimized)
    model = compiled(optimized, weights, dict.fromkeys(graph.symbols(), 8))
    for values in sizes:
        agree(model, graph, weights, values)


def test_what_cannot_be_is_refused_when_it_is_run() -> None:
    """A slice beyond its operand, a window beyond the picture, too many elements, and none at all."""
    words, pictures = loads(TRANSFORMER), loads(CONVOLUTIONS)
    model = compiled(words, random_weights(words), {"n": 2, "l": 2})
    for shape in ((2, 25), (0, 2), (2, 0), (2**31, 2), (2**20, 24), (2**62, 1)):
        with pytest.raises(SpeccError, match=r"S0911.*not compiled for inputs of these shapes"):
            model.at([shape])
    model.run([np.zeros((1, 24), "int64")])
    model = compiled(pictures, random_weights(pictures), {"n": 2, "h": 8, "w": 8})
    for shape in ((1, 3, 4, 9), (1, 3, 9, 4), (1, 3, 4, 4), (1, 3, 1, 1), (1, 4, 9, 9)):
        with pytest.raises(SpeccError, match="S0911"):
            model.at([shape])
    model.run([np.zeros((1, 3, 5, 5), "float32")])


@pytest.mark.parametrize("target", ["c", "wasm32", "cortex-m7", "cuda:sm_90"])
def test_targets_whose_kernels_have_fixed_dimensions(target: str) -> None:
    with pytest.raises(SpeccError, match=r"S0807.*`n` cannot stay open for"):
        lower(loads(CONVOLUTIONS), find(target), {}, at={"n": 2, "h": 8, "w": 8})


def test_no_step_of_the_arithmetic_overflows() -> None:
    """In 64 bits, with all dimensions at the greatest value that the driver lets pass."""
    for dims in ([N], [N * L], [N * L * L * 64], [N * N * N * N], [floordiv(N * 100 + 7, 3) * L - L]):
        most = _most([], dims)
        assert 1 < most <= MOST_ELEMENTS
        values = {"n": most, "l": most}
        assert all(isinstance(v := substitute(dim, values), int) and abs(v) < 2**62 for dim in dims)


def test_dimensions_in_c() -> None:
    place = {"n": 0, "l": 1}
    texts: dict[Dim, str] = {
        N: "(d[0])",
        N * L * 4 + 3: "(4 * d[1] * d[0] + 3)",
        L - N: "(d[1] + -1 * d[0])",
        floordiv(N - 1, 2) + 1: "(quotient((d[0] + 1), 2))",
    }
    for dim, text in texts.items():
        assert written(dim, place) == text or sorted(written(dim, place)) == sorted(text)


def test_memory_is_shared_by_what_does_not_live_at_the_same_time() -> None:
    """Twenty layers in a row need two lanes, whatever n is."""
    lines = "\n".join(f"    x{i + 1} = linear(x{i}, 16)" for i in range(20))
    graph = loads(f"specc 1\nnetwork Deep(x0: [n, 16]) -> [n, 16]:\n{lines}\n    return x20\n")
    (size,) = lower(graph, NATIVE, freeze(graph, random_weights(graph)), at={"n": 3}).sizes
    assert isinstance(size.opening, Opening) and len(size.opening.lanes) == 2
    assert size.plan.arena == 2 * 3 * 16 * 4
