"""Building groups by hand, running their kernels, and PyTorch's float64 result for the same arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from specc import ops, runtime, targets
from specc.backends.tvm.emitter import Kernel
from specc.backends.tvm.group import Group, Input, Step
from specc.backends.tvm.kernels import select
from specc.ir.types import TensorType, block_of
from specc.targets import Target

runtime.prepare()
NATIVE = targets.native()
TARGETS = [t for t in targets.TARGETS.values() if not targets.missing_features(t.architecture, t.requires)]
"""The targets whose code this machine runs: more than one width of vectors on most."""

Lowering = Callable[[Group, Target], Kernel | None]


def tensor(*shape: int, layout: str = "") -> Input:
    return Input(TensorType(shape, "float32", layout))


def weight(*shape: int) -> Input:
    return Input(TensorType(shape), frozen=True)


def program(inputs: Sequence[Input], *steps: tuple[str, Sequence[int], dict[str, Any]]) -> Group:
    """A group from its inputs and (operator, operands, attributes); values are numbered inputs first."""
    types = [operand.type for operand in inputs]
    made = []
    for op, operands, attrs in steps:
        complete = ops.complete(ops.get(op), attrs)
        types.append(ops.infer(ops.get(op), [types[o] for o in operands], complete)[0])
        made.append(Step(op, tuple(sorted(complete.items())), tuple(operands), types[-1]))
    return Group(tuple(inputs), tuple(made))


def draw(group: Group, positive: bool = False) -> list[np.ndarray[Any, Any]]:
    """Arrays for the inputs; weights scaled by their number of inputs, so that results stay near 1."""
    rng = np.random.default_rng(0)
    arrays = []
    for operand in group.inputs:
        shape = operand.type.concrete
        array = rng.standard_normal(shape)
        if operand.frozen and len(shape) > 1:
            array /= np.sqrt(max(1, np.prod(shape[1:])))
        arrays.append((np.abs(array) + 0.1 if positive else array).astype(operand.type.dtype))
    return arrays


def reference(group: Group, arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    values: list[Any] = [torch.tensor(array, dtype=torch.float64) for array in arrays]
    for step in group.steps:
        values.append(step.record.torch(*[values[o] for o in step.operands], **step.attrs))
    result: np.ndarray[Any, Any] = values[-1].numpy()
    return result


def execute(
    kernel: Kernel, group: Group, arrays: Sequence[np.ndarray[Any, Any]], target: Target
) -> np.ndarray[Any, Any]:
    """The kernel's result in logical order. Lanes beyond the last channel of its operands hold 3, as they may."""
    import tvm

    from specc.backends.tvm.library import PASS_OPTIONS, tvm_target

    with tvm.transform.PassContext(config=PASS_OPTIONS):
        module = tvm.tirx.build(tvm.IRModule({"kernel": kernel.function}), target=tvm_target(target))
    stored = []
    for array, packing, operand in zip(arrays, kernel.packings, group.inputs, strict=True):
        packed = packing.apply(array)
        rest = operand.type.concrete[1] % packing.block if packing.kind == "blocked" else 0
        if rest and not operand.frozen:
            packed[:, -1, ..., rest:] = 3.0
        stored.append(tvm.runtime.tensor(packed))
    physical = group.result.physical
    room, out = _guarded(physical, group.result.dtype)
    module["kernel"](*stored, tvm.runtime.from_dlpack(out))
    size = np.prod(physical, dtype=int)
    assert (room[:_GUARD] == 7).all() and (room[_GUARD + size :] == 7).all(), "the kernel writes outside of its result"
    result = out
    if block_of(group.result.layout):
        n, blocks, h, w, lanes = physical
        assert np.isfinite(result).all(), "lanes beyond the last channel are finite"
        result = result.transpose(0, 1, 4, 2, 3).reshape(n, blocks * lanes, h, w)[:, : group.result.concrete[1]]
    return result


_GUARD = 4096
"""Elements in front of a result and behind it that a kernel must leave alone."""


def _guarded(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Aligned room for an array between two guards, all sevens; and the array."""
    size = np.prod(shape, dtype=int)
    room = np.full(size + 2 * _GUARD + 64, 7, dtype)
    start = -room.ctypes.data % 64 // room.itemsize
    room = room[start : start + size + 2 * _GUARD]
    return room, room[_GUARD : _GUARD + size].reshape(shape)


def check(
    group: Group,
    lowering: Lowering = select.lower,
    target: Target = NATIVE,
    tolerance: float = 2e-6,
    positive: bool = False,
) -> None:
    """The kernel that `lowering` makes of `group` equals PyTorch in float64, norm-wise."""
    kernel = lowering(group, target)
    assert kernel is not None, "the template does not take the group"
    arrays = draw(group, positive)
    expected = reference(group, arrays)
    result = execute(kernel, group, arrays, target)
    assert result.shape == expected.shape
    if expected.size:
        scale = max(np.abs(expected).max(), 0.5)  # a single sum may cancel; its terms are near 1
        assert np.abs(result - expected).max() <= tolerance * scale
