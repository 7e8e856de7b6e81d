"""Attention of bfloat16 by tiles of AMX: extents that no tile divides, biases and masks, operands where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attention_programs import parted, shifted
from attention_programs import plain as floats
from emulation import processor
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_programs import check, draw, execute, program, reference, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import select, tiled_attention
from specc.ir.types import TensorType
from specc.targets import Target

TOLERANCE = 3 * 2.0**-7
"""As other kernels of attention that read and write bfloat16 (`test_halves`)."""
ROUND = {"dtype": "bfloat16"}
TARGET = targets.TARGETS["x86-64-v4-amx"]
TILES = {"tiles": True}
EXTENTS = st.sampled_from((1, 2, 3, 7, 16, 17, 31, 33, 49))


def half(*shape: int) -> Input:
    return Input(TensorType(shape, "bfloat16"))


def plain(lead: tuple[int, ...], queries: int, keys: int, depth: int, width: int) -> Group:
    """bfloat16(softmax(q @ k)) @ v of bfloat16, with keys as [.., d, j]."""
    return program(
        [half(*lead, queries, depth), half(*lead, depth, keys), half(*lead, keys, width)],
        ("matmul", (0, 1), {}),
        ("softmax", (3,), {"axis": -1}),
        ("cast", (4,), ROUND),
        ("matmul", (5, 2), {}),
    )


def joint(n: int, length: int, heads: int, depth: int) -> Group:
    """A joint projection, queries that are scaled and rounded, and heads side by side in a result that is rounded."""
    return program(
        [half(n, length, 3 * heads * depth)],
        *parted(n, length, heads, depth),
        ("constant", (), {"value": 0.3, "shape": ()}),
        ("mul", (3, 10), {}),
        ("cast", (11,), ROUND),
        ("matmul", (12, 6), {}),
        ("softmax", (13,), {"axis": -1}),
        ("cast", (14,), ROUND),
        ("matmul", (15, 9), {}),
        ("cast", (16,), ROUND),
        ("permute", (17,), {"order": (0, 2, 1, 3)}),
        ("reshape", (18,), {"shape": (n, length, heads * depth)}),
    )


@pytest.mark.parametrize(
    "shape",
    [
        ((1, 3), 197, 197, 64, 64),
        ((2,), 16, 32, 32, 16),
        ((), 5, 70, 8, 40),
        ((2,), 64, 1, 17, 1),
        ((3,), 33, 49, 200, 80),
    ],
)
def test_equals_torch(shape: Any, matrix_tiles: Target) -> None:
    check(plain(*shape), tiled_attention.lower, matrix_tiles, TOLERANCE, configuration=TILES)


def test_queries_whose_scores_are_far_apart(matrix_tiles: Target) -> None:
    """Each is taken from its own greatest score: another one's would leave exponentials of infinity, or zeros alone."""
    group = plain((), 20, 33, 32, 16)
    arrays = draw(group)
    arrays[0] *= np.float32(2.0) ** (np.arange(20) % 10)[:, None]
    template = tiled_attention.lower(group, matrix_tiles, Choices(TILES))
    assert template is not None
    (found,) = execute(kernel_of(group, template, conversions=matrix_tiles.conversions), group, arrays, matrix_tiles)
    (expected,) = reference(group, arrays)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(((), (2,), (3, 2))), EXTENTS, EXTENTS, EXTENTS, EXTENTS)
def test_any_extents(lead: tuple[int, ...], queries: int, keys: int, depth: int, width: int) -> None:
    with processor.running(TARGET):
        group = plain(lead, queries, keys, depth, width)
        check(group, tiled_attention.lower, processor.able(TARGET), TOLERANCE, configuration=TILES)


@pytest.mark.parametrize("shape", [(1, 40, 3, 20), (2, 16, 2, 64), (1, 50, 1, 7), (2, 33, 3, 48), (1, 24, 1, 136)])
def test_a_joint_projection_is_read_where_it_lies(shape: Any, matrix_tiles: Target) -> None:
    """Keys whose pairs lie beside each other, and become tiles by a transposition, but for heads of odd size."""
    check(joint(*shape), tiled_attention.lower, matrix_tiles, TOLERANCE, configuration=TILES)


@pytest.mark.parametrize("shape", [(14, 7, 3, 2, 32), (8, 4, 1, 2, 20), (12, 6, 0, 1, 7)])
def test_windows_are_read_and_written_where_they_lie(shape: Any, matrix_tiles: Target) -> None:
    group = shifted(*shape, dtype="bfloat16")
    check(group, tiled_attention.lower, matrix_tiles, TOLERANCE, configuration=TILES)


def test_only_keys_that_lie_in_runs_are_read_as_pairs() -> None:
    lying = program([half(2, 6, 20)], ("permute", (0,), {"order": (0, 2, 1)}))
    assert tiled_attention.in_runs(lying, lying.last)
    standing = program([half(2, 20, 6)], ("reshape", (0,), {"shape": (1, 2, 20, 6)}))
    assert not tiled_attention.in_runs(standing, standing.last)
    broken = program(
        [half(2, 6, 20)], ("permute", (0,), {"order": (0, 2, 1)}), ("reshape", (1,), {"shape": (4, 10, 6)})
    )
    assert tiled_attention.in_runs(broken, broken.last)
    across = program(
        [half(6, 2, 10)], ("reshape", (0,), {"shape": (2, 6, 10)}), ("permute", (1,), {"order": (2, 0, 1)})
    )
    assert not tiled_attention.in_runs(across, across.last)
    every_other = {"axis": 2, "start": 0, "stop": 20, "step": 2}
    apart = program([half(2, 6, 20)], ("slice", (0,), every_other), ("permute", (1,), {"order": (0, 2, 1)}))
    assert not tiled_attention.in_runs(apart, apart.last)
    rows = program([half(6, 10)], ("reshape", (0,), {"shape": (3, 20)}), ("permute", (1,), {"order": (1, 0)}))
    assert not tiled_attention.in_runs(rows, rows.last)


