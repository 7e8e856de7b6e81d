"""ONNX files of networks: what PyTorch's exporter has to be helped with."""

from __future__ import annotations

import numpy as np
import pytest

import specc
from specc import grammar, sample
from specc.exporting import to_onnx
from specc.sizes import interface
from specc.weights import random_weights

NORM = """specc 1

network Norm(x: [1, 8, 12, 12]) -> [1, 4, 6, 6]:
    normal = layer_norm({pool}, axis=1)
    return conv2d(normal, 4{window})
"""


@pytest.mark.parametrize(("pool", "window"), [("avg_pool2d(x, 2)", ""), ("x", ", s=2")])
def test_a_norm_whose_weights_are_merged_is_written_behind_a_pool(pool: str, window: str) -> None:
    """Behind a pool, the exporter has lost how many channels there are, and a norm without weights does not say."""
    runtime = pytest.importorskip("onnxruntime")
    graph = grammar.loads(NORM.format(pool=pool, window=window))
    weights = random_weights(graph, 0)
    (x,) = sample.draw(interface(graph)[0])
    session = runtime.InferenceSession(to_onnx(graph, weights), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    (expected,) = specc.compile(graph, weights=weights)(x)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
