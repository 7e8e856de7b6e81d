"""Scalars of TIR with the operators and functions that the operator records use (`specc.ops.record.KernelMath`).

Kernels become machine code with vectors, or C (`writing_c`), for a compiler that is not here, or CUDA (`Form`). TVM
prints C, and what it has no words for is not written then: vectors, memory of another kind than the global one, numbers
of more than seven digits. In CUDA as in C, functions like exp are the ones of the language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm import fastmath, halves
from specc.ir.bits import of_bits, to_bits
from specc.ir.dtypes import HALVES

Form = Literal["vectors", "c", "cuda"]
"""What kernels become."""
_FORM: ContextVar[Form] = ContextVar("_FORM", default="vectors")
CONVERSIONS = frozenset({"int64"})
"""The types that most targets convert as is (`Target.conversions`)."""
_CONVERSIONS: ContextVar[frozenset[str]] = ContextVar("_CONVERSIONS", default=CONVERSIONS)
_KEEPS_NAN: ContextVar[bool] = ContextVar("_KEEPS_NAN", default=False)
_IMPORTS: ContextVar[set[str]] = ContextVar("_IMPORTS")
LITERAL = "specc_literal_"
"""How the name of a function begins that stands for a number in C: the rest is the number."""


@contextmanager
def writing(form: Form, conversions: frozenset[str] = CONVERSIONS, keeps_nan: bool = False) -> Iterator[set[str]]:
    """What is written in here is to become `form`, for a target that converts the types `conversions` as is, and
    whose maxima and minima keep NaN.

    Gives the texts in LLVM's language that it needs (`with_imports`), when all is written.
    """
    imports: set[str] = set()
    before, converts, needs = _FORM.set(form), _CONVERSIONS.set(conversions), _IMPORTS.set(imports)
    keeps = _KEEPS_NAN.set(keeps_nan)
    try:
        yield imports
    finally:
        _FORM.reset(before)
        _CONVERSIONS.reset(converts)
        _IMPORTS.reset(needs)
        _KEEPS_NAN.reset(keeps)


def with_imports(function: Any, texts: set[str]) -> Any:
    """The function with the functions that these texts in LLVM's language define."""
    body = function.body
    for text in sorted(texts):
        body = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", tvm.ir.StringImm(text), body)
    return function.with_body(body) if texts else function


def widened(bits: Any, dtype: str) -> Any:
    """What is read from a buffer that holds a tensor of `dtype`, as a number to compute with."""
    if dtype not in HALVES:
        return bits
    return halves.from_bits(bits, dtype) if _FORM.get() == "cuda" else halves.widened(bits, dtype, _native(dtype))


def narrowed(number: Any, dtype: str) -> Any:
    """What a buffer that holds a tensor of `dtype` has of a number of that type."""
    if dtype not in HALVES:
        return number
    return halves.to_bits(number, dtype) if _FORM.get() == "cuda" else halves.bits(number, dtype, _native(dtype))


def _native(dtype: str) -> bool:
    """Whether the target converts `dtype` as is."""
    return dtype in _CONVERSIONS.get()


def writing_c() -> bool:
    """Whether what is being written is to become C."""
    return _FORM.get() == "c"


def constant(value: Any, dtype: str) -> Any:
    """A number of that type. TVM prints seven digits of it in C: a longer one becomes a call of what has its name."""
    if not (writing_c() and dtype.startswith("float")) or (float(f"{value:e}") == value and np.isfinite(value)):
        return tirx.const(value, dtype)
    number = np.dtype(dtype).type(value)
    text = str(number) if np.isfinite(number) else "NAN" if np.isnan(number) else "INFINITY"
    if np.isfinite(number) and dtype == "float32":
        text = f"{text}{'' if '.' in text or 'e' in text else '.'}f"
    return tirx.call_pure_extern(dtype, LITERAL + (f"-{text}" if value == -np.inf else text))


def least(dtype: str) -> Any:
    """What no number of that type is below."""
    return constant(-math.inf, dtype) if dtype.startswith("float") else tirx.min_value(dtype)


