"""Running an artifact: numpy arrays in, numpy arrays out, through the library that lies in it and nothing else.

    open(path) --checks--> Artifact --call--> [array, ...]

Here stands what is checked: that this machine can run the library, that inputs and outputs are those of the interface,
that results are the sample's. `specc.model` loads the library and calls it. Neither PyTorch nor TVM is needed or
imported. Kernels for a GPU also take tensors that lie in its memory, of any library that speaks DLPack.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specc import artifact as container
from specc import signature
from specc.artifact import Contents
from specc.compare import TOLERANCE, difference
from specc.diagnostics import did_you_mean, error
from specc.dlpack import look, on_gpu
from specc.gpus import check_gpu, is_gpu
from specc.ir.array import Array
from specc.manifest import Manifest, TensorSpec
from specc.model import Given, Model
from specc.targets import shortfall

_Seen = tuple[Any, tuple[int, ...]]
"""The type and the shape of an input that has passed all checks."""


class Artifact:
    """A compiled network. Call it with arrays, in order or by name; the result is a list of arrays.

    Where it was compiled at several sizes, the arrays' shapes say at which one it computes.

    The library is loaded with the first call. Calls from several threads wait for each other.
    """

    def __init__(self, contents: Contents, threads: int | None = None) -> None:
        self.contents = contents
        self._threads = check_threads(threads)
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._seen: tuple[_Seen, ...] | None = None

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

    def _run(self, inputs: Sequence[Given]) -> list[Array]:
        model = self._model or self._loaded()
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

    def _inputs(self, arrays: tuple[Any, ...], named: dict[str, Any]) -> Sequence[Given]:
        """The inputs in order; raises S0910, S0911, S0912 or S0913 unless they are those of the interface at a size.

        Arrays of the same types and shapes as the last ones need no other look. That is most calls, and this code comes
        from memory each time, as the network's weights drive it out of the caches.
        """
        seen = self._seen
        if seen is None or named or len(arrays) != len(seen):
            return self._checked(arrays, named)
        for array, (dtype, shape) in zip(arrays, seen):
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                return self._checked(arrays, named)
        return arrays

    def _checked(self, arrays: tuple[Any, ...], named: dict[str, Any]) -> list[Given]:
        specs = self.manifest.inputs
        names = [spec.name for spec in specs]
        if len(arrays) > len(specs):
            raise _misfit("S0910", self.manifest, f"{len(arrays)} arrays are given for {len(specs)}")
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
                if all(spec.domain is None for spec in size.inputs):
                    self._seen = tuple((array.dtype, array.shape) for array in inputs)
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
    return _misfit("S0911", manifest, f"the input `{spec.name}` takes the shape {shapes}")


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


# ---- the machine ---------------------------------------------------------------------------------------------------


def _check_machine(manifest: Manifest) -> None:
    machine = manifest.machine
    if manifest.library != "shared":
        what = "C to compile" if manifest.library == "source" else "an archive to link with"
        message = f"`{manifest.network}` cannot be run as it is: its library is {what}"
        raise error("S0904", message, notes=("`specc unpack` writes it to a folder", "nothing in it was executed"))
    features = tuple(feature for feature in machine.requires if not is_gpu(feature))
    what = shortfall(machine.architecture, features)
    if what:
        raise error(
            "S0904",
            f"`{manifest.network}` was compiled for {machine.target} ({machine.architecture}); this machine {what}",
            notes=("compile it for this machine, or run it there", "nothing in it was executed"),
        )
    for architecture in filter(is_gpu, machine.requires):
        check_gpu(manifest.network, architecture)


def check_threads(threads: int | None) -> int:
    """The threads of a call, all cores without a number; raises S0909 for a number that this machine does not have."""
    most = len(os.sched_getaffinity(0))
    if threads is not None and not isinstance(threads, (int, np.integer)):
        raise error("S0909", f"the number of threads is an integer, not {threads!r}")
    if threads is not None and not 1 <= threads <= most:
        raise error("S0909", f"{threads} threads: there can be 1 to {most} here")
    return threads or most
