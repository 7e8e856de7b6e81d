"""Interpolation with tables of neighbours and weights against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_programs import TARGETS, WIDTHS, check, program, tensor

import specc
from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Input
from specc.backends.tvm.kernels import resize
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.passes.registry import Fusion, Layout
from specc.targets import Target

PICTURES: list[tuple[tuple[int, ...], tuple[int, int]]] = [
    ((1, 20, 9, 11), (18, 22)),
    ((2, 3, 7, 40), (5, 13)),
    ((1, 17, 1, 6), (4, 1)),
    ((1, 16, 5, 5), (5, 43)),
    ((1, 5, 6, 20), (13, 20)),
    ((1, 3, 2, 50), (3, 29)),
]
"""Twice the size; a batch, fewer places, and neighbours farther apart than two vectors; extents of 1; an axis kept;
neighbours in two vectors."""
MODES = [("nearest", False), ("bilinear", False), ("bilinear", True), ("bicubic", False), ("bicubic", True)]


def resized(mode: str, size: tuple[int, ...], align: bool = False) -> tuple[str, tuple[int], dict[str, Any]]:
    return "resize", (0,), {"size": size, "mode": mode, "align_corners": align}


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
@pytest.mark.parametrize(("mode", "align"), MODES)
def test_equals_torch(target: Target, mode: str, align: bool) -> None:
    for shape, size in PICTURES:
        for layout in ("", target.blocked_layout):
            check(program([tensor(*shape, layout=layout)], resized(mode, size, align)), resize.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
def test_places_just_too_far_apart_for_two_vectors(target: Target) -> None:
    """The last place of a vector lies two vectors behind the first one, and an element less."""
    lanes = target.lanes
    for width, size in ((2 * lanes, lanes - 1), (2 * lanes - 1, lanes - 1)):
        for mode in ("nearest", "bilinear"):
            check(program([tensor(1, 2, 3, width)], resized(mode, (3, size))), resize.lower, target)
            check(program([tensor(1, 2, 3, 3 * width)], resized(mode, (3, 3 * size))), resize.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
def test_sequences_and_volumes(target: Target) -> None:
    check(program([tensor(1, 3, 11)], resized("linear", (35,))), resize.lower, target)
    check(program([tensor(2, 5, 70)], resized("linear", (9,), True)), resize.lower, target)
    check(program([tensor(2, 5, 7)], resized("nearest", (18,))), resize.lower, target)
    check(program([tensor(2, 3, 4, 5, 6)], resized("trilinear", (8, 3, 17))), resize.lower, target)
    check(program([tensor(1, 3, 4, 5, 6)], resized("trilinear", (4, 7, 6))), resize.lower, target)
    check(program([tensor(1, 3, 4, 5, 6)], resized("nearest", (4, 3, 17))), resize.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
def test_what_follows_in_the_same_kernel(target: Target) -> None:
    """A residual and an activation, of which a heavy one is a loop of its own in blocks; by a scale, too."""
    for layout in ("", target.blocked_layout):
        for mode, align in MODES:
            operands = [tensor(1, 20, 5, 9, layout=layout), tensor(1, 20, 11, 19, layout=layout)]
            steps = resized(mode, (11, 19), align), ("add", (2, 1), {}), ("gelu", (3,), {})
            check(program(operands, *steps), resize.lower, target)
        by_scale = {"size": (8, 14), "mode": "bilinear", "scale": 1.6}
        check(program([tensor(1, 20, 5, 9, layout=layout)], ("resize", (0,), by_scale)), resize.lower, target)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_operands_of_16_bits(mode: str) -> None:
    for target in WIDTHS:
        for layout in ("", target.blocked_layout):
            for size in ((10, 14), (5, 4)):
                x = Input(TensorType((1, 20, 5, 7), "bfloat16", layout))
                check(
                    program([x], resized(mode, size), ("cast", (1,), {"dtype": "bfloat16"})), resize.lower, target, 8e-3
                )
                check(program([x], resized(mode, size)), resize.lower, target)


@pytest.mark.parametrize("name", ["aarch64", "armv7", "riscv64", "riscv64-v"])
def test_other_processors_have_the_kernels(name: str) -> None:
    target = targets.TARGETS[name]
    for layout in ("", target.blocked_layout):
        group = program([tensor(1, 20, 5, 9, layout=layout)], resized("bicubic", (11, 19)))
        template = resize.lower(group, target, Choices())
        assert template is not None and kernel_of(group, template).template == "resize"


def test_other_groups_are_refused() -> None:
    target, up = TARGETS[-1], resized("nearest", (8, 8))
    for group in (
        program([tensor(1, 16, 4, 4)], ("relu", (0,), {})),
        program([tensor(1, 16, 4, 4)], ("relu", (0,), {}), ("resize", (1,), up[2])),
        program([tensor(1, 16, 4, 4), tensor(2, 16, 8, 8)], up, ("add", (2, 1), {})),
    ):
        assert resize.lower(group, target, Choices()) is None


def test_between_convolutions() -> None:
    graph = Graph("Up")
    value = graph.call("conv2d", [graph.input("x", TensorType((1, 16, 6, 7)))], {"out": 24, "k": 3}, "a")
    value = graph.apply("silu", [graph.call("resize", [value], {"scale": 2.0, "mode": "bicubic"})])
    graph.outputs = [graph.call("conv2d", [value], {"out": 16}, "b")]
    artifact = specc.compile(graph, passes=(Layout(16), Fusion()))
    kernels = [row["kernel"].rpartition("_")[0] for row in artifact.manifest.sizes[0].facts["kernels"]]
    assert kernels == ["convert_layout", "conv2d", "resize_silu", "conv2d"]
    assert max(artifact.self_test()) < 1e-5
