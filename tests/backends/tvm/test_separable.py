"""A depthwise convolution and the 1x1 one behind it in one kernel, and whole inverted residuals, against PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel_programs import NATIVE, WIDTHS, check, program, tensor, weight
from pytest import MonkeyPatch
from test_emitted_c import kernels_of
from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import expansion, rows, select, separable, stages
from specc.ir.text import parse_graph
from specc.targets import Target


def block(
    target: Target,
    shape: tuple[int, ...],
    outputs: int,
    k: tuple[int, int] = (3, 3),
    attrs: dict[str, Any] | None = None,
    wide: int = 0,
    acts: tuple[str, str, str] = ("relu", "silu", "hard_swish"),
    residual: str = "",
) -> Group:
    """An expansion to `wide` channels if there are any, a depthwise convolution, a projection, each with its bias and
    activation; `residual` is the operator that adds another picture, or the same one where the shapes are equal."""
    layout, (n, channels, *_) = target.blocked_layout, shape
    inputs, steps = [tensor(*shape, layout=layout)], list[tuple[str, tuple[int, ...], dict[str, Any]]]()
    deep = wide or channels
    attrs = {"padding": k[0] // 2, **(attrs or {}), "groups": deep}
    convolutions = [((deep, channels, 1, 1), dict[str, Any]())] * bool(wide)
    convolutions += [((deep, 1, *k), attrs), ((outputs, deep, 1, 1), {})]
    for extents, _ in convolutions:
        inputs += [weight(*extents), weight(extents[0])]
    if residual:
        stride, dilation = (attrs.get(name, 1) for name in ("stride", "dilation"))
        extents = [
            (size + 2 * attrs["padding"] - dilation * (taps - 1) - 1) // stride + 1
            for size, taps in zip(shape[2:], k, strict=True)
        ]
        inputs.append(tensor(n, outputs, *extents, layout=layout))
    value = 0
    for number, (_, given) in enumerate(convolutions):
        steps.append(("conv2d", (value, 1 + 2 * number, 2 + 2 * number), given))
        steps.append((acts[number + 3 - len(convolutions)], (len(inputs) + len(steps) - 1,), {}))
        value = len(inputs) + len(steps) - 1
    if residual:
        steps.append((residual, (value, len(inputs) - 1), {}))
    return program(inputs, *steps)


def drawn(seed: int, target: Target) -> tuple[Group, dict[str, Any]]:
    """A block of any kind, and a configuration."""
    rng = random.Random(seed)
    taps = rng.choice([(3, 3), (5, 5), (3, 5), (1, 7)])
    height, width = rng.randint(8, 17), rng.randint(7, 30)
    attrs = {"padding": rng.choice([0, 1, 2]), "stride": rng.choice([1, 1, 2]), "dilation": rng.choice([1, 1, 2])}
    if height + 2 * attrs["padding"] <= attrs["dilation"] * (taps[0] - 1) or taps == (1, 7):
        attrs["dilation"] = 1
    acts = rng.choices(["relu", "silu", "gelu", "hard_swish", "sigmoid", "leaky_relu"], k=3)
    group = block(
        target,
        (rng.choice([1, 1, 2]), rng.randint(2, 40), height, width),
        rng.randint(3, 70),
        taps,
        attrs,
        wide=rng.choice([0, rng.randint(17, 90)]),
        acts=(acts[0], acts[1], acts[2]),
        residual=rng.choice(["", "add", "mul"]),
    )
    template = separable.lower(group, target, choices := Choices())
    assert template is not None
    given = {c.name: rng.choice(c.values) for c in choices.space if c.name in ("rows", "pieces")}
    return group, given if seed % 2 else {}


@pytest.mark.parametrize("seed", range(8))
def test_equals_torch(seed: int) -> None:
    for target in WIDTHS:
        group, configuration = drawn(seed, target)
        check(group, separable.lower, target, configuration=configuration)


@pytest.mark.parametrize(
    "configuration",
    [{"rows": 3, "pieces": 2}, {"rows": 12, "pieces": 1}, {"fused": False}, {"fused": False, "front.fused": False}],
    ids=str,
)
def test_other_choices_have_the_same_result(configuration: dict[str, Any]) -> None:
    group = block(NATIVE, (1, 20, 24, 19), 24, attrs={"stride": 2}, wide=72, residual="add")
    check(group, configuration=configuration)


def test_an_operand_of_one_row_keeps_rows_apart() -> None:
    """Height and width are no single axis then."""
    inputs = [tensor(1, 16, 12, 9, layout=NATIVE.blocked_layout), weight(16, 1, 3, 3), weight(24, 16, 1, 1)]
    steps = ("conv2d", (0, 1), {"groups": 16, "padding": 1}), ("conv2d", (4, 2), {}), ("mul", (5, 3), {})
    check(program([*inputs, weight(1, 1, 1, 9)], *steps), separable.lower)


def test_a_network_runs_it_on_this_machine_and_in_c(tmp_path: Path) -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[1, 16, 18, 9]
        param w: float32[48, 16, 1, 1] kaiming
        param v: float32[48, 1, 3, 3] kaiming
        param u: float32[16, 48, 1, 1] kaiming
        %0: float32[1, 48, 18, 9] = conv2d(x, @w)
        %1: float32[1, 48, 18, 9] = relu(%0)
        %2: float32[1, 48, 18, 9] = conv2d(%1, @v) {groups=48; padding=(1, 1, 1, 1)}
        %3: float32[1, 48, 18, 9] = silu(%2)
        %4: float32[1, 16, 18, 9] = conv2d(%3, @u)
        %5: float32[1, 16, 18, 9] = add(%4, x)
        return %5
        """
    )
    for kernels in kernels_of(graph, 30_000, tmp_path):
        (kernel,) = (each for each in kernels if each["macs"])
        assert kernel["template"] == "separable" and kernel["operators"] == "conv2d_relu_conv2d_silu_conv2d_add"
        assert kernel["configuration"]["fused"] and kernel["macs"] == 18 * 9 * 48 * (16 + 9 + 16)


