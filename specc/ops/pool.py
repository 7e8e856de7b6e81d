"""Pooling over windows of height and width."""

from __future__ import annotations

import random
from typing import Any

from specc.ir.types import TensorType
from specc.ops.conv import require_positive, require_rank4, window_extent
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types


def _infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    require_rank4(types, "pooling")
    require_positive(attrs, "k", "stride")
    (kh, kw), (sy, sx), (top, left, bottom, right) = attrs["k"], attrs["stride"], attrs["padding"]
    if max(top, bottom) >= kh or max(left, right) >= kw or min(top, left, bottom, right) < 0:
        raise Illegal(f"the padding {attrs['padding']} is not below the window {kh} x {kw}", argument="padding")
    height = window_extent(x.shape[2], kh, sy, top, bottom)
    width = window_extent(x.shape[3], kw, sx, left, right)
    return (TensorType((*x.shape[:2], height, width), x.dtype, x.layout),)


def _spell(types: Types, a: dict[str, Any]) -> Spelling:
    attrs = {"k": a["k"], "stride": a["k"] if a["s"] is None else a["s"], "padding": a["p"]}
    if "count_padding" in a:
        attrs["count_padding"] = a["count_padding"]
    return Spelling(attrs)


def _padded(x: Any, padding: tuple[int, int, int, int], value: float) -> Any:
    import torch.nn.functional as functional

    top, left, bottom, right = padding
    return functional.pad(x, (left, right, top, bottom), value=value)


def _max_reference(x: Any, *, k: Any, stride: Any, padding: Any) -> Any:
    import torch.nn.functional as functional

    return functional.max_pool2d(_padded(x, padding, float("-inf")), k, stride)


def _avg_reference(x: Any, *, k: Any, stride: Any, padding: Any, count_padding: bool) -> Any:
    import torch
    import torch.nn.functional as functional

    pooled = functional.avg_pool2d(_padded(x, padding, 0.0), k, stride)
    if count_padding:
        return pooled
    return pooled / functional.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), padding, 0.0), k, stride)


def _window(types: Types, k: Any, stride: Any, padding: Any) -> Any:
    """The result's extents, and how its index and a tap give the operand's index and whether that lies inside."""
    result = _infer(types, {"k": k, "stride": stride, "padding": padding})[0].concrete
    _, _, height, width = types[0].concrete

    def at(math: Any, y: Any, z: Any, r: Any, s: Any) -> tuple[Any, Any, Any]:
        yy, zz = y * stride[0] + r - padding[0], z * stride[1] + s - padding[1]
        return yy, zz, math.all(yy >= 0, yy < height, zz >= 0, zz < width)

    return result, at


def _max_compute(math: Any, types: Types, x: Any, *, k: Any, stride: Any, padding: Any) -> Any:
    result, at = _window(types, k, stride, padding)
    least = math.const(-3.4028234663852886e38, types[0].dtype)

    def term(n: Any, c: Any, y: Any, z: Any, r: Any, s: Any) -> Any:
        yy, zz, inside = at(math, y, z, r, s)
        return math.select(inside, x(n, c, yy, zz), least)

    return math.stage(result, lambda n, c, y, z: math.max_over(k, lambda r, s: term(n, c, y, z, r, s)))


def _avg_compute(math: Any, types: Types, x: Any, *, k: Any, stride: Any, padding: Any, count_padding: bool) -> Any:
    result, at = _window(types, k, stride, padding)
    zero, one = math.const(0.0, types[0].dtype), math.const(1.0, types[0].dtype)

    def term(n: Any, c: Any, y: Any, z: Any, r: Any, s: Any) -> Any:
        yy, zz, inside = at(math, y, z, r, s)
        return math.select(inside, x(n, c, yy, zz), zero)

    total = math.stage(result, lambda n, c, y, z: math.sum(k, lambda r, s: term(n, c, y, z, r, s)))
    if count_padding or not any(padding):
        return lambda *i: total(*i) * math.const(1.0 / (k[0] * k[1]), types[0].dtype)
    taps = math.stage(
        result[2:], lambda y, z: math.sum(k, lambda r, s: math.select(at(math, y, z, r, s)[2], one, zero))
    )
    return lambda n, c, y, z: total(n, c, y, z) / taps(y, z)


def _example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    k = (rng.choice((1, 2, 3)), rng.choice((1, 2, 3)))
    shape = (rng.choice((1, 2)), rng.choice((1, 3, 8, 17)), k[0] + rng.randint(0, 6), k[1] + rng.randint(0, 6))
    padding = tuple(rng.randint(0, k[axis] - 1) for axis in (0, 1, 0, 1))
    return [TensorType(shape)], {"k": k, "stride": (rng.choice((1, 2)), rng.choice((1, 2, 3))), "padding": padding}


def _avg_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    types, attrs = _example(rng)
    return types, {**attrs, "count_padding": rng.random() < 0.5}


_ATTRIBUTES = (Argument("k", "pair"), Argument("stride", "pair"), Argument("padding", "padding", 0))
_ARGUMENTS = (Argument("k", "pair"), Argument("s", "pair?", None), Argument("p", "padding", 0))
_COUNT = Argument("count_padding", "bool", True)

RECORDS = (
    Operator(
        "max_pool2d",
        "The greatest element of each window; the stride is the window unless `s` says otherwise.",
        ("x",),
        _infer,
        _max_reference,
        _example,
        attributes=_ATTRIBUTES,
        arguments=_ARGUMENTS,
        spell=_spell,
        compute=_max_compute,
        traits=frozenset({"blocks"}),
    ),
    Operator(
        "avg_pool2d",
        "The mean of each window; the zeros of the padding count unless `count_padding` is false.",
        ("x",),
        _infer,
        _avg_reference,
        _avg_example,
        attributes=(*_ATTRIBUTES, _COUNT),
        arguments=(*_ARGUMENTS, _COUNT),
        spell=_spell,
        compute=_avg_compute,
        traits=frozenset({"blocks"}),
    ),
)
