"""Elementwise operators: one element of the result from the operands' elements at the same, broadcast, index.

Broadcasting is numpy's: shapes are aligned at their last dimension, and an extent of 1 is repeated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from specc.ir.dims import Dim
from specc.ir.types import TensorType
from specc.ops.record import Argument, Attributes, Illegal, Interval, Operator, Types


def broadcast(types: Types) -> tuple[Dim, ...]:
    """The shape that all of `types` are repeated to; raises `Illegal` where two extents differ and neither is 1."""
    rank = max((t.rank for t in types), default=0)
    shape: list[Dim] = []
    for axis in range(-rank, 0):
        extent: Dim = 1
        for position, t in enumerate(types):
            if -axis > t.rank or t.shape[axis] == 1:
                continue
            if extent not in (1, t.shape[axis]):
                raise Illegal(f"{extent} and {t.shape[axis]} differ at dimension {rank + axis}", operand=position)
            extent = t.shape[axis]
        shape.append(extent)
    return tuple(shape)


def infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    """The broadcast type, with the elements of the last operand."""
    layouts = {t.layout for t in types if t.layout}
    if len(layouts) > 1:
        raise Illegal(f"the operands lie in different layouts: {' and '.join(sorted(layouts))}")
    for position, t in enumerate(types):
        # However it lies, a tensor without height and width is read by channel, and one of one channel by place.
        if layouts and not t.layout and t.rank == 4 and t.shape[2:] != (1, 1) and t.shape[1] != 1:
            raise Illegal(f"{t} lies plainly beside an operand in {next(iter(layouts))}", operand=position)
    shape = broadcast(types)
    if layouts and len(shape) != 4:
        raise Illegal(f"a tensor of {len(shape)} dimensions does not lie in {next(iter(layouts))}")
    return (TensorType(shape, types[-1].dtype, *layouts),)


def draw_shape(rng: random.Random) -> tuple[int, ...]:
    """A shape of rank 0, 1, 2 or, mostly, 4."""
    return tuple(rng.choice((1, 2, 3, 7, 8, 17)) for _ in range(rng.choice((0, 1, 2, 4, 4, 4))))


def draw_pair(rng: random.Random) -> tuple[TensorType, TensorType]:
    """Two types that broadcast."""
    shape = draw_shape(rng)
    partner = tuple(rng.choice((extent, extent, 1)) for extent in shape)[rng.randint(0, len(shape)) :]
    pair = [TensorType(shape), TensorType(rng.choice((shape, partner)))]
    rng.shuffle(pair)
    return pair[0], pair[1]


def unary(
    name: str,
    summary: str,
    torch: Callable[..., Any],
    scalar: Callable[..., Any],
    attributes: tuple[Argument, ...] = (),
    **more: Any,
) -> Operator:
    """The record of an elementwise operator with one operand."""

    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        return [TensorType(draw_shape(rng))], {}

    more.setdefault("infer", infer)
    return Operator(name, summary, ("x",), torch=torch, example=example, attributes=attributes, scalar=scalar, **more)


def binary(
    name: str,
    summary: str,
    torch: Callable[..., Any],
    scalar: Callable[..., Any],
    elements: str = "number",
    **more: Any,
) -> Operator:
    """The record of an elementwise operator with two operands of one type of element."""

    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        return list(draw_pair(rng)), {}

    more.setdefault("infer", infer)
    return Operator(name, summary, ("a", "b"), torch=torch, example=example, scalar=scalar, elements=elements, **more)


def functional(name: str, *positional: Any) -> Callable[..., Any]:
    """torch.nn.functional's function of that name, found when it is called: torch is slow to import."""

    def call(*operands: Any, **attrs: Any) -> Any:
        import torch.nn.functional

        return getattr(torch.nn.functional, name)(*operands, *positional, **attrs)

    return call


def torch_function(name: str) -> Callable[..., Any]:
    """The function of that name in torch."""

    def call(*operands: Any, **attrs: Any) -> Any:
        import torch

        return getattr(torch, name)(*operands, **attrs)

    return call


def above(position: int, least: float = 0.5) -> Callable[[Types, Attributes], dict[int, Interval]]:
    """The domain in which operand number `position` is well above 0."""
    return lambda types, attrs: {position: (least, math.inf)}


def _sign(k: Any, x: Any) -> Any:
    zero, one = k.const(0, x.dtype), k.const(1, x.dtype)
    return k.select(x > zero, one, k.select(x < zero, zero - one, zero))


def _quotient(k: Any, a: Any, b: Any) -> Any:
    return a // b if a.dtype.startswith("int") else k.floor(a / b)


