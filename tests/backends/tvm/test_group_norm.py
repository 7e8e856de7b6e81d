"""group_norm by the statistics of its channels against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_programs import TARGETS, check, program, tensor, weight

import specc
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import group_norm
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.passes.registry import Fusion, Layout
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("groups, shape", [(1, (2, 6, 37)), (3, (1, 6, 5, 7)), (4, (2, 8, 2, 3, 33)), (2, (1, 4, 1))])
def test_equals_torch(target: Target, groups: int, shape: tuple[int, ...]) -> None:
    x, scales = tensor(*shape), weight(shape[1])
    check(program([x, scales, scales], ("group_norm", (0, 1, 2), {"groups": groups})), group_norm.lower, target)
    normed = ("group_norm", (0, 1), {"groups": groups, "eps": 0.25})
    check(program([x, scales, x], normed, ("add", (3, 2), {}), ("silu", (4,), {})), group_norm.lower, target)
    check(program([x], ("group_norm", (0,), {"groups": groups})), group_norm.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    "groups, shape", [(1, (2, 20, 3, 5)), (8, (1, 96, 7, 9)), (5, (1, 20, 1, 2)), (2, (1, 4, 9, 9))]
)
def test_blocks_of_channels(target: Target, groups: int, shape: tuple[int, ...]) -> None:
    """Groups of blocks, within a block, and across the ends of blocks; the last block may be part of one."""
    x, scales = tensor(*shape, layout=target.blocked_layout), weight(shape[1])
    normed = ("group_norm", (0, 1, 2), {"groups": groups})
    check(program([x, scales, scales, x], normed, ("add", (4, 3), {}), ("sigmoid", (5,), {})), group_norm.lower, target)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    """Differences from the mean are squared, not numbers: at 1000 +- 1, squares would keep no digit of the variance."""
    graph = Graph("Far")
    x = graph.input("x", TensorType((1, 4, 500)))
    graph.outputs = [graph.apply("group_norm", [x], {"groups": 1, "eps": 1e-5})]
    given = np.random.default_rng(0).normal(1000.0, 1.0, (1, 4, 500)).astype(np.float32)
    (found,) = specc.compile(graph)(given)
    exact = given.astype(np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    assert np.abs(found - exact).max() < 2e-3  # a float32 near 1000 is off by up to 3e-5


def test_other_groups_are_refused() -> None:
    target = TARGETS[-1]
    for group in (
        program([tensor(3, 4)], ("group_norm", (0,), {"groups": 2})),
        program([tensor(3, 4, 5)], ("layer_norm", (0,), {})),
        program([tensor(3, 4, 5), tensor(2, 3, 4, 5)], ("group_norm", (0,), {"groups": 2}), ("add", (2, 1), {})),
    ):
        assert group_norm.lower(group, target, Choices()) is None


def test_a_norm_between_convolutions_works_in_blocks() -> None:
    graph = Graph("Norm")
    value = graph.call("conv2d", [graph.input("x", TensorType((1, 16, 6, 7)))], {"out": 24, "k": 3}, "a")
    value = graph.apply("silu", [graph.call("group_norm", [value], {"groups": 3}, "norm")])
    graph.outputs = [graph.call("conv2d", [value], {"out": 16}, "b")]
    artifact = specc.compile(graph, passes=(Layout(16), Fusion()))
    kernels = [row["kernel"].rpartition("_")[0] for row in artifact.manifest.sizes[0].facts["kernels"]]
    assert kernels == ["convert_layout", "conv2d", "group_norm_silu", "conv2d"]
    assert max(artifact.self_test()) < 1e-5
