"""The safetensors format: eight bytes of length, a JSON header, then the tensors' bytes, row-major, little endian.

Reading maps the file into memory: a tensor costs nothing until it is used. numpy has no bfloat16 and no 8-bit floats,
so bfloat16 is widened to float32 (exact: it is the upper half of one) and other types that numpy lacks are refused.
Nothing of the header is believed before it is checked against the size of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specc.diagnostics import SpeccError, error
from specc.files import replacing
from specc.ir.array import Array

_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


class _Wrong(Exception):
    """The bytes are no safetensors file, for this reason."""


def map_safetensors(path: Path) -> dict[str, Callable[[], Array]]:
    """For each key, a call that gives its tensor; raises S0602 for a file that is damaged or something else."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _Wrong(f"its header would have {length} bytes, and the file has {size}")
            header = json.loads(file.read(length).decode())
        if not isinstance(header, dict):
            raise _Wrong("its header is no JSON object")
        header.pop("__metadata__", None)
        data = size - 8 - length
        places = {key: _place(key, entry, data) for key, entry in header.items()}
    except (_Wrong, ValueError, RecursionError) as problem:
        raise damaged(path, problem) from None
    if not any(end > start for _, _, start, end in places.values()):
        whole = np.empty(0, np.uint8)  # numpy maps no empty file
    else:
        whole = np.memmap(path, np.uint8, "r", 8 + length)
    return {key: _reader(whole, *place) for key, place in places.items()}


def damaged(path: Path, reason: object) -> SpeccError:
    """A new S0602: the file is not the checkpoint that it looks like."""
    return error("S0602", f"`{path}` is damaged, or no checkpoint: {reason}")


def _place(key: str, entry: Any, data: int) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, start and end of a tensor, from its entry in the header."""
    try:
        name, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = isinstance(name, str) and all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise _Wrong(f"the header does not describe the tensor `{key}`")
    if name not in _NUMPY:
        raise _Wrong(f"`{key}` has elements of type {name}; known are {', '.join(_NUMPY)}")
    needed = math.prod(shape) * np.dtype(_NUMPY[name]).itemsize
    if not start <= end <= data or end - start != needed:
        raise _Wrong(f"`{key}` would stand at bytes {start} to {end} of {data}, and takes {needed}")
    return name, shape, start, end


def _reader(whole: Array, name: str, shape: tuple[int, ...], start: int, end: int) -> Callable[[], Array]:
    def read() -> Array:
        array = whole[start:end].view(_NUMPY[name]).reshape(shape)
        return widen_bfloat16(array) if name == "BF16" else array

    return read


def widen_bfloat16(bits: Array) -> Array:
    """The float32 numbers whose upper halves are `bits`."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write_safetensors(path: str | Path, weights: Mapping[str, Array]) -> None:
    """Writes the tensors; the file appears whole or not at all. Raises S0002 where it cannot be written."""
    from safetensors.numpy import save

    # asarray(order="C") and not ascontiguousarray, which makes a list of a number
    arrays = {key: np.asarray(array, order="C") for key, array in weights.items()}
    with replacing(path) as file:
        file.write(save(arrays))
