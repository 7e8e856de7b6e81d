"""Spaces of templates: what may be chosen, and that no choice changes a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_programs import NATIVE, TARGETS, check, draw, execute, program, reference, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import select
from specc.targets import Target


def conv(channels: int, out: int, size: int, kernel: int, **attrs: Any) -> Group:
    inputs = [tensor(1, channels, size, size, layout=NATIVE.blocked_layout), weight(out, channels, kernel, kernel)]
    return program([*inputs, weight(out)], ("conv2d", (0, 1, 2), attrs), ("relu", (3,), {}))


def squeeze() -> Group:
    layout = NATIVE.blocked_layout
    inputs = [tensor(1, 64, 6, 6, layout=layout), weight(32, 64, 1, 1), weight(64, 32, 1, 1)]
    return program(
        inputs,
        ("global_avg_pool", (0,), {"keep": True}),
        ("conv2d", (3, 1), {}),
        ("relu", (4,), {}),
        ("conv2d", (5, 2), {}),
    )


def attention() -> Group:
    inputs = [tensor(2, 37, 16), tensor(2, 16, 50), tensor(2, 50, 24)]
    return program(inputs, ("matmul", (0, 1), {}), ("softmax", (3,), {"axis": -1}), ("matmul", (4, 2), {}))


GROUPS: dict[str, Group] = {
    "convolution": conv(32, 48, 9, 3, padding=1),
    "strided": conv(16, 64, 11, 3, padding=1, stride=2),
    "flat": conv(32, 80, 14, 1),
    "depthwise": program(
        [tensor(1, 32, 12, 12, layout=NATIVE.blocked_layout), weight(32, 1, 3, 3)],
        ("conv2d", (0, 1), {"groups": 32, "padding": 1}),
        ("silu", (2,), {}),
    ),
    "linear": program([tensor(1, 49, 64), weight(80, 64), weight(80)], ("linear", (0, 1, 2), {}), ("gelu", (3,), {})),
    "row": program([tensor(1, 60), weight(100, 60)], ("linear", (0, 1), {})),
    "squeeze": squeeze(),
    "attention": attention(),
    "general": program([tensor(4, 24, 40)], ("softmax", (0,), {"axis": 1})),
}


@pytest.mark.parametrize("name", GROUPS)
def test_every_template_has_choices(name: str) -> None:
    template = select.lower(GROUPS[name], NATIVE)
    assert template.space
    for choice in template.space:
        assert choice.taken in choice.values
        assert len(set(choice.values)) == len(choice.values)
    assert any(len(choice.values) > 1 for choice in template.space)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_configuration_gives_the_template_that_it_was_read_from(name: str, target: Target) -> None:
    default = select.lower(GROUPS[name], target)
    again = select.lower(GROUPS[name], target, default.configuration)
    assert again.space == default.space
    text = [str(kernel_of(GROUPS[name], template).function) for template in (default, again)]
    assert text[0] == text[1]


@pytest.mark.parametrize("name", GROUPS)
@settings(max_examples=6)
@given(data=st.data())
def test_no_configuration_changes_a_result(name: str, data: st.DataObject) -> None:
    group = GROUPS[name]
    configuration: dict[str, Any] = {}
    while True:
        space = select.lower(group, NATIVE, configuration).space
        open_ = [choice for choice in space if choice.name not in configuration]
        if not open_:
            break
        configuration[open_[0].name] = data.draw(st.sampled_from(open_[0].values), open_[0].name)
    template = select.lower(group, NATIVE, configuration)
    assert template.configuration == configuration
    arrays = draw(group)
    (result,) = execute(kernel_of(group, template), group, arrays, NATIVE)
    (expected,) = reference(group, arrays)
    assert np.abs(result - expected).max() <= 2e-6 * max(np.abs(expected).max(), 0.5)


def test_a_choice_takes_what_is_given_where_that_is_a_value_of_it() -> None:
    choices = Choices({"a": 2, "b": 5, "c": True, "inner.a": 4, "d": 1})
    assert choices.take("a", (1, 2, 4), 1) == 2
    assert choices.take("b", (1, 2, 4), 1) == 1, "5 is no value"
    assert choices.take("c", (1, 2, 4), 2) == 2, "True is no number here"
    assert choices.take("d", (True, False), False) is False, "1 is no truth value here"
    assert choices.part("inner").take("a", (1, 2, 4), 1) == 4
    assert [(c.name, c.taken) for c in choices.space] == [("a", 2), ("b", 1), ("c", 2), ("d", False), ("inner.a", 4)]


def test_a_choice_has_its_default_among_its_values() -> None:
    choices = Choices()
    assert choices.near("strips", (1, 2, 16, 8, 4), 6) == 6
    assert choices.space[0].values == (8, 4, 16, 2, 1, 6)


def test_later_choices_follow_earlier_ones() -> None:
    group = GROUPS["flat"]
    by_blocks = select.lower(group, NATIVE, {"order": "blocks"}).configuration
    by_strips = select.lower(group, NATIVE, {"order": "strips"}).configuration
    assert by_blocks["order"] == "blocks" and by_strips["order"] == "strips"
    shared = select.lower(group, NATIVE, {"order": "blocks", "strips": 2}).configuration
    assert "ahead" in by_strips and "ahead" not in shared, "no group's weights are read by one thread alone"
    check(group, configuration={"order": "blocks", "strips": 1})
