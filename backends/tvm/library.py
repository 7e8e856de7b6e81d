"""Building: kernels and programs -> the bytes of one library, which needs libc and OpenMP's runtime alone.

    kernel --LLVM--> object file, kept in the cache by what it was made from
    programs, one for each size, and memory plans --> tables in C, behind the functions of `c/specc.h`
    objects + tables --C compiler--> library.so, or an archive to link with

For targets whose kernels are C (`c`, `cortex-m7`), the library is the file that `source` writes. For a GPU, it holds
the cubin of all kernels and `c/cuda.c`, which finds CUDA's driver where it runs.

Kernels are compiled by threads: TVM gives up Python's lock for as long as LLVM works.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from specc.backends.tvm.cuda import nvrtc
from specc.backends.tvm.cuda import program as cuda
from specc.backends.tvm.driver import SOURCES, header
from specc.backends.tvm.lowering import Lowered
from specc.backends.tvm.source import source
from specc.backends.tvm.translation import LEFT_OUT, OPTIONS, translate
from specc.cache import kept
from specc.diagnostics import error
from specc.files import scratch
from specc.targets import Target

Progress = Callable[[int, int], None]


_ELF = (
    *("-fPIC", "-shared", "-static-libgcc", "-Wl,--strip-debug"),
    "-Wl,--version-script=exports,--build-id=none,--gc-sections,-z,noexecstack,-z,defs",
)
_EXPORTS = ("describe", "open", "close", "set_threads", "set_shapes", "get_size", "run", "profile", "message")
_WASM = (
    *("--target=wasm32-wasi", "-mexec-model=reactor", "-s"),
    f"-Wl,{','.join(f'--export=specc_{name}' for name in _EXPORTS)},--export=aligned_alloc,--export=free",
)
"""How a library is linked for Linux, and for WebAssembly: a module without threads, with functions to get memory.

Kernels keep their names in a library for Linux: `specc.disassembly` finds them by these."""


def tvm_target(target: Target) -> Any:
    """TVM's description of a target."""
    description: dict[str, Any] = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu}
    if target.features:
        description["mattr"] = list(target.features)
    if target.triple.endswith("eabihf"):
        description["mfloat-abi"] = "hard"
    if target.options:
        description["cl-opt"] = list(target.options)
    if target.architecture == "wasm32":
        description["vector-width"] = target.vector_bits
    return tvm.target.Target(description)


def build(lowered: Lowered, target: Target, progress: Progress | None = None, static: bool = False) -> bytes:
    """The library of a lowered network, shared or static; `progress` is told how many of all kernels are compiled."""
    told = progress or (lambda done, total: None)
    total = len(lowered.kernels)
    told(0, total)
    if not target.vectors:
        text = source(lowered, target)
        told(total, total)
        return text
    if target.gpu:
        kernels = cuda.devices(lowered, target)
        cubin = nvrtc.cubin(cuda.text(kernels), target) if kernels else b""
        told(total, total)
        tables = cuda.header(lowered, kernels, target)
        with scratch() as folder:
            (folder / "kernels.cubin").write_bytes(cubin)
            return link("cuda.c", tables, [], target, folder, "static" if static else "shared")
    objects: dict[str, Path] = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        scratch() as folder,
    ):
        pending = {
            pool.submit(compile_kernel, kernel.function, name, target, folder): name
            for name, kernel in lowered.kernels.items()
        }
        try:
            for done, future in enumerate(as_completed(pending), 1):
                objects[pending[future]] = future.result()
                told(done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        tables = header(lowered, target)
        kind = "static" if static else "shared"
        return link("driver.c", tables, list(objects.values()), target, folder, kind)


def compile_kernel(function: Any, name: str, target: Target, folder: Path, keep: bool = True) -> Path:
    """The object file of a kernel in `folder`.

    Objects are kept by the kernel's text, the target, TVM's version and how it translates; without `keep`, one that is
    new is not.
    """
    made = folder / f"{name}.o"

    def compile() -> bytes:
        translate({name: function}, tvm_target(target)).write_to_file(str(made))
        return made.read_bytes()

    text = "\n".join((version("apache-tvm"), str(tvm_target(target)), repr(OPTIONS), repr(LEFT_OUT), function.script()))
    made.write_bytes(kept("kernel", name, text, compile, keep))
    return made


def link(driver: str, tables: str, objects: Sequence[Path], target: Target, folder: Path, kind: str) -> bytes:
    """The library: the program's driver with its tables and the kernels' objects.

    `kind` is "shared", "static", or "measured": a shared one with the function of `c/measure.c` besides.
    """
    (folder / "network.h").write_text(tables, encoding="utf-8")
    sources = (driver, *(["measure.c"] if kind == "measured" else []))
    for name in (*sources, "threads.h", "specc.h"):
        (folder / name).write_text((SOURCES / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "exports").write_text("{ global: specc_*; __tvm_ffi_measure; local: *; };\n", encoding="utf-8")
    names = sorted(f"./{os.path.relpath(path, folder)}" for path in objects)
    threads = not target.gpu and target.architecture != "wasm32"
    flags = ("-std=gnu11", "-O2", "-fvisibility=hidden", *(["-fopenmp"] if threads else []))
    if kind == "static":
        _compile_c(*flags, "-fPIC", "-c", driver, "-o", "driver.o", target=target, folder=folder)
        _compile_c("-r", "-nostdlib", "-o", "network.o", "driver.o", *names, target=target, folder=folder)
        # One object whose names are its own, so that a program can hold kernels of several networks.
        kept = (f"--keep-global-symbol=specc_{name}" for name in _EXPORTS)
        _run(_binutil("objcopy", target), *kept, "--strip-debug", "network.o", folder=folder)
        _run(_binutil("ar", target), "rcsD", "library", "network.o", folder=folder)
    else:
        inputs = (*flags, "-o", "library", *sources, *names, "-ldl" if target.gpu else "-lm")
        _compile_c(*inputs, *(_WASM if target.architecture == "wasm32" else _ELF), target=target, folder=folder)
    return (folder / "library").read_bytes()


def _binutil(name: str, target: Target) -> str:
    """A program of binutils for `target`, which comes with its C compiler."""
    return name if target.architecture == platform.machine() else f"{target.triple}-{name}"


def _compile_c(*arguments: str, target: Target, folder: Path) -> None:
    """Runs a C compiler for `target` in `folder`; raises S0803."""
    if target.architecture == platform.machine():
        names, package = ["gcc", "cc", "clang"], "gcc"
    elif target.architecture == "wasm32":
        names, package = ["clang"], "clang lld wasi-libc libclang-rt-dev-wasm32"
    else:
        names, package = [f"{target.triple}-gcc"], f"gcc-{target.triple.replace('_', '-')}"
    command = next((name for name in names if shutil.which(name)), None)
    if command is None:
        message = f"no C compiler for {target.architecture} is installed, which links an artifact: {names[0]} is needed"
        raise error("S0803", message, notes=(f"on Debian and Ubuntu: apt install {package}",))
    _run(command, *arguments, folder=folder)


def _run(command: str, *arguments: str, folder: Path) -> None:
    """Runs a program of the compiler's in `folder`; raises S0803."""
    try:
        done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as problem:
        raise error("S0803", f"{command} cannot be run: {problem.strerror or problem}") from None
    if done.returncode:
        raise error("S0803", f"{command} fails: {done.stderr.strip()[-500:]}")
