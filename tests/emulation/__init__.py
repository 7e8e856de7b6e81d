"""Kernels for GPUs on a processor: their CUDA compiled by g++ with `threads.h`, and a driver that runs them."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path
from typing import Any

from specc import targets
from specc.backends.torch import freeze
from specc.backends.tvm import lower
from specc.backends.tvm.cuda.program import devices, text
from specc.driver import find_weights
from specc.ir.graph import Graph, specialize
from specc.optimize import run_passes
from specc.passes.registry import pipeline

HERE = Path(__file__).parent
_KERNEL = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)', re.MULTILINE)
_FLAGS = ("-std=c++17", "-O1", "-march=native", "-ffp-contract=on", "-shared", "-fPIC", "-w")
"""As CUDA's compiler does, a product and a sum become one operation."""


def compile_kernels(source: str, library: Path) -> Path:
    """The library of the kernels in a text in CUDA: for each, `emulate_NAME(blocks, threads, arguments, reverse)`."""
    found = _KERNEL.findall(source)
    assert found, "there is no kernel"
    parts = ['#include "threads.h"', source]
    for name, parameters in found:
        types = [parameter.rsplit(" ", 1)[0].replace("__restrict__", "") for parameter in parameters.split(",")]
        passed = ", ".join(f"*({type} *)arguments[{i}]" for i, type in enumerate(types))
        parts.append(f"static void call_{name}(void **arguments) {{ {name}({passed}); }}")
        parts.append(
            f'extern "C" int emulate_{name}(int blocks, int threads, void **arguments, int reverse) '
            f"{{ return emulated::launch(call_{name}, blocks, threads, arguments, reverse); }}"
        )
        parts.append(f'extern "C" const int arguments_of_{name} = {len(types)};')
    file = library.with_suffix(".cc")
    # C++ has `alignas` come first.
    file.write_text("\n".join(parts).replace("__shared__ alignas(64)", "alignas(64) static"))
    subprocess.run(["g++", *_FLAGS, f"-I{HERE}", str(file), "-o", str(library)], check=True)
    return library


def build_driver(folder: Path) -> Path:
    """libcuda.so.1 in `folder`, which is to be in LD_LIBRARY_PATH."""
    library = folder / "libcuda.so.1"
    flags = ("-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1")
    subprocess.run(["g++", *flags, str(HERE / "driver.cc"), "-o", str(library), "-ldl"], check=True)
    return library


class Emulated:
    """A library of kernels, to be run by name on addresses."""

    def __init__(self, library: Path) -> None:
        self.library: Any = ctypes.CDLL(str(library))

    def run(self, name: str, blocks: int, threads: int, addresses: list[int], reverse: bool = False) -> None:
        values = [ctypes.c_void_p(address) for address in addresses]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        problem = getattr(self.library, f"emulate_{name}")(blocks, threads, pointers, int(reverse))
        assert not problem, f"the threads of {name} part at a barrier"


def kernels_of(graph: Graph, target: str, shapes: dict[str, int] | None = None) -> str:
    """The kernels of a network with its default weights, in CUDA."""
    machine = targets.find(target)
    optimized, _ = run_passes(specialize(graph, shapes), pipeline(2, machine))
    weights, _ = find_weights(graph, None)
    return text(devices(lower(optimized, machine, freeze(optimized, weights)), machine))
