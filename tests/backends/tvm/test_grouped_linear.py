"""Convolutions of images of one place against PyTorch: groups of any extents, both orders, operands of the epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

import specc
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import grouped_linear
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.passes.registry import Fusion, Layout
from specc.targets import Target


def conv(images: int, groups: int, inputs: int, outputs: int, layout: str = "", steps: Any = (), **more: Any) -> Group:
    """`groups` of so many inputs and outputs each, with a bias."""
    operands = [
        tensor(images, groups * inputs, 1, 1, layout=layout),
        weight(groups * outputs, inputs, 1, 1),
        weight(groups * outputs),
        *more.get("operands", ()),
    ]
    return program(operands, ("conv2d", range(3), {"groups": groups}), *steps)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("images", "groups", "inputs", "outputs"),
    [(2, 1, 64, 48), (64, 1, 33, 40), (7, 4, 20, 21), (4, 16, 49, 49), (16, 3, 5, 96), (29, 2, 16, 16), (3, 5, 1, 2)],
)
def test_equals_torch(target: Target, images: int, groups: int, inputs: int, outputs: int) -> None:
    check(conv(images, groups, inputs, outputs, steps=[("gelu", [3], {})]), grouped_linear.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("outputs", [12, 24])
def test_whole_blocks_of_channels(target: Target, outputs: int) -> None:
    """They lie as plain channels do, and a group may begin within a block."""
    check(conv(5, 4, 12, outputs, target.blocked_layout, [("relu", [3], {})]), grouped_linear.lower, target)


def test_a_block_that_is_not_full_is_left_to_others() -> None:
    group = conv(5, 3, 7, 9, NATIVE.blocked_layout)
    assert grouped_linear.lower(group, NATIVE, Choices()) is None
    check(group)


@pytest.mark.parametrize("outputs", [16, 19])
@pytest.mark.parametrize(
    "operand", [tensor(6, 3, 1, 1), weight(1, 3, 1, 1), tensor(6, 1, 1, 1), tensor(1, 1, 1), tensor()]
)
def test_epilogue_operands(operand: Any, outputs: int) -> None:
    shape = tuple(3 * outputs if extent == 3 else extent for extent in operand.type.concrete)
    operand = weight(*shape) if operand.frozen else tensor(*shape)
    check(
        conv(6, 3, 10, outputs, steps=[("mul", [4, 3], {}), ("silu", [5], {})], operands=[operand]),
        grouped_linear.lower,
    )


@pytest.mark.parametrize(
    "configuration",
    [{"order": "blocks", "strips": 3, "ahead": True}, {"order": "strips", "strips": 2, "ahead": False}],
    ids=["blocks", "strips"],
)
def test_every_order_equals_torch(configuration: dict[str, Any]) -> None:
    check(conv(23, 3, 36, 70), grouped_linear.lower, configuration=configuration)


@pytest.mark.parametrize("attrs", [{"padding": 1}, {"padding": [1, 0, 0, 0]}])
def test_other_windows_are_left_to_others(attrs: dict[str, Any]) -> None:
    group = program([tensor(3, 8, 1, 1), weight(8, 8, 1, 1)], ("conv2d", range(2), attrs))
    assert grouped_linear.lower(group, NATIVE, Choices()) is None
    group = program([tensor(3, 8, 1, 1), weight(8, 8, 3, 3)], ("conv2d", range(2), {"padding": 1}))
    assert grouped_linear.lower(group, NATIVE, Choices()) is None


def test_a_single_image_is_left_to_others() -> None:
    assert grouped_linear.lower(conv(1, 4, 16, 16), NATIVE, Choices()) is None


@pytest.mark.parametrize(("channels", "moves"), [(48, 0), (24, 1)])
def test_whole_blocks_of_one_place_are_a_view(channels: int, moves: int) -> None:
    """A layout conversion is no kernel where it moves nothing; a block filled with zeros needs one."""
    graph = Graph("Places")
    x = graph.apply("reshape", [graph.input("x", TensorType((4, channels)))], {"shape": (4, channels, 1, 1)})
    y = graph.call("conv2d", [x], {"out": channels, "groups": 3}, "a")
    graph.outputs = [graph.apply("softmax", [graph.apply("reshape", [y], {"shape": (4, channels)})], {"axis": 1})]
    artifact = specc.compile(graph, passes=(Layout(16), Fusion()))
    facts = artifact.manifest.sizes[0].facts["kernels"]
    assert sum("convert_layout" in row["kernel"] for row in facts) == moves
    assert max(artifact.self_test()) < 1e-5
    given = np.random.default_rng(0).normal(size=(4, channels)).astype(np.float32)
    assert np.allclose(artifact(given)[0].sum(1), 1.0, atol=1e-5)
