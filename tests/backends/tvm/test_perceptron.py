"""Two 1x1 convolutions in one kernel, strip by strip, against PyTorch."""

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
from specc.backends.tvm.kernels import perceptron, rows, select
from specc.ir.text import parse_graph
from specc.targets import Target


def block(
    target: Target,
    shape: tuple[int, ...],
    wide: int,
    outputs: int,
    acts: tuple[str, ...] = ("gelu",),
    scale: bool = False,
    residual: str = "",
    plain: bool = False,
) -> Group:
    """Two 1x1 convolutions with biases, `acts` behind the first one; behind the second one a scale for each channel,
    an operator that adds another picture, and the plain layout, where they are asked for."""
    layout, (n, channels, height, width) = target.blocked_layout, shape
    inputs = [tensor(*shape, layout=layout)]
    inputs += [weight(wide, channels, 1, 1), weight(wide), weight(outputs, wide, 1, 1), weight(outputs)]
    inputs += [weight(outputs, 1, 1)] * scale
    inputs += [tensor(n, outputs, height, width, layout=layout)] * bool(residual)
    steps = list[tuple[str, tuple[int, ...], dict[str, Any]]]()

    def add(op: str, *operands: int, **attrs: Any) -> int:
        steps.append((op, operands, attrs))
        return len(inputs) + len(steps) - 1

    value = add("conv2d", 0, 1, 2)
    for act in acts:
        value = add(act, value)
    value = add("conv2d", value, 3, 4)
    value = add("mul", value, 5) if scale else value
    value = add(residual, value, len(inputs) - 1) if residual else value
    if plain:
        add("convert_layout", value, layout="")
    return program(inputs, *steps)


def drawn(seed: int, target: Target) -> tuple[Group, dict[str, Any]]:
    """A perceptron of any kind, and a configuration."""
    rng = random.Random(seed)
    group = block(
        target,
        (rng.choice([1, 2]), rng.randint(2, 70), rng.randint(3, 21), rng.choice([4, 6, 9, 14, 30])),
        rng.randint(17, 130),
        rng.randint(3, 70),
        tuple(rng.choices(["relu", "silu", "gelu", "hard_swish", "leaky_relu", "mish"], k=rng.choice([0, 1, 1, 2]))),
        scale=rng.random() < 0.5,
        residual=rng.choice(["", "add", "mul"]),
        plain=rng.random() < 0.3,
    )
    template = perceptron.lower(group, target, choices := Choices())
    assert template is not None
    given = {c.name: rng.choice(c.values) for c in choices.space if c.name in ("rows", "expand.tile", "project.tile")}
    return group, given | {"fused": True} if seed % 2 else {"fused": True}


@pytest.mark.parametrize("seed", range(10))
def test_equals_torch(seed: int) -> None:
    for target in WIDTHS:
        group, configuration = drawn(seed, target)
        check(group, perceptron.lower, target, configuration=configuration)


@pytest.mark.parametrize("configuration", [{"rows": 1}, {"rows": 3}, {"rows": 5}, {"fused": False}], ids=str)
def test_other_choices_have_the_same_result(configuration: dict[str, Any]) -> None:
    """Eight rows of 14 pixels, which five or three do not divide."""
    group = block(NATIVE, (2, 20, 8, 14), 72, 20, scale=True, residual="add")
    check(group, perceptron.lower, configuration=configuration)


def test_an_operand_of_one_row_keeps_rows_apart() -> None:
    """Height and width are no single axis then, and a strip has whole rows."""
    inputs = [tensor(1, 16, 12, 9, layout=NATIVE.blocked_layout), weight(48, 16, 1, 1), weight(24, 48, 1, 1)]
    steps = ("conv2d", (0, 1), {}), ("conv2d", (4, 2), {}), ("mul", (5, 3), {})
    group = program([*inputs, weight(1, 1, 1, 9)], *steps)
    for count in (1, 5):
        check(group, perceptron.lower, configuration={"rows": count})


def test_an_operand_of_one_row_between_the_two_keeps_rows_apart() -> None:
    inputs = [tensor(1, 16, 12, 9, layout=NATIVE.blocked_layout), weight(48, 16, 1, 1), weight(24, 48, 1, 1)]
    steps = ("conv2d", (0, 1), {}), ("mul", (4, 3), {}), ("conv2d", (5, 2), {})
    group = program([*inputs, weight(1, 1, 1, 9)], *steps)
    check(group, perceptron.lower, configuration={"rows": 5, "fused": True})


