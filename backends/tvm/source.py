"""Kernels and programs -> one file of C, for compilers and machines that TVM's code generators do not know.

TVM prints the kernels. It wraps each in a function that takes tensors apart as its own runtime passes them; that is
replaced by what `c/driver.c` passes. What a reader sees is the driver, the tables of the network, and the kernels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tvm

from specc.backends.tvm.driver import SOURCES, header, scratch_bytes
from specc.backends.tvm.expression import LITERAL
from specc.backends.tvm.lowering import Lowered
from specc.backends.tvm.translation import translate
from specc.targets import Target

_FUNCTION = re.compile(r"^TVM_DLL int32_t __tvm_ffi_(\w+)\([^\n]*\) \{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_EXTENT = re.compile(r"^  int32_t (\w+) = \(\(int32_t\)\(\(\(TVMFFIAny\*\)args\)\[(\d+)\]\.v_int64\)\);$")
_NUMBER = re.compile(r"^  int32_t (\w+)_type_index = \(\(\(TVMFFIAny\*\)args\)\[(\d+)\]", re.MULTILINE)
_TENSOR = re.compile(r"^  (\w+)\* (\w+) = .*\(\(DLTensor\*\)(\w+)_handle\)\[0\]\.data.*$")
_LITERAL = re.compile(rf"\b{LITERAL}([^()]*)\(\)")
_SCRATCH = re.compile(r"TVMBackendAllocWorkspace\(1, \w+, \(uint64_t\)(\d+)")

_USE = """\
/* {name}, as C: `cc -std=c11 -O3 -c network.c`, with the interface in specc.h.

   -DSPECC_EMBED='"weights.bin"'   makes the weights a part of the program: specc_open(NULL, 0, &model)
   -DSPECC_STATIC                  a static array in place of malloc: {static} bytes{open} */
#define SPECC_SOURCE
"""
_BARE = """\
/* {name}, as C for a {target}: `cc -std=c11 -O3 -c network.c`, with the interface in specc.h. Tensors lie in
   a static array of {static} bytes; nothing is allocated.

   -DSPECC_EMBED='"weights.bin"'   makes the weights a part of the program: specc_open(NULL, 0, &model){open} */
#define SPECC_SOURCE
#define SPECC_STATIC
"""

_OPEN = """
   -DSPECC_ARENA_BYTES=N           makes that array of N bytes. The others are for {size}; with fewer than a size
                                   takes, specc_set_shapes() returns SPECC_NO_MEMORY, and arena_bytes of
                                   specc_get_size() says what the present one takes"""

_RUNTIME = """
/* ---- kernels ----------------------------------------------------------------------------------------------------- */

#define DATA(number) (((tensor *)arguments[number].pointer)->data)
#define TVMBackendAllocWorkspace scratch
#define TVMBackendFreeWorkspace free_scratch
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
"""


def source(lowered: Lowered, target: Target) -> bytes:
    """The file: `c/driver.c` with the network's tables in it, and the kernels behind."""
    kernels = {name: kernel.function for name, kernel in lowered.kernels.items()}
    printed = _printed(kernels)
    scratch = {name: sum(map(_aligned, _SCRATCH.findall(text))) for name, text in printed.items()}
    tables = header(lowered, target, "{}", scratch)
    driver = (SOURCES / "driver.c").read_text(encoding="utf-8").replace('#include "network.h"\n', tables)
    driver = driver.replace("#include <stdlib.h>\n", "#include <math.h>\n#include <stdbool.h>\n#include <stdlib.h>\n")
    static, name = lowered.arena + scratch_bytes(lowered, scratch), lowered.sizes[0].program.name
    sampled = [one.opening.at for one in lowered.sizes if one.opening]
    size = " and ".join(",".join(f"{name}={extent}" for name, extent in at.items()) for at in sampled)
    use = (_BARE if target.bare else _USE).format(
        name=name, target=target.name, static=static, open=_OPEN.format(size=size) if sampled else ""
    )
    return "".join([use, driver, _RUNTIME, *printed.values()]).encode()


def _aligned(size: str) -> int:
    return -(-int(size) // 64) * 64


def _printed(kernels: Mapping[str, Any]) -> dict[str, str]:
    """The functions in C, by name."""
    if not kernels:
        return {}
    text = translate(kernels, tvm.target.Target({"kind": "c"})).inspect_source()
    # A module of one function has another, called main, that calls it.
    found = {
        name: _function(name, _LITERAL.sub(r"\1", body)) for name, body in _FUNCTION.findall(text) if name in kernels
    }
    assert found.keys() == kernels.keys(), "TVM prints functions in another form"
    return found


def _function(name: str, body: str) -> str:
    """A kernel without TVM's way to take its arguments apart."""
    numbers = dict(_NUMBER.findall(body))
    lines = body.splitlines()
    taken = [number for number, line in enumerate(lines) if "DLTensor*" in line or "TVMFFIAny*" in line]
    tensors = [match.groups() for line in lines if (match := _TENSOR.match(line))]
    extents = [match.groups() for line in lines if (match := _EXTENT.match(line))]
    rest = lines[max(taken, default=-1) + 1 :]
    return "\n".join(
        [
            f"\nstatic int {name}(void *self, const argument *arguments, int32_t count, argument *result) {{",
            "  (void)self, (void)count, (void)result;",
            *(["  const int32_t dev_id = 0;"] if any("dev_id" in line for line in rest) else []),
            *(f"  const int32_t {extent} = (int32_t)arguments[{number}].integer;" for extent, number in extents),
            *(f"  {kind} *{buffer} = DATA({numbers[handle]});" for kind, buffer, handle in tensors),
            *rest,
            "}\n",
        ]
    )
