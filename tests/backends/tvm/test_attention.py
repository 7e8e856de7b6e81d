"""Attention against PyTorch: numbers of queries, keys and dimensions that no vector divides, biases and masks, and
operands that lie in a joint projection."""

from __future__ import annotations

import math
from typing import Any

import pytest
from attention_programs import joint, plain, shifted, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Index, kernel_of
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import attention, attention_parts, gathering
from specc.targets import Target

EXTENTS = st.sampled_from((1, 2, 3, 7, 16, 17, 31, 33, 49))


def tolerance(depth: int) -> float:
    """Scores of independent factors grow with the root of `depth`, and their rounding with them."""
    return 2e-6 * math.sqrt(depth)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("shape", [((1, 3), 197, 197, 64, 64), ((), 5, 70, 8, 40), ((2,), 64, 1, 17, 1)])
def test_equals_torch(target: Target, shape: Any) -> None:
    check(plain(*shape), attention.lower, target, tolerance(shape[3]))


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(((), (2,), (3, 2), (1, 1))), EXTENTS, EXTENTS, EXTENTS, EXTENTS)
def test_any_extents(lead: tuple[int, ...], queries: int, keys: int, depth: int, width: int) -> None:
    check(plain(lead, queries, keys, depth, width), attention.lower, NATIVE, tolerance(depth))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from((1, 2)), st.sampled_from((1, 7, 19, 40)), st.sampled_from((1, 3)), st.sampled_from((8, 20, 32)))
def test_a_joint_projection_is_read_where_it_lies(n: int, length: int, heads: int, depth: int) -> None:
    check(joint(n, length, heads, depth), attention.lower, NATIVE, tolerance(depth))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("shape", [((1, 3), 70, 33, 8, 40), ((5, 3), 49, 16, 5, 3), ((), 100, 7, 4, 32)])
def test_values_are_copied_or_read_where_they_lie(copied: bool, shape: Any) -> None:
    """Keys of both parities, widths beside whole vectors, heads that share a copy and several copies of a head."""
    check(plain(*shape), attention.lower, NATIVE, tolerance(shape[3]), configuration={"copied": copied})


@pytest.mark.parametrize(
    ("group", "copied"),
    [
        (joint(1, 197, 6, 64), True),
        (joint(64, 65, 3, 32), False),
        (joint(64, 49, 3, 32), None),
        (plain((1, 6), 197, 197, 64, 64), False),
        (joint(1, 16, 2, 8), None),
    ],
    ids=["rows far apart", "few rows", "one block of four vectors", "one run", "one block of queries"],
)
def test_values_that_a_cache_does_not_keep_are_copied(group: Group, copied: bool | None) -> None:
    choices = Choices()
    assert attention.lower(group, targets.find("x86-64-v4"), choices) is not None
    assert {choice.name: choice.taken for choice in choices.space}.get("copied") == copied


def biased(bias: Any) -> Group:
    operands = [tensor(2, 3, 21, 8), tensor(2, 3, 8, 35), tensor(2, 3, 35, 16), bias]
    return program(
        operands,
        ("matmul", (0, 1), {}),
        ("add", (3, 4), {}),
        ("softmax", (5,), {"axis": 3}),
        ("matmul", (6, 2), {}),
    )


@pytest.mark.parametrize("bias", [(3, 21, 35), (2, 1, 21, 35), (21, 35), (35,), (21, 1), (2, 1, 1, 35), ()])
@pytest.mark.parametrize("operand", [tensor, weight])
def test_biases_and_masks(bias: tuple[int, ...], operand: Any) -> None:
    check(biased(operand(*bias)), attention.lower)


def test_windows_with_masks_of_their_own() -> None:
    check(windows(9), attention.lower)


@pytest.mark.parametrize(
    "steps",
    [
        (("matmul", (0, 1), {}), ("softmax", (3,), {"axis": -2}), ("matmul", (4, 2), {})),
        (("matmul", (0, 1), {}), ("softmax", (3,), {"axis": -1}), ("relu", (4,), {}), ("matmul", (5, 2), {})),
        (("matmul", (0, 1), {}), ("matmul", (3, 2), {})),
    ],
)
def test_what_is_no_attention_is_refused(steps: Any) -> None:
    group = program([tensor(2, 9, 4), tensor(2, 4, 9), tensor(2, 9, 5)], *steps)
    assert attention.lower(group, NATIVE, Choices()) is None
    check(group)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("shape", [(14, 7, 3, 2, 32), (6, 3, 1, 1, 5), (8, 4, 0, 2, 20), (16, 8, 5, 1, 17)])
