"""Running an artifact: numpy arrays in, numpy arrays out, through the library that lies in it and nothing else.

    open(path) --checks--> Artifact --call--> [array, ...]

The library of an artifact holds kernels and the driver that calls them, behind a small interface in C
(`backends/tvm/c/specc.h`). It needs libc and OpenMP's runtime; here, ctypes reaches it. Weights are passed as the
artifact's memory map. Neither PyTorch nor TVM is needed or imported. Kernels for a GPU also take tensors that lie in
its memory, of any library that speaks DLPack.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from specc import artifact as container
from specc import signature
from specc.artifact import ALIGNMENT, Array, Contents
from specc.compare import TOLERANCE, difference
from specc.diagnostics import did_you_mean, error
from specc.dlpack import DeviceTensor, look, on_gpu
from specc.gpus import check_gpu, is_gpu
from specc.manifest import Manifest, TensorSpec
from specc.targets import missing_features

Given = Array | DeviceTensor


class Artifact:
    """A compiled network. Call it with arrays, in order or by name; the result is a list of arrays.

    Where it was compiled at several sizes, the arrays' shapes say at which one it computes.

    The library is loaded with the first call. Calls from several threads wait for each other.
    """

    def __init__(self, contents: Contents, threads: int | None = None) -> None:
        self.contents = contents
        self._threads = _threads(threads)
        self._lock = threading.Lock()
        self._model: Model | None = None

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
        """Checks that this machine can run the library, and loads it; raises S0904 or S0905."""
        self._loaded()

    def _loaded(self) -> Model:
        with self._lock:
            if self._model is None:
                _check_machine(self.manifest)
                self._model = Model(self.contents.library, self.contents.weights, self._threads)
            return self._model

    def __call__(self, /, *arrays: Array, **named: Array) -> list[Array]:
        return self._run(self._inputs(arrays, named))

    def into(self, outputs: Sequence[Any], /, *arrays: Any, **named: Any) -> None:
        """As a call, but the results go to `outputs`: dense arrays, one for each, or tensors in the GPU's memory.

        Raises S0910, S0911, S0912 or S0918 for outputs that are not those of the interface.
        """
        inputs = self._inputs(arrays, named)
        model = self._loaded()
        with self._lock:
            model.run(inputs, outputs=self._outputs(outputs, model.at([each.shape for each in inputs]).outputs))

    def profile(self, /, *arrays: Array, **named: Array) -> list[float]:
        """The seconds that each call of a kernel takes in one run, in the order of `kernels` of the manifest's size."""
        inputs = self._inputs(arrays, named)
        model = self._loaded()
        with self._lock:
            seconds = np.zeros(len(model.at([array.shape for array in inputs]).calls))
            model.run(inputs, seconds)
        return [float(second) for second in seconds]

    def _run(self, inputs: list[Given]) -> list[Array]:
        model = self._loaded()
        with self._lock:
            return model.run(inputs)

    def tolerance(self, least: float = TOLERANCE) -> float:
        """How far outputs may be from the reference's: `least`, or what rounding may do where that is more."""
        return max(least, _rounded(self.manifest))

    def self_test(self, tolerance: float = TOLERANCE) -> list[float]:
        """How far each output is from the reference's for the samples, norm-wise, at the size where it is furthest.

        Raises S0908 above `self.tolerance(tolerance)`.
        """
        tolerance = self.tolerance(tolerance)
        furthest = [0.0] * len(self.manifest.outputs)
        for size, sample in zip(self.manifest.sizes, self.contents.samples, strict=True):
            results = self(*sample.inputs)
            apart = [difference(a, b) for a, b in zip(results, sample.outputs, strict=True)]
            where = f" at {size}" if len(self.manifest.sizes) > 1 else ""
            for spec, distance in zip(size.outputs, apart):
                if not distance <= tolerance:
                    raise error(
                        "S0908",
                        f"`{self.manifest.network}` fails its self-test{where}: "
                        f"`{spec.name}` differs by {distance:.3g} from the reference (at most {tolerance:.3g})",
                        notes=(f"it was compiled for {self.manifest.machine.target}",),
                    )
            furthest = list(map(max, furthest, apart))
        return furthest

    def _outputs(self, given: Sequence[Any], specs: Sequence[TensorSpec]) -> list[Given]:
        if len(given) != len(specs):
            raise _misfit("S0910", self.manifest, f"{len(given)} outputs are given, and there are {len(specs)}")
        outputs = [_of_type(self.manifest, "output", spec, each) for spec, each in zip(specs, given)]
        for spec, output, each in zip(specs, outputs, given):
            if output.shape != spec.shape:
                shapes = f"{list(spec.shape)}, not {list(output.shape)}"
                raise _misfit("S0911", self.manifest, f"the output `{spec.name}` has the shape {shapes}")
            if isinstance(output, np.ndarray) and not (
                output is each and output.flags.c_contiguous and output.flags.writeable
            ):
                raise _misfit("S0918", self.manifest, f"the output `{spec.name}` is no dense array that can be written")
        return outputs

    def _inputs(self, arrays: tuple[Any, ...], named: dict[str, Any]) -> list[Given]:
        """The inputs in order; raises S0910, S0911, S0912 or S0913 unless they are those of the interface at a size."""
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
        inputs = [_of_type(self.manifest, "input", spec, given[spec.name]) for spec in specs]
        for size in self.manifest.sizes:
            if all(spec.takes(array.shape) for spec, array in zip(size.inputs, inputs)):
                for spec, array in zip(size.inputs, inputs):
                    _check_domain(self.manifest, spec, array)
                return inputs
        raise _no_size(self.manifest, inputs)