class Scalar:
    """A TIR expression that knows its dtype and computes with its like and with Python numbers.

    `reads` says that computing it reads memory: such a side of a `select` must not be computed when it is not chosen.
    """

    __slots__ = ("expr", "reads")

    def __init__(self, expr: Any, reads: bool = False) -> None:
        self.expr, self.reads = expr, reads

    @property
    def dtype(self) -> str:
        return str(self.expr.ty)

    def _binary(self, other: Any, compute: Callable[[Any, Any], Any], swapped: bool = False) -> Scalar:
        right = other if isinstance(other, Scalar) else Scalar(constant(other, self.dtype))
        a, b = (right, self) if swapped else (self, right)
        return Scalar(compute(a.expr, b.expr), a.reads or b.reads)

    def __add__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a + b)

    def __radd__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a + b, swapped=True)

    def __sub__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a - b, swapped=True)

    def __mul__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a * b)

    def __rmul__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a * b, swapped=True)

    def __truediv__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a / b, swapped=True)

    def __floordiv__(self, other: Any) -> Scalar:
        return self._binary(other, tirx.floordiv)

    def __mod__(self, other: Any) -> Scalar:
        return self._binary(other, tirx.floormod)

    def __neg__(self) -> Scalar:
        return Scalar(-self.expr, self.reads)

    def __and__(self, other: Any) -> Scalar:
        return self._binary(other, tirx.And)

    def __or__(self, other: Any) -> Scalar:
        return self._binary(other, tirx.Or)

    def __invert__(self) -> Scalar:
        # TVM makes `b <= a` of Not(a < b), and of Not(a == b) what LLVM has for numbers alone: both are wrong of NaN.
        return Scalar(tirx.EQ(tirx.Cast("int32", self.expr), tirx.const(0, "int32")), self.reads)

    def __lt__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a < b)

    def __le__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a <= b)

    def __gt__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a > b)

    def __ge__(self, other: Any) -> Scalar:
        return self._binary(other, lambda a, b: a >= b)


def _unary(function: Callable[[Any], Any]) -> Callable[[Any, Scalar], Scalar]:
    return lambda self, a: Scalar(function(a.expr), a.reads)


def _float32(fast: Callable[..., Any], function: Callable[[Any], Any]) -> Callable[[Any, Scalar], Scalar]:
    """`fast` for float32 in vectors, the function of the mathematical library for other types, in C and in CUDA."""

    def compute(self: Any, a: Scalar) -> Scalar:
        vectors = a.dtype == "float32" and _FORM.get() == "vectors"
        return fast(self, a) if vectors else Scalar(function(a.expr), a.reads)

    return compute


def _is_constant(expr: Any) -> bool:
    """Whether it is a number that is known, as `constant` writes it."""
    return isinstance(expr, tirx.FloatImm) or str(expr).startswith(f'T.call_pure_extern("{expr.ty}", "{LITERAL}')


def _normal(a: Any) -> Any:
    half, one, root = (constant(value, str(a.ty)) for value in (0.5, 1.0, math.sqrt(0.5)))
    return half * (one + tirx.erf(a * root))


