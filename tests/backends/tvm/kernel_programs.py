"""Building groups by hand, running their kernels, and PyTorch's float64 result for the same arrays."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from specc import ops, targets
from specc.backends.tvm import halves
from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.emitter import Kernel, Template, kernel_of
from specc.backends.tvm.group import Group, Input, Step
from specc.backends.tvm.kernels import select
from specc.ir.bits import of_bits, to_bits
from specc.ir.dtypes import HALVES
from specc.ir.types import TensorType, block_of
from specc.targets import Target

NATIVE = targets.native()
TARGETS = [t for t in targets.TARGETS.values() if not targets.missing_features(t.architecture, t.requires)]
"""The targets whose code this machine runs: more than one width of vectors on most."""
WIDTHS = [TARGETS[0], NATIVE] if TARGETS[0].lanes != NATIVE.lanes else [NATIVE]
"""One of these for each width of vectors."""

Lowering = Callable[[Group, Target, Choices], Template | None]


def tensor(*shape: int, layout: str = "") -> Input:
    return Input(TensorType(shape, "float32", layout))


def weight(*shape: int) -> Input:
    return Input(TensorType(shape), frozen=True)


def program(
    inputs: Sequence[Input], *steps: tuple[str, Sequence[int], dict[str, Any]], results: Sequence[int] = ()
) -> Group:
    """A group from its inputs and (operator, operands, attributes); values are numbered inputs first.

    Its results are the last step's where no others are named.
    """
    types = [operand.type for operand in inputs]
    made = []
    for op, operands, attrs in steps:
        complete = ops.complete(ops.get(op), attrs)
        found = ops.infer(ops.get(op), [types[o] for o in operands], complete)
        types += found
        made.append(Step(op, tuple(sorted(complete.items())), tuple(operands), found))
    last = range(len(types) - len(made[-1].types), len(types))
    return Group(tuple(inputs), tuple(made), tuple(results or last))


def draw(group: Group, positive: bool = False) -> list[np.ndarray[Any, Any]]:
    """Arrays for the inputs; weights scaled by their number of inputs, so that results stay near 1."""
    rng = np.random.default_rng(0)
    arrays = []
    for number, operand in enumerate(group.inputs):
        shape = operand.type.concrete
        array = rng.standard_normal(shape)
        if operand.frozen and len(shape) > 1:
            array /= np.sqrt(max(1, np.prod(shape[1:])))
        if operand.type.dtype == "bool":
            array = array > 0
        elif operand.type.dtype.startswith("int"):
            array = np.round(array * 2)
        array = np.abs(array) + 0.1 if positive else array
        arrays.append(_of_type(np.asarray(_inside(group, number, array)), operand.type.dtype))
    return arrays


def _of_type(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """The array in that type; numbers of 16 bits as float32."""
    return of_bits(to_bits(array, dtype), dtype) if dtype in HALVES else array.astype(dtype)


def _inside(group: Group, number: int, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The elements of an input in the domain of the first operator that has one and reads it."""
    for step in group.steps:
        if step.record.domain is not None and number in step.operands:
            domain = step.record.domain([group.type(o) for o in step.operands], step.attrs)
            if interval := domain.get(step.operands.index(number)):
                least, greatest = interval
                assert isinstance(least, (int, float)) and isinstance(greatest, (int, float))
                if np.isfinite(greatest):
                    return least + np.abs(array) % (greatest - least + (group.type(number).dtype[:3] == "int"))
                return least + np.abs(array)
    return array


