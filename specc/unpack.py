"""An artifact -> a folder for programs that are not written in Python.

    libnetwork.so    kernels and driver; needs libc and OpenMP's runtime (libnetwork.a where it is a static library,
                     network.wasm for wasm32, network.c for the target c)
    specc.h          its interface
    weights.bin      the packed weights: what `specc_open` wants, mapped or read to memory that is aligned to 64 bytes
    manifest.json    what the artifact says of itself
    sample/NAME.bin  every input of the artifact's sample, and every output that the reference computed for them; where
                     there are several sizes, sample/n=8/NAME.bin for each of them

Arrays are dense, row-major and little-endian, without a header; shapes and element types stand in the manifest, and the
library knows them, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from specc.artifact import ALIGNMENT, Contents
from specc.files import filling
from specc.ir.array import Array
from specc.manifest import Manifest

HEADER = Path(__file__).parent / "backends" / "tvm" / "c" / "specc.h"


def unpack(contents: Contents, folder: str | Path) -> dict[str, int]:
    """Writes the folder, which appears whole or not at all; the size in bytes of each file. Raises S0002."""
    manifest = contents.manifest
    with filling(folder) as new:
        (new / _library(manifest)).write_bytes(contents.library)
        (new / "specc.h").write_bytes(HEADER.read_bytes())
        with open(new / "weights.bin", "wb") as file:
            for weight in contents.weights:
                file.write(bytes(-file.tell() % ALIGNMENT))
                file.write(_bytes(weight))
        (new / "manifest.json").write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
        for size, sample in zip(manifest.sizes, contents.samples, strict=True):
            folder = new / "sample" / (str(size) if len(manifest.sizes) > 1 else "")
            folder.mkdir(parents=True)
            specs = (*size.inputs, *size.outputs)
            for spec, array in zip(specs, (*sample.inputs, *sample.outputs), strict=True):
                (folder / f"{spec.name}.bin").write_bytes(_bytes(array))
        return {str(path.relative_to(new)): path.stat().st_size for path in sorted(new.rglob("*")) if path.is_file()}


def _library(manifest: Manifest) -> str:
    if manifest.machine.architecture == "wasm32":
        return "network.wasm"
    kinds = {"source": "network.c", "static": "libnetwork.a", "shared": "libnetwork.so"}
    return kinds[manifest.library]


def _bytes(array: Array) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
