"""Running an artifact: numpy arrays in, numpy arrays out, through TVM's runtime library and nothing else of TVM.

    open(path) --checks--> Artifact --call--> [array, ...]

The library of an artifact holds kernels and a program for the virtual machine of TVM's runtime; `tvm_ffi` (0.1 s to
import) reaches it with the runtime library that lies in the installed package `tvm` (which is never imported: 4 s).
Weights are passed as views of the artifact's memory map. PyTorch is neither needed nor imported.

What has to be known of the runtime:

- Kernels take every tensor to be aligned to 64 bytes and do not check it: inputs that are not are copied first.
- Its pool of threads belongs to the calling thread, has its greatest size from the environment when it is first used,
  and can only be narrowed afterwards. So the environment is set before the runtime is loaded, and `threads` narrows.
- It binds threads to cores, the caller's too, unless it is told otherwise, which would follow the caller everywhere.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from specc import artifact as container
from specc.artifact import ALIGNMENT, Array, Contents, Manifest, TensorSpec
from specc.compare import TOLERANCE, difference
from specc.diagnostics import did_you_mean, error
from specc.targets import missing_features

_CPU, _POOLED = 1, 2  # a DLPack device type; the virtual machine's allocator that keeps freed memory
_pool = threading.local()


class Artifact:
    """A compiled network. Call it with arrays, in order or by name; the result is a list of arrays.

    The library is loaded with the first call. Calls from several threads wait for each other.
    """

    def __init__(self, contents: Contents, threads: int | None = None) -> None:
        self.contents = contents
        self._threads, self._wanted = _threads(threads), threads is not None
        self._lock = threading.Lock()
        self._machine: Any = None
        self._main: Callable[..., Any] | None = None
        self._weights: list[Any] = []

    @property
    def manifest(self) -> Manifest:
        return self.contents.manifest

    @property
    def threads(self) -> int:
        """How many threads a call uses."""
        return self._threads

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.manifest.inputs, self.manifest.outputs))
        return f"<artifact {self.manifest.network} for {self.manifest.machine.target}: ({inputs}) -> ({outputs})>"

    def save(self, path: str | Path) -> int:
        """Writes the artifact to `path`, whole or not at all; its length in bytes."""
        return container.write(path, self.contents)

    def load(self) -> None:
        """Checks that this machine can run the library, and loads it; raises S0904, S0905 or S0906."""
        with self._lock:
            if self._main is None:
                _check_machine(self.manifest)
                ffi = _runtime(self.manifest.runtime)
                self._machine = _load_library(ffi, self.contents.library)
                self._main = self._machine["main"]
                self._weights = [ffi.from_dlpack(_aligned(weight)) for weight in self.contents.weights]

    def __call__(self, /, *arrays: Array, **named: Array) -> list[Array]:
        inputs = self._inputs(arrays, named)
        self.load()
        assert self._main is not None
        import tvm_ffi

        with self._lock:
            _use_threads(self._threads, self._wanted)
            try:
                results = self._main(*(tvm_ffi.from_dlpack(_aligned(x)) for x in inputs), *self._weights)
            except Exception as problem:  # the runtime raises classes of its own
                raise error("S0907", f"`{self.manifest.network}` fails while it runs: {problem}") from problem
        tensors = [results] if isinstance(results, tvm_ffi.Tensor) else list(results)
        # Copies: a result may be a view of an input or of a weight, and belongs to the caller now.
        return [np.array(np.from_dlpack(tensor)) for tensor in tensors]

    @contextmanager
    def watched(self, watch: Callable[..., int]) -> Iterator[None]:
        """While it lasts, the runtime calls `watch(function, name, before, result, *operands)` around every call that
        the program makes; it returns 0."""
        self.load()
        self._machine["set_instrument"](watch)
        try:
            yield
        finally:
            self._machine["set_instrument"](None)

    def self_test(self, tolerance: float = TOLERANCE) -> list[float]:
        """How far each output is from the reference's for the sample, norm-wise; raises S0908 above `tolerance`."""
        results = self(*self.contents.sample_inputs)
        apart = [difference(a, b) for a, b in zip(results, self.contents.sample_outputs, strict=True)]
        for spec, distance in zip(self.manifest.outputs, apart):
            if not distance <= tolerance:
                raise error(
                    "S0908",
                    f"`{self.manifest.network}` fails its self-test: "
                    f"`{spec.name}` differs by {distance:.3g} from the reference (at most {tolerance:.3g})",
                    notes=(f"it was compiled for {self.manifest.machine.target}",),
                )
        return apart

    def _inputs(self, arrays: tuple[Array, ...], named: dict[str, Array]) -> list[Array]:
        """The inputs in order; raises S0910, S0911 or S0912 unless they are those of the interface."""
        specs = self.manifest.inputs
        names = [spec.name for spec in specs]
        if len(arrays) > len(specs):
            raise _misfit("S0910", self.manifest, f"{len(arrays)} arrays are given")
        given = dict(zip(names, arrays))
        for name, array in named.items():
            if name not in names:
                raise _misfit("S0910", self.manifest, f"there is no input `{name}`", *did_you_mean(name, names))
            if name in given:
                raise _misfit("S0910", self.manifest, f"the input `{name}` is given twice")
            given[name] = array
        missing = [name for name in names if name not in given]
        if missing:
            raise _misfit("S0910", self.manifest, f"the input `{missing[0]}` is missing")
        return [_fitting(self.manifest, spec, given[spec.name]) for spec in specs]