class Math:
    """The functions of `KernelMath` on scalars.

    `let` writes a binding into the function that is being built. So the functions that name a value twice (erf, exp,
    ...) are called only where statements are being emitted, and compute their argument even on the side of a `select`
    that is not chosen.
    """

    abs = _unary(lambda a: tirx.max(a, -a) if writing_c() and str(a.ty).startswith("float") else tirx.abs(a))
    floor = _unary(tirx.floor)
    ceil = _unary(tirx.ceil)
    sin = _unary(tirx.sin)
    cos = _unary(tirx.cos)
    sqrt = _unary(tirx.sqrt)
    log = _unary(tirx.log)
    exp = _float32(fastmath.exp, tirx.exp)
    erf = _float32(fastmath.erf, tirx.erf)
    normal = _float32(fastmath.normal, _normal)
    tanh = _float32(fastmath.tanh, tirx.tanh)
    sigmoid = _float32(fastmath.sigmoid, tirx.sigmoid)
    silu = _float32(fastmath.silu, lambda a: a * tirx.sigmoid(a))

    def const(self, value: Any, dtype: str) -> Scalar:
        if dtype in HALVES:
            return Scalar(constant(float(of_bits(to_bits(np.array(value), dtype), dtype)), "float32"))
        return Scalar(constant(value, dtype))

    def let(self, value: Scalar) -> Scalar:
        """`value`, computed once here however often the result is used."""
        # TVM's analyzer takes no binding of truth values in a vector.
        if isinstance(value.expr, (tirx.Var, tirx.FloatImm, tirx.IntImm)) or value.dtype == "bool":
            return value
        return Scalar(T.Bind(value.expr))

    def cast(self, a: Scalar, dtype: str) -> Scalar:
        """`a` as another type of element; what is not 0 is true."""
        if dtype in HALVES:
            number = self.let(self.cast(a, "float32"))
            if _FORM.get() == "cuda":
                return Scalar(halves.from_bits(halves.to_bits(number.expr, dtype), dtype), number.reads)
            if _native(dtype) and dtype == "bfloat16":
                _IMPORTS.get().add(halves.NEAREST_TEXT)
            return Scalar(halves.rounded(number.expr, dtype, _native(dtype)), number.reads)
        if dtype == "bool" and a.dtype != "bool":
            return ~self.equal(a, self.const(0, a.dtype))
        if {a.dtype, dtype} in ({"float32", "int64"}, {"float64", "int64"}) and not _native("int64"):
            return self._upper_and_lower(a, dtype)
        return a if a.dtype == dtype else Scalar(tirx.Cast(dtype, a.expr), a.reads)

    def _upper_and_lower(self, a: Scalar, dtype: str) -> Scalar:
        """A real number as an int64 or the other way round, by way of its 32 upper and 32 lower bits. A float32 of an
        int64 is rounded twice, first to a float64: off by half a unit of its last place and 2^-30 of one at most."""
        if dtype == "int64":
            number = self.let(a)
            size = self.let(self.floor(self.abs(number)))
            upper = self.let(self.floor(size * self.const(2.0**-32, a.dtype)))
            lower = size - upper * self.const(2.0**32, a.dtype)
            high, low = (tirx.Cast(dtype, tirx.Cast("uint32", part.expr)) for part in (upper, lower))
            whole = self.let(Scalar((high << tirx.const(32, dtype)) | low, a.reads))
            return self.select(number < self.const(0.0, a.dtype), self.const(0, dtype) - whole, whole)
        number = self.let(a)
        high, low = tirx.Cast("int32", number.expr >> tirx.const(32, "int64")), tirx.Cast("uint32", number.expr)
        whole = tirx.Cast("float64", high) * tirx.const(2.0**32, "float64") + tirx.Cast("float64", low)
        return Scalar(whole if dtype == "float64" else tirx.Cast(dtype, whole), a.reads)

    def index(self, a: Scalar, extent: int) -> Any:
        """An element as an index below `extent`: the nearest one where it is none, so that no read leaves a tensor."""
        return self.let(self.cast(self.bounded(a, 0, extent - 1), "int32")).expr

    def bounded(self, a: Scalar, least: float, greatest: float) -> Scalar:
        """The nearest number between two; the greatest one for NaN, of which an integer is to be made."""
        low, high = (self.const(limit, a.dtype).expr for limit in (least, greatest))
        return Scalar(tirx.max(tirx.min(a.expr, high), low), a.reads)

    def clip(self, index: Any, least: int, greatest: int) -> Any:
        """The nearest index between two numbers."""
        if isinstance(index, int) and isinstance(greatest, int):
            return min(max(index, least), greatest)
        return tirx.max(tirx.min(index, greatest), least)

    def wide(self, index: Any) -> Any:
        """An index in 64 bits, where a product of two of them is to be."""
        return tirx.const(index, "int64") if isinstance(index, int) else tirx.Cast("int64", index)

    def narrow(self, index: Any) -> Any:
        """What `wide` computes with, as an index again."""
        return tirx.Cast("int32", index)

    def number(self, index: Any, dtype: str) -> Scalar:
        """An index as an element."""
        return self.const(index, dtype) if isinstance(index, int) else self.cast(Scalar(index), dtype)

    def round(self, a: Scalar) -> Scalar:
        """The nearest integer, the even one of two; TVM takes nearbyint of the first lane of a vector alone."""
        whole = self.let(self.floor(a))
        part = self.let(a - whole)
        odd = whole - self.floor(whole * 0.5) * 2.0
        zero, half, one = (self.const(value, a.dtype) for value in (0.0, 0.5, 1.0))
        up = self.select(self.equal(part, half), odd, self.select(part > half, one, zero))
        return whole + up

    def nearest(self, a: Scalar) -> Scalar:
        """`round` as an int32 for a float32 below 2^22: the last bits of the sum with 1.5 * 2^23, whose unit is 1."""
        if _FORM.get() != "vectors":
            return self.cast(self.round(a), "int32")
        shifted = tirx.reinterpret("int32", a.expr + tirx.const(1.5 * 2.0**23, "float32"))
        return Scalar(shifted - tirx.const(0x4B400000, "int32"), a.reads)

    def rounded(self, a: Scalar) -> Scalar:
        """`a`, rounded here: LLVM makes no part of a fused multiply-add of it, whose product is not rounded."""
        if _FORM.get() != "vectors":
            return a
        return Scalar(tirx.call_llvm_pure_intrin(a.dtype, "llvm.arithmetic.fence", a.expr), a.reads)

    def equal(self, a: Scalar, b: Scalar) -> Scalar:
        return Scalar(tirx.EQ(a.expr, b.expr), a.reads or b.reads)

    def pow(self, a: Scalar, b: Scalar) -> Scalar:
        return Scalar(tirx.pow(a.expr, b.expr), a.reads or b.reads)

    def max(self, a: Scalar, b: Scalar) -> Scalar:
        """The greater of both; NaN where one is NaN."""
        return self._extreme("max", a, b)

    def min(self, a: Scalar, b: Scalar) -> Scalar:
        """The lesser of both; NaN where one is NaN."""
        return self._extreme("min", a, b)

    def _extreme(self, name: Literal["max", "min"], a: Scalar, b: Scalar) -> Scalar:
        """TVM makes `a > b ? a : b` of max(a, b), on x86 one instruction: of two numbers of which one is NaN, the
        second. So a constant comes first. Where neither is constant, `a` is looked at besides: where there is a number
        that many others are compared with, it is `b`, which then waits for nothing more."""
        join, reads = getattr(tirx, name), a.reads or b.reads
        if not a.dtype.startswith("float"):
            return Scalar(join(a.expr, b.expr), reads)
        if _FORM.get() == "cuda" and a.dtype == "float32":
            return Scalar(tirx.call_pure_extern(a.dtype, f"specc_{name}", a.expr, b.expr), reads)
        if _KEEPS_NAN.get():
            return Scalar(tirx.call_llvm_pure_intrin(a.dtype, f"llvm.{name}imum", a.expr, b.expr), reads)
        if _is_constant(b.expr):
            a, b = b, a
        if _is_constant(a.expr):
            return Scalar(join(a.expr, b.expr), reads)
        a, b = self.let(a), self.let(b)
        return self.select(self.is_number(a), Scalar(join(a.expr, b.expr), reads), a)

    def is_number(self, a: Scalar) -> Scalar:
        """Whether it is not NaN: TVM takes it for true that a number equals itself."""
        if _FORM.get() == "vectors":
            return self.equal(self.rounded(a), a)
        return Scalar(tirx.EQ(tirx.call_pure_extern("int32", "isnan", a.expr), tirx.const(0, "int32")), a.reads)

    def rsqrt(self, a: Scalar) -> Scalar:
        return self.const(1.0, a.dtype) / self.sqrt(a)

    def binary(self, a: Scalar) -> tuple[Scalar, Scalar]:
        """The integer n nearest to a float32 between -126 and 128, and half of 2^n; 0 for half of 2^-126.

        The sum with 1.5 * 2^23, whose unit is 1, has n in its last bits, and 126 besides, the exponent of a half. TVM
        would simplify their difference.
        """
        shift = tirx.const(1.5 * 2.0**23 + 126, "float32")
        shifted = self.let(self.rounded(Scalar(a.expr + shift, a.reads)))
        whole = self.let(self.rounded(Scalar(shifted.expr - shift, a.reads)))
        bits = tirx.reinterpret("int32", shifted.expr) << tirx.const(23, "int32")
        return whole, self.let(Scalar(tirx.reinterpret("float32", bits), a.reads))

    def select(self, condition: Any, a: Scalar, b: Scalar) -> Scalar:
        """`a` where `condition` holds, else `b`.

        A condition on indices guards memory: only the side that is chosen reads it. One on data guards nothing, both
        sides are computed.
        """
        if isinstance(condition, bool):
            return a if condition else b
        reads = a.reads or b.reads
        if isinstance(condition, Scalar):
            return Scalar(tirx.Select(condition.expr, a.expr, b.expr), reads or condition.reads)
        return Scalar((tirx.if_then_else if reads else tirx.Select)(condition, a.expr, b.expr), reads)

    def all(self, *conditions: Any) -> Any:
        """The conjunction of conditions on indices or scalars; a Python bool where it is known."""
        unknown = []
        for condition in conditions:
            if condition is False:
                return False
            if condition is not True:
                unknown.append(condition.expr if isinstance(condition, Scalar) else condition)
        return True if not unknown else unknown[0] if len(unknown) == 1 else tirx.all(*unknown)


class CoarseMath(Math):
    """The functions for what is rounded to a bfloat16 next."""

    normal = _float32(fastmath.coarse_normal, _normal)