def reference(group: Group, arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    values: list[Any] = [torch.tensor(a, dtype=torch.float64 if a.dtype.kind == "f" else None) for a in arrays]
    for step in group.steps:
        made = step.record.torch(*[values[o] for o in step.operands], **step.attrs)
        values += made if isinstance(made, tuple) else [made]
    return [values[number].numpy() for number in group.results]


def execute(
    kernel: Kernel, group: Group, arrays: Sequence[np.ndarray[Any, Any]], target: Target
) -> list[np.ndarray[Any, Any]]:
    """The kernel's results in logical order. Lanes beyond the last channel of its operands hold 3, as they may."""
    import tvm

    from specc.backends.tvm.library import tvm_target
    from specc.backends.tvm.translation import translate

    module = translate({"kernel": kernel.function}, tvm_target(target))
    stored = []
    for array, packing, operand in zip(arrays, kernel.packings, group.inputs, strict=True):
        packed = packing.apply(array)
        dtype = "float32" if packing.wide else operand.type.dtype
        packed = to_bits(packed, dtype) if dtype in HALVES else packed
        packed = packed.view(np.uint32) if packing.kind == "pairs" else packed
        rest = operand.type.concrete[1] % packing.block if packing.kind == "blocked" else 0
        if rest and not operand.frozen:
            packed[:, -1, ..., rest:] = to_bits(np.array(3.0), dtype) if dtype in HALVES else 3.0
        stored.append(packed)
    types = [group.type(number) for number in group.results]
    runs = []
    for last in (False, True):
        fenced = [_fenced(array, last) for array in stored]
        made = [_guarded(type.physical, halves.stored(type.dtype)) for type in types]
        temporaries = _unwritten(kernel)
        operands = [*(array for _, array in fenced), *(out for _, out in made), *temporaries]
        module["kernel"](*map(tvm.runtime.from_dlpack, operands))
        runs.append(made)
    for (_, one), (_, other) in zip(*runs, strict=True):
        assert np.array_equal(one, other, equal_nan=True), "the result depends on where operands lie"
    for number in kernel.overwrites:
        _, over = _guarded(types[0].physical, halves.stored(types[0].dtype))
        operands = [over if i == number else array for i, (_, array) in enumerate(fenced)]
        over[...] = stored[number]
        module["kernel"](*map(tvm.runtime.from_dlpack, [*operands, over, *_unwritten(kernel)]))
        assert np.array_equal(over, made[0][1], equal_nan=True), "written over its operand, the result is another one"
    results = []
    for type, (room, result) in zip(types, made, strict=True):
        size = np.prod(type.physical, dtype=int)
        intact = all((guard == room.dtype.type(7)).all() for guard in (room[:_GUARD], room[_GUARD + size :]))
        assert intact, "the kernel writes outside of its result"
        result = of_bits(result, type.dtype) if type.dtype in HALVES else result
        if block_of(type.layout):
            n, blocks, h, w, lanes = type.physical
            whole, channels = result.transpose(0, 1, 4, 2, 3).reshape(n, blocks * lanes, h, w), type.concrete[1]
            assert np.isfinite(whole[:, channels:]).all(), "lanes beyond the last channel are finite"
            result = whole[:, :channels]
        results.append(result)
    return results


_GUARD = 4096
"""Elements in front of a result and behind it that a kernel must leave alone."""


def _unwritten(kernel: Kernel) -> list[np.ndarray[Any, Any]]:
    """The memory that a kernel has besides, which nobody has written: NaN, which a product with zero does not hide."""
    found = [_guarded(type.physical, halves.stored(type.dtype))[1] for type in kernel.temporaries]
    for array in found:
        array.view(np.uint8)[...] = 255
    return found


def _fenced(array: np.ndarray[Any, Any], last: bool) -> tuple[mmap.mmap, np.ndarray[Any, Any]]:
    """A copy at the first or the last aligned place of its memory, and that memory.

    Nothing can be read beyond its ends: a kernel that does it ends the process.
    """
    page = mmap.PAGESIZE
    size = max(1, -(-array.nbytes // page)) * page
    memory = mmap.mmap(-1, size + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (base, base + page + size):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(fence), page, 0) == 0
    start = page + ((size - array.nbytes) // 64 * 64 if last else 0)
    copy = np.frombuffer(memory, np.uint8, array.nbytes, start).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return memory, copy


def _guarded(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Aligned room for an array between two guards, all sevens; and the array."""
    size = np.prod(shape, dtype=int)
    room = np.full(size + 2 * _GUARD + 64, 7, dtype)
    start = -room.ctypes.data % 64 // room.itemsize
    room = room[start : start + size + 2 * _GUARD]
    return room, room[_GUARD : _GUARD + size].reshape(shape)


def check(
    group: Group,
    lowering: Lowering = select.template,
    target: Target = NATIVE,
    tolerance: float = 2e-6,
    positive: bool = False,
    configuration: Configuration = NOTHING,
) -> None:
    """The kernel that `lowering` makes of `group` equals PyTorch in float64, norm-wise."""
    template = lowering(group, target, Choices(configuration))
    assert template is not None, "the template does not take the group"
    arrays = draw(group, positive)
    for result, expected in zip(
        execute(kernel_of(group, template, conversions=target.conversions), group, arrays, target),
        reference(group, arrays),
        strict=True,
    ):
        assert result.shape == expected.shape
        if expected.dtype.kind != "f":
            assert result.dtype == expected.dtype and np.array_equal(result, expected)
        elif expected.size:
            scale = max(np.abs(expected).max(), 0.5)  # a single sum may cancel; its terms are near 1
            assert np.abs(result - expected).max() <= tolerance * scale