def open(path: str | Path, threads: int | None = None, signed_by: str | Path | None = None) -> Artifact:
    """The artifact at `path`, ready to run, with `threads` threads (None: as many as this process has cores).

    `signed_by` is a PEM file with the public key that it must be signed with. Raises a coded error, and executes
    nothing, for a file that is no whole artifact, is for another machine, or is not signed with that key.
    """
    artifact = Artifact(container.read(path, signature.required(signed_by) if signed_by else None), threads)
    artifact.load()
    return artifact


# ---- inputs --------------------------------------------------------------------------------------------------------


def _of_type(manifest: Manifest, what: str, spec: TensorSpec, given: Any) -> Given:
    """An input or an output as an array, or where it lies in the GPU's memory, of the type that it has to have."""
    if on_gpu(given) and not any(map(is_gpu, manifest.machine.requires)):
        message = f"the {what} `{spec.name}` lies in a GPU's memory, and the network was not compiled for a GPU"
        raise _misfit("S0918", manifest, message)
    array = look(given) if on_gpu(given) else np.asarray(given)
    if array.dtype != spec.dtype:
        hint = f'convert it with `.astype("{spec.dtype}")`'
        raise _misfit("S0912", manifest, f"the {what} `{spec.name}` is {spec.dtype}, not {array.dtype}", hint)
    return array


def _check_domain(manifest: Manifest, spec: TensorSpec, array: Given) -> None:
    """Raises S0913 for an index outside of its table; of one in the GPU's memory, the kernel takes the nearest."""
    if spec.domain is not None and isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.size:
        least, greatest = spec.domain
        if (least is not None and array.min() < least) or (greatest is not None and array.max() > greatest):
            limits = f"{'any' if least is None else least} to {'any' if greatest is None else greatest}"
            found = f"`{spec.name}` holds integers of {limits}, and is given {array.min()} to {array.max()}"
            raise _misfit("S0913", manifest, f"the input {found}", "an index lies inside its table")


def _no_size(manifest: Manifest, inputs: Sequence[Given]) -> Exception:
    """The message for inputs whose shapes are those of no size."""
    if len(manifest.sizes) > 1:
        shapes = ", ".join(f"{spec.name}{list(array.shape)}" for spec, array in zip(manifest.inputs, inputs))
        return _misfit("S0911", manifest, f"`{manifest.network}` was compiled for no size with {shapes}")
    spec, array = next(pair for pair in zip(manifest.inputs, inputs) if not pair[0].takes(pair[1].shape))
    shapes = f"[{', '.join(map(str, spec.pattern or spec.shape))}], not {list(array.shape)}"
    return _misfit("S0911", manifest, f"the input `{spec.name}` has the shape {shapes}")


def _rounded(manifest: Manifest) -> float:
    """How far results may be from the reference where both round, and a few elements to another number."""
    facts = manifest.facts.get("precision")
    tolerance = facts.get("tolerance") if isinstance(facts, dict) else None
    return tolerance if isinstance(tolerance, float) else 0.0


