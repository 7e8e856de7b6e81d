"""Numbers of 16 bits in kernels: their bits lie in memory, and expressions hold the float32 that they stand for.

    widened   bits -> float32, exact
    rounded   float32 -> the float32 of the nearest number of 16 bits, of two equally near ones the even one
    bits      a float32 that is such a number -> its bits

    from_bits, to_bits   both ways on a GPU, by functions of `c/device.cuh`

A bfloat16 is the upper half of a float32. Some targets have instructions that convert (`Target.conversions`), elsewhere
they are written in integers: nine of them for a vector of bfloat16; a float16 below 2^-14 has a fixed unit, 2^-24, and
is shifted there by a sum.

`vcvtneps2bf16` rounds float32 to bfloat16 on x86: to the nearest, of two the even one, with infinities and NaN as the
integers have them; a float32 below 2^-126 becomes 0 of its sign, whatever the processor's mode is. TVM takes bfloat16
apart in a pass of its own. So what rounds is an operator of integers to it, `NEAREST`, which it takes for one that can
have vectors; it becomes the call of a function in LLVM's language (`NEAREST_TEXT`), where LLVM finds the instruction.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from specc.ir.dtypes import BITS, HALVES

NEAREST = "tirx.specc_nearest_bfloat16"
"""The operator of TVM's that gives the bits of the bfloat16 nearest to a float32."""

_NEAREST_NAME = "specc_nearest_bfloat16_{lanes}"
_NEAREST_TEXT = """
define linkonce_odr {bits} @{name}({wide} %x) alwaysinline {{
  %number = fptrunc {wide} %x to {short}
  %bits = bitcast {short} %number to {bits}
  ret {bits} %bits
}}
"""


def _nearest_function(lanes: int) -> str:
    """What `NEAREST` calls for vectors of so many numbers."""
    types = {"bits": "i16", "wide": "float", "short": "bfloat"}
    vectors = {key: f"<{lanes} x {type}>" for key, type in types.items()}
    return _NEAREST_TEXT.format(name=_NEAREST_NAME.format(lanes=lanes), **(vectors if lanes > 1 else types))


NEAREST_TEXT = "".join(_nearest_function(lanes) for lanes in (*range(1, 17), 32, 64))
"""The functions that kernels with `NEAREST` import: for vectors, two or four together, and what is left of one."""


def _called(call: Any) -> Any:
    """`NEAREST`, when all loops over lanes have become vectors."""
    _, _, lanes = str(call.ty).partition("x")
    return tirx.call_pure_extern(str(call.ty), _NEAREST_NAME.format(lanes=lanes or 1), *call.args)


tvm.ir.register_op_attr(NEAREST, "TVectorizable", True)
tvm.ir.register_op_attr(NEAREST, "TScriptPrinterName", "specc_nearest_bfloat16")
tvm.ir.register_op_attr(NEAREST, "TCallEffectKind", tirx.CallEffectKind.Pure.value)
tirx.op.register_intrin_lowering(NEAREST, target="llvm", f=_called)


def stored(dtype: str) -> str:
    """The type of the elements of a buffer that holds a tensor of `dtype`."""
    return BITS if dtype in HALVES else dtype


def widened(bits: Any, dtype: str, native: bool) -> Any:
    """The float32 that `bits` of `dtype` stand for."""
    if dtype == "bfloat16":
        return tirx.reinterpret("float32", tirx.Cast("uint32", bits) << _word(16))
    if native:
        return tirx.Cast("float32", tirx.reinterpret("float16", bits))
    word = tirx.Cast("uint32", bits)
    magnitude = (word & _word(0x7FFF)) << _word(13)
    shifted = magnitude + _word(112 << 23)
    # Below 2^-14: (1 + m / 1024) - 1 is m / 1024, times 2^-14 by factors that C has in seven digits.
    fraction = tirx.reinterpret("float32", magnitude + _word(127 << 23)) - tirx.const(1.0, "float32")
    least = fraction * tirx.const(2.0**-10, "float32") * tirx.const(2.0**-4, "float32")
    beyond = tirx.Select(magnitude >= _word(0x1F << 23), _word(112 << 23), _word(0))
    usual = shifted + beyond
    chosen = tirx.Select(magnitude < _word(1 << 23), tirx.reinterpret("uint32", least), usual)
    return tirx.reinterpret("float32", chosen | ((word & _word(0x8000)) << _word(16)))


def of_pair(word: Any, second: bool) -> Any:
    """One of two bfloat16 that lie beside each other in memory, from the 32 bits of both."""
    return tirx.reinterpret("float32", word & _word(0xFFFF0000) if second else word << _word(16))


def rounded(value: Any, dtype: str, native: bool) -> Any:
    """The float32 `value`, a name, rounded to a number of `dtype`."""
    if dtype == "bfloat16" and native:
        return widened(tirx.call_intrin(BITS, NEAREST, value), dtype, native)
    if dtype == "bfloat16":
        word = tirx.reinterpret("uint32", value)
        nearest = (word + _word(0x7FFF) + ((word >> _word(16)) & _word(1))) & _word(0xFFFF0000)
        none = (word & _word(0x7FFFFFFF)) > _word(0x7F800000)
        return tirx.reinterpret("float32", tirx.Select(none, _word(0x7FC00000), nearest))
    if native:
        return tirx.Cast("float32", tirx.Cast("float16", value))
    return widened(_narrowed(value), dtype, native)


def bits(value: Any, dtype: str, native: bool) -> Any:
    """The bits of the float32 `value`, a name for a number of `dtype`."""
    if dtype == "bfloat16":
        return tirx.Cast(BITS, tirx.reinterpret("uint32", value) >> _word(16))
    if native:
        return tirx.reinterpret(BITS, tirx.Cast("float16", value))
    return _narrowed(value)


def from_bits(bits: Any, dtype: str) -> Any:
    """`widened` on a GPU: a function of `c/device.cuh`."""
    return tirx.call_pure_extern("float32", f"specc_from_{dtype}", bits)


def to_bits(value: Any, dtype: str) -> Any:
    """`bits` on a GPU, of any float32."""
    return tirx.call_pure_extern(BITS, f"specc_to_{dtype}", value)


def _narrowed(value: Any) -> Any:
    """The bits of the float16 that is nearest to the float32 `value`."""
    word = tirx.reinterpret("uint32", value)
    magnitude = word & _word(0x7FFFFFFF)
    odd = (magnitude >> _word(13)) & _word(1)
    usual = (magnitude - _word(112 << 23) + _word(0xFFF) + odd) >> _word(13)
    # Beside 0.5, the unit of a float32 is 2^-24.
    tiny = tirx.reinterpret("uint32", tirx.reinterpret("float32", magnitude) + tirx.const(0.5, "float32"))
    small = tirx.Select(magnitude < _word(113 << 23), tiny - _word(0x3F000000), usual)
    special = tirx.Select(magnitude > _word(0x7F800000), _word(0x7E00), _word(0x7C00))
    found = tirx.Select(magnitude >= _word(0x477FF000), special, small)
    return tirx.Cast(BITS, found | ((word >> _word(16)) & _word(0x8000)))


def _word(value: int) -> Any:
    return tirx.const(value, "uint32")
