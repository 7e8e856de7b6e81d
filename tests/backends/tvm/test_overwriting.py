"""Results written over an operand: which kernels allow it, of one convolution and of several, and that they may.

`kernel_programs.execute` runs every kernel once more over each operand that it names, and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kernel_programs import NATIVE, WIDTHS, check, program, tensor, weight
from pytest import MonkeyPatch

from specc import targets
from specc.backends.torch import freeze
from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.emitter import Template, kernel_of
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import normalization, select
from specc.backends.tvm.lowering import lower
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.optimize import run_passes
from specc.passes.registry import pipeline
from specc.targets import Target
from specc.weights import random_weights


def written(group: Group, target: Target = NATIVE, configuration: Configuration = NOTHING) -> tuple[int, ...]:
    """The inputs over which the kernel of a group may write its result; that is right, and so is the result."""
    check(group, select.template, target, configuration=configuration)
    template = select.template(group, target, Choices(configuration))
    return kernel_of(group, template, conversions=target.conversions).overwrites


def chain(
    target: Target,
    convolutions: list[tuple[int, int]],
    channels: int = 20,
    within: bool = False,
    source: bool = False,
    shape: tuple[int, int, int] = (2, 9, 14),
) -> Group:
    """Convolutions of so many channels with windows of so many rows, the wider ones depthwise, one behind the other,
    and a sum with another picture, or with the `source`; `within`, the picture is added in front of the last one, too.
    """
    n, height, width = shape
    layout, inputs, steps = target.blocked_layout, list[Any](), list[tuple[str, tuple[int, ...], dict[str, Any]]]()
    inputs += [tensor(n, channels, height, width, layout=layout)]
    made = channels
    for out, rows in convolutions:
        inputs += [weight(out, made if rows == 1 else 1, rows, rows), weight(out)]
        made = out
    residual = 0 if source else len(inputs)
    inputs += [] if source else [tensor(n, made, height, width, layout=layout)]
    value = 0
    for number, (out, rows) in enumerate(convolutions):
        if within and number == len(convolutions) - 1:
            steps.append(("add", (value, residual), {}))
            value = len(inputs) + len(steps) - 1
        attrs = {"groups": out, "padding": rows // 2} if rows > 1 else {}
        steps.append(("conv2d", (value, 1 + 2 * number, 2 + 2 * number), attrs))
        steps.append(("relu", (len(inputs) + len(steps) - 1,), {}))
        value = len(inputs) + len(steps) - 1
    steps.append(("add", (value, residual), {}))
    return program(inputs, *steps)


SEVERAL = {
    "perceptron": [(70, 1), (20, 1)],
    "expansion": [(36, 1), (36, 3)],
    "separable": [(20, 3), (24, 1)],
    "inverted residual": [(36, 1), (36, 3), (20, 1)],
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_residual_behind_several_convolutions(name: str, fused: bool) -> None:
    for target in WIDTHS:
        group = chain(target, SEVERAL[name])
        assert written(group, target, {"fused": fused}) == (len(group.inputs) - 1,)


def test_a_residual_of_one_convolution() -> None:
    for convolution in ((24, 1), (20, 3)):
        group = chain(NATIVE, [convolution])
        assert written(group) == (3,)


@pytest.mark.parametrize("given", [{"fused": True}, {"fused": False}, {"rows": 5, "fused": True}], ids=str)
def test_what_a_convolution_in_front_reads_stays(given: Configuration) -> None:
    """The residual is the source, or is added in front of the last convolution, too."""
    assert written(chain(NATIVE, SEVERAL["inverted residual"], source=True), configuration=given) == ()
    assert written(chain(NATIVE, SEVERAL["perceptron"], source=True), configuration=given) == ()
    assert written(chain(NATIVE, [(20, 1), (20, 1)], within=True), configuration=given) == ()


def test_a_residual_behind_the_sum_of_two_convolutions() -> None:
    layout = NATIVE.blocked_layout
    inputs = [tensor(1, 20, 7, 9, layout=layout), tensor(1, 33, 7, 9, layout=layout), weight(24, 20, 1, 1)]
    inputs += [weight(24, 33, 1, 1), tensor(1, 24, 7, 9, layout=layout)]
    sums = ("conv2d", (0, 2), {}), ("conv2d", (1, 3), {}), ("add", (5, 6), {}), ("add", (7, 4), {})
    for fused in (True, False):
        assert written(program(inputs, *sums), configuration={"fused": fused}) == (4,)
    front = ("conv2d", (0, 2), {}), ("add", (5, 4), {}), ("conv2d", (1, 3), {}), ("add", (6, 7), {})
    assert written(program(inputs, *front)) == (4,), "a kernel of its own adds it to the first one, and is done then"


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "softmax", "group_norm"])
def test_what_is_normalized_and_a_residual_beside_it(op: str) -> None:
    """The statistics are complete when the first element is written."""
    for layout, axis in ((NATIVE.blocked_layout, 1), ("", -1)):
        attrs: dict[str, Any] = {"groups": 4} if op == "group_norm" else {"axis": axis}
        x = tensor(2, 20, 6, 10, layout=layout)
        alone, beside = (op, (0,), attrs), [(op, (0,), attrs), ("add", (2, 1), {}), ("mul", (3, 0), {})]
        assert written(program([x], alone)) == (0,)
        assert written(program([x, x], *beside)) == (0, 1)


def test_rows_that_are_computed_twice_stay() -> None:
    x = tensor(203, 40)
    group = program([x, weight(40)], ("rms_norm", (0, 1), {}))
    assert written(group) == () and written(group, configuration={"rows": 1}) == (0,)

    def mistaken(group: Group, target: Target, choices: Choices) -> Template:
        found = normalization.lower(group, target, choices)
        assert found is not None
        return replace(found, over=(0,))

    with pytest.raises(AssertionError, match="written over its operand"):
        check(group, mistaken)


def test_a_result_of_another_type_is_not_written_over_what_is_normalized() -> None:
    x = tensor(4, 40)
    assert written(program([x], ("softmax", (0,), {}), ("greater", (1, 0), {}))) == ()


def _anywhere(group: Group, number: int) -> bool:
    return group.single and group.type(number) == group.result


def _in_front(group: Group, number: int) -> bool:
    return _anywhere(group, number) and all(step.pointwise for step in group.steps if number in step.operands)


def scaled() -> Group:
    """A picture times scales, a 1x1 convolution of that to several groups of outputs, and the picture again."""
    layout, channels = NATIVE.blocked_layout, 200
    inputs = [tensor(1, channels, 6, 7, layout=layout), tensor(1, channels, 1, 1, layout=layout)]
    inputs.append(weight(channels, channels, 1, 1))
    return program(inputs, ("mul", (0, 1), {}), ("conv2d", (3, 2), {}), ("add", (4, 0), {}))


FEW: Configuration = {"rows": 1, "pieces": 16}
"""Where a piece begins, rows of a window are computed again: of operands that the piece before it has reached."""

MISTAKES: dict[str, tuple[Callable[[Group, int], bool], Group]] = {
    "what a window reads": (_anywhere, chain(NATIVE, [(20, 3)], source=True)),
    "what an inverted residual reads": (_anywhere, chain(NATIVE, SEVERAL["inverted residual"], source=True)),
    "what is scaled in front": (_in_front, scaled()),
    "what is added in front of a window": (_in_front, chain(NATIVE, [(20, 1), (20, 3)], within=True)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, monkeypatch: MonkeyPatch) -> None:
    beside, group = MISTAKES[mistake]
    assert written(group, configuration=FEW) == ()
    monkeypatch.setattr(Group, "beside", beside)
    with pytest.raises(AssertionError, match="written over its operand"):
        written(group, configuration=FEW)


def test_a_block_of_a_network_holds_two_pictures() -> None:
    """A depthwise convolution, a norm, a perceptron and the residual: the norm is in the place of what it reads, the
    result in that of the residual."""
    graph = Graph("Block")
    channels, extent = 16, 48
    x = graph.call("conv2d", [graph.input("x", TensorType((1, channels, extent, extent)))], {"out": channels}, "stem")

    def block(x: Value, name: str) -> Value:
        deep = {"out": channels, "k": 3, "groups": channels}
        value = graph.call("conv2d", [x], deep, f"{name}.deep")
        value = graph.call("layer_norm", [value], {"axis": 1}, f"{name}.norm")
        value = graph.apply("gelu", [graph.call("conv2d", [value], {"out": 4 * channels}, f"{name}.expand")])
        return graph.apply("add", [graph.call("conv2d", [value], {"out": channels}, f"{name}.project"), x])

    x = block(block(x, "a"), "b")
    graph.outputs = [graph.call("conv2d", [x], {"out": 1}, "head")]
    target = replace(targets.find("x86-64-v4"), l2_bytes=1 << 19)
    optimized, _ = run_passes(graph, pipeline(2, target))
    size = lower(optimized, target, freeze(optimized, random_weights(graph))).sizes[0]
    assert "conv2d_gelu_conv2d_add" in [call.title for call in size.program.calls]
    assert size.plan.arena == 2 * 4 * channels * extent**2
