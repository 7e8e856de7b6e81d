"""Building: kernels and a Relax program -> the bytes of one shared library for TVM's runtime.

    kernel --LLVM--> object file, kept in the cache by what it was made from
    program --Relax's passes, memory plan--> bytecode
    objects + bytecode --linker--> library.so

Kernels are compiled by threads: TVM gives up Python's lock for as long as LLVM works.

The cache is the folder `SPECC_CACHE_DIR` (default: ~/.cache/specc). A file's name is the digest of the kernel's text,
the target and TVM's version; it holds the object behind the object's digest, so that a damaged one is made anew. Files
appear whole or not at all, so that several compilers can share the folder. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.relax.vm_build import _vmcodegen, _vmlink

from specc.backends.tvm.lowering import Lowered
from specc.diagnostics import SpeccError, error
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
    """The object file of a kernel in `folder`: from the cache where it is there and whole, else made and put there."""
    text = "\n".join((version("apache-tvm"), repr(target), repr(PASS_OPTIONS), function.script()))
    cache, made = cache_folder(), folder / f"{name}.o"
    kept = cache and cache / f"{name}-{_digest(text.encode()).hex()}.kernel"
    if kept and (found := _whole(kept)) is not None:
        made.write_bytes(found)
        return made
    with tvm.transform.PassContext(config=PASS_OPTIONS):
        module = tvm.tirx.build(tvm.IRModule({name: function}), target=tvm_target(target))
    module.write_to_file(str(made))
    if kept:
        content = made.read_bytes()
        with suppress(SpeccError), replacing(kept) as file:  # a cache that takes no more is no reason to fail
            file.write(_digest(content) + content)
    return made


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _whole(path: Path) -> bytes | None:
    """The object in a file of the cache, behind its digest; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content[16:] if _digest(content[16:]) == content[:16] else None


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