def test_pixels_that_tile_badly_in_strips_have_two_kernels_in_one() -> None:
    """29 x 29 have no divisor but 29: three tiles of ten pixels, where the whole image has tiles of 14."""
    for extent, fused in ((28, True), (29, False)):
        template = select.lower(block(NATIVE, (1, 16, extent, extent), 64, 16), NATIVE)
        assert template.configuration["fused"] is (fused or NATIVE.lanes < 16)


def test_a_convolution_that_uses_half_a_block_has_its_own_kernel() -> None:
    group = block(NATIVE, (1, 16, 28, 28), 64, 3 * NATIVE.lanes // 2)
    template = select.lower(group, NATIVE)
    assert template.write.__module__ == perceptron.__name__
    assert template.configuration["fused"] is not template.configuration.get("project.halves", False)
    check(group)
    check(group, configuration={"fused": True})


def test_what_is_no_perceptron_has_another_template() -> None:
    group = block(NATIVE, (1, 16, 8, 8), 64, 16)
    (first, act, second), inputs = group.steps, group.inputs
    assert select.lower(group, NATIVE).write.__module__ == perceptron.__name__
    again = replace(second, operands=(second.operands[0], second.operands[1], first.operands[2]))
    shared = replace(group, steps=(first, act, again))
    plain = replace(group, inputs=(replace(inputs[0], type=replace(inputs[0].type, layout="")), *inputs[1:]))
    varying = replace(group, inputs=(*inputs[:3], replace(inputs[3], frozen=False), *inputs[4:]))
    for other in (shared, plain, varying):
        assert perceptron.lower(other, NATIVE, Choices()) is None


def test_a_network_runs_it_on_this_machine_and_in_c(tmp_path: Path) -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[1, 16, 18, 8]
        param w: float32[64, 16, 1, 1] kaiming
        param u: float32[16, 64, 1, 1] kaiming
        %0: float32[1, 64, 18, 8] = conv2d(x, @w)
        %1: float32[1, 64, 18, 8] = gelu(%0)
        %2: float32[1, 16, 18, 8] = conv2d(%1, @u)
        %3: float32[1, 16, 18, 8] = add(%2, x)
        return %3
        """
    )
    for kernels in kernels_of(graph, 40_000, tmp_path):
        (kernel,) = (each for each in kernels if each["macs"])
        assert kernel["template"] == "perceptron" and kernel["operators"] == "conv2d_gelu_conv2d_add"
        assert kernel["configuration"]["fused"] and kernel["macs"] == 18 * 8 * 64 * 32


def _poisoned(self: rows.Rows, emitter: Emitter, *given: Any, **named: Any) -> None:
    """Memory that holds NaN: what a thread has left there would hide that pixels are missing."""
    made(self, emitter, *given, **named)
    blocks, pixels, lanes = map(int, self.buffer.shape)
    with emitter.serial(blocks) as block, emitter.serial(pixels) as pixel, emitter.serial(lanes) as lane:
        emitter.store(self.buffer, tirx.const(float("nan"), "float32"), [block, pixel, lane])


made, place, plan = rows.Rows.__init__, rows.Rows.place, perceptron.plan_of


def _short(*given: Any) -> perceptron.Plan:
    """The first convolution writes a row of each strip too few."""
    found = plan(*given)
    geometry, schedule = found.first
    return replace(found, first=(replace(geometry, rows=geometry.rows - 1), schedule))


def _narrow(self: rows.Rows, emitter: Emitter, type: Any, blocks: int, count: int, **named: Any) -> None:
    made(self, emitter, type, blocks, count - 1, **named)


MISTAKES: dict[str, Callable[[MonkeyPatch], None]] = {
    "the last row is missing": lambda patch: patch.setattr(perceptron, "plan_of", _short),
    "a strip has room for a row too few": lambda patch: patch.setattr(rows.Rows, "__init__", _narrow),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(rows.Rows, "__init__", _poisoned)
    group = block(NATIVE, (1, 16, 8, 14), 64, 32)
    check(group, perceptron.lower, configuration={"rows": 3})
    MISTAKES[mistake](monkeypatch)
    with pytest.raises(AssertionError):
        check(group, perceptron.lower, configuration={"rows": 3})
