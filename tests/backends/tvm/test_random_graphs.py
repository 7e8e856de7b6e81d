"""Random networks, through all passes or none, give what PyTorch gives in float64."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from kernel_programs import TARGETS

from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, lower
from specc.ir.types import TensorType
from specc.model import Model
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.testing.growth import grow

SHAPES = ((1, 3, 8, 8), (2, 16, 7, 5), (1, 17, 6, 6), (2, 8, 5, 1), (1, 32, 4, 9), (3, 7), (2, 5, 16))


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("seed", range(8))
def test_equals_torch(seed: int, level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECC_CACHE_DIR", str(tmp_path))
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    target = TARGETS[seed % len(TARGETS)]
    graph = grow([rng.randrange(10**9) for _ in range(3 + seed)], [TensorType(SHAPES[seed % len(SHAPES)])])
    weights = {}
    for key, type in graph.parameters.items():
        array = numbers.standard_normal(type.concrete) * 0.3
        weights[key] = (np.abs(array) + 0.5 if "var" in key else array).astype(type.dtype)
    nodes = [graph.node(i) for i in graph.inputs]
    inputs = {n.attrs["name"]: numbers.standard_normal(n.types[0].concrete).astype(n.types[0].dtype) for n in nodes}
    optimized, _ = run_passes(graph, pipeline(level, target))
    lowered = lower(optimized, target, freeze(optimized, weights))
    found = Model(build(lowered, target), lowered.weights).run(list(inputs.values()))
    expected = evaluate(graph, weights, inputs)
    for result, b in zip(found, expected, strict=True):
        assert result.shape == b.shape
        if b.size and np.isfinite(b).all():
            assert np.abs(result - b).max() <= 1e-4 * (np.abs(b).max() + 1e-3)
