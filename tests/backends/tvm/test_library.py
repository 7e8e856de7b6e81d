"""A graph becomes a library: kernels shared and cached, weights packed, views without a kernel, progress told."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from kernel_programs import NATIVE

from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, lower
from specc.backends.tvm.driver import SOURCES
from specc.backends.tvm.group import extract
from specc.diagnostics import SpeccError
from specc.ir.array import Array
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ir.verify import verify
from specc.model import Model
from specc.optimize import run_passes
from specc.passes.registry import pipeline

HEADER = re.sub(r"/\*.*?\*/", "", (SOURCES / "specc.h").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECC_CACHE_DIR", str(tmp_path))
    return tmp_path


def network() -> Graph:
    """Three blocks, the last of them stored plainly; a view; outputs that are an input and a weight."""
    graph = Graph("network")
    image = graph.input("an image", TensorType((1, 3, 12, 12)))
    x = graph.call("conv2d", [image], {"out": 16, "k": (3, 3), "s": (2, 2), "p": (1, 1, 1, 1)}, "stem")
    for name in ("a", "b", "c"):
        y = graph.call("conv2d", [x], {"out": 16}, name)
        x = graph.apply("add", [x, graph.apply("gelu", [y])])
    graph.apply("exp", [x])  # nobody needs it
    graph.outputs.append(graph.call("linear", [graph.apply("flatten", [x])], {"out": 5}, "head"))
    graph.outputs += [image, graph.apply("neg", [graph.parameter("bare", TensorType((2, 3)))])]
    return graph


def weights(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {key: (rng.standard_normal(t.concrete) * 0.2).astype("float32") for key, t in graph.parameters.items()}


@pytest.mark.parametrize("level", [0, 2])
def test_equals_torch(level: int, cache: Path) -> None:
    graph = network()
    values = weights(graph)
    image = np.random.default_rng(2).standard_normal((1, 3, 12, 12)).astype("float32")
    optimized, _ = run_passes(graph, pipeline(level, NATIVE))
    lowered = lower(optimized, NATIVE, freeze(optimized, values))
    found = Model(build(lowered, NATIVE), lowered.weights).run([image])
    for a, b in zip(found, evaluate(graph, values, {"an image": image}), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 2e-6 * np.abs(b).max()


def test_equal_groups_share_a_kernel_and_views_have_none() -> None:
    graph = network()
    optimized, _ = run_passes(graph, pipeline(2, NATIVE))
    lowered = lower(optimized, NATIVE, freeze(optimized, weights(graph)))
    assert not any("flatten" in name for name in lowered.kernels)
    groups = {optimized.node(i).group for i in optimized.live()} - {None}
    assert len(lowered.kernels) == len(groups) - 1, "the first two blocks are one kernel"


def test_a_damaged_file_of_the_cache_is_made_anew(cache: Path) -> None:
    graph = network()
    lowered = lower(graph, NATIVE, freeze(graph, weights(graph)))
    build(lowered, NATIVE)
    whole = {path: path.read_bytes() for path in (cache / "kernels").iterdir()}
    for number, (path, content) in enumerate(whole.items()):
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes((content[: len(content) // 2], bytes(flipped), b"")[number % 3])
    build(lowered, NATIVE)
    assert len(whole) >= 3
    assert {path: path.read_bytes() for path in (cache / "kernels").iterdir()} == whole


def test_kernels_come_from_the_cache(cache: Path) -> None:
    graph = network()
    lowered = lower(graph, NATIVE, freeze(graph, weights(graph)))
    first = build(lowered, NATIVE)
    files = {path: path.stat().st_mtime_ns for path in (cache / "kernels").iterdir()}
    assert len(files) == len(lowered.kernels)
    assert build(lower(graph, NATIVE, freeze(graph, weights(graph))), NATIVE)
    assert {path: path.stat().st_mtime_ns for path in (cache / "kernels").iterdir()} == files
    assert first[:4] == b"\x7fELF"


def test_builds_at_the_same_time_share_the_cache(cache: Path) -> None:
    graph = network()
    lowered = lower(graph, NATIVE, freeze(graph, weights(graph)))
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(build(lowered, NATIVE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert not [path for path in (cache / "kernels").iterdir() if path.suffix != ".kernel"]


def test_progress_counts_every_kernel() -> None:
    graph = network()
    lowered = lower(graph, NATIVE, freeze(graph, weights(graph)))
    told: list[tuple[int, int]] = []
    build(lowered, NATIVE, lambda done, total: told.append((done, total)))
    assert told == [(done, len(lowered.kernels)) for done in range(len(lowered.kernels) + 1)]


def test_the_library_needs_libc_and_threads_alone(cache: Path) -> None:
    graph = network()
    lowered = lower(graph, NATIVE, freeze(graph, weights(graph)))
    path = cache / "library.so"
    path.write_bytes(build(lowered, NATIVE))
    dynamic = subprocess.run(["readelf", "--dynamic", str(path)], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    assert needed <= {"libc.so.6", "ld-linux-x86-64.so.2", "libm.so.6", "libgomp.so.1"}
    exported = subprocess.run(
        ["nm", "--dynamic", "--defined-only", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in exported.splitlines()} == set(re.findall(r"\b(specc_\w+)\(", HEADER))


def test_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    lowered = lower(graph, NATIVE, freeze(graph, weights(graph)))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SpeccError, match="C compiler"):
        build(lowered, NATIVE)


def test_a_group_of_several_results(tmp_path: Path) -> None:
    graph = Graph("several")
    x = graph.input("x", TensorType((3, 4)))
    y = graph.apply("relu", [x])
    z = graph.apply("var_mean", [y], {"axes": (1,), "keep": True})
    mean = Value(z.node, 1)
    centred = graph.apply("sub", [y, mean])
    graph.outputs = [y, centred, z]
    group, outside, results = extract(graph, [y.node, z.node, centred.node], frozenset())
    assert outside == [x] and results == [y, z, centred]
    assert group.results == (1, 2, 4) and group.step(3).op == "var_mean" and not group.single
    for identity in (y.node, z.node, centred.node):
        graph.update(identity, group=0)
    verify(graph)
    lowered = lower(graph, NATIVE, {})
    assert len(lowered.kernels) == 1
    array = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
    found = Model(build(lowered, NATIVE), lowered.weights).run([array])
    for a, b in zip(found, evaluate(graph, {}, {"x": array}), strict=True):
        assert np.abs(a - b).max() < 1e-6


def test_constants_are_part_of_the_program() -> None:
    graph = Graph("constant")
    x = graph.input("x", TensorType((4,)))
    y = graph.apply("mul", [x, graph.constant(2.5)])
    graph.outputs = [y]
    group, outside, results = extract(graph, [y.node], graph.frozen())
    assert [step.op for step in group.steps] == ["constant", "mul"]
    assert outside == [x] and results == [y]


def test_scales_are_operands_where_they_are_known() -> None:
    """Layers of integers that differ in them alone have one kernel."""
    graph = Graph("scales")
    x = graph.input("x", TensorType((4,)))
    for scale in (2.5, 3.5):
        x = graph.apply("quantize", [graph.apply("relu", [x]), graph.constant(scale, (1,))])
        x = graph.apply("dequantize", [x, graph.constant(1 / scale, (1,))])
    graph.outputs = [x]
    members = [node for node in graph.order() if graph.node(node).op in ("relu", "quantize")]
    first, *_ = extract(graph, members[:2], graph.frozen())
    second, *_ = extract(graph, members[2:], graph.frozen())
    assert first == second and [step.op for step in first.steps] == ["relu", "quantize"]
    unknown, *_ = extract(graph, members[:2], frozenset())
    assert [step.op for step in unknown.steps] == ["constant", "relu", "quantize"]
    lowered = lower(graph, NATIVE, freeze(graph, {}))
    assert len(lowered.kernels) == 3
    array = np.linspace(-1, 2, 4, dtype=np.float32)
    (found,) = Model(build(lowered, NATIVE), lowered.weights).run([array])
    (expected,) = evaluate(graph, {}, {"x": array})
    assert np.array_equal(found, expected.astype(np.float32))
