"""Tensors in a GPU's memory, from any library that speaks DLPack (PyTorch, CuPy, JAX): where they lie, and as what.

https://dmlc.github.io/dlpack/latest/python_spec.html. Nothing is copied, and nothing is taken over: a tensor is looked
at, and held for as long as it is used.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from specc.diagnostics import error

_CUDA, _CUDA_MANAGED = 2, 13
_DEFAULT_STREAM = 1
_KINDS = {0: "int", 1: "uint", 2: "float", 6: "bool"}


class _Tensor(ctypes.Structure):
    """`DLTensor`, with which a `DLManagedTensor` begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class DeviceTensor:
    """A dense tensor at an address of the GPU's memory, which stays as long as `holder` does."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    holder: Any


def on_gpu(value: Any) -> bool:
    """Whether a value is a tensor in the memory of an NVIDIA GPU."""
    device = getattr(value, "__dlpack_device__", None)
    return not isinstance(value, np.ndarray) and device is not None and device()[0] in (_CUDA, _CUDA_MANAGED)


def look(value: Any) -> DeviceTensor:
    """Where a tensor of the GPU's lies; what was queued for it is done before the default stream goes on. S0918."""
    capsule = value.__dlpack__(stream=_DEFAULT_STREAM)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    found = _Tensor.from_address(pointer(capsule, b"dltensor"))
    shape = tuple(found.shape[: found.rank])
    if found.strides and not _dense(shape, found.strides[: found.rank]):
        note = "make it dense, with `.contiguous()` or what your library calls it"
        raise error("S0918", f"a tensor of {list(shape)} in the GPU's memory has gaps or another order", notes=(note,))
    kind = _KINDS.get(found.kind, f"kind{found.kind}_")
    dtype = kind if kind == "bool" else f"{kind}{found.bits}"
    return DeviceTensor(int(found.data or 0) + found.offset, dtype, shape, capsule)


def _dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    """Whether elements lie in row-major order without gaps."""
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True