def _misfit(code: str, manifest: Manifest, message: str, *notes: str) -> Exception:
    takes = [", ".join(map(str, size.inputs)) or "no inputs" for size in manifest.sizes]
    if len(takes) == 1:
        return error(code, message, notes=(*notes, f"`{manifest.network}` takes {takes[0]}"))
    sizes = (f"at {size} it takes {what}" for size, what in zip(manifest.sizes, takes))
    return error(code, message, notes=(*notes, f"`{manifest.network}` has {len(takes)} sizes", *sizes))


def aligned_empty(shape: Sequence[int], dtype: Any) -> Array:
    """A new array whose memory is aligned as the kernels want it; the driver would copy any other."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    room = np.empty(count + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    array: Array = room[start : start + count].view(dtype).reshape(shape)
    return array


# ---- the machine ---------------------------------------------------------------------------------------------------


def _check_machine(manifest: Manifest) -> None:
    machine = manifest.machine
    if manifest.library != "shared":
        what = "C to compile" if manifest.library == "source" else "an archive to link with"
        message = f"`{manifest.network}` cannot be run as it is: its library is {what}"
        raise error("S0904", message, notes=("`specc unpack` writes it to a folder", "nothing in it was executed"))
    features = tuple(feature for feature in machine.requires if not is_gpu(feature))
    missing = missing_features(machine.architecture, features)
    if missing:
        what = "is another processor" if missing == (machine.architecture,) else f"lacks {', '.join(missing)}"
        raise error(
            "S0904",
            f"`{manifest.network}` was compiled for {machine.target} ({machine.architecture}); this machine {what}",
            notes=("compile it for this machine, or run it there", "nothing in it was executed"),
        )
    for architecture in filter(is_gpu, machine.requires):
        check_gpu(manifest.network, architecture)


def _threads(threads: int | None) -> int:
    most = len(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= most:
        raise error("S0909", f"{threads} threads: there can be 1 to {most} here")
    return threads or most


# ---- the library ---------------------------------------------------------------------------------------------------


_BAD_SHAPE = 6
"""`SPECC_BAD_SHAPE` of specc.h."""


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

    `arena_bytes` is what it allocates for the tensors in between: enough for each of its `sizes`.
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
        self._size = self._now()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._library.specc_close(self._handle)
            _ctypes.dlclose(self._library._handle)

    def _words(self, problem: int) -> str:
        return str(self._library.specc_message(problem).decode())

    def at(self, shapes: Sequence[tuple[int, ...]]) -> ModelSize:
        """The size for inputs of these shapes, at which it computes from now on; raises S0911 where there is none, and
        S0907 where there is no memory for it."""
        if shapes != self._size.shapes:
            extents = [(ctypes.c_int64 * (len(shape) + 1))(*shape) for shape in shapes]
            table = (ctypes.c_void_p * (len(shapes) + 1))(*map(ctypes.addressof, extents))
            if problem := self._library.specc_set_shapes(self._handle, table):
                code = "S0911" if problem == _BAD_SHAPE else "S0907"
                raise error(code, f"the network cannot be run on {shapes}: {self._words(problem)}")
            self._size = self._now()
        return self._size

    def _now(self) -> ModelSize:
        """The size at which it computes."""
        return ModelSize.of(self._library.specc_get_size(self._handle).contents, *self._counts)

    def run(
        self, inputs: Sequence[Given], seconds: Array | None = None, outputs: Sequence[Given] | None = None
    ) -> list[Array]:
        """The outputs for inputs that are as one of its sizes says; `seconds` becomes the time that each call takes.

        With `outputs`, the results go there. Raises S0907.
        """
        size = self.at([each.shape for each in inputs])
        arrays = [each if isinstance(each, DeviceTensor) else np.ascontiguousarray(each) for each in inputs]
        made = [] if outputs is not None else [aligned_empty(spec.shape, spec.dtype) for spec in size.outputs]
        given, wanted = _addresses(arrays), _addresses(made if outputs is None else outputs)
        if seconds is None:
            problem = self._library.specc_run(self._handle, given, wanted)
        else:
            problem = self._library.specc_profile(self._handle, given, wanted, seconds.ctypes.data)
        if problem:
            raise error("S0907", f"the network fails while it runs: {self._words(problem)}")
        return made


def _addresses(arrays: Sequence[Given]) -> Any:
    places = (each.address if isinstance(each, DeviceTensor) else each.ctypes.data for each in arrays)
    return (ctypes.c_void_p * (len(arrays) + 1))(*places)


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
