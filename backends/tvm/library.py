"""Building: kernels and a Relax program -> the bytes of one shared library for TVM's runtime.

    kernel --LLVM--> object file, kept in the cache by what it was made from
    program --Relax's passes, memory plan--> bytecode
    objects + bytecode --linker--> library.so

Kernels are compiled by threads: TVM gives up Python's lock for as long as LLVM works.

The cache is the folder `SPECC_CACHE_DIR` (default: ~/.cache/specc). A file's name is the digest of the kernel's text,
the target and TVM's version; files appear whole or not at all, so that several compilers can share the folder. It may
be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.relax.vm_build import _vmcodegen, _vmlink

from specc.backends.tvm.lowering import Lowered
from specc.diagnostics import error
from specc.files import replacing
from specc.targets import Target

Progress = Callable[[int, int], None]

PASS_OPTIONS = {"tirx.disable_assert": True, "tirx.disable_storage_rewrite": True}
"""Kernels are called by our program alone, with what they take. And the pass that merges buffers forgets which of them
are to stay on the stack (`emitter.on_stack`): each accumulator then costs two calls of the runtime for every tile."""


def tvm_target(target: Target) -> Any:
    """TVM's description of a target."""
    description: dict[str, Any] = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu}
    if target.features:
        description["mattr"] = list(target.features)
    return tvm.target.Target(description)


def build(lowered: Lowered, target: Target, progress: Progress | None = None) -> bytes:
    """The shared library of a lowered network; `progress` is told how many of all kernels are compiled."""
    told = progress or (lambda done, total: None)
    total = len(lowered.kernels)
    told(0, total)
    objects: dict[str, Path] = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        tempfile.TemporaryDirectory(prefix="specc-") as folder,
    ):
        pending = {
            pool.submit(compile_kernel, kernel.function, name, target, Path(folder)): name
            for name, kernel in lowered.kernels.items()
        }
        try:
            for done, future in enumerate(as_completed(pending), 1):
                objects[pending[future]] = future.result()
                told(done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return _link(lowered.program, objects, target, Path(folder))


def compile_kernel(function: Any, name: str, target: Target, folder: Path) -> Path:
    """The object file of a kernel, from the cache or put there; in `folder` where there can be no cache."""
    text = "\n".join((version("apache-tvm"), repr(target), repr(PASS_OPTIONS), function.script()))
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    cache = cache_folder()
    path = (cache or folder) / f"{name}-{digest}.o"
    if path.exists():
        return path
    with tvm.transform.PassContext(config=PASS_OPTIONS):
        module = tvm.tirx.build(tvm.IRModule({name: function}), target=tvm_target(target))
    made = folder / f"{name}.o"
    module.write_to_file(str(made))
    with replacing(path) as file:
        file.write(made.read_bytes())
    return path


def cache_folder() -> Path | None:
    """The folder of compiled kernels; None where it cannot be made."""
    given = os.environ.get("SPECC_CACHE_DIR")
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specc"
    folder = root / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _link(program: Any, objects: dict[str, Path], target: Target, folder: Path) -> bytes:
    """The library: bytecode of the program, with the kernels' objects."""
    described = tvm_target(target)
    with described:
        module = relax.get_pipeline("default_build")(program)
    builder = relax.ExecBuilder()
    rest = _vmcodegen(builder, module)
    functions = {g: f for g, f in rest.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    kernels = [tvm.runtime.load_static_library(str(path), [name]) for name, path in sorted(objects.items())]
    executable = _vmlink(builder, described, tvm.IRModule(functions) if functions else None, ext_libs=kernels)
    path = folder / "library.so"
    executable.export_library(str(path), fcompile=_linker(target), workspace_dir=str(folder))
    return path.read_bytes()


def _linker(target: Target) -> Callable[..., None]:
    """What TVM calls to make a shared library of object files: the first linker that this machine has."""
    command = next((c for c in (["g++"], ["gcc"], ["ld", "-z", "noexecstack"]) if shutil.which(c[0])), None)
    if command is None:
        raise error("S0803", "no linker is installed: one of g++, gcc and ld is needed")

    def link(output: str, files: Sequence[str], options: Sequence[str] | None = None, **_: Any) -> None:
        assert command is not None
        done = subprocess.run(
            [*command, "-shared", "-o", output, *files, *(options or ())], capture_output=True, text=True
        )
        if done.returncode:
            raise error("S0803", f"the linker {command[0]} fails: {done.stderr.strip()[-500:]}")

    link.get_target_triple = lambda: target.triple  # type: ignore[attr-defined]
    return link
