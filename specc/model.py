"""A model: an artifact's library, loaded, on its weights; what `backends/tvm/c/specc.h` declares, by ctypes.

    library and weights --load--> Model --run--> [array, ...]

The library needs libc and OpenMP's runtime, which is loaded first. Weights are passed where they lie: those of an
artifact in its memory map. `specc.runtime` checks what is given before it comes here.
"""

from __future__ import annotations

import _ctypes
import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from specc.artifact import ALIGNMENT
from specc.diagnostics import error
from specc.dlpack import DeviceTensor
from specc.ir.array import Array
from specc.manifest import TensorSpec

Given = Array | DeviceTensor
"""A tensor as a caller has it: in this machine's memory, or in the GPU's."""

_BAD_SHAPE = 6
"""`SPECC_BAD_SHAPE` of specc.h."""

_BYTE = np.dtype(np.uint8)


class _Call(ctypes.Structure):
    """`specc_call` of specc.h."""

    _fields_ = (("kernel", ctypes.c_char_p), ("scope", ctypes.c_char_p))


class _Tensor(ctypes.Structure):
    """`specc_tensor` of specc.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("bytes", ctypes.c_uint64),
    )

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name.decode(), tuple(self.shape[: self.rank]), self.dtype.decode())


class _Size(ctypes.Structure):
    """`specc_size` of specc.h."""

    _fields_ = (
        ("inputs", ctypes.POINTER(_Tensor)),
        ("outputs", ctypes.POINTER(_Tensor)),
        ("calls", ctypes.POINTER(_Call)),
        ("call_count", ctypes.c_int32),
        ("arena_bytes", ctypes.c_uint64),
    )


class _Interface(ctypes.Structure):
    """`specc_interface` of specc.h."""

    _fields_ = (
        ("network", ctypes.c_char_p),
        ("target", ctypes.c_char_p),
        ("input_count", ctypes.c_int32),
        ("output_count", ctypes.c_int32),
        ("size_count", ctypes.c_int32),
        ("sizes", ctypes.POINTER(_Size)),
        ("weight_bytes", ctypes.c_uint64),
        ("arena_bytes", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class ModelSize:
    """What a library says of one size; an extent of -1 is open until a model computes at it.

    `calls` are the kernels in the order in which they run: the operators, and the scope in the network; `arena_bytes`
    is the memory for all tensors in between.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    calls: list[tuple[str, str]]
    arena_bytes: int

    @classmethod
    def of(cls, size: Any, inputs: int, outputs: int) -> ModelSize:
        """What a `specc_size` says."""
        return cls(
            [tensor.spec() for tensor in size.inputs[:inputs]],
            [tensor.spec() for tensor in size.outputs[:outputs]],
            [(call.kernel.decode(), call.scope.decode()) for call in size.calls[: size.call_count]],
            int(size.arena_bytes),
        )

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the inputs."""
        return [spec.shape for spec in self.inputs]


class Model:
    """A `specc_model`: a library that is loaded, on its weights. Raises S0905 where the one or the others do not fit.

    `arena_bytes` is what it allocates for the tensors in between: enough for each of its `sizes`. As in C, one thread
    at a time may use it.

    A network's weights drive Python's code and objects out of the caches, so that each step beside the kernels waits
    for memory. What can be known of a size is therefore kept.
    """

    def __init__(self, library: bytes, weights: Sequence[Array], threads: int = 1) -> None:
        self._library = loaded = _load_library(library)
        loaded.specc_describe.restype = ctypes.POINTER(_Interface)
        loaded.specc_message.restype = ctypes.c_char_p
        loaded.specc_open.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p)
        loaded.specc_close.argtypes = (ctypes.c_void_p,)
        loaded.specc_set_threads.argtypes = (ctypes.c_void_p, ctypes.c_int32)
        loaded.specc_set_shapes.argtypes = (ctypes.c_void_p,) * 2
        loaded.specc_get_size.argtypes = (ctypes.c_void_p,)
        loaded.specc_get_size.restype = ctypes.POINTER(_Size)
        loaded.specc_run.argtypes = (ctypes.c_void_p,) * 3
        loaded.specc_profile.argtypes = (ctypes.c_void_p,) * 4
        about = loaded.specc_describe().contents
        self.arena_bytes = int(about.arena_bytes)
        self._counts = about.input_count, about.output_count
        self.sizes = [ModelSize.of(size, *self._counts) for size in about.sizes[: about.size_count]]
        address, size, self._weights = _together(weights)
        self._handle: int | None = None
        handle = ctypes.c_void_p()
        problem = loaded.specc_open(address, size, ctypes.byref(handle))
        if problem:
            raise error("S0905", f"`{about.network.decode()}` cannot be opened: {self._words(problem)}")
        self._handle = handle.value
        loaded.specc_set_threads(self._handle, threads)
        self._specc_run = loaded.specc_run
        self._given, self._wanted = ((ctypes.c_void_p * (count + 1))() for count in self._counts)
        self._tables = ctypes.addressof(self._given), ctypes.addressof(self._wanted)
        self._renew()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._library.specc_close(self._handle)
            _ctypes.dlclose(self._library._handle)

    def _words(self, problem: int) -> str:
        return str(self._library.specc_message(problem).decode())

    def at(self, shapes: Sequence[tuple[int, ...]]) -> ModelSize:
        """The size for inputs of these shapes, at which it computes from now on; raises S0911 where there is none, and
        S0907 where there is no memory for it."""
        if shapes != self._shapes:
            extents = [(ctypes.c_int64 * (len(shape) + 1))(*shape) for shape in shapes]
            table = (ctypes.c_void_p * (len(shapes) + 1))(*map(ctypes.addressof, extents))
            if problem := self._library.specc_set_shapes(self._handle, table):
                code = "S0911" if problem == _BAD_SHAPE else "S0907"
                raise error(code, f"the network cannot be run on {shapes}: {self._words(problem)}")
            self._renew()
        return self._size

    def _now(self) -> ModelSize:
        """The size at which it computes."""
        return ModelSize.of(self._library.specc_get_size(self._handle).contents, *self._counts)

    def _renew(self) -> None:
        """Keeps what a run needs to know of the size at which it computes now."""
        self._size = self._now()
        self._shapes = self._size.shapes
        outputs = [(spec.shape, np.dtype(spec.dtype)) for spec in self._size.outputs]
        self._results = [(shape, dtype, math.prod(shape) * dtype.itemsize + ALIGNMENT) for shape, dtype in outputs]

    def run(
        self, inputs: Sequence[Given], seconds: Array | None = None, outputs: Sequence[Given] | None = None
    ) -> list[Array]:
        """The outputs for inputs that are as one of its sizes says; `seconds` becomes the time that each call takes.

        With `outputs`, the results go there. Raises S0907.
        """
        self.at([each.shape for each in inputs])
        given, wanted = self._given, self._wanted
        held: list[Array] = []
        for number, each in enumerate(inputs):
            if not isinstance(each, DeviceTensor) and not each.flags.c_contiguous:
                each = np.ascontiguousarray(each)
                held.append(each)
            given[number] = _address(each)
        made: list[Array] = []
        if outputs is None:
            for number, (shape, dtype, room) in enumerate(self._results):
                memory = np.empty(room, _BYTE)
                address = _address(memory)
                start = -address % ALIGNMENT
                wanted[number] = address + start
                made.append(np.ndarray(shape, dtype, memory, start))
        else:
            for number, output in enumerate(outputs):
                wanted[number] = _address(output)
        if seconds is None:
            problem = self._specc_run(self._handle, *self._tables)
        else:
            problem = self._library.specc_profile(self._handle, *self._tables, _address(seconds))
        if problem:
            raise error("S0907", f"the network fails while it runs: {self._words(problem)}")
        return made


def aligned_empty(shape: Sequence[int], dtype: Any) -> Array:
    """A new array whose memory is aligned as the kernels want it; the driver would copy any other."""
    dtype = np.dtype(dtype)
    memory = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, _BYTE)
    return np.ndarray(shape, dtype, memory, -_address(memory) % ALIGNMENT)


def _address(tensor: Given) -> int:
    """Where a tensor lies. Of an array, that is `ctypes.data`, without the Python code behind that."""
    return tensor.address if isinstance(tensor, DeviceTensor) else tensor.__array_interface__["data"][0]


def _together(arrays: Sequence[Array]) -> tuple[int, int, list[Array]]:
    """The address and the bytes of the arrays one behind the other, each aligned, and what holds this memory.

    Those of an artifact's file lie so already, in its memory map; others are copied.
    """
    runs = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
    starts, end = [], 0
    for run in runs:
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = starts[-1] + run.nbytes
    first = runs[0].ctypes.data if runs else 0
    if first % ALIGNMENT == 0 and all(run.ctypes.data == first + start for run, start in zip(runs, starts)):
        return first, end, runs
    blob = aligned_empty((end,), np.uint8)
    for run, start in zip(runs, starts):
        blob[start : start + run.nbytes] = run
    return blob.ctypes.data, end, [blob]


def _load_library(library: bytes) -> Any:
    """The shared library of these bytes; raises S0905."""
    import tempfile

    _load_openmp()
    # dlopen takes a name. The folder is this user's alone and is gone before anything in the library runs.
    with tempfile.TemporaryDirectory(prefix="specc-") as folder:
        path = Path(folder) / "library.so"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(library)
            loaded = ctypes.CDLL(str(path))
            if not hasattr(loaded, "specc_describe"):
                raise OSError("it holds no program")
        except OSError as problem:
            words = str(problem).replace(f"{path}: ", "")
            message = f"the library of the artifact does not load: {words}"
            raise error("S0905", message, notes=("set TMPDIR to a folder that may hold programs",)) from None
    return loaded


@cache
def _load_openmp() -> None:
    """Loads OpenMP's runtime, which stays for as long as the process lives: its threads run in it.

    A thread that waits for others looks again and again before it sleeps, for 10 ms by default. That is long where
    others need the cores, too, so here it is 50 us, unless the environment says otherwise. The environment is as it was
    afterwards: other libraries in the process have runtimes of their own.
    """
    spins = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if not spins:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pass  # a library that needs it says so when it is loaded
    finally:
        if not spins:
            del os.environ["GOMP_SPINCOUNT"]
