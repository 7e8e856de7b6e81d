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
from specc.ops.record import Argument, Attributes, Illegal, Operator, Types


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


def _infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    layouts = {t.layout for t in types if t.layout}
    if len(layouts) > 1:
        raise Illegal(f"the operands lie in different layouts: {' and '.join(sorted(layouts))}")
    for position, t in enumerate(types):
        # However it lies, a tensor without height and width is read by channel, and one of one channel by place.
        if layouts and not t.layout and t.rank == 4 and t.shape[2:] != (1, 1) and t.shape[1] != 1:
            raise Illegal(f"{t} lies plainly beside an operand in {next(iter(layouts))}", operand=position)
    return (TensorType(broadcast(types), types[0].dtype, *layouts),)


def _shape(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.choice((1, 2, 3, 7, 8, 17)) for _ in range(rng.choice((0, 1, 2, 4, 4, 4))))


def _unary_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    return [TensorType(_shape(rng))], {}


def _binary_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    partner = tuple(rng.choice((extent, extent, 1)) for extent in shape)[rng.randint(0, len(shape)) :]
    types = [TensorType(shape), TensorType(rng.choice((shape, partner)))]
    rng.shuffle(types)
    return types, {}


def _unary(
    name: str,
    summary: str,
    torch: Callable[..., Any],
    scalar: Callable[..., Any],
    attributes: tuple[Argument, ...] = (),
    **more: Any,
) -> Operator:
    return Operator(name, summary, ("x",), _infer, torch, _unary_example, attributes=attributes, scalar=scalar, **more)


def _binary(
    name: str, summary: str, torch: Callable[..., Any], scalar: Callable[..., Any], elements: str = "number"
) -> Operator:
    return Operator(name, summary, ("a", "b"), _infer, torch, _binary_example, scalar=scalar, elements=elements)


def _functional(name: str, *positional: Any) -> Callable[..., Any]:
    """torch.nn.functional's function of that name, found when it is called: torch is slow to import."""

    def call(*operands: Any, **attrs: Any) -> Any:
        import torch.nn.functional

        return getattr(torch.nn.functional, name)(*operands, *positional, **attrs)

    return call


def _torch(name: str) -> Callable[..., Any]:
    def call(*operands: Any, **attrs: Any) -> Any:
        import torch

        return getattr(torch, name)(*operands, **attrs)

    return call


def _relu6(k: Any, x: Any) -> Any:
    return k.min(k.max(x, k.const(0.0, x.dtype)), k.const(6.0, x.dtype))


def _hard_sigmoid(k: Any, x: Any) -> Any:
    return _relu6(k, x + k.const(3.0, x.dtype)) * k.const(1 / 6, x.dtype)


def _gelu(k: Any, x: Any, approximate: str) -> Any:
    """Hendrycks and Gimpel, arXiv:1606.08415, section 2: exact with erf, or their tanh approximation."""
    half, one = k.const(0.5, x.dtype), k.const(1.0, x.dtype)
    if approximate == "tanh":
        inner = k.const(math.sqrt(2 / math.pi), x.dtype) * (x + k.const(0.044715, x.dtype) * x * x * x)
        return half * x * (one + k.tanh(inner))
    return half * x * (one + k.erf(x * k.const(math.sqrt(0.5), x.dtype)))


def _gelu_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if attrs["approximate"] not in ("none", "tanh"):
        raise Illegal("`approximate` is none or tanh", argument="approximate")
    return _infer(types, attrs)


def _dropout_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    if not 0 <= attrs["p"] < 1:
        raise Illegal(f"`p` is at least 0 and below 1, not {attrs['p']}", argument="p")
    return _infer(types, attrs)


RECORDS = (
    _unary("relu", "max(x, 0)", _functional("relu"), lambda k, x: k.max(x, k.const(0.0, x.dtype))),
    _unary("relu6", "min(max(x, 0), 6)", _functional("relu6"), _relu6),
    _unary(
        "leaky_relu",
        "x where x > 0, else slope * x",
        lambda x, slope: _functional("leaky_relu")(x, negative_slope=slope),
        lambda k, x, slope: k.select(x > k.const(0.0, x.dtype), x, x * k.const(slope, x.dtype)),
        (Argument("slope", "float", 0.01),),
    ),
    Operator(
        "gelu",
        "x * P(X <= x) for a standard normal X (arXiv:1606.08415)",
        ("x",),
        _gelu_infer,
        _functional("gelu"),
        lambda rng: ([TensorType(_shape(rng))], {"approximate": rng.choice(("none", "tanh"))}),
        attributes=(Argument("approximate", "str", "none"),),
        scalar=_gelu,
    ),
    _unary("silu", "x * sigmoid(x) (arXiv:1606.08415)", _functional("silu"), lambda k, x: x * k.sigmoid(x)),
    _unary("sigmoid", "1 / (1 + exp(-x))", _torch("sigmoid"), lambda k, x: k.sigmoid(x)),
    _unary("hard_sigmoid", "relu6(x + 3) / 6 (arXiv:1905.02244)", _functional("hardsigmoid"), _hard_sigmoid),
    _unary(
        "hard_swish",
        "x * relu6(x + 3) / 6 (arXiv:1905.02244)",
        _functional("hardswish"),
        lambda k, x: x * _hard_sigmoid(k, x),
    ),
    _unary("tanh", "hyperbolic tangent", _torch("tanh"), lambda k, x: k.tanh(x)),
    _unary("exp", "e to the power of x", _torch("exp"), lambda k, x: k.exp(x)),
    _unary("erf", "the error function", _torch("erf"), lambda k, x: k.erf(x)),
    _unary("sqrt", "square root", _torch("sqrt"), lambda k, x: k.sqrt(x)),
    _unary("rsqrt", "1 / sqrt(x)", _torch("rsqrt"), lambda k, x: k.rsqrt(x)),
    _unary("abs", "absolute value", _torch("abs"), lambda k, x: k.abs(x), elements="number"),
    _unary("neg", "-x", _torch("neg"), lambda k, x: k.const(0.0, x.dtype) - x, elements="number"),
    Operator(
        "dropout",
        "In training, zeroes an element with probability p and divides the rest by 1 - p; at inference, x.",
        ("x",),
        _dropout_infer,
        lambda x, p: x,
        lambda rng: ([TensorType(_shape(rng))], {"p": rng.choice((0.0, 0.2))}),
        attributes=(Argument("p", "float", 0.5),),
        scalar=lambda k, x, p: x,
        training=lambda x, p: _functional("dropout")(x, p=p, training=True),
    ),
    _binary("add", "a + b", _torch("add"), lambda k, a, b: a + b),
    _binary("sub", "a - b", _torch("sub"), lambda k, a, b: a - b),
    _binary("mul", "a * b", _torch("mul"), lambda k, a, b: a * b),
    _binary("div", "a / b", _torch("div"), lambda k, a, b: a / b, "float"),
    _binary("maximum", "the greater of a and b", _torch("maximum"), lambda k, a, b: k.max(a, b)),
    _binary("minimum", "the lesser of a and b", _torch("minimum"), lambda k, a, b: k.min(a, b)),
)