@pytest.mark.parametrize("bias", [(3, 21, 35), (2, 1, 21, 35), (21, 35), (35,), (21, 1), (2, 1, 1, 35), ()])
@pytest.mark.parametrize("operand", [tensor, weight])
def test_biases_and_masks(bias: tuple[int, ...], operand: Any, matrix_tiles: Target) -> None:
    group = program(
        [half(2, 3, 21, 8), half(2, 3, 8, 35), half(2, 3, 35, 16), operand(*bias)],
        ("matmul", (0, 1), {}),
        ("add", (3, 4), {}),
        ("softmax", (5,), {"axis": 3}),
        ("cast", (6,), ROUND),
        ("matmul", (7, 2), {}),
    )
    check(group, tiled_attention.lower, matrix_tiles, TOLERANCE)


@pytest.mark.parametrize("length", [9, 17, 49])
def test_windows_with_masks_of_their_own(length: int, matrix_tiles: Target) -> None:
    """A bias of each head, then a mask of each window, as in shifted windows (arXiv:2103.14030)."""
    factors = [half(6, 2, length, 4), half(6, 2, 4, length), half(6, 2, length, 4)]
    group = program(
        [*factors, weight(2, length, length), weight(3, 1, length, length)],
        ("matmul", (0, 1), {}),
        ("add", (5, 3), {}),
        ("reshape", (6,), {"shape": (2, 3, 2, length, length)}),
        ("add", (7, 4), {}),
        ("reshape", (8,), {"shape": (6, 2, length, length)}),
        ("softmax", (9,), {"axis": -1}),
        ("cast", (10,), ROUND),
        ("matmul", (11, 2), {}),
    )
    check(group, tiled_attention.lower, matrix_tiles, TOLERANCE)


def test_keys_whose_scores_are_minus_infinity_weigh_nothing(matrix_tiles: Target) -> None:
    """The first ones, all but one, and every later one; a row without any other is no number, as in PyTorch."""
    group = program(
        [half(2, 3, 40, 64), half(2, 3, 64, 52), half(2, 3, 52, 64), tensor(2, 1, 40, 52)],
        ("matmul", (0, 1), {}),
        ("add", (4, 3), {}),
        ("softmax", (5,), {"axis": -1}),
        ("cast", (6,), ROUND),
        ("matmul", (7, 2), {}),
    )
    arrays = draw(group)
    mask = np.zeros(arrays[3].shape, np.float32)
    mask[0, 0] = np.where(np.arange(52) > np.arange(40)[:, None] + 3, -np.inf, 0)
    mask[1, 0, :, :33] = -np.inf
    mask[1, 0, 5, 34:] = -np.inf
    mask[1, 0, 39] = -np.inf
    arrays[3] = mask
    template = tiled_attention.lower(group, matrix_tiles, Choices())
    assert template is not None
    (found,) = execute(kernel_of(group, template, conversions=matrix_tiles.conversions), group, arrays, matrix_tiles)
    (expected,) = reference(group, arrays)
    assert np.isnan(found[1, :, 39]).all()
    assert np.isnan(found).sum() == found[1, :, 39].size
    assert np.nanmax(np.abs(found - expected)) < TOLERANCE


def test_great_scores_leave_weights_of_one_and_of_zero(matrix_tiles: Target) -> None:
    """Scores of thousands, of which the greatest alone counts: nothing overflows, as the greatest is taken off."""
    group = plain((), 16, 40, 32, 16)
    arrays = draw(group)
    arrays[0][...], arrays[1][...] = 100, np.linspace(-1, 1, 40)
    template = tiled_attention.lower(group, matrix_tiles, Choices())
    assert template is not None
    (found,) = execute(kernel_of(group, template, conversions=matrix_tiles.conversions), group, arrays, matrix_tiles)
    assert np.abs(found - arrays[2][-1]).max() < 1e-3


@pytest.mark.parametrize(
    ("group", "target", "expected"),
    [
        (joint(1, 197, 6, 64), "x86-64-v4-amx", "tiled_attention"),
        (joint(1, 197, 6, 64), "x86-64-v4-bf16", "attention"),
        (plain((1, 6), 1, 197, 64, 64), "x86-64-v4-amx", "attention"),
        (floats((1, 6), 197, 197, 64, 64), "x86-64-v4-amx", "attention"),
    ],
    ids=["bfloat16", "no tiles", "one query", "float32"],
)
def test_tiles_are_for_many_queries_of_bfloat16(group: Group, target: str, expected: str) -> None:
    machine = targets.find(target)
    assert kernel_of(group, select.lower(group, machine), conversions=machine.conversions).template == expected
