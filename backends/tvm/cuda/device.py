"""A kernel in TIR -> CUDA, and how its launches are made.

Only what runs on the device is kept of what TVM makes: `c/cuda.c` launches it. What a launch passes are addresses
alone, in the order in which the function of CUDA names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from specc.backends.tvm.driver import SOURCES
from specc.backends.tvm.emitter import Kernel
from specc.targets import Target

PRELUDE = (SOURCES / "device.cuh").read_text(encoding="utf-8")
"""What stands in front of all kernels."""

_NAME = re.compile(r"(v|result|temporary)(\d+)_ptr")


@dataclass(frozen=True)
class Launch:
    """`function` with the addresses of `arguments` (numbers of inputs, results, temporaries in the kernel's order)."""

    function: str
    blocks: int
    threads: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Device:
    """A kernel in CUDA: the functions' text, and the launches in order."""

    text: str
    launches: tuple[Launch, ...]


def description(target: Target) -> Any:
    """TVM's description of a target's GPU."""
    limits = {"max_shared_memory_per_block": 48 << 10, "max_threads_per_block": 1024, "thread_warp_size": 32}
    return tvm.target.Target({"kind": "cuda", "arch": target.gpu, **limits})


def device(name: str, kernel: Kernel, target: Target) -> Device:
    """The kernel called `name` in CUDA for `target`."""
    made = description(target)
    count = len(kernel.packings)
    results = len(kernel.function.params) - count - len(kernel.temporaries)
    firsts = {"v": 0, "result": count, "temporary": count + results}
    with made:
        module = _PASSES(tirx.transform.BindTarget(made.with_host("c"))(tvm.IRModule({name: kernel.function})))
        functions = {v: f for v, f in module.functions.items() if v.name_hint != name}
        if not functions:  # its results have no elements
            return Device("", ())
        with _printing():
            built = tvm.get_global_func("target.build.cuda")(_FINISH(tvm.IRModule(functions)), made)
        text = built.inspect_source()
    parameters = {v.name_hint: [parameter.name for parameter in f.params] for v, f in functions.items()}
    launches = []
    for function, extents in _launches(module[name]):
        found = [_NAME.fullmatch(parameter) for parameter in parameters.pop(function)]
        arguments = tuple(firsts[match[1]] + int(match[2]) for match in found if match)
        assert len(arguments) == len(found) and len(extents) == 2, "TVM splits a kernel in another way"
        launches.append(Launch(function, extents[0], extents[1], arguments))
    assert not parameters, "TVM splits a kernel in another way"
    return Device(_functions(text), tuple(launches))


@contextmanager
def _printing() -> Iterator[None]:
    """Keeps TVM from compiling what it prints, which it does where CUDA's runtime and driver are installed."""
    name = "tvm_callback_cuda_compile"
    compiler = tvm.get_global_func(name)
    tvm_ffi.register_global_func(name, lambda code: b"", override=True)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(name, compiler, override=True)


_PASSES = tvm.ir.transform.Sequential(
    [
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
    ]
)
_FINISH = tvm.ir.transform.Sequential([tirx.transform.StmtSimplify(), tirx.transform.LowerIntrin()])
"""TVM's way to device code, without what schedules need: kernels are written with their threads and barriers, and loops
that are to be unrolled are left to the compiler of CUDA."""


def _launches(host: Any) -> Iterator[tuple[str, list[int]]]:
    """The functions that the host's part of a kernel launches, in order, with the numbers of blocks and threads."""
    statements = host.body.seq if isinstance(host.body, tirx.SeqStmt) else [host.body]
    for statement in statements:
        if isinstance(statement, tirx.Evaluate):
            name, *rest = statement.value.args
            yield str(name.value), [int(extent) for extent in rest if isinstance(extent, tirx.IntImm)]


def _functions(text: str) -> str:
    """The functions without TVM's headers, and without the declarations in front."""
    body = text[text.index('extern "C" __global__') :]
    return re.sub(r'^extern "C" __global__ [^{]*;\n', "", body, flags=re.MULTILINE)