def test_windows_are_read_and_written_where_they_lie(target: Target, shape: Any) -> None:
    """One and several blocks of queries, keys of both parities, with and without a shift, rows that fill no vector."""
    check(shifted(*shape), attention.lower, target, tolerance(shape[4]))


@pytest.mark.parametrize("copied", [False, True])
def test_windows_are_copied_or_read_where_they_lie(copied: bool) -> None:
    check(shifted(14, 7, 3, 2, 24), attention.lower, NATIVE, tolerance(24), configuration={"copied": copied})


def test_rows_at_unequal_distances_are_copied() -> None:
    """Windows of a picture are, a window that is the picture and a sequence are not."""
    for group, copied in ((shifted(14, 7, 3, 2, 8), True), (shifted(4, 4, 0, 2, 8), None), (joint(1, 16, 2, 8), None)):
        choices = Choices()
        assert attention.lower(group, targets.find("x86-64-v4"), choices) is not None
        assert {choice.name: choice.taken for choice in choices.space}.get("copied") == copied


def test_a_roll_written_the_wrong_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = attention_parts.rolled

    def back(index: Index, shape: tuple[int, ...], by: tuple[int, ...], axes: tuple[int, ...]) -> Index:
        return true(index, shape, tuple(-each for each in by), axes)

    monkeypatch.setattr(attention_parts, "rolled", back)
    with pytest.raises(AssertionError):
        check(shifted(6, 3, 1, 1, 8), attention.lower, NATIVE, tolerance(8))


@pytest.mark.parametrize("ahead", [False, True])
def test_rows_of_the_next_head_are_asked_for(ahead: bool) -> None:
    group, target = shifted(14, 7, 3, 2, 24), targets.find("x86-64-v4")
    template = attention.lower(group, target, Choices({"ahead": ahead}))
    assert template is not None
    assert ("prefetch" in str(kernel_of(group, template).function)) == ahead
    check(group, attention.lower, NATIVE, tolerance(24), configuration={"ahead": ahead})


def test_sequences_of_equal_distances_are_read_in_place() -> None:
    group = joint(1, 49, 2, 24)
    template = attention.lower(group, targets.find("x86-64-v4"), Choices())
    assert template is not None
    assert "prefetch" not in str(kernel_of(group, template).function)


@pytest.mark.parametrize(("rows", "depth"), [(1, 5), (16, 16), (21, 40), (64, 7), (70, 64)])
def test_queries_are_transposed_in_registers(rows: int, depth: int) -> None:
    """Rows and dimensions beside whole vectors, those of several blocks, on every target that has vectors of 16."""
    check(plain((2,), rows, 19, depth, 24), attention.lower, NATIVE, tolerance(depth))


@pytest.mark.skipif(NATIVE.lanes != 16, reason="queries are transposed in vectors of 16")
def test_a_wrong_transpose_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "transposed", lambda rows: list(rows))
    with pytest.raises(AssertionError):
        check(plain((2,), 21, 19, 20, 24), attention.lower, NATIVE, tolerance(20))


@pytest.mark.skipif(NATIVE.lanes != 16, reason="queries are transposed in vectors of 16")
def test_only_queries_in_runs_are_transposed_in_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that lie as columns are vectors already."""
    operands = [tensor(2, 20, 21), tensor(2, 20, 19), tensor(2, 19, 24)]
    steps: list[Any] = [
        ("permute", (0,), {"order": (0, 2, 1)}),
        ("matmul", (3, 1), {}),
        ("softmax", (4,), {"axis": -1}),
        ("matmul", (5, 2), {}),
    ]
    monkeypatch.setattr(gathering, "transposed", lambda rows: list(rows))
    check(program(operands, *steps), attention.lower, NATIVE, tolerance(20))
