"""Two linear layers in one kernel, strip by strip, with the norm in front of them, against PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kernel_programs import NATIVE, WIDTHS, check, program, tensor, weight
from pytest import MonkeyPatch
from test_emitted_c import kernels_of
from tvm import tirx

from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import perceptron_linear, select
from specc.backends.tvm.kernels.perceptron_linear import Layer
from specc.ir.text import parse_graph
from specc.targets import Target

lowered = partial(perceptron_linear.lower, select=select.template)


def block(
    shape: tuple[int, ...],
    wide: int,
    outputs: int,
    acts: tuple[str, ...] = ("gelu",),
    norm: str = "",
    affine: bool = False,
    residual: str = "",
    source: bool = False,
) -> Group:
    """Two linear layers with biases and `acts` behind the first one; in front of them a norm, behind them an operator
    that takes another tensor, or the `source`, where they are asked for."""
    channels = shape[-1]
    inputs = [tensor(*shape), weight(wide, channels), weight(wide), weight(outputs, wide), weight(outputs)]
    inputs += [weight(channels)] * affine
    inputs += [tensor(*shape[:-1], outputs)] * (bool(residual) and not source)
    steps = list[tuple[str, tuple[int, ...], dict[str, Any]]]()

    def add(op: str, *operands: int, **attrs: Any) -> int:
        steps.append((op, operands, attrs))
        return len(inputs) + len(steps) - 1

    value = add(norm, 0, *([5] * affine)) if norm else 0
    value = add("linear", value, 1, 2)
    for act in acts:
        value = add(act, value)
    value = add("linear", value, 3, 4)
    if residual:
        add(residual, value, 0 if source else len(inputs) - 1)
    return program(inputs, *steps)


def drawn(seed: int, target: Target) -> tuple[Group, Configuration]:
    """A perceptron of any kind, and a configuration."""
    rng = random.Random(seed)
    channels = rng.choice([5, 16, 24, 37, 48, 70])
    residual = rng.choice(["", "add", "mul"])
    norm = rng.choice(["", "layer_norm", "rms_norm"])
    source = bool(residual) and rng.random() < 0.6
    group = block(
        (*rng.choice([(1, 60), (2, 49), (1, 7, 14), (2, 3, 5, 7), (61,), (1, 97), (9, 1)]), channels),
        rng.randint(17, 130),
        channels if source else rng.randint(3, 90),
        tuple(rng.choices(["relu", "silu", "gelu", "tanh"], k=rng.choice([0, 1, 1, 2]))),
        norm,
        norm == "rms_norm" and rng.random() < 0.5,
        residual,
        source,
    )
    choices = Choices()
    assert lowered(group, target, choices) is not None
    names = ("rows", "norm", "expand.tile", "project.tile", "expand.unroll")
    given = {c.name: rng.choice(c.values) for c in choices.space if c.name in names}
    return group, given if seed % 3 else NOTHING


@pytest.mark.parametrize("seed", range(18))
def test_equals_torch(seed: int) -> None:
    for target in WIDTHS:
        group, configuration = drawn(seed, target)
        check(group, lowered, target, configuration=configuration)


@pytest.mark.parametrize(
    "configuration",
    [{"rows": 7}, {"rows": 14}, {"rows": 10, "norm": 2}, {"fused": False}, {"fused": False, "layers.fused": False}],
    ids=str,
)
def test_other_choices_have_the_same_result(configuration: Configuration) -> None:
    check(
        block((2, 28, 40), 100, 40, norm="layer_norm", residual="add", source=True),
        lowered,
        NATIVE,
        2e-6,
        False,
        configuration,
    )


def written(group: Group, configuration: Configuration) -> tuple[int, ...]:
    """The inputs over which the kernel may write its result; that is right, and so is the result."""
    check(group, lowered, configuration=configuration)
    template = lowered(group, NATIVE, Choices(configuration))
    assert template is not None
    return kernel_of(group, template, conversions=NATIVE.conversions).overwrites


def divides(tile: str, rows: int, outputs: int) -> bool:
    """Whether tiles of so many rows and vectors fill a strip."""
    pixels, blocks = map(int, tile.split("x"))
    return rows % pixels == 0 and -(-outputs // NATIVE.lanes) % blocks == 0


def test_the_result_lies_over_what_strips_have_read() -> None:
    """Not where the last tile overlaps the one before it, or the last strip, and would read what is written."""
    group = block((2, 28, 40), 100, 40, norm="layer_norm", residual="add", source=True)
    choices = Choices({"rows": 14})
    assert lowered(group, NATIVE, choices) is not None
    (values,) = ([str(v) for v in choice.values] for choice in choices.space if choice.name == "project.tile")
    once, again = ([tile for tile in values if divides(tile, 14, 40) is even] for even in (True, False))
    for tile in (once[0], again[0], again[-1]):
        assert written(group, {"rows": 14, "project.tile": tile}) == ((0,) if tile in once else ())
    assert written(group, {"rows": 10, "project.tile": once[0]}) == ()


@pytest.mark.parametrize("norm", ["", "layer_norm"])
def test_another_residual_and_layers_apart(norm: str) -> None:
    other = block((2, 28, 40), 100, 40, norm=norm, residual="add")
    source = block((2, 28, 40), 100, 40, norm=norm, residual="add", source=True)
    whole = written(other, {"rows": 14})
    assert whole in ((), (0, 5))
    assert written(source, {"rows": 14}) == (() if not whole else (0,))
    assert written(source, {"fused": False}) == ()


def test_what_is_no_perceptron_has_another_template() -> None:
    group = block((1, 30, 24), 64, 24, norm="layer_norm")
    assert select.lower(group, NATIVE).write.__module__ == perceptron_linear.__name__
    normalized, first, act, second = group.steps
    inputs = group.inputs
    several = replace(group, results=(6, group.last))
    beside = replace(group, steps=(normalized, first, replace(act, op="mul", operands=(6, 6)), second))
    blocks = replace(group, steps=(replace(normalized, op="softmax"), first, act, second))
    for other in (several, blocks):
        assert lowered(other, NATIVE, Choices()) is None
    assert lowered(beside, NATIVE, Choices()) is not None
    varying = replace(group, inputs=(*inputs[:3], replace(inputs[3], frozen=False), *inputs[4:]))
    choices = Choices()
    assert lowered(varying, NATIVE, choices) and choices.space[0].values == (False,)


@pytest.mark.parametrize("rows", [784, 3136, 197 * 16, 3137])
def test_strips_are_enough_for_threads_and_fit_the_cache(rows: int) -> None:
    group = block((1, rows, 96), 384, 96, norm="layer_norm")
    target = replace(NATIVE, l2_bytes=2 << 20)
    found = perceptron_linear.plan_of(group, perceptron_linear._parts(group) or (), target, Choices())
    assert found.strips >= 8 and found.strips * found.rows < 1.03 * rows
    assert 8 * 4 * 384 * found.rows <= target.l2_bytes


NET = """
graph Net
input x: float32[1, 192, 24]
param w: float32[96, 24] kaiming
param b: float32[96] zeros
param u: float32[24, 96] kaiming
%0: float32[1, 192, 24] = {norm}
%1: float32[1, 192, 96] = linear(%0, @w, @b)
%2: float32[1, 192, 96] = gelu(%1)
%3: float32[1, 192, 24] = linear(%2, @u)
%4: float32[1, 192, 24] = add(%3, x)
return %4
"""


@pytest.mark.parametrize("norm", ["layer_norm(x)", "relu(x)"])
def test_a_network_runs_it_on_this_machine_and_in_c(norm: str, tmp_path: Path) -> None:
    for place, kernels in enumerate(kernels_of(parse_graph(NET.format(norm=norm)), 60_000, tmp_path)):
        (kernel,) = (each for each in kernels if each["macs"])
        name = "layer_norm_" * ("layer" in norm) + "linear_gelu_linear_add"
        assert kernel["template"] == "perceptron_linear" and kernel["operators"] == name
        in_c = place > 0
        assert kernel["configuration"]["fused"] is not (in_c and "layer" in norm)


emit = Layer.emit


def _poisoned(self: Layer) -> None:
    """Memory that holds NaN: what a thread has left there would hide that rows are missing."""
    if self.strip.goal is not None:
        count, columns = map(int, self.strip.goal.shape)
        with self.emitter.serial(count) as row, self.emitter.serial(columns) as column:
            self.emitter.store(self.strip.goal, tirx.const(float("nan"), "float32"), [row, column])
    emit(self)


def _short(self: Layer) -> None:
    """The first layer writes fewer rows of each strip than there are."""
    if self.strip.goal is not None:
        self.tiles -= 1
    _poisoned(self)


def _shifted(self: Layer) -> None:
    """The first layer reads the rows of the strip behind its own."""
    if self.strip.goal is not None and self.strip.source is None:
        self.strip = replace(self.strip, first=tirx.min(self.strip.first + 7, 56 - self.strip.count))
    _poisoned(self)


MISTAKES: dict[str, Callable[[Layer], None]] = {"the last rows are missing": _short, "rows of another strip": _shifted}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "emit", _poisoned)
    given: Configuration = {"rows": 14, "expand.tile": "7x2"}
    group = block((2, 28, 40), 100, 40, residual="add")
    check(group, lowered, configuration=given)
    monkeypatch.setattr(Layer, "emit", MISTAKES[mistake])
    with pytest.raises(AssertionError):
        check(group, lowered, configuration=given)


def test_overwriting_what_is_read_again_is_found(monkeypatch: MonkeyPatch) -> None:
    """Two strips with rows in common: the second one would normalize what the first one wrote."""
    monkeypatch.setattr(perceptron_linear, "_once", lambda *given: True)
    group = block((2, 28, 40), 100, 40, norm="layer_norm", residual="add", source=True)
    with pytest.raises(AssertionError, match="written over its operand"):
        check(group, lowered, configuration={"rows": 10})
