"""Transposed convolutions from the spec's operator to machine code, at -O2, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_programs import TARGETS

from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, lower
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.model import Model
from specc.optimize import run_passes
from specc.passes.registry import pipeline

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "points": ((1, 17, 5, 6), (17, 8, 2, 2), {"stride": (2, 2)}),
    "a border": ((2, 16, 5, 6), (16, 16, 4, 4), {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
    "zeros among the taps": (
        (1, 16, 5, 6),
        (16, 3, 3, 3),
        {"stride": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 1)},
    ),
    "depthwise": ((1, 32, 6, 6), (32, 1, 4, 4), {"stride": (2, 2), "padding": (1, 1, 1, 1), "groups": 32}),
    "volumes": ((1, 5, 2, 4, 3), (5, 3, 2, 3, 4), {"stride": (2, 1, 2), "padding": (0, 1, 1, 0, 1, 1)}),
    "a vector": ((2, 20, 1, 1), (20, 16, 4, 4), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECC_CACHE_DIR", str(tmp_path))
    x, kernel, attrs = CASES[name]
    numbers = np.random.default_rng(3)
    out = kernel[1] * attrs.get("groups", 1)
    graph = Graph("Net")
    weights = [graph.parameter(key, TensorType(shape)) for key, shape in (("w", kernel), ("b", (out,)))]
    op = f"conv_transpose{len(x) - 2}d"
    y = graph.apply(op, [graph.input("x", TensorType(x)), *weights], attrs)
    graph.outputs = [graph.apply("relu", [y])]
    arrays = {key: numbers.standard_normal(type.concrete).astype("float32") for key, type in graph.parameters.items()}
    inputs = {"x": numbers.standard_normal(x).astype("float32")}
    target = TARGETS[0]
    optimized, _ = run_passes(graph, pipeline(2, target))
    assert not optimized.count(op)
    lowered = lower(optimized, target, freeze(optimized, arrays))
    (found,) = Model(build(lowered, target), lowered.weights).run(list(inputs.values()))
    (expected,) = evaluate(graph, arrays, inputs)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
