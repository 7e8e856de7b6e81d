"""Sizes with open dimensions: every operator that takes them, and networks, at several values, against PyTorch."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_programs import NATIVE

from specc import driver, ops
from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, join, lower
from specc.backends.tvm.driver import SOURCES
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

C = find("c")
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


def compiled_as_c(graph: Graph, weights: Mapping[str, Any], at: Mapping[str, int], folder: Path, *flags: str) -> Model:
    """Of C that gcc finds nothing to say of; `flags` are for it."""
    lowered = join([lower(graph, C, freeze(graph, weights), at=at)])
    (folder / "network.c").write_bytes(build(lowered, C))
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", *flags, "-fPIC", "-shared"]
    subprocess.run([*command, "-o", "network.so", "network.c", "-lm"], cwd=folder, check=True)
    return Model((folder / "network.so").read_bytes(), lowered.weights)


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


def examples(name: str, count: int) -> Iterator[tuple[Graph, list[dict[str, int]]]]:
    """Calls of an operator with the dimension n, and some values that it can have, `count` of them with several."""
    rng = random.Random(name)
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
        yield graph, values
        count -= len(values) > 1
        if not count:
            return
    raise AssertionError(f"{count} more calls of {name} with an open dimension are wanted")


@pytest.mark.parametrize("name", [name for name in OPEN if name != "arange"])
def test_every_operator(name: str) -> None:
    for graph, values in examples(name, 2):
        model = compiled(graph, {}, values[0])
        for value in values:
            agree(model, graph, {}, value)


@pytest.mark.parametrize("name", [name for name in OPEN if name != "arange"])
def test_every_operator_as_c(name: str, tmp_path: Path) -> None:
    """Without an allocator, in an array that is large enough for all values: what kernels ask for is counted."""
    for graph, values in examples(name, 1):
        model = compiled_as_c(graph, {}, values[0], tmp_path, "-O0", "-DSPECC_STATIC", "-DSPECC_ARENA_BYTES=1<<24")
        for value in values:
            agree(model, graph, {}, value)


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


NETWORKS = pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (TRANSFORMER, [{"n": 2, "l": 2}, {"n": 1, "l": 1}, {"n": 3, "l": 24}, {"n": 2, "l": 2}, {"n": 9, "l": 7}]),
        (CONVOLUTIONS, [{"n": 2, "h": 9, "w": 5}, {"n": 1, "h": 33, "w": 40}, {"n": 4, "h": 7, "w": 5}]),
    ],
)


@NETWORKS
@pytest.mark.parametrize("level", [0, 1, 2])
def test_networks(text: str, sizes: list[dict[str, int]], level: int) -> None:
    """In an order in which the arena grows and is too large again."""
    graph = loads(text)
    weights = random_weights(graph)
    optimized = graph
    for each in driver.passes_for_open(level, NATIVE):
        optimized = each(optimized)
    model = compiled(optimized, weights, dict.fromkeys(graph.symbols(), 8))
    for values in sizes:
        agree(model, graph, weights, values)


@NETWORKS
@pytest.mark.parametrize("flags", [[], ["-DSPECC_STATIC", "-DSPECC_ARENA_BYTES=(1 << 22)"]])
def test_networks_as_c(text: str, sizes: list[dict[str, int]], flags: list[str], tmp_path: Path) -> None:
    """With tensors in memory that malloc gives, and in an array."""
    graph = loads(text)
    weights = random_weights(graph)
    optimized = graph
    for each in driver.passes_for_open(2, C):
        optimized = each(optimized)
    model = compiled_as_c(optimized, weights, dict.fromkeys(graph.symbols(), 8), tmp_path, "-O1", *flags)
    for values in sizes:
        agree(model, graph, weights, values)
        wrong = [(0, *shape[1:]) for shape in model._size.shapes]
        with pytest.raises(SpeccError, match=r"S0911.*not compiled for inputs of these shapes"):
            model.at(wrong)


def test_an_array_that_is_too_small(tmp_path: Path) -> None:
    """What a size takes is said beforehand, to the byte; where that is not there, the model stays as it was."""
    graph = loads(TRANSFORMER)
    weights = random_weights(graph)

    def model(*flags: str) -> Model:
        return compiled_as_c(graph, weights, {"n": 2, "l": 2}, tmp_path, "-O0", "-DSPECC_STATIC", *flags)

    whole = model("-DSPECC_ARENA_BYTES=(1 << 22)")
    taken = {values: whole.at([values]).arena_bytes for values in ((2, 2), (3, 7), (3, 8))}
    del whole
    exact = model(f"-DSPECC_ARENA_BYTES={taken[3, 7]}")
    for values in ({"n": 3, "l": 7}, {"n": 1, "l": 1}):
        agree(exact, graph, weights, values)
        with pytest.raises(SpeccError, match=r"S0907.*there is not enough memory"):
            exact.at([(3, 8)])
        assert exact._now().shapes == [tuple(values.values())]
        agree(exact, graph, weights, values)
    del exact
    least = model()
    assert least.at([(2, 2)]).arena_bytes == taken[2, 2]
    with pytest.raises(SpeccError, match="S0907"):
        least.at([(3, 2)])
    del least
    with pytest.raises(subprocess.CalledProcessError):
        model(f"-DSPECC_ARENA_BYTES={taken[2, 2] - 1}")


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


def test_targets_whose_kernels_have_fixed_dimensions() -> None:
    with pytest.raises(SpeccError, match=r"S0807.*`n` cannot stay open for"):
        lower(loads(CONVOLUTIONS), find("cuda:sm_90"), {}, at={"n": 2, "h": 8, "w": 8})


RESIZES = {
    "[n, 2, h, w]": (
        "resize(x, [2 * h, 3 * w])",
        'resize(x, [h // 2 + 1, w], mode="bilinear")',
        'resize(x, [7, w + 2], mode="bilinear")',
        'resize(x, [2 * h, 3], mode="bilinear", align_corners=true)',
        'resize(x, [h + 1, 1], mode="bicubic", align_corners=true)',
        'resize(x, [2 * h + 1, w], mode="bicubic")',
        'resize(x, scale=1.5, mode="bilinear")',
    ),
    "[n, 2, h]": ('resize(x, [3 * h], mode="linear")', 'resize(x, [5], mode="linear")'),
    "[n, 2, h, w, 3]": ('resize(x, [2 * h, 5, w], mode="trilinear")',),
}


@pytest.mark.parametrize(("shape", "call"), [(shape, call) for shape, calls in RESIZES.items() for call in calls])
def test_resizing(shape: str, call: str) -> None:
    """To a multiple of an extent, whatever that is; from one that is open to one that is known; to any other."""
    graph = loads(f"specc 1\nnetwork Resized(x: {shape}):\n    return {call}\n")
    model = compiled(graph, {}, dict.fromkeys(graph.symbols(), 4))
    for values in ({"n": 2, "h": 9, "w": 5}, {"n": 1, "h": 1, "w": 1}, {"n": 1, "h": 40, "w": 33}):
        agree(model, graph, {}, {name: values[name] for name in graph.symbols()})


def test_resizing_multiplies_in_64_bits() -> None:
    """A place times an extent leaves 32 bits from pictures of some 46000 elements in a row on."""
    graph = loads('specc 1\nnetwork Long(x: [1, 1, h]):\n    return resize(x, [h + 1], mode="linear")\n')
    agree(compiled(graph, {}, {"h": 4}), graph, {}, {"h": 70000})


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
