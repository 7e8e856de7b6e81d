"""Integers of 8 bits in the place of real numbers: x stands for (x - zero) * scale.

    quantize        real numbers to the nearest integers that stand for them
    dequantize      back, also from the sums of products in 32 bits
    conv2d_integer, linear_integer
                    exact sums of products of uint8 activations and int8 weights

These are ONNX's QuantizeLinear, DequantizeLinear, ConvInteger and MatMulInteger. What `quantize` and `dequantize` do is
said in float32, whatever type is computed in: a kernel and the reference then round alike, and integers are equal, not
near. The sums take neither a zero point nor a scale: what a zero point of the activations adds to a sum of products is
known when weights are, and is part of the bias (see `specc.passes.quantize`).
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from specc.ir.dims import Dim, product
from specc.ir.dtypes import SMALL
from specc.ir.types import TensorType
from specc.ops import conv, linear
from specc.ops.elementwise import broadcast, draw_shape
from specc.ops.elementwise import infer as broadcast_types
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types, Weight

LIMITS: dict[str, tuple[int, int]] = {**SMALL, "int32": (-(2**31), 2**31 - 128)}
"""The integers that `quantize` makes, by type; the greatest of int32 is the greatest one that is a float32, too."""

MOST_TERMS = (2**30) // (255 * 128)
"""Terms of a sum of products that stay below half of what 32 bits hold; the other half is for the bias."""

_EXACT_TERMS = (2**24 - 1) // (255 * 128)
"""Terms of such a sum, of any order and grouping, that float32 holds exactly."""

_WINDOW = (
    Argument("stride", "pair", 1),
    Argument("padding", "padding", 0),
    Argument("dilation", "pair", 1),
    Argument("groups", "int", 1),
)


def _quantize_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    dtype = attrs["dtype"]
    if dtype not in LIMITS:
        raise Illegal(f"`quantize` makes {', '.join(LIMITS)}, not {dtype}", argument="dtype")
    _check_integer(attrs, "zero", dtype)
    _check_scale(types)
    return (replace(broadcast_types(types[:1], {})[0], dtype=dtype),)


def _check_integer(attrs: Attributes, name: str, dtype: str) -> None:
    least, greatest = LIMITS[dtype]
    if not least <= attrs[name] <= greatest:
        reason = f"`{name}` is one of the integers {least} to {greatest} of {dtype}, not {attrs[name]}"
        raise Illegal(reason, argument=name)


def _check_scale(types: Types) -> None:
    x, scale = types
    shape = broadcast([TensorType(t.shape) for t in types])
    if shape != x.shape or scale.rank > x.rank:
        raise Illegal(f"the scale is one number, or one for each index of a dimension of {x}, not {scale}", operand=1)
    if scale.layout:
        raise Illegal("the scale lies plainly", operand=1)


def _quantize_reference(x: Any, inverse: Any, *, zero: int, dtype: str) -> Any:
    import torch

    least, greatest = LIMITS[dtype]
    scaled = (x.to(torch.float32) * inverse.to(torch.float32)).nan_to_num(torch.inf, torch.inf, -torch.inf)
    scaled = scaled.clamp(least - zero, greatest - zero).round()
    if dtype in SMALL:  # a float32 is exact as far as these go
        return scaled.add(zero).to(getattr(torch, dtype))
    return scaled.to(torch.int64).add(zero).to(getattr(torch, dtype))


def _quantize(k: Any, x: Any, inverse: Any, zero: int, dtype: str) -> Any:
    least, greatest = LIMITS[dtype]
    scaled = k.cast(x, "float32") * k.cast(inverse, "float32")
    scaled = k.bounded(scaled, least - zero, greatest - zero)
    nearest = k.nearest(scaled) if dtype != "int32" else k.cast(k.round(scaled), "int32")
    return k.cast(nearest + zero if zero else nearest, dtype)


def _dequantize_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, scale = types
    _check_integer(attrs, "zero", x.dtype)
    _check_scale(types)
    return (replace(x, dtype=scale.dtype),)


def _dequantize_reference(x: Any, scale: Any, *, zero: int) -> Any:
    import torch

    whole = x.to(torch.int64) - zero if zero else x
    return (whole.to(torch.float32) * scale.to(torch.float32)).to(scale.dtype)


def _dequantize(k: Any, x: Any, scale: Any, zero: int) -> Any:
    whole = k.cast(x, "int32")
    number = k.cast(whole - zero if zero else whole, "float32") * k.cast(scale, "float32")
    return k.cast(k.rounded(number), scale.dtype)


def _scales(types: Types, attrs: Attributes) -> dict[int, tuple[Dim | float, Dim | float]]:
    return {1: (0.5, 8.0)}


def _quantize_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    x, scale = _scaled_pair(rng)
    dtype = rng.choice(("uint8", "uint8", "int8", "int32"))
    return [x, scale], {"zero": rng.choice((0, 0, 3, 100)), "dtype": dtype}


def _dequantize_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    x, scale = _scaled_pair(rng)
    return [replace(x, dtype=rng.choice(("uint8", "int8", "int32"))), scale], {"zero": rng.choice((0, 0, 3, 100))}


def _scaled_pair(rng: random.Random) -> tuple[TensorType, TensorType]:
    shape = draw_shape(rng)
    channel = (shape[1], *(1 for _ in shape[2:])) if len(shape) > 1 else ()
    return TensorType(shape), TensorType(rng.choice(((), (1,) * min(1, len(shape)), channel)))


def _check_terms(terms: Dim, bias: Types, out: Dim) -> None:
    if isinstance(terms, int) and terms > MOST_TERMS:
        raise Illegal(f"a sum of {terms} products can leave 32 bits; at most {MOST_TERMS} cannot", operand=1)
    if bias and bias[0].shape != (out,):
        raise Illegal(f"the bias is [{out}], not {bias[0]}", operand=2)


def _floating(types: Types) -> list[TensorType]:
    return [replace(t, dtype="float32") for t in types]


def _conv_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (result,) = _CONV.infer(_floating(types), _window(attrs))
    _check_integer(attrs, "outside", "uint8")
    _check_terms(product(types[1].shape[1:]), types[2:], types[1].shape[0])
    return (replace(result, dtype="int32"),)


def _window(attrs: Attributes) -> dict[str, Any]:
    return {argument.name: attrs[argument.name] for argument in _WINDOW}


def _conv_reference(x: Any, weight: Any, bias: Any = None, *, outside: int, **window: Any) -> Any:
    if outside:
        x = conv.padded(x, window["padding"], outside)
        window = {**window, "padding": (0,) * 4}
    total = _exact(lambda *factors: _CONV.torch(*factors, **window), x, weight, 1, window["groups"])
    return total if bias is None else total + bias.reshape(-1, 1, 1)


def _exact(multiply: Any, x: Any, weight: Any, axis: int, groups: int = 1) -> Any:
    """`multiply(x, weight)` in int32, exact; `axis` of `x` is the one that the second of `weight` is summed with.

    Parts of few channels are summed in float32, and then as integers: in float64, a convolution takes many times as
    long as all the parts.
    """
    import torch

    channels, *taps = weight.shape[1:]
    most = _EXACT_TERMS // math.prod(taps)
    if channels <= most or (groups == 1 and most):
        x, weight = x.to(torch.float32), weight.to(torch.float32)
    else:
        x, weight = x.to(torch.float64), weight.to(torch.float64)
    if channels <= most or weight.dtype == torch.float64:
        return multiply(x, weight).to(torch.int32)
    return sum(multiply(*part).to(torch.int32) for part in zip(x.split(most, axis), weight.split(most, 1)))


def _conv_spell(types: Types, a: dict[str, Any]) -> Spelling:
    spelled = _spelled(_CONV, types, {name: value for name, value in a.items() if name != "outside"})
    return Spelling({**spelled.attrs, "outside": a["outside"]}, spelled.weights)


def _linear_spell(types: Types, a: dict[str, Any]) -> Spelling:
    return _spelled(_LINEAR, types, a)


def _spelled(record: Operator, types: Types, arguments: dict[str, Any]) -> Spelling:
    """As a call of `record`, with weights that are integers of the checkpoint."""
    assert record.spell is not None
    spelled = record.spell(_floating(types), arguments)
    kinds = zip(spelled.weights, _OPERANDS[1:])
    weights = [Weight(w.role, replace(w.type, dtype=dtype), "zeros", trainable=False) for w, dtype in kinds]
    return Spelling(spelled.attrs, tuple(weights))


def _conv_compute(k: Any, types: Types, *operands: Any, outside: int, **window: Any) -> Any:
    x, weight, *bias = operands
    result = _conv_infer(types, {**window, "outside": outside})[0].concrete
    extents = types[0].concrete[2:]
    out, per_group, *kernel = types[1].concrete
    stride, dilation, padding = window["stride"], window["dilation"], window["padding"]
    border = k.const(outside, "int32")

    def element(n: Any, o: Any, *place: Any) -> Any:
        def term(i: Any, *tap: Any) -> Any:
            at = [y * s + r * d - p for y, s, r, d, p in zip(place, stride, tap, dilation, padding)]
            channel = (o // (out // window["groups"])) * per_group + i if window["groups"] > 1 else i
            value = k.select(conv.inside(k, at, extents), k.cast(x(n, channel, *at), "int32"), border)
            return value * k.cast(weight(o, i, *tap), "int32")

        return k.sum((per_group, *kernel), term)

    summed = k.stage(result, element)
    return (lambda n, o, *place: summed(n, o, *place) + bias[0](o)) if bias else summed


def _conv_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    types, attrs = _CONV.example(rng)
    return _integers(types), {**attrs, "outside": rng.choice((0, 0, 7, 255))}


def _integers(types: Types) -> list[TensorType]:
    return [replace(t, dtype=dtype) for t, dtype in zip(types, _OPERANDS)]


def _linear_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (result,) = _LINEAR.infer(_floating(types), attrs)
    _check_terms(types[1].shape[1], types[2:], types[1].shape[0])
    return (replace(result, dtype="int32"),)


def _linear_reference(x: Any, weight: Any, bias: Any = None) -> Any:
    total = _exact(_LINEAR.torch, x, weight, -1)
    return total if bias is None else total + bias


def _linear_compute(k: Any, types: Types, x: Any, weight: Any, *bias: Any) -> Any:
    result = _linear_infer(types, {})[0].concrete

    def term(i: Any, r: Any) -> Any:
        return k.cast(x(*i[:-1], r), "int32") * k.cast(weight(i[-1], r), "int32")

    summed = k.stage(result, lambda *i: k.sum((types[0].concrete[-1],), lambda r: term(i, r)))
    return (lambda *i: summed(*i) + bias[0](i[-1])) if bias else summed


_CONV = next(record for record in conv.RECORDS if record.name == "conv2d")
_LINEAR = next(record for record in linear.RECORDS if record.name == "linear")
_OPERANDS = ("uint8", "int8", "int32")

RECORDS = (
    Operator(
        "quantize",
        "round(x * inverse) + zero, of two equally near integers the even one, and the nearest that `dtype` has.",
        ("x", "inverse"),
        _quantize_infer,
        _quantize_reference,
        _quantize_example,
        attributes=(Argument("zero", "int", 0), Argument("dtype", "str", "uint8")),
        scalar=_quantize,
        domain=_scales,
        traits=frozenset({"jumps", "scaled"}),
    ),
    Operator(
        "dequantize",
        "(x - zero) * scale, of float32 precision.",
        ("x", "scale"),
        _dequantize_infer,
        _dequantize_reference,
        _dequantize_example,
        attributes=(Argument("zero", "int", 0),),
        scalar=_dequantize,
        elements=("quantized", "float"),
        domain=_scales,
        traits=frozenset({"jumps", "scaled"}),
    ),
    Operator(
        "conv2d_integer",
        "conv2d of integers, exact; `outside` of the operand stands that number.",
        ("x", "weight", "bias?"),
        _conv_infer,
        _conv_reference,
        _conv_example,
        attributes=(*_WINDOW, Argument("outside", "int", 0)),
        arguments=(*_CONV.signature, Argument("outside", "int", 0)),
        spell=_conv_spell,
        weights=2,
        compute=_conv_compute,
        macs=lambda types, attrs: product(_conv_infer(types, attrs)[0].shape) * product(types[1].shape[1:]),
        elements=_OPERANDS,
        traits=frozenset({"blocks", "open"}),
    ),
    Operator(
        "linear_integer",
        "linear of integers, exact.",
        ("x", "weight", "bias?"),
        _linear_infer,
        _linear_reference,
        lambda rng: (_integers(_LINEAR.example(rng)[0]), {}),
        arguments=_LINEAR.signature,
        spell=_linear_spell,
        weights=2,
        compute=_linear_compute,
        macs=lambda types, attrs: product(_linear_infer(types, attrs)[0].shape) * types[0].shape[-1],
        elements=_OPERANDS,
        traits=frozenset({"open"}),
    ),
)
