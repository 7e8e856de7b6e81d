"""Sums of float16: the judge rounds where it says what kernels round, and what it draws elsewhere is as large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from specc import ops
from specc.backends.torch import evaluate, runs
from specc.ir import sums
from specc.ir.graph import Graph
from specc.ir.types import TensorType


def rounded(*shape: int, scale: float = 1.0) -> Any:
    return (torch.randn(*shape, dtype=torch.float64) * scale).half().double()


def added(factors: list[tuple[float, float]], terms: int) -> float:
    """The products in runs of so many: each sum of a run is rounded to float16 after every term."""
    total = 0.0
    for start in range(0, len(factors), terms):
        run = np.float16(0)
        for a, b in factors[start : start + terms]:
            run = np.float16(float(run) + a * b)
        total += float(run)
    return total


def test_a_convolution_term_by_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six channels in blocks of four, two of a picture's three rows of taps, stride and padding on one side."""
    monkeypatch.setattr(runs, "PLACES", 1000)
    torch.manual_seed(0)
    x, w, b = rounded(2, 6, 5, 4), rounded(3, 6, 2, 3), rounded(3)
    attrs = ops.complete(ops.get("conv2d"), {"stride": [2, 1], "padding": [1, 0, 0, 2]})
    found = runs.layer(ops.get("conv2d").torch, [x, w, b], attrs)
    padded = torch.nn.functional.pad(x, (0, 2, 1, 0, 0, 2)).numpy()
    filters = torch.nn.functional.pad(w, (0, 0, 0, 0, 0, 2)).numpy()
    terms = sums.channels(6) * 6
    assert found.shape == (2, 3, 3, 4) and terms == 24
    order = [(4 * block + lane, r, s) for block in range(2) for r in range(2) for s in range(3) for lane in range(4)]
    for n, o, y, column in np.ndindex(*found.shape):
        factors = [(padded[n, c, 2 * y + r, column + s], filters[o, c, r, s]) for c, r, s in order]
        assert float(found[n, o, y, column]) == pytest.approx(added(factors, terms) + float(b[o]), abs=1e-12)


def test_a_linear_layer_term_by_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PLACES", 1000)
    torch.manual_seed(0)
    x, w = rounded(2, 3, 45), rounded(5, 45)
    found = runs.layer(ops.get("linear").torch, [x, w], {})
    for n, row, o in np.ndindex(*found.shape):
        factors = list(zip(x[n, row].tolist(), w[o].tolist()))
        assert float(found[n, row, o]) == pytest.approx(added(factors, sums.TERMS), abs=1e-12)


def test_errors_that_are_drawn_are_as_large_as_those_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, w = rounded(1, 64, 24, 24).relu(), rounded(64, 64, 1, 1, scale=1 / 8)
    compute, attrs = ops.get("conv2d").torch, ops.complete(ops.get("conv2d"), {})
    exact = compute(x, w, **attrs)
    drawn = runs.layer(compute, [x, w], attrs) - exact
    monkeypatch.setattr(runs, "PLACES", 1000)
    real = runs.layer(compute, [x, w], attrs) - exact
    assert not torch.equal(drawn, real)
    assert float(drawn.norm() / real.norm()) == pytest.approx(1.0, abs=0.1)
    assert abs(float(drawn.mean())) < 0.1 * float(drawn.std())


def test_a_sum_beyond_float16_is_infinite_wherever_it_is() -> None:
    """One pixel of many: it is none of those whose sums are rounded."""
    x = torch.full((1, 4, 30, 30), 1.0, dtype=torch.float64)
    x[0, :, 17, 11] = 20000.0
    w = torch.ones(2, 4, 1, 1, dtype=torch.float64)
    found = runs.layer(ops.get("conv2d").torch, [x, w], ops.complete(ops.get("conv2d"), {}))
    infinite = torch.isinf(found)
    assert infinite.sum() == 2 and infinite[0, :, 17, 11].all()


@pytest.mark.parametrize(("dtype", "kernel", "groups"), [("bfloat16", 1, 1), ("float16", 5, 1), ("float16", 3, 4)])
def test_other_layers_are_added_up_in_float32(dtype: str, kernel: int, groups: int) -> None:
    graph = Graph("Other")
    x = graph.apply("cast", [graph.input("x", TensorType((1, 32, 9, 9)))], {"dtype": dtype})
    weight = graph.parameter("w", TensorType((8, 32 // groups, kernel, kernel)))
    w = graph.apply("cast", [weight], {"dtype": dtype})
    graph.outputs = [graph.apply("conv2d", [x, w], {"groups": groups})]
    rng = np.random.default_rng(0)
    values = {"w": rng.standard_normal((8, 32 // groups, kernel, kernel))}
    given = {"x": rng.standard_normal((1, 32, 9, 9))}
    (plain,), (asked,) = evaluate(graph, values, given), evaluate(graph, values, given, half_sums=True)
    assert np.array_equal(plain, asked)
