"""Elements of two vectors by their numbers, which are known only when a kernel runs: one permutation on x86.

    result[lane] = near[place[lane]] where that is below the number of lanes, else far[place[lane] - lanes]

Processors with AVX-512 have it as an instruction; with AVX2 it is two permutations and a choice between them. TVM reads
elements at places that it does not know one by one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.targets import Target

_NAME = "specc_picked_{lanes}"
_FUNCTION = """
define linkonce_odr {v} @{name}({v} %near, {v} %far, {i} %places) alwaysinline {{
{body}
  ret {v} %result
}}
"""
_AVX512 = (
    """
declare {v} @llvm.x86.avx512.vpermi2var.ps.512({v}, {i}, {v})
""",
    """
  %result = call {v} @llvm.x86.avx512.vpermi2var.ps.512({v} %near, {i} %places, {v} %far)
""",
)
_AVX2 = (
    """
declare {v} @llvm.x86.avx2.permps({v}, {i})
""",
    """
  %first = call {v} @llvm.x86.avx2.permps({v} %near, {i} %places)
  %second = call {v} @llvm.x86.avx2.permps({v} %far, {i} %places)
  %behind = icmp ugt {i} %places, splat (i32 7)
  %result = select <8 x i1> %behind, {v} %second, {v} %first
""",
)
_TEXTS = {16: _AVX512, 8: _AVX2}
"""By the lanes of a vector, what a function is declared with, and its statements."""


def of(target: Target) -> str | None:
    """The function for vectors of a target, which takes `near`, `far` and the places; None where it has none."""
    known = target.architecture == "x86_64" and target.lanes in _TEXTS
    return _NAME.format(lanes=target.lanes) if known else None


def imported(lanes: int) -> AbstractContextManager[Any]:
    """What is written in here can use the function for vectors of so many lanes; 0: none."""
    if not lanes:
        return nullcontext()
    types = {"v": f"<{lanes} x float>", "i": f"<{lanes} x i32>"}
    declared, body = (text.format(**types) for text in _TEXTS[lanes])
    text = declared + _FUNCTION.format(name=_NAME.format(lanes=lanes), body=body.strip("\n"), **types)
    attribute: AbstractContextManager[Any] = T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text)
    return attribute
