"""Dense convolutions against PyTorch: borders, strides, channels that no block divides, epilogues, both loop orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import convolution, general
from specc.backends.tvm.packing import Packing
from specc.targets import Target


def conv(shape: tuple[int, ...], out: int, k: tuple[int, int], layout: str, bias: bool = True, **attrs: Any) -> Group:
    inputs = [tensor(*shape, layout=layout), weight(out, shape[1], *k)] + [weight(out)] * bias
    return program(inputs, ("conv2d", range(len(inputs)), attrs))


BLOCKED = NATIVE.blocked_layout
CASES: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 32, 14, 14), 48, (1, 1), {}),
    ((3, 16, 1, 31), 7, (1, 1), {}),
    ((1, 20, 7, 7), 40, (1, 1), {"stride": 2}),
    ((1, 24, 13, 9), 33, (3, 3), {"padding": 1}),
    ((2, 20, 9, 13), 40, (3, 3), {"padding": 2, "dilation": 2, "stride": 2}),
    ((1, 16, 6, 30), 16, (5, 2), {"padding": [0, 1, 3, 2], "stride": [2, 1]}),
    ((1, 16, 2, 2), 16, (7, 7), {"padding": 3}),
    ((1, 17, 4, 5), 1, (4, 5), {}),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CASES)
def test_equals_torch(
    target: Target, shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: dict[str, Any]
) -> None:
    check(conv(shape, out, k, target.blocked_layout, **attrs), convolution.lower, target)


@pytest.mark.parametrize("l2_bytes", [1 << 14, 1 << 20])
@pytest.mark.parametrize(("channels", "out"), [(64, 256), (3072, 768)])
def test_threads_share_a_convolution_of_one_row(channels: int, out: int, l2_bytes: int) -> None:
    target = replace(NATIVE, l2_bytes=l2_bytes)
    group = conv((1, channels, 7, 7), out, (1, 1), BLOCKED)  # 49 pixels are one row
    template = convolution.lower(group, target, Choices())
    assert template is not None
    assert max(kernel_of(group, template).parallel) >= 8


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("side", "whole"), [(64, False), (128, False), (74, False), (17, True)])
def test_threads_share_the_pixels_of_few_channels(target: Target, side: int, whole: bool) -> None:
    group = conv((1, 32, side, side), 48, (1, 1), target.blocked_layout)
    choices = Choices()
    template = convolution.lower(group, target, choices)
    columns = next(choice.taken for choice in choices.space if choice.name == "columns")
    assert template is not None
    if target.lanes == 16:
        assert (columns == side * side) == whole  # rows of 17 pixels tile badly
    assert whole or max(kernel_of(group, template).parallel) >= 8


@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CASES[3:6])
def test_output_blocks_shared_out(shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: dict[str, Any]) -> None:
    tiny = replace(NATIVE, l2_bytes=4096)  # the weights are larger: threads share out output blocks
    check(conv(shape, out, k, NATIVE.blocked_layout, bias=False, **attrs), convolution.lower, tiny)


CHUNKED: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any], dict[str, Any]]] = [
    ((1, 96, 7, 7), 90, (3, 3), {"padding": 1}, {"strips": 1, "chunks": 3}),
    ((2, 60, 9, 9), 40, (3, 3), {"padding": 1, "stride": 2}, {"strips": 2, "chunks": 4}),
    ((1, 64, 5, 5), 40, (1, 1), {}, {"chunks": 2, "ahead": True}),
    ((1, 64, 8, 6), 40, (1, 1), {}, {"order": "strips", "chunks": 4, "ahead": True, "results": True}),
]


@pytest.mark.parametrize("target", [t for t in TARGETS if t.lanes == 16] or TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "out", "k", "attrs", "configuration"), CHUNKED)
def test_reductions_in_chunks(
    target: Target,
    shape: tuple[int, ...],
    out: int,
    k: tuple[int, int],
    attrs: dict[str, Any],
    configuration: dict[str, Any],
) -> None:
    group = conv(shape, out, k, target.blocked_layout, **attrs)
    choices = Choices(configuration)
    assert convolution.lower(group, target, choices) is not None
    taken = {choice.name: choice.taken for choice in choices.space}
    assert {name: taken[name] for name in configuration} == configuration
    check(group, convolution.lower, target, configuration=configuration)


@pytest.mark.parametrize("layout", [BLOCKED, ""])
def test_chunks_in_front_of_an_epilogue(layout: str) -> None:
    inputs = [tensor(1, 64, 6, 7, layout=BLOCKED), weight(20, 64, 1, 1), tensor(1, 20, 6, 7, layout=BLOCKED)]
    steps: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("conv2d", (0, 1), {}),
        ("gelu", (3,), {}),
        ("add", (4, 2), {}),
        *([] if layout else [("convert_layout", (5,), {"layout": ""})]),
    ]
    check(program(inputs, *steps), convolution.lower, configuration={"chunks": 2})


def test_many_channels_of_a_small_image_are_added_up_in_chunks() -> None:
    """Three output blocks of the weights are 0.9 MB, and seven rows of tiles read them."""
    machine = replace(NATIVE, l1_bytes=32 << 10, l2_bytes=1 << 20, l2_share=1.0, vector_bits=512, vector_registers=32)

    def taken(channels: int, target: Target = machine) -> dict[str, Any]:
        choices = Choices()
        group = conv((1, channels, 7, 7), 512, (3, 3), target.blocked_layout, padding=1)
        template = convolution.lower(group, target, choices)
        assert template is not None
        configuration = {choice.name: choice.taken for choice in choices.space}
        return configuration | {"parallel": kernel_of(group, template).parallel}

    many, few = taken(512), taken(64)
    assert many["chunks"] == 32 and many["ahead"]
    assert many["parallel"] == (12,), "two, three or four threads get equally many blocks"
    assert few["chunks"] == 1
    choices = Choices({"columns": 4096})
    assert convolution.lower(conv((1, 144, 64, 64), 48, (1, 1), machine.blocked_layout), machine, choices)
    assert {choice.name: choice.taken for choice in choices.space}["chunks"] == 1, "its sums are 0.8 MB"
    assert taken(512, targets.TARGETS["neoverse-n1"])["chunks"] == 1, "nothing is asked for there"
    larger = replace(machine, l2_bytes=2 << 20)
    assert taken(512, larger)["chunks"] == 1, "two groups and the image take 0.89 of the cache"
    assert taken(512, replace(larger, l2_share=0.55))["chunks"] == 32


@pytest.mark.parametrize(("l1", "l2", "chunks"), [(48, 2048, 1), (96, 2048, 2), (48, 1024, 23)])
def test_sums_leave_their_weights_room(l1: int, l2: int, chunks: int) -> None:
    """Those of two output blocks of 19x19 are 46 KB; two groups' weights and the image 1.2 MB."""
    machine = replace(NATIVE, l1_bytes=l1 << 10, l2_bytes=l2 << 10, l2_share=0.55, vector_bits=512, vector_registers=32)
    choices = Choices()
    assert convolution.lower(conv((1, 728, 19, 19), 728, (1, 1), machine.blocked_layout), machine, choices)
    assert {choice.name: choice.taken for choice in choices.space}["chunks"] == chunks


