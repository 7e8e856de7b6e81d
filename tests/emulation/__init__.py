"""Kernels for GPUs on a processor: their CUDA compiled by g++ with `threads.h`, and a driver that runs them.

What they do to memory is watched (`threads.cc`): reads and writes that no barrier orders, and places outside of it.
"""

from __future__ import annotations

import atexit
import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch

import specc
from specc.backends.tvm.cuda import nvrtc
from specc.ir.graph import Graph
from specc.targets import Target

HERE = Path(__file__).parent
_KERNEL = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)', re.MULTILINE)
_SHARED = re.compile(r"__shared__ (alignas\(\d+\))? ?([\w ]+) (\w+)\[([^]]+)\];")
_FLAGS = ("-std=c++17", "-O1", "-march=native", "-ffp-contract=on", "-fno-exceptions", "-fPIC", "-w")
"""As CUDA's compiler does, a product and a sum become one operation."""
_WATCHED = ("-fsanitize=thread", "-fsanitize=bounds", "--param", "tsan-instrument-func-entry-exit=0")
"""Each access to memory is a call of what stands in `threads.cc`: the sanitizers' own libraries are not linked."""


def compile_kernels(source: str, library: Path, watched: bool = True) -> Path:
    """The library of the kernels in a text in CUDA: for each, `emulate_NAME(blocks, threads, arguments, order)`.

    `watched` kernels take several times as long.
    """
    found = _KERNEL.findall(source)
    assert found, "there is no kernel"
    parts = ['#include "threads.h"', source]
    for name, parameters in found:
        types = [parameter.rsplit(" ", 1)[0].replace("__restrict__", "") for parameter in parameters.split(",")]
        passed = ", ".join(f"*({type} *)arguments[{i}]" for i, type in enumerate(types))
        calls = f"static void call_{name}(void **arguments) {{ {name}({passed}); }}"
        parts.append(f'__attribute__((no_sanitize("thread"))) {calls}')
        parts.append(
            f'extern "C" int emulate_{name}(int blocks, int threads, void **arguments, int order) '
            f"{{ return emulated::launch(call_{name}, blocks, threads, arguments, order); }}"
        )
        parts.append(f'extern "C" const int arguments_of_{name} = {len(types)};')
    # C++ has `alignas` come first.
    whole = _SHARED.sub(r"\1 static \2 \3[\4]; emulated::shared(\3, sizeof \3);", "\n".join(parts))
    assert "__shared__" not in whole, "shared memory is told of in another way"
    file, made = library.with_suffix(".cc"), library.with_suffix(".o")
    file.write_text(whole)
    watch = _WATCHED if watched else ()
    subprocess.run(["g++", *_FLAGS, *watch, f"-I{HERE}", "-c", str(file), "-o", str(made)], check=True)
    subprocess.run(["g++", "-shared", str(made), *_machine(), "-o", str(library)], check=True)
    return library


@cache
def _machine() -> tuple[str, ...]:
    """What takes the place of a GPU, compiled."""
    folder = Path(tempfile.mkdtemp(prefix="emulation"))
    atexit.register(shutil.rmtree, folder)
    files = [HERE / "threads.cc", HERE / "instructions.cc"]
    subprocess.run(["g++", *_FLAGS, "-c", *map(str, files)], cwd=folder, check=True)
    return tuple(str(folder / f"{file.stem}.o") for file in files)


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
        self.library.emulate_trouble.restype = ctypes.c_char_p

    def run(self, name: str, blocks: int, threads: int, memory: Mapping[int, int], order: int = 0) -> None:
        """Launches a kernel on `memory`, addresses with the bytes that lie there; in the order 0 of the threads, 1 for
        the reverse one, or another number for a random one."""
        for address, size in memory.items():
            self.library.emulate_memory(ctypes.c_void_p(address), ctypes.c_size_t(size))
        values = [ctypes.c_void_p(address) for address in memory]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        problem = getattr(self.library, f"emulate_{name}")(blocks, threads, pointers, order)
        for address in memory:
            self.library.emulate_memory(ctypes.c_void_p(address), ctypes.c_size_t(0))
        assert not problem, f"{name}: {self.library.emulate_trouble().decode()}"


def compile_artifact(graph: Graph, place: Path, target: str = "cuda:sm_90", **options: Any) -> Path:
    """The library of the kernels in the artifact of a network, which becomes `place`."""
    texts = []

    def cubin(text: str, machine: Target) -> bytes:
        texts.append(text)
        return made(text, machine)

    made = nvrtc.cubin
    with MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "cubin", cubin)
        specc.compile(graph, target=target, **options).save(place)
    return compile_kernels(texts[-1], place.with_suffix(".so"))
