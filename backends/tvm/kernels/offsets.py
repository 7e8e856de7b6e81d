"""Where rows that are only moved lie in the input that they are moved from."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specc.backends.tvm.expression import Math
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.ir.dtypes import HALVES
from specc.targets import Target


def even(group: Group, value: int, axis: int) -> bool:
    """Whether rows that are neighbours along `axis` lie equally far apart, or are computed, not moved alone."""
    found = _found(group, value, scaled=True)
    if found is None or found.shape[axis] < 3:
        return True
    apart = np.diff(found, axis=axis)
    return bool(np.all(apart == np.take(apart, [0], axis)))


def in_runs(group: Group, value: int) -> bool:
    """Whether the elements of each row are neighbours in the input from which they are moved, or scaled."""
    found = _found(group, value, scaled=True)
    return found is not None and bool(np.all(np.diff(found, axis=-1) == 1))


def scattered(group: Group, value: int, target: Target) -> bool:
    """Whether the rows of a head's values are computed whenever they are read, or lie apart and fill more than half of
    the lines that the first-level cache has for them."""
    found = _found(group, value)
    if found is None or group.type(value).dtype in HALVES:
        return True
    *lead, keys, width = found.shape
    head = found[(0,) * len(lead)]
    apart, line, (sets, ways) = 4 * int(head[min(1, keys - 1), 0] - head[0, 0]), tiles.LINE, tiles.sets_of(target)
    lines = -(-4 * width // line)
    covered = min(sets, sets // gcd(max(1, apart // line), sets) * lines)
    return bool(apart > 4 * width and 2 * keys * lines > ways * covered)


def _found(group: Group, value: int, scaled: bool = False) -> NDArray[Any] | None:
    """Where the elements of a value lie in the input from which they are moved; None where they are computed;
    with `scaled`, by numbers alone does not count."""
    shape = group.type(value).concrete
    index: tuple[Any, ...] = tuple(np.ogrid[tuple(slice(extent) for extent in shape)])
    while value >= len(group.inputs):
        step = group.step(value)
        if step.record.compute is not None and step.moves and len(step.operands) == 1:
            types = [group.type(step.operands[0])]
            index = step.record.compute(Math(), types, lambda *i: i, **step.attrs)(*index)
        elif not (scaled and _scales(group, value)):
            return None
        value = step.operands[0]
    offset: Any = 0
    for at, extent in zip(index, group.type(value).concrete, strict=True):
        offset = offset * extent + at
    return np.broadcast_to(offset, shape)


def _scales(group: Group, value: int) -> bool:
    """Whether each element is computed from the one at the same place of the first operand, and from numbers."""
    step = group.step(value)
    others = [group.type(operand) for operand in step.operands[1:]]
    alike = group.type(step.operands[0]).shape == step.type.shape
    return step.pointwise and alike and all(not type.rank for type in others)