def _clamp_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    least, greatest = attrs["min"], attrs["max"]
    if least is None and greatest is None:
        raise Illegal("`clamp` needs `min` or `max`", argument="min")
    if least is not None and greatest is not None and least > greatest:
        raise Illegal(f"`min`, {least}, is above `max`, {greatest}", argument="min")
    for name, limit in (("min", least), ("max", greatest)):
        if limit is not None and not types[0].dtype.startswith("float") and not limit.is_integer():
            raise Illegal(f"{limit} is no {types[0].dtype}", argument=name)
    return infer(types, attrs)


def _clamp_reference(x: Any, *, min: float | None, max: float | None) -> Any:
    if not x.is_floating_point():  # an integer stays one
        min, max = (None if limit is None else int(limit) for limit in (min, max))
    return x.clamp(min, max)


def _clamp(k: Any, x: Any, min: float | None, max: float | None) -> Any:
    x = x if min is None else k.max(x, k.const(_exact(min, x.dtype), x.dtype))
    return x if max is None else k.min(x, k.const(_exact(max, x.dtype), x.dtype))


def _exact(number: float, dtype: str) -> float:
    return number if dtype.startswith("float") else int(number)


HEAVY = frozenset({"heavy"})
"""The trait of operators that take long."""

RECORDS = (
    unary("exp", "e to the power of x", torch_function("exp"), lambda k, x: k.exp(x), traits=HEAVY),
    unary("log", "the natural logarithm", torch_function("log"), lambda k, x: k.log(x), domain=above(0)),
    unary("sin", "the sine of x, in radians", torch_function("sin"), lambda k, x: k.sin(x)),
    unary("cos", "the cosine of x, in radians", torch_function("cos"), lambda k, x: k.cos(x)),
    unary("erf", "the error function", torch_function("erf"), lambda k, x: k.erf(x), traits=HEAVY),
    unary("sqrt", "the square root", torch_function("sqrt"), lambda k, x: k.sqrt(x), domain=above(0), traits=HEAVY),
    unary("rsqrt", "1 / sqrt(x)", torch_function("rsqrt"), lambda k, x: k.rsqrt(x), domain=above(0), traits=HEAVY),
    unary("abs", "the absolute value", torch_function("abs"), lambda k, x: k.abs(x), elements="number"),
    unary("neg", "-x", torch_function("neg"), lambda k, x: k.const(0, x.dtype) - x, elements="number"),
    unary("sign", "-1, 0 or 1", torch_function("sign"), _sign, elements="number", traits=frozenset({"jumps"})),
    unary(
        "floor",
        "the greatest integer that is not above x",
        torch_function("floor"),
        lambda k, x: k.floor(x),
        traits=frozenset({"jumps"}),
    ),
    unary(
        "ceil",
        "the least integer that is not below x",
        torch_function("ceil"),
        lambda k, x: k.ceil(x),
        traits=frozenset({"jumps"}),
    ),
    unary(
        "round",
        "the nearest integer, of two equally near ones the even one",
        torch_function("round"),
        lambda k, x: k.round(x),
        traits=frozenset({"jumps"}),
    ),
    Operator(
        "clamp",
        "x, but `min` where it is less and `max` where it is greater; one of them may be left out.",
        ("x",),
        _clamp_infer,
        _clamp_reference,
        lambda rng: (
            [TensorType(draw_shape(rng))],
            rng.choice(({"min": -0.5, "max": 1.0}, {"min": None, "max": 1.0}, {"min": 0.0, "max": None})),
        ),
        attributes=(Argument("min", "float?", None), Argument("max", "float?", None)),
        scalar=_clamp,
        elements="number",
    ),
    binary("add", "a + b", torch_function("add"), lambda k, a, b: a + b),
    binary("sub", "a - b", torch_function("sub"), lambda k, a, b: a - b),
    binary("mul", "a * b", torch_function("mul"), lambda k, a, b: a * b),
    binary("div", "a / b", torch_function("div"), lambda k, a, b: a / b, "float", domain=above(1), traits=HEAVY),
    binary(
        "floor_div",
        "the greatest integer that is not above a / b, also written a // b",
        torch_function("floor_divide"),
        _quotient,
        domain=above(1, 1),
        traits=frozenset({"jumps"}),
    ),
    binary(
        "remainder",
        "a - b * floor_div(a, b), also written a % b",
        torch_function("remainder"),
        lambda k, a, b: a % b if a.dtype.startswith("int") else a - b * k.floor(a / b),
        domain=above(1, 1),
        traits=frozenset({"jumps"}),
    ),
    binary(
        "pow",
        "a to the power of b, also written a ** b",
        torch_function("pow"),
        lambda k, a, b: k.pow(a, b),
        "float",
        domain=lambda types, attrs: {0: (0.5, 2.0), 1: (-2.0, 2.0)},
    ),
    binary("maximum", "the greater of a and b", torch_function("maximum"), lambda k, a, b: k.max(a, b)),
    binary("minimum", "the lesser of a and b", torch_function("minimum"), lambda k, a, b: k.min(a, b)),
)
