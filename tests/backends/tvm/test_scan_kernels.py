"""Scans as kernels: pieces of the body in every template, weights packed, states that change places."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from kernel_programs import TARGETS, Input, check, program

from specc import grammar, ops
from specc.backends.torch import evaluate, freeze
from specc.backends.tvm import build, lower
from specc.ir.specialize import specialize
from specc.model import Model
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.weights import random_inputs, random_weights


@pytest.mark.parametrize("seed", range(8))
def test_random_cells(seed: int) -> None:
    record = ops.get("scan")
    types, given = record.example(random.Random(seed))
    attrs = ops.complete(record, given)
    live = len(attrs["body"].inputs)
    inputs = [Input(t, frozen=i >= live and seed % 3 > 0) for i, t in enumerate(types)]
    check(program(inputs, ("scan", range(len(inputs)), attrs)), target=TARGETS[seed % len(TARGETS)])


NETWORKS = {
    "states change places": """
block Cell(x: [n, c], a: [n, c], b: [n, c]) -> ([n, c], [n, c], [n, c]):
    return a, b, tanh(a + x)

network N(x: [n = 2, l = 6, 19]) -> ([n, l, 19], [n, 19], [n, 19]):
    return scan(Cell, x, state=[constant(0, [n, 19]), constant(1, [n, 19])])
""",
    "a weight that two products read, and one that is shared with the outside": """
block Cell(x: [n, c], h: [n, c], table: [c, c]) -> ([n, c], [n, c]):
    first = linear(h, c)
    second = linear(first, c, weight=table, bias=false)
    third = matmul(tanh(second + x), table)
    h = tanh(third) * mean(first, [1], keep=true)
    return first + h, h

network N(x: [n = 3, l = 4, 33]) -> [n, l, 33]:
    param table: [33, 33] init normal(0.1)
    y = linear(x, 33, weight=table, bias=false)
    rnn = scan(Cell, y, state=constant(0.5, [n, 33]), table=table)
    return rnn[0]
""",
    "a loop in a loop": """
block Inner(x: [n], h: [n]) -> ([n], [n]):
    h = tanh(0.5 * h + x)
    return h, h

block Outer(x: [n, w], h: [n]) -> ([n, w], [n]):
    ys, h = scan(Inner, x, state=h, axis=1, reverse=true)
    return ys, h

network N(x: [n = 17, l = 3, w = 5]) -> ([n, l, w], [n]):
    return scan(Outer, x, state=constant(0, [n]))
""",
    "pictures": """
block Cell(x: [n, c, h, w], s: [n, d, h, w]) -> [n, d, h, w]:
    conv = conv2d(concat(x, s), d, k=3)
    norm = batch_norm(conv)
    return tanh(norm)

network N(x: [n = 1, l = 3, 3, h = 6, w = 5]) -> [n, 8, h, w]:
    rnn = scan(Cell, x, state=constant(0, [n, 8, h, w]))
    return relu(rnn)
""",
}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECC_CACHE_DIR", str(tmp_path))
    graph = specialize(grammar.loads(f"specc 1\n{NETWORKS[name]}"))
    weights, inputs = random_weights(graph, 1), random_inputs(graph, 1)
    optimized, _ = run_passes(graph, pipeline(level, TARGETS[-1]))
    lowered = lower(optimized, TARGETS[-1], freeze(optimized, weights))
    found = Model(build(lowered, TARGETS[-1]), lowered.weights).run(list(inputs.values()))
    for a, b in zip(found, evaluate(graph, weights, inputs), strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())


def test_layers_of_one_shape_share_a_kernel() -> None:
    graph = specialize(
        grammar.loads("""specc 1

block Cell(x: [n, c], h: [n, c]) -> ([n, c], [n, c]):
    inner = linear(h, c)
    h = tanh(inner + x)
    return h, h

network N(x: [n = 1, l = 4, 8]) -> [n, l, 8]:
    for i in range(3):
        layers[i] = scan(Cell, x, state=constant(0, [n, 8]))
        x = layers[i][0]
    return x
""")
    )
    optimized, _ = run_passes(graph, pipeline(2, TARGETS[-1]))
    lowered = lower(optimized, TARGETS[-1], freeze(optimized, random_weights(graph)))
    assert len(lowered.kernels) == 1 and len(lowered.weights) == 6
