"""Groups that are attention, and masks on their scores: what every template of attention is tested with."""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda_programs import Kernels
from kernel_programs import draw, program, tensor, weight

from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType


def plain(lead: tuple[int, ...], queries: int, keys: int, depth: int, width: int) -> Group:
    """softmax(q @ k) @ v with keys as [.., d, j]."""
    operands = [tensor(*lead, queries, depth), tensor(*lead, depth, keys), tensor(*lead, keys, width)]
    return program(operands, ("matmul", (0, 1), {}), ("softmax", (3,), {"axis": -1}), ("matmul", (4, 2), {}))


def parted(n: int, length: int, heads: int, depth: int) -> list[Any]:
    """The steps that part value 0, [n, l, 3 * heads * d], into 3, 6 and 9: queries, keys as [.., d, j], and values."""
    width = heads * depth
    steps: list[Any] = []
    for part in range(3):
        steps.append(("slice", (0,), {"axis": 2, "start": part * width, "stop": (part + 1) * width}))
        steps.append(("reshape", (len(steps),), {"shape": (n, length, heads, depth)}))
        steps.append(("permute", (len(steps),), {"order": (0, 2, 3, 1) if part == 1 else (0, 2, 1, 3)}))
    return steps


def joint(n: int, length: int, heads: int, depth: int) -> Group:
    """[n, l, 3 * heads * d] --> slices, reshapes, permutes, attention, permute, reshape --> [n, l, heads * d]."""
    return program(
        [tensor(n, length, 3 * heads * depth)],
        *parted(n, length, heads, depth),
        ("matmul", (3, 6), {}),
        ("constant", (), {"value": 0.3, "shape": ()}),
        ("mul", (10, 11), {}),
        ("softmax", (12,), {"axis": -1}),
        ("matmul", (13, 9), {}),
        ("permute", (14,), {"order": (0, 2, 1, 3)}),
        ("reshape", (15,), {"shape": (n, length, heads * depth)}),
    )


def windows(length: int) -> Group:
    """A bias of each head, then a mask of each window, as in shifted windows (arXiv:2103.14030): [windows, h, l, l]
    scores are seen as [n, windows / n, h, l, l] while the masks are added."""
    factors = [tensor(6, 2, length, 4), tensor(6, 2, 4, length), tensor(6, 2, length, 4)]
    return program(
        [*factors, weight(2, length, length), weight(3, 1, length, length)],
        ("matmul", (0, 1), {}),
        ("add", (5, 3), {}),
        ("reshape", (6,), {"shape": (2, 3, 2, length, length)}),
        ("add", (7, 4), {}),
        ("reshape", (8,), {"shape": (6, 2, length, length)}),
        ("softmax", (9,), {"axis": -1}),
        ("matmul", (10, 2), {}),
    )


def shifted(size: int, window: int, shift: int, heads: int, depth: int, dtype: str = "float32") -> Group:
    """A joint projection [1, size, size, 3 * heads * d], rolled and cut into windows; their attention, and all back."""
    parts, rounds = size // window, dtype != "float32"
    area, width = window * window, heads * depth
    steps: list[Any] = []

    def step(op: str, *operands: int, **attrs: Any) -> int:
        steps.append((op, operands, attrs))
        return len(steps)

    def rounded(value: int) -> int:
        return step("cast", value, dtype=dtype) if rounds else value

    at = step("roll", 0, shifts=(-shift, -shift), axes=(1, 2))
    at = step("reshape", at, shape=(1, parts, window, parts, window, 3 * width))
    at = step("permute", at, order=(0, 1, 3, 2, 4, 5))
    at = step("reshape", at, shape=(parts * parts, area, 3 * width))
    factors = []
    for part in range(3):
        cut = step("slice", at, axis=2, start=part * width, stop=(part + 1) * width)
        cut = step("reshape", cut, shape=(parts * parts, area, heads, depth))
        factors.append(step("permute", cut, order=(0, 2, 3, 1) if part == 1 else (0, 2, 1, 3)))
    scale = step("constant", value=0.3, shape=())
    query = rounded(step("mul", factors[0], scale))
    weights = rounded(step("softmax", step("matmul", query, factors[1]), axis=-1))
    at = rounded(step("matmul", weights, factors[2]))
    at = step("permute", at, order=(0, 2, 1, 3))
    at = step("reshape", at, shape=(1, parts, parts, window, window, width))
    at = step("permute", at, order=(0, 1, 3, 2, 4, 5))
    at = step("reshape", at, shape=(1, size, size, width))
    step("roll", at, shifts=(shift, shift), axes=(1, 2))
    return program([Input(TensorType((1, size, size, 3 * width), dtype))], *steps)


def check_masks(kernels: Kernels, name: str, tolerance: float) -> None:
    """Keys whose scores are minus infinity weigh nothing: the first ones, all but one, and every later one.

    The group is softmax(q @ k + mask) @ v, its mask [2, 1, queries, keys] the input number 3.
    """
    arrays = draw(kernels.groups[name])
    *_, queries, keys = arrays[3].shape
    mask = np.zeros(arrays[3].shape, np.float32)
    mask[0, 0] = np.where(np.arange(keys) > np.arange(queries)[:, None] + 3, -np.inf, 0)
    mask[1, 0, :, :33] = -np.inf
    mask[1, 0, 5, 34] = -np.inf
    arrays[3] = mask
    (found,) = kernels.execute(name, arrays, 0)
    q, k, v = (array.astype(np.float64) for array in arrays[:3])
    scores = q @ k + mask
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    assert np.abs(found - powers / powers.sum(-1, keepdims=True) @ v).max() < tolerance