@pytest.mark.parametrize(
    ("channels", "extent", "out", "asked"), [(672, 7, 160, True), (512, 28, 256, False), (256, 7, 160, False)]
)
def test_weights_that_few_tiles_share_are_asked_for_ahead(channels: int, extent: int, out: int, asked: bool) -> None:
    choices = Choices()
    target = targets.TARGETS["x86-64-v4-amx"]
    convolution.lower(conv((1, channels, extent, extent), out, (1, 1), target.blocked_layout), target, choices)
    taken = {choice.name: choice.taken for choice in choices.space}
    assert taken.get("ahead", False) == asked


@pytest.mark.parametrize("extents", [(14, 1), (1, 14), (1, 1)])
def test_images_of_one_row_or_column(extents: tuple[int, int]) -> None:
    inputs = [tensor(1, 16, *extents, layout=BLOCKED), weight(20, 16, 1, 1), tensor(1, 20, *extents, layout=BLOCKED)]
    check(program(inputs, ("conv2d", (0, 1), {}), ("add", (3, 2), {})), convolution.lower)


@pytest.mark.parametrize("rows", [7, 49, 50, 51])
def test_strips_that_do_not_divide_the_rows(rows: int) -> None:
    # 8 strips of 49 rows: seven of seven rows, and one of none.
    check(conv((2, 16, rows, 5), 16, (3, 3), NATIVE.blocked_layout, padding=1), convolution.lower)