def test_what_is_no_such_block_has_another_template() -> None:
    group = block(NATIVE, (1, 16, 9, 9), 24)
    (deep, act, *more), inputs = group.steps, group.inputs
    assert select.lower(group, NATIVE).write.__module__ == separable.__name__
    again = replace(more[0], operands=(*more[0].operands[:2], deep.operands[2]))
    for other in (
        replace(group, inputs=(*inputs[:3], replace(inputs[3], frozen=False), *inputs[4:])),
        replace(group, inputs=(replace(inputs[0], type=replace(inputs[0].type, layout="")), *inputs[1:])),
        replace(group, steps=(deep, act, again, *more[1:])),
    ):
        assert separable.lower(other, NATIVE, Choices()) is None


def _late(window: stages.Window, y: Any, place: Any, height: int) -> tuple[Any, Any]:
    low, count = fresh(window, y, place, height)
    return low + 1, count - 1


def _forgetful(window: stages.Window, y: Any, place: Any, height: int) -> tuple[Any, Any]:
    """Takes the first row of a piece for one behind another."""
    return fresh(window, y, place + 1, height)


def _poisoned(self: rows.Rows, emitter: Emitter, *given: Any) -> None:
    """Memory that holds NaN: what a thread has left there would hide that a row is missing."""
    made(self, emitter, *given)
    blocks, pixels, lanes = map(int, self.buffer.shape)
    with emitter.serial(blocks) as block, emitter.serial(pixels) as pixel, emitter.serial(lanes) as lane:
        emitter.store(self.buffer, tirx.const(float("nan"), "float32"), [block, pixel, lane])


made, fresh, place = rows.Rows.__init__, stages.Window.fresh, rows.Rows.place
MISTAKES: dict[str, Callable[[MonkeyPatch], None]] = {
    "a row of a window is missing": lambda patch: patch.setattr(stages.Window, "fresh", _late),
    "the border rows of a piece are missing": lambda patch: patch.setattr(stages.Window, "fresh", _forgetful),
    "the ring has a row too few": lambda patch: patch.setattr(
        expansion.Expansion,
        "ring",
        lambda self, blocks: rows.Rows(self.emitter, self.type, self.type.physical[1], self.window.rows - 1),
    ),
    "the projection reads another row": lambda patch: patch.setattr(
        rows.Rows, "place", lambda self, block, row, column, lane: place(self, block, row, column + 1, lane)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(rows.Rows, "__init__", _poisoned)
    group = block(NATIVE, (1, 16, 12, 9), 24, wide=32)
    check(group, separable.lower, configuration={"rows": 2, "pieces": 3})
    MISTAKES[mistake](monkeypatch)
    with pytest.raises(AssertionError):
        check(group, separable.lower, configuration={"rows": 2, "pieces": 3})
