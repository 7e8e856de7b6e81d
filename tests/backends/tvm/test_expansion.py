"""A 1x1 convolution and the depthwise one behind it in one kernel, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kernel_programs import TARGETS, check, program, tensor, weight
from test_emitted_c import kernels_of

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import expansion
from specc.ir.text import parse_graph
from specc.targets import Target


def chain(
    target: Target, shape: tuple[int, ...], wide: int, k: tuple[int, int], attrs: dict[str, Any], first: str = "silu"
) -> Group:
    layout = target.blocked_layout
    inputs = [tensor(*shape, layout=layout), weight(wide, shape[1], 1, 1), weight(wide), weight(wide, 1, *k)]
    inputs += [weight(wide), weight(1, wide, 1, 1)]
    return program(
        inputs,
        ("conv2d", (0, 1, 2), {}),
        (first, (6,), {}),
        ("mul", (7, 5), {}),
        ("conv2d", (8, 3, 4), {**attrs, "groups": wide}),
        ("hard_swish", (9,), {}),
    )


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("shape", "wide", "k", "attrs"),
    [
        ((1, 16, 28, 28), 64, (3, 3), {"padding": 1, "stride": 2}),
        ((2, 24, 13, 9), 72, (5, 5), {"padding": 2}),
        ((1, 3, 11, 30), 37, (7, 7), {"padding": 3, "stride": 2}),
        ((1, 40, 12, 17), 50, (3, 5), {"padding": [2, 4, 2, 4], "dilation": 2}),
        ((1, 16, 12, 5), 33, (2, 3), {"padding": [0, 1, 2, 0], "stride": [3, 1]}),
        ((3, 8, 1, 1), 20, (3, 3), {"padding": 1}),
        ((1, 8, 4, 6), 200, (9, 3), {"padding": [4, 1, 4, 1]}),
    ],
)
def test_equals_torch(
    target: Target, shape: tuple[int, ...], wide: int, k: tuple[int, int], attrs: dict[str, Any]
) -> None:
    check(chain(target, shape, wide, k, attrs), expansion.lower, target)


@pytest.mark.parametrize("configuration", [{"fused": False}, {"pieces": 3}, {"expand.tile": "4x1"}], ids=str)
def test_other_choices_have_the_same_result(configuration: dict[str, Any]) -> None:
    group = chain(TARGETS[-1], (1, 20, 21, 19), 72, (3, 3), {"padding": 1, "stride": 2}, "gelu")
    template = expansion.lower(group, TARGETS[-1], Choices(configuration))
    assert template is not None
    check(group, expansion.lower, TARGETS[-1], configuration=configuration)


def test_a_network_runs_it_on_this_machine_and_in_c(tmp_path: Path) -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[2, 16, 9, 9]
        param w: float32[20, 16, 1, 1] kaiming
        param v: float32[20, 1, 3, 3] kaiming
        param b: float32[20] zeros
        %0: float32[2, 20, 9, 9] = conv2d(x, @w)
        %1: float32[2, 20, 9, 9] = relu(%0)
        %2: float32[2, 20, 5, 5] = conv2d(%1, @v, @b) {groups=20; stride=(2, 2); padding=(1, 1, 1, 1)}
        return %2
        """
    )
    for kernels in kernels_of(graph, 15_000, tmp_path):
        (kernel,) = (each for each in kernels if each["template"] == "expansion")
        assert kernel["operators"] == "conv2d_relu_conv2d" and kernel["configuration"]["fused"]
        assert kernel["macs"] == 2 * (9 * 9 * 16 * 20 + 5 * 5 * 9 * 20)
