"""Integers and truth values through all of the compiler: text, PyTorch, artifact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import specc
from specc import grammar
from specc.diagnostics import SpeccError
from specc.weights import random_inputs, random_weights

CAUSAL = """specc 1

network Causal(x: [n = 2, l = 5, 8], visible: [n, l] bool, last: [n, 1] int64):
    buffer offset: [1] int64 init ones
    scores = matmul(x, permute(x, [0, 2, 1]))
    query = reshape(arange(l), [l, 1])
    mask = logical_and(query >= arange(l), arange(l) <= reshape(last, [n, 1, 1]))
    mask = logical_and(mask, reshape(visible, [n, 1, l]))
    weights = softmax(where(mask, scores, -1e9))
    count = cast(visible, "int64") * 3 + arange(l) // 2 - arange(l) % 2 + slice(offset, axis=0, stop=1)
    return weights, count, logical_not(visible)
"""


def test_all_three_agree() -> None:
    graph = grammar.loads(CAUSAL)
    weights, inputs = random_weights(graph), random_inputs(graph)
    assert weights["offset"].dtype == np.int64 and inputs["visible"].dtype == np.bool_
    module = specc.to_torch(graph)
    module.load_state_dict({key: torch.tensor(array) for key, array in weights.items()})
    expected = module.eval()(**{name: torch.tensor(array) for name, array in inputs.items()})
    artifact = specc.compile(graph, weights=weights)
    found = artifact(**inputs)
    assert [array.dtype.name for array in found] == ["float32", "int64", "bool"]
    np.testing.assert_allclose(found[0], expected[0].detach().numpy(), atol=1e-6)
    for array, tensor in zip(found[1:], expected[1:], strict=True):
        assert np.array_equal(array, tensor.numpy())
    artifact.self_test()


def test_the_artifact_refuses_other_types() -> None:
    artifact = specc.compile(grammar.loads(CAUSAL), level=0)
    x, visible, last = artifact.contents.samples[0].inputs
    for given in ((x, visible.astype(np.uint8), last), (x, visible, last.astype(np.int32)), (visible, visible, last)):
        with pytest.raises(SpeccError) as caught:
            artifact(*given)
        assert caught.value.diagnostics[0].code == "S0912"