def open(path: str | Path, threads: int | None = None) -> Artifact:
    """The artifact at `path`, ready to run, with `threads` threads (None: as many as this process has cores).

    Raises a coded error, and executes nothing, for a file that is no whole artifact or is for another machine.
    """
    artifact = Artifact(container.read(path), threads)
    artifact.load()
    return artifact


# ---- inputs --------------------------------------------------------------------------------------------------------


def _fitting(manifest: Manifest, spec: TensorSpec, given: Any) -> Array:
    array = np.asarray(given)
    if array.dtype != np.dtype(spec.dtype):
        hint = f'convert it with `.astype("{spec.dtype}")`'
        raise _misfit("S0912", manifest, f"the input `{spec.name}` is {spec.dtype}, not {array.dtype}", hint)
    if array.shape != spec.shape:
        shapes = f"{list(spec.shape)}, not {list(array.shape)}"
        raise _misfit("S0911", manifest, f"the input `{spec.name}` has the shape {shapes}")
    return array


def _misfit(code: str, manifest: Manifest, message: str, *notes: str) -> Exception:
    takes = ", ".join(map(str, manifest.inputs)) or "no inputs"
    return error(code, message, notes=(*notes, f"`{manifest.network}` takes {takes}"))


def _aligned(array: Array) -> Array:
    """The array itself where it is contiguous, writable (DLPack demands it) and aligned; otherwise a copy that is."""
    flags = array.flags
    if flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0:
        return array
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


# ---- the machine ---------------------------------------------------------------------------------------------------


def _check_machine(manifest: Manifest) -> None:
    machine = manifest.machine
    missing = missing_features(machine.architecture, machine.requires)
    if missing:
        what = "is another processor" if missing == (machine.architecture,) else f"lacks {', '.join(missing)}"
        raise error(
            "S0904",
            f"`{manifest.network}` was compiled for {machine.target} ({machine.architecture}); this machine {what}",
            notes=("compile it for this machine, or run it there", "nothing in it was executed"),
        )


def _threads(threads: int | None) -> int:
    most = _most_threads()
    if threads is not None and not 1 <= threads <= most:
        raise error("S0909", f"{threads} threads: there can be 1 to {most} here")
    return threads or most


@cache
def _most_threads() -> int:
    given = os.environ.get("TVM_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))


def prepare() -> None:
    """Sets the environment that the runtime reads once; to be called before anything of TVM is loaded or imported."""
    os.environ.setdefault("TVM_NUM_THREADS", str(_most_threads()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def _use_threads(count: int, wanted: bool) -> None:
    """Narrows the calling thread's pool to `count`.

    A pool that something else made before, and made smaller, is taken as it is, unless the caller has named the number
    (`wanted`): then it raises S0909.
    """
    if getattr(_pool, "threads", None) == count:
        return
    import tvm_ffi

    tvm_ffi.get_global_func("runtime.config_threadpool")(0, count)
    there = tvm_ffi.get_global_func("runtime.NumThreads")()
    if wanted and there != count:
        raise error(
            "S0909",
            f"{count} threads are wanted, and TVM's pool, which something else in this process has made, has {there}",
            notes=("set TVM_NUM_THREADS, or open an artifact before TVM is used otherwise",),
        )
    _pool.threads = count


# ---- the runtime ---------------------------------------------------------------------------------------------------


@cache
def _runtime(version: str) -> Any:
    """The module `tvm_ffi`, with TVM's runtime library of exactly `version` loaded; raises S0906."""
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise error("S0906", "the package `apache-tvm`, which holds the runtime of artifacts, is not installed")
    here = installed_runtime()
    if here != version:
        raise error(
            "S0906",
            f"the artifact was built for version {version} of TVM's runtime, and {here} is installed",
            notes=("compile it anew with this installation",),
        )
    prepare()
    ffi = _import_ffi()
    try:
        ctypes.CDLL(str(Path(found.origin).with_name("lib") / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    except OSError as problem:
        raise error("S0906", f"the runtime library of `apache-tvm` does not load: {problem}") from None
    return ffi


def installed_runtime() -> str:
    """The version of the installed runtime."""
    return importlib.metadata.version("apache-tvm")


def _import_ffi() -> Any:
    """`tvm_ffi`, which would import torch where it can (2 s) for conversions that are not used here."""
    absent: Any = None
    hide = "torch" not in sys.modules and "tvm_ffi" not in sys.modules
    if hide:
        sys.modules["torch"] = absent  # makes `import torch` raise ImportError
    try:
        import tvm_ffi
    except ImportError as problem:
        raise error("S0906", f"the package `apache-tvm-ffi` does not load: {problem}") from None
    finally:
        if hide:
            sys.modules.pop("torch", None)
    return tvm_ffi


def _load_library(ffi: Any, library: bytes) -> Any:
    """The virtual machine of a shared library's program; its function `main` takes inputs and weights."""
    # dlopen takes a name. The folder is this user's alone and is gone before anything in the library runs.
    with tempfile.TemporaryDirectory(prefix="specc-") as folder:
        path = Path(folder) / "library.so"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(library)
            module = ffi.load_module(path, keep_module_alive=False)
        except Exception as problem:
            message = f"the library of the artifact does not load: {problem}"
            raise error("S0905", message, notes=("set TMPDIR to a folder that may hold programs",)) from None
    try:
        machine = module["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        machine["main"]
    except Exception as problem:
        raise error("S0905", f"the library of the artifact holds no program: {problem}") from None
    return machine