@pytest.mark.parametrize("goal", ["blocked", ""])
def test_first_layer_reads_plain(goal: str) -> None:
    layout = NATIVE.blocked_layout if goal else ""
    inputs = [tensor(1, 3, 17, 19), weight(20, 3, 3, 3), weight(20)]
    check(
        program(
            inputs,
            ("conv2d", (0, 1, 2), {"stride": 2, "padding": 1}),
            ("gelu", (3,), {}),
            ("convert_layout", (4,), {"layout": layout}),
        ),
        convolution.lower,
    )


def test_writes_plain_result() -> None:
    inputs = [tensor(2, 32, 5, 5, layout=NATIVE.blocked_layout), weight(20, 32, 1, 1)]
    check(program(inputs, ("conv2d", (0, 1), {}), ("convert_layout", (2,), {"layout": ""})), convolution.lower)


def epilogue(operand: Input, op: str, activation: str) -> Group:
    layout = NATIVE.blocked_layout
    inputs = [tensor(2, 16, 6, 7, layout=layout), weight(20, 16, 1, 1), operand]
    return program(inputs, ("conv2d", (0, 1), {}), (activation, (3,), {}), (op, (4, 2), {}))


OPERANDS = {
    "residual": tensor(2, 20, 6, 7, layout=BLOCKED),
    "gate": tensor(2, 20, 1, 1, layout=BLOCKED),
    "channel": weight(20, 1, 1),
    "position": weight(6, 1),
    "scalar": tensor(),
    "frozen map": Input(tensor(1, 20, 6, 7, layout=BLOCKED).type, frozen=True),
}


@pytest.mark.parametrize("operand", OPERANDS.values(), ids=OPERANDS)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_epilogue_operands(operand: Input, activation: str) -> None:
    check(epilogue(operand, "mul", activation), convolution.lower)


def test_epilogue_with_constant_and_value_used_twice() -> None:
    inputs = [tensor(1, 16, 5, 5, layout=BLOCKED), weight(16, 16, 3, 3)]
    check(
        program(
            inputs,
            ("constant", (), {"value": 0.5}),
            ("conv2d", (0, 1), {"padding": 1}),
            ("mul", (3, 2), {}),
            ("sigmoid", (4,), {}),
            ("mul", (4, 5), {}),
        ),
        convolution.lower,
    )


def test_division_keeps_lanes_beyond_the_channels_finite() -> None:
    inputs = [tensor(1, 16, 4, 4, layout=BLOCKED), weight(20, 16, 1, 1), weight(20, 1, 1)]
    check(program(inputs, ("conv2d", (0, 1), {}), ("div", (3, 2), {})), convolution.lower)


@pytest.mark.parametrize(
    ("channels", "k", "configuration"), [(24, (1, 1), {}), (8, (3, 3), {}), (60, (1, 1), {"strips": 1, "chunks": 2})]
)
def test_channels_that_fill_the_last_block_are_not_multiplied(
    channels: int, k: tuple[int, int], configuration: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that would meet them are not read: NaN would come through."""
    apply = Packing.apply

    def filled(self: Packing, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        packed = apply(self, array)
        if self.kind == "convolution" and array.dtype.kind == "f":
            packed[:, -1, ..., channels % self.inner :, :] = np.nan
        return packed

    monkeypatch.setattr(Packing, "apply", filled)
    check(conv((1, channels, 6, 6), 40, k, BLOCKED), convolution.lower, configuration=configuration)


def test_other_groups_are_refused() -> None:
    grouped = program(
        [tensor(1, 16, 5, 5, layout=BLOCKED), weight(16, 8, 3, 3)], ("conv2d", (0, 1), {"groups": 2, "padding": 1})
    )
    unfrozen = program([tensor(1, 16, 5, 5, layout=BLOCKED), tensor(16, 16, 3, 3)], ("conv2d", (0, 1), {}))
    for group in (grouped, unfrozen):
        assert convolution.lower(group, NATIVE, Choices()) is None
        check(group, general.lower)
