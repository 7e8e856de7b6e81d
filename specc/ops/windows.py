"""Operators that move elements around in pictures and sequences: roll, flip, windows as columns and back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from specc.ir.dims import product
from specc.ir.types import TensorType
from specc.ops.conv import inside, padded, require_places, require_positive, window_extent
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types
from specc.ops.reduce import normal_axes


def _distinct(types: Types, attrs: Attributes) -> tuple[int, ...]:
    normal_axes(attrs["axes"], types[0].rank)
    return tuple(axis % types[0].rank for axis in attrs["axes"])


def _flip_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    _distinct(types, attrs)
    return (types[0],)


def _flip_compute(k: Any, types: Types, x: Any, *, axes: tuple[int, ...]) -> Any:
    shape, axes = types[0].concrete, _distinct(types, {"axes": axes})
    return lambda *i: x(*(shape[a] - 1 - j if a in axes else j for a, j in enumerate(i)))


def _roll_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    axes = _distinct(types, attrs)
    if len(attrs["shifts"]) != len(axes):
        raise Illegal(f"{len(attrs['shifts'])} shifts for {len(axes)} axes", argument="shifts")
    return (types[0],)


def _roll_reference(x: Any, *, shifts: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    return x.roll(shifts, axes) if axes else x


def _roll_compute(k: Any, types: Types, x: Any, *, shifts: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    back = tuple(-shift for shift in shifts)
    return lambda *i: x(*rolled(i, types[0].concrete, back, axes))


def rolled(
    index: tuple[Any, ...], shape: tuple[Any, ...], shifts: Sequence[int], axes: Sequence[int]
) -> tuple[Any, ...]:
    """Where the element at `index` of a tensor of `shape` lies when it is rolled."""
    by = dict(zip((axis % len(shape) for axis in axes), shifts))
    return tuple((j + by[a] % shape[a]) % shape[a] if a in by else j for a, j in enumerate(index))


def _axes_example(rng: random.Random) -> tuple[list[TensorType], tuple[int, ...]]:
    shape = tuple(rng.choice((1, 2, 3, 7, 8)) for _ in range(rng.randint(1, 4)))
    axes = tuple(a - rng.choice((0, len(shape))) for a in range(len(shape)) if rng.random() < 0.5)
    return [TensorType(shape)], axes


def _flip_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    types, axes = _axes_example(rng)
    return types, {"axes": axes}


def _roll_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    types, axes = _axes_example(rng)
    return types, {"shifts": tuple(rng.randint(-9, 9) for _ in axes), "axes": axes}


# ---- windows


def _places(extents: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    require_positive(attrs, "k", "stride", "dilation")
    if min(attrs["padding"]) < 0:
        raise Illegal(f"`padding` is at least 0, not {attrs['padding']}", argument="padding")
    axes = zip(extents, attrs["k"], attrs["stride"], attrs["padding"], attrs["padding"][2:], attrs["dilation"])
    return tuple(window_extent(*axis) for axis in axes)


def _unfold_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    require_places(types, "unfold", 2)
    n, c, *extents = types[0].shape
    places = _places(tuple(extents), attrs)
    return (TensorType((n, c * product(attrs["k"]), product(places)), types[0].dtype),)


def _unfold_reference(x: Any, *, k: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    import torch.nn.functional as functional

    return functional.unfold(padded(x, padding), k, dilation, 0, stride)


def _unfold_compute(math: Any, types: Types, x: Any, *, k: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    extents = types[0].concrete[2:]
    attrs = {"k": k, "stride": stride, "padding": padding, "dilation": dilation}
    columns = _places(extents, attrs)[1]

    def element(n: Any, row: Any, place: Any) -> Any:
        tap = (row // k[1] % k[0], row % k[1])
        at = [
            p * s + t * d - before
            for p, s, t, d, before in zip((place // columns, place % columns), stride, tap, dilation, padding)
        ]
        value = x(n, row // (k[0] * k[1]), *at)
        return math.select(inside(math, at, extents), value, math.const(0.0, types[0].dtype)) if any(padding) else value

    return element


def _fold_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    if x.rank != 3:
        raise Illegal(f"`fold` takes [n, c * kh * kw, places], not {x}", operand=0)
    if len(attrs["size"]) != 2 or any(isinstance(e, int) and e < 1 for e in attrs["size"]):
        raise Illegal(f"`size` is height and width, not {list(attrs['size'])}", argument="size")
    places, taps = product(_places(attrs["size"], attrs)), product(attrs["k"])
    n, rows, count = x.shape
    if not isinstance(rows, int) or not isinstance(taps, int) or rows % taps:
        raise Illegal(f"{rows} rows do not divide into windows of {taps}", operand=0)
    if count != places:
        raise Illegal(f"a picture of {list(attrs['size'])} has {places} windows, and the operand {count}", operand=0)
    return (TensorType((n, rows // taps, *attrs["size"]), x.dtype),)


def _fold_reference(x: Any, *, size: Any, k: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    import torch.nn.functional as functional

    top, left, bottom, right = padding
    whole = functional.fold(x, (size[0] + top + bottom, size[1] + left + right), k, dilation, 0, stride)
    return whole[:, :, top : top + size[0], left : left + size[1]]


def _fold_compute(
    math: Any, types: Types, x: Any, *, size: Any, k: Any, stride: Any, padding: Any, dilation: Any
) -> Any:
    attrs = {"size": size, "k": k, "stride": stride, "padding": padding, "dilation": dilation}
    result = _fold_infer(types, attrs)[0].concrete
    places = _places(size, attrs)
    zero = math.const(0.0, types[0].dtype)

    def element(n: Any, c: Any, *place: Any) -> Any:
        def term(r: Any, s: Any) -> Any:
            spread = [p + b - t * d for p, b, t, d in zip(place, padding, (r, s), dilation)]
            at = [e if step == 1 else e // step for e, step in zip(spread, stride)]
            exact = [e % step == 0 for e, step in zip(spread, stride) if step > 1]
            within = math.all(*exact, inside(math, at, places))
            return math.select(within, x(n, (c * k[0] + r) * k[1] + s, at[0] * places[1] + at[1]), zero)

        return math.sum(k, term)

    return math.stage(result, element)


def _window_spell(types: Types, a: dict[str, Any]) -> Spelling:
    size = {"size": a["size"]} if "size" in a else {}
    return Spelling({**size, "k": a["k"], "stride": a["s"], "padding": a["p"], "dilation": a["d"]})


def _window_attrs(rng: random.Random) -> tuple[tuple[int, int], dict[str, Any]]:
    """A picture's extents, and windows that fit into it."""
    k, d = (rng.choice((1, 2, 3)), rng.choice((1, 2, 3))), (rng.choice((1, 1, 2)), rng.choice((1, 1, 2)))
    size = tuple(d[i] * (k[i] - 1) + rng.randint(1, 6) for i in range(2))
    attrs = {
        "k": k,
        "stride": (rng.choice((1, 2, 3)), rng.choice((1, 2, 3))),
        "padding": tuple(rng.choice((0, 0, 1, 2)) for _ in range(4)),
        "dilation": d,
    }
    return (size[0], size[1]), attrs


