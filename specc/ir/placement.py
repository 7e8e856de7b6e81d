"""Where tensors lie in memory: their bytes, and which tensors are runs of bytes of another.

A concatenation is its operands one behind the other in memory where nothing but extents of 1 stands before its
dimension in the order of storage; a slice with step 1 is a run of its operand's bytes there. In blocks of channels that
holds for whole blocks of one image. A kernel takes every tensor to begin at a multiple of 64 bytes: a part has to, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from specc.ir.dtypes import DTYPES
from specc.ir.types import TensorType, block_of

ALIGNMENT = 64


def size(type: TensorType) -> int:
    """Bytes of a tensor as it is stored."""
    return math.prod(type.physical) * DTYPES[type.dtype]


def aligned(position: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment` bytes: what kernels take every tensor to begin at."""
    return -(-position // alignment) * alignment


def joined(operands: Sequence[TensorType], result: TensorType, axis: int) -> tuple[int, ...] | None:
    """The offsets in bytes at which the operands of a concat begin in its result; None where they lie scattered."""
    if any(type.symbols() for type in operands) or not _outermost(result, axis % result.rank):
        return None
    begins, end = [], 0
    for type in operands:
        begins.append(end)
        end += size(type)
    return tuple(begins) if end == size(result) and not any(begin % ALIGNMENT for begin in begins) else None


def begin(source: TensorType, part: TensorType, attrs: Mapping[str, Any]) -> int | None:
    """The offset in bytes at which a slice with the attributes `attrs` begins in its operand; None where it scatters.

    The last block of a part holds channels of the part alone: what it held beyond them would be read as padding.
    """
    if source.symbols() or part.symbols():
        return None
    axis, start, block = attrs["axis"] % source.rank, attrs["start"], block_of(source.layout)
    if attrs["step"] != 1 or not _outermost(source, axis):
        return None
    if axis == 1 and block and attrs["stop"] % block and attrs["stop"] != source.concrete[1]:
        return None
    unit = block if axis == 1 and block else 1
    offset: int = start // unit * math.prod(source.physical[axis + 1 :]) * DTYPES[source.dtype]
    return offset if not offset % ALIGNMENT else None


def _outermost(type: TensorType, axis: int) -> bool:
    """Whether all elements of one index of a dimension are neighbours in memory."""
    return math.prod(type.physical[:axis]) == 1
