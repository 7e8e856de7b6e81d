"""Pooling over windows of one, two or three dimensions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from specc.ir.types import TensorType
from specc.ops.conv import (
    EXTENTS,
    PADDINGS,
    SHAPES,
    inside,
    padded,
    require_places,
    require_positive,
    window_extent,
)
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types


def _infer(dimensions: int) -> Callable[[Types, Attributes], tuple[TensorType, ...]]:
    def infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
        (x,) = types
        require_places(types, "pooling", dimensions)
        require_positive(attrs, "k", "stride")
        k, stride, padding = attrs["k"], attrs["stride"], attrs["padding"]
        before, after = padding[:dimensions], padding[dimensions:]
        if min(padding) < 0 or any(max(b, a) >= kernel for b, a, kernel in zip(before, after, k)):
            window = " x ".join(map(str, k))
            raise Illegal(f"the padding {padding} is not below the window {window}", argument="padding")
        places = (window_extent(*axis) for axis in zip(x.shape[2:], k, stride, before, after))
        return (TensorType((*x.shape[:2], *places), x.dtype, x.layout),)

    return infer


def _spell(types: Types, a: dict[str, Any]) -> Spelling:
    attrs = {"k": a["k"], "stride": a["k"] if a["s"] is None else a["s"], "padding": a["p"]}
    if "count_padding" in a:
        attrs["count_padding"] = a["count_padding"]
    return Spelling(attrs)


def _max_reference(dimensions: int) -> Callable[..., Any]:
    def reference(x: Any, *, k: Any, stride: Any, padding: Any) -> Any:
        import torch.nn.functional as functional

        pooling = getattr(functional, f"max_pool{dimensions}d")
        if x.is_floating_point():
            return pooling(padded(x, padding, float("-inf")), k, stride)
        return pooling(padded(x.float(), padding), k, stride).to(x.dtype)

    return reference


def _avg_reference(dimensions: int) -> Callable[..., Any]:
    def reference(x: Any, *, k: Any, stride: Any, padding: Any, count_padding: bool) -> Any:
        import torch
        import torch.nn.functional as functional

        pooling = getattr(functional, f"avg_pool{dimensions}d")
        pooled = pooling(padded(x, padding), k, stride)
        if count_padding:
            return pooled
        return pooled / pooling(padded(torch.ones_like(x[:1, :1]), padding), k, stride)

    return reference


def _window(dimensions: int, types: Types, k: Any, stride: Any, padding: Any) -> Any:
    """The result's extents, and how its index and a tap give the operand's index and whether that lies inside."""
    result = _infer(dimensions)(types, {"k": k, "stride": stride, "padding": padding})[0].concrete
    extents = types[0].concrete[2:]

    def at(math: Any, place: tuple[Any, ...], tap: tuple[Any, ...]) -> tuple[list[Any], Any]:
        index = [y * s + r - p for y, s, r, p in zip(place, stride, tap, padding)]
        return index, inside(math, index, extents)

    return result, at


def _max_compute(dimensions: int) -> Callable[..., Any]:
    def compute(math: Any, types: Types, x: Any, *, k: Any, stride: Any, padding: Any) -> Any:
        result, at = _window(dimensions, types, k, stride, padding)
        dtype = types[0].dtype
        least = math.const(0, dtype) if dtype == "uint8" else math.const(float("-inf"), dtype)

        def element(n: Any, c: Any, *place: Any) -> Any:
            def term(*tap: Any) -> Any:
                index, within = at(math, place, tap)
                return math.select(within, x(n, c, *index), least)

            return math.max_over(k, term)

        return math.stage(result, element)

    return compute


def _avg_compute(dimensions: int) -> Callable[..., Any]:
    def compute(math: Any, types: Types, x: Any, *, k: Any, stride: Any, padding: Any, count_padding: bool) -> Any:
        result, at = _window(dimensions, types, k, stride, padding)
        zero, one = math.const(0.0, types[0].dtype), math.const(1.0, types[0].dtype)

        def element(n: Any, c: Any, *place: Any) -> Any:
            def term(*tap: Any) -> Any:
                index, within = at(math, place, tap)
                return math.select(within, x(n, c, *index), zero)

            return math.sum(k, term)

        total = math.stage(result, element)
        if count_padding or not any(padding):
            return lambda *i: total(*i) * math.const(1.0 / _product(k), types[0].dtype)
        taps = math.stage(
            result[2:], lambda *place: math.sum(k, lambda *tap: math.select(at(math, place, tap)[1], one, zero))
        )
        return lambda n, c, *place: total(n, c, *place) / taps(*place)

    return compute


def _product(extents: tuple[int, ...]) -> int:
    return math.prod(extents)


def _example(dimensions: int) -> Callable[[random.Random], tuple[list[TensorType], dict[str, Any]]]:
    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        k = tuple(rng.choice((1, 2, 3)) for _ in range(dimensions))
        extents = tuple(extent + rng.randint(0, 6 if dimensions < 3 else 2) for extent in k)
        shape = (rng.choice((1, 2)), rng.choice((1, 3, 8, 17)), *extents)
        padding = tuple(rng.randint(0, extent - 1) for extent in (*k, *k))
        stride = tuple(rng.choice((1, 2, 3)) for _ in k)
        return [TensorType(shape)], {"k": k, "stride": stride, "padding": padding}

    return example


def _avg_example(dimensions: int) -> Callable[[random.Random], tuple[list[TensorType], dict[str, Any]]]:
    def example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
        types, attrs = _example(dimensions)(rng)
        return types, {**attrs, "count_padding": rng.random() < 0.5}

    return example


def _pool(kind: str, dimensions: int) -> Operator:
    extents, padding = EXTENTS[dimensions], PADDINGS[dimensions]
    attributes = (Argument("k", extents), Argument("stride", extents), Argument("padding", padding, 0))
    arguments = (Argument("k", extents), Argument("s", f"{extents}?", None), Argument("p", padding, 0))
    count = (Argument("count_padding", "bool", True),) if kind == "avg" else ()
    what = (
        "greatest element of each window of {}; the stride is the window unless `s` says otherwise."
        if kind == "max"
        else "mean of each window of {}; the zeros of the padding count unless `count_padding` is false."
    )
    return Operator(
        f"{kind}_pool{dimensions}d",
        f"The {what.format(SHAPES[dimensions])}",
        ("x",),
        _infer(dimensions),
        _max_reference(dimensions) if kind == "max" else _avg_reference(dimensions),
        _example(dimensions) if kind == "max" else _avg_example(dimensions),
        attributes=(*attributes, *count),
        arguments=(*arguments, *count),
        spell=_spell,
        elements="float or uint8" if kind == "max" else "float",
        compute=_max_compute(dimensions) if kind == "max" else _avg_compute(dimensions),
        traits=frozenset({"blocks", "open"} if dimensions == 2 else {"open"}),
    )


RECORDS = tuple(_pool(kind, dimensions) for dimensions in (2, 1, 3) for kind in ("max", "avg"))