def _unfold_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    size, attrs = _window_attrs(rng)
    return [TensorType((rng.choice((1, 2)), rng.choice((1, 3, 8)), *size))], attrs


def _fold_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    size, attrs = _window_attrs(rng)
    rows, places = rng.choice((1, 3, 8)) * product(attrs["k"]), product(_places(size, attrs))
    return [TensorType((rng.choice((1, 2)), rows, places))], {"size": size, **attrs}


_ATTRIBUTES = (
    Argument("k", "pair"),
    Argument("stride", "pair", 1),
    Argument("padding", "padding", 0),
    Argument("dilation", "pair", 1),
)
_ARGUMENTS = (
    Argument("k", "pair"),
    Argument("s", "pair", 1),
    Argument("p", "padding", 0),
    Argument("d", "pair", 1),
)

RECORDS = (
    Operator(
        "flip",
        "The elements in reverse order along `axes`.",
        ("x",),
        _flip_infer,
        lambda x, axes: x.flip(axes),
        _flip_example,
        attributes=(Argument("axes", "axes"),),
        compute=_flip_compute,
        elements="any",
        traits=frozenset({"movement"}),
    ),
    Operator(
        "roll",
        "The elements moved by `shifts` places along `axes`; what leaves at the end comes in at the beginning.",
        ("x",),
        _roll_infer,
        _roll_reference,
        _roll_example,
        attributes=(Argument("shifts", "ints"), Argument("axes", "axes")),
        compute=_roll_compute,
        elements="any",
        traits=frozenset({"movement", "open"}),
    ),
    Operator(
        "unfold",
        "The windows of [n, c, h, w] as columns: [n, c * kh * kw, places].",
        ("x",),
        _unfold_infer,
        _unfold_reference,
        _unfold_example,
        attributes=_ATTRIBUTES,
        arguments=_ARGUMENTS,
        spell=_window_spell,
        compute=_unfold_compute,
    ),
    Operator(
        "fold",
        "Columns [n, c * kh * kw, places] added up to a picture [n, c, h, w] of `size`.",
        ("x",),
        _fold_infer,
        _fold_reference,
        _fold_example,
        attributes=(Argument("size", "ints"), *_ATTRIBUTES),
        arguments=(Argument("size", "ints"), *_ARGUMENTS),
        spell=_window_spell,
        compute=_fold_compute,
    ),
)
