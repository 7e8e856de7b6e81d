"""The product of a picture and scales of its channels and the 1x1 convolution of it in one kernel, against PyTorch."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel_programs import NATIVE, WIDTHS, check, program, tensor, weight
from pytest import MonkeyPatch
from test_emitted_c import kernels_of

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import scaled, select
from specc.backends.tvm.kernels.half_blocks import HalfBlocks
from specc.ir.text import parse_graph
from specc.targets import Target


def projection(
    target: Target, shape: tuple[int, ...], outputs: int, act: str = "", residual: bool = False, swapped: bool = False
) -> Group:
    """The product of a picture and scales, in either order, and a 1x1 convolution with its bias, an activation and
    another picture that is added, if wanted."""
    layout, (n, channels, height, width) = target.blocked_layout, shape
    inputs = [tensor(*shape, layout=layout), tensor(n, channels, 1, 1, layout=layout)]
    inputs += [weight(outputs, channels, 1, 1), weight(outputs), tensor(n, outputs, height, width, layout=layout)]
    steps: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [("mul", (1, 0) if swapped else (0, 1), {})]
    inputs = inputs if residual else inputs[:-1]
    steps.append(("conv2d", (len(inputs), 2, 3), {}))
    if act:
        steps.append((act, (len(inputs) + len(steps) - 1,), {}))
    if residual:
        steps.append(("add", (len(inputs) + len(steps) - 1, 4), {}))
    return program(inputs, *steps)


@pytest.mark.parametrize("seed", range(8))
def test_equals_torch(seed: int) -> None:
    rng = random.Random(seed)
    for target in WIDTHS:
        shape = rng.choice([1, 1, 2, 3]), rng.randint(2, 90), rng.randint(2, 14), rng.randint(2, 30)
        acts = rng.choice(["", "silu", "gelu"])
        group = projection(target, shape, rng.randint(2, 70), acts, rng.random() < 0.5, rng.random() < 0.5)
        check(group, scaled.lower, target)


def test_a_result_written_over_its_residual() -> None:
    group = projection(NATIVE, (2, 24, 5, 9), 24, residual=True)
    assert [number for number in range(5) if group.beside(number)] == [4]
    check(group, scaled.lower)


@pytest.mark.parametrize("given", [{"fused": False}, {"order": "blocks"}, {"order": "blocks", "chunks": 5}], ids=str)
def test_other_choices_have_the_same_result(given: dict[str, Any]) -> None:
    group = projection(NATIVE, (2, 80, 14, 14), 112, "relu")
    check(group, select.template, configuration=given)
    template = select.lower(group, NATIVE, given)
    assert template.write.__module__ == scaled.__name__ and given.items() <= template.configuration.items()


def test_what_is_no_such_product_has_another_template() -> None:
    group = projection(NATIVE, (1, 24, 5, 9), 16)
    (picture, scales, *rest), (mul, convolution) = group.inputs, group.steps
    for other in (
        replace(group, inputs=(picture, replace(scales, frozen=True), *rest)),
        replace(group, inputs=(replace(picture, type=replace(picture.type, layout="")), scales, *rest)),
        replace(group, inputs=(picture, scales, replace(rest[0], frozen=False), *rest[1:])),
        replace(group, steps=(replace(mul, op="add"), convolution)),
        replace(group, steps=(replace(mul, operands=(0, 0)), convolution)),
    ):
        assert scaled.lower(other, NATIVE, Choices()) is None


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("mistake", ["the weights of the first image", "the weights before they are scaled"])
def test_a_mistake_is_found(mistake: str, halves: bool, monkeypatch: MonkeyPatch) -> None:
    batch, configuration = 2, {"halves": halves}
    if "image" in mistake:
        monkeypatch.setattr(scaled._Scaled, "_filters", lambda self, place: place.blocks)
        monkeypatch.setattr(scaled._ScaledHalves, "_filters", HalfBlocks._filters)
    else:
        monkeypatch.setattr(scaled, "_scaled", lambda emitter, weights, scales, batch: weights)
        batch = 1
    group = projection(NATIVE, (batch, 20, 6, 9), 3 * NATIVE.lanes // 2)
    with pytest.raises(AssertionError):
        check(group, scaled.lower, configuration=configuration)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda target: target.name)
@pytest.mark.parametrize(("vectors", "channels"), [(1, 17), (3, 40), (5, 72), (9, 24)])
def test_two_inputs_in_each_vector(target: Target, vectors: int, channels: int) -> None:
    group = projection(target, (2, channels, 7, 9), vectors * target.lanes // 2, "relu", residual=True)
    check(group, scaled.lower, target, configuration={"halves": True})


def test_a_network_runs_it_on_this_machine_and_in_c(tmp_path: Path) -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[1, 20, 18, 9]
        param w: float32[20, 1, 3, 3] kaiming
        param v: float32[20, 20, 1, 1] kaiming
        param u: float32[20, 20, 1, 1] kaiming
        %0: float32[1, 20, 18, 9] = conv2d(x, @w) {groups=20; padding=(1, 1, 1, 1)}
        %1: float32[1, 20, 18, 9] = relu(%0)
        %2: float32[1, 20, 1, 1] = mean(%1) {axes=(2, 3); keep=True}
        %3: float32[1, 20, 1, 1] = conv2d(%2, @v)
        %4: float32[1, 20, 1, 1] = sigmoid(%3)
        %5: float32[1, 20, 18, 9] = mul(%1, %4)
        %6: float32[1, 20, 18, 9] = conv2d(%5, @u)
        %7: float32[1, 20, 18, 9] = add(%6, x)
        return %7
        """
    )
    for kernels in kernels_of(graph, 1 << 20, tmp_path):
        (kernel,) = (each for each in kernels if each["template"] == "scaled")
        assert kernel["operators"] == "mul_conv2d_add" and kernel["macs"] == 18 * 9 * 20 * 20
