"""A depthwise convolution and the squeeze-excite of its result in one kernel of two results, against PyTorch."""

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

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import depthwise, select, squeezed
from specc.ir.text import parse_graph
from specc.targets import Target


def excite(
    target: Target,
    shape: tuple[int, ...],
    k: int = 3,
    stride: int = 1,
    wide: int = 0,
    act: str = "silu",
    reduced: int = 8,
) -> Group:
    """An expansion to `wide` channels if there are any, a depthwise convolution and `act`, the mean of that and, where
    it is `reduced`, two small products; the picture and the last value are the results."""
    deep = wide or shape[1]
    inputs = [tensor(*shape, layout=target.blocked_layout), weight(deep, 1, k, k), weight(deep)]
    inputs += [weight(reduced or 1, deep, 1, 1), weight(deep, reduced or 1, 1, 1), weight(deep, shape[1], 1, 1)]
    inputs = [each for i, each in enumerate(inputs) if (i < 3 or reduced or i == 5) and (i < 5 or wide)]
    steps = list[tuple[str, tuple[int, ...], dict[str, Any]]]()

    def last() -> int:
        return len(inputs) + len(steps) - 1

    if wide:
        steps.append(("conv2d", (0, len(inputs) - 1), {}))
        steps.append(("relu", (last(),), {}))
    attrs = {"groups": deep, "padding": k // 2, "stride": stride}
    steps.append(("conv2d", (last() if wide else 0, 1, 2), attrs))
    steps.append((act, (last(),), {}))
    picture = last()
    steps.append(("mean", (picture,), {"axes": (2, 3), "keep": True}))
    if reduced:
        steps.append(("conv2d", (last(), 3), {}))
        steps.append(("relu", (last(),), {}))
        steps.append(("conv2d", (last(), 4), {}))
        steps.append(("sigmoid", (last(),), {}))
    return program(inputs, *steps, results=(picture, last()))


def lower(group: Group, target: Target, choices: Choices) -> Any:
    return squeezed.lower(group, target, choices, select.template)


@pytest.mark.parametrize("seed", range(8))
def test_equals_torch(seed: int) -> None:
    rng = random.Random(seed)
    for target in WIDTHS:
        shape = rng.choice([1, 1, 2]), rng.randint(2, 50), rng.randint(4, 17), rng.randint(4, 70)
        wide, reduced = rng.choice([0, rng.randint(17, 70)]), rng.choice([0, 5, 20])
        act = rng.choice(["relu", "silu", "gelu", "hard_swish"])
        group = excite(target, shape, rng.choice([3, 5]), rng.choice([1, 2]), wide, act, reduced)
        template = lower(group, target, choices := Choices())
        assert template is not None and {c.name: c.taken for c in choices.space}["fused"] is True
        check(group, lower, target)


@pytest.mark.parametrize(
    "configuration",
    [{"fused": False}, {"convolutions.strips": 3}, {"convolutions.pixels": 5, "squeeze.product0.shared": True}],
    ids=str,
)
def test_other_choices_have_the_same_result(configuration: dict[str, Any]) -> None:
    group = excite(NATIVE, (2, 24, 12, 31))
    check(group, configuration=configuration)
    template = select.lower(group, NATIVE, configuration)
    assert template.write.__module__ == squeezed.__name__ and configuration.items() <= template.configuration.items()


def test_what_is_no_such_block_has_another_template() -> None:
    group = excite(NATIVE, (1, 24, 5, 9))
    *front, mean = group.steps[:3]
    for other in (
        replace(group, results=(group.last,)),
        replace(group, results=(group.results[0] - 1, group.last)),
        replace(group, steps=(*front, replace(mean, attributes=(("axes", (2,)), ("keep", True))), *group.steps[3:])),
    ):
        assert lower(other, NATIVE, Choices()) is None


def test_a_window_in_front_is_computed_by_itself() -> None:
    group = excite(NATIVE, (1, 20, 6, 9), wide=24)
    first, *rest = group.steps
    padded = replace(first, attributes=tuple(sorted({**first.attrs, "padding": (1, 1, 1, 1)}.items())))
    window = weight(24, 20, 3, 3)
    check(replace(group, inputs=(*group.inputs[:-1], window), steps=(padded, *rest)), lower)


put = depthwise.Depthwise._put
MISTAKES: dict[str, Callable[[MonkeyPatch], None]] = {
    "a span's sum is that of its last tile": lambda patch: patch.setattr(
        depthwise.Depthwise, "_room", lambda self, span: None
    ),
    "all spans of a row have one place": lambda patch: patch.setattr(
        depthwise.Depthwise,
        "_put",
        lambda self, total, n, block, y, number, lane: put(self, total, n, block, y, 0, lane),
    ),
    "all rows have one place": lambda patch: patch.setattr(
        depthwise.Depthwise,
        "_put",
        lambda self, total, n, block, y, number, lane: put(self, total, n, block, 0, number, lane),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, monkeypatch: MonkeyPatch) -> None:
    group = excite(NATIVE, (1, 24, 9, 70))
    check(group, lower)
    MISTAKES[mistake](monkeypatch)
    with pytest.raises(AssertionError):
        check(group, lower)


def test_a_network_runs_it_on_this_machine_and_in_c(tmp_path: Path) -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[1, 20, 18, 40]
        param w: float32[20, 1, 3, 3] kaiming
        param v: float32[20, 20, 1, 1] kaiming
        %0: float32[1, 20, 18, 40] = conv2d(x, @w) {groups=20; padding=(1, 1, 1, 1)}
        %1: float32[1, 20, 18, 40] = relu(%0)
        %2: float32[1, 20, 1, 1] = mean(%1) {axes=(2, 3); keep=True}
        %3: float32[1, 20, 1, 1] = conv2d(%2, @v)
        %4: float32[1, 20, 1, 1] = sigmoid(%3)
        %5: float32[1, 20, 18, 40] = mul(%1, %4)
        return %5
        """
    )
    for kernels in kernels_of(graph, 100_000, tmp_path):
        (kernel,) = (each for each in kernels if each["template"] == "squeezed")
        assert kernel["operators"] == "conv2d_relu_mean_conv2d_sigmoid" and kernel["configuration"]["fused"]
