"""Pictures, sequences and volumes at other extents: interpolation and adaptive pooling, as in PyTorch.

The place in the operand that an element of the result comes from is a fraction of integers, computed exactly: kernels
and reference cannot disagree about which side of an element a place lies on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from specc.ir.dims import Dim, floordiv
from specc.ir.types import TensorType, concrete
from specc.ops.record import Argument, Attributes, Illegal, Operator, Spelling, Types

MODES = {3: ("nearest", "linear"), 4: ("nearest", "bilinear", "bicubic"), 5: ("nearest", "trilinear")}
"""The ways to interpolate, by the rank of the tensor."""


def _fraction(scale: float) -> Fraction:
    return Fraction(scale).limit_denominator(1024)


def _require_size(types: Types, size: tuple[Dim, ...], name: str) -> TensorType:
    x = types[0]
    if x.rank not in MODES:
        raise Illegal(f"`{name}` takes [n, c, ...] of one to three dimensions, not {x}", operand=0)
    if len(size) != x.rank - 2 or any(isinstance(e, int) and e < 1 for e in size):
        raise Illegal(f"`size` is {x.rank - 2} extents of at least 1, not {list(size)}", argument="size")
    return x


def _resize_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    size, mode, scale = attrs["size"], attrs["mode"], attrs["scale"]
    x = _require_size(types, size, "resize")
    if mode not in MODES[x.rank]:
        there_are = ", ".join(MODES[x.rank])
        raise Illegal(f"{x} is not resized by `{mode}`; there are {there_are}", argument="mode")
    if mode == "nearest" and attrs["align_corners"]:
        raise Illegal("`align_corners` says nothing for the nearest element", argument="align_corners")
    if scale is not None and (scale <= 0 or tuple(_scaled(x, scale)) != size):
        raise Illegal(f"{x} times {scale} is not {list(size)}", argument="scale")
    return (TensorType((*x.shape[:2], *size), x.dtype, x.layout),)


def _scaled(x: TensorType, scale: float) -> list[Dim]:
    part = _fraction(scale)
    return [floordiv(extent * part.numerator, part.denominator) for extent in x.shape[2:]]


def _resize_spell(types: Types, a: dict[str, Any]) -> Spelling:
    size, scale = a["size"], a["scale"]
    if (size is None) == (scale is None):
        raise Illegal("`resize` needs `size` or `scale`, and not both", argument="size")
    if scale is not None:
        if scale <= 0:
            raise Illegal(f"`scale` is above 0, not {scale}", argument="scale")
        size = tuple(_scaled(types[0], scale))
        if _fraction(scale).denominator == 1:
            scale = None  # the extents say it exactly
    return Spelling({"size": size, "mode": a["mode"], "align_corners": a["align_corners"], "scale": scale})


def _resize_reference(x: Any, *, size: Any, mode: str, align_corners: bool, scale: float | None) -> Any:
    import torch.nn.functional as functional

    how: dict[str, Any] = {"mode": mode}
    if mode != "nearest":
        how["align_corners"] = align_corners
    if scale is not None:
        return functional.interpolate(x, scale_factor=float(_fraction(scale)), **how)
    return functional.interpolate(x, size=tuple(size), **how)


def _origin(k: Any, at: Any, extent: Dim, size: Dim, scale: float | None, mode: str, align: bool) -> tuple[Any, Any]:
    """The place in the operand of element `at` of the result: numerator and denominator.

    The denominator is no integer where it is known only when the kernel runs; both are `k.wide` then.
    """
    if align and mode != "nearest":
        if isinstance(extent, int) and isinstance(size, int):
            return (at * (extent - 1), size - 1) if size > 1 else (at * 0, 1)
        return k.wide(at) * k.wide(concrete(extent) - 1), k.wide(k.clip(concrete(size) - 1, 1, 2**31 - 1))
    ratio = _ratio(extent, size) if scale is None else 1 / _fraction(scale)
    if ratio is None:
        p, q = k.wide(concrete(extent)), k.wide(concrete(size))
        return (k.wide(at) * p, q) if mode == "nearest" else ((k.wide(at) * 2 + 1) * p - q, q * 2)
    p, q = ratio.numerator, ratio.denominator
    return (at * p, q) if mode == "nearest" else ((at * 2 + 1) * p - q, 2 * q)


def _ratio(extent: Dim, size: Dim) -> Fraction | None:
    """What the quotient of both is where it is one number, whatever their symbols are."""
    if isinstance(extent, int) and isinstance(size, int):
        return Fraction(extent, size)
    if isinstance(extent, int) or isinstance(size, int):
        return None
    monomial, coefficient = extent.terms[0]
    other = dict(size.terms).get(monomial)
    ratio = Fraction(coefficient, other) if other else None
    return ratio if ratio and extent * ratio.denominator == size * ratio.numerator else None


def _cubic(k: Any, t: Any, dtype: str) -> list[Any]:
    """The weights of the four elements around a place (Keys 1981, with a = -0.75 as in PyTorch)."""
    a, one = -0.75, k.const(1.0, dtype)

    def outer(d: Any) -> Any:
        return ((d * a - 5 * a) * d + 8 * a) * d - 4 * a

    def inner(d: Any) -> Any:
        return (d * (a + 2) - (a + 3)) * d * d + one

    return [outer(t + one), inner(t), inner(one - t), outer(one - t + one)]


def _around(k: Any, origin: tuple[Any, Any], extent: Any, mode: str, dtype: str) -> tuple[Any, list[Any]]:
    """The index of the first of the neighbours that make an element along one dimension, and their weights.

    Bicubic neighbours may lie up to two elements outside of the tensor, the last linear one behind it.
    """
    over, under = origin
    known = isinstance(under, int)
    whole = over // under if known else k.narrow(over // under)
    if mode == "nearest":
        return k.clip(whole, 0, extent - 1), [None]
    if mode != "bicubic":
        over = k.clip(over, 0, (extent - 1) * under)
        whole = over // under if known else k.narrow(over // under)
    unit = k.const(1.0 / under, dtype) if known else k.const(1.0, dtype) / k.number(under, dtype)
    part = k.number(over % under, dtype) * unit
    if mode == "bicubic":
        return whole - 1, _cubic(k, part, dtype)
    return whole, [k.const(1.0, dtype) - part, part]


@dataclass(frozen=True)
class Axis:
    """A dimension of `extent` elements that is resized to `size`: what each element of the result is made of."""

    extent: Dim
    size: Dim
    mode: str
    align: bool
    scale: float | None

    @property
    def kept(self) -> bool:
        """Whether each element of the result is the one at the same place."""
        return self.scale is None and self.extent == self.size

    @property
    def taps(self) -> int:
        """How many neighbours make an element."""
        return {"nearest": 1, "bicubic": 4}.get(self.mode, 2)

    @property
    def outside(self) -> tuple[int, int]:
        """How many places in front of the tensor and behind it the neighbours reach; these are its outermost ones."""
        return {"nearest": (0, 0), "bicubic": (2, 2)}.get(self.mode, (0, 1))

    @property
    def step(self) -> Fraction:
        """How many places of the tensor lie between two neighbours of the result."""
        extent, size = concrete(self.extent), concrete(self.size)
        if self.align and self.mode != "nearest":
            return Fraction(extent - 1, max(1, size - 1))
        return Fraction(extent, size) if self.scale is None else 1 / _fraction(self.scale)

    def around(self, k: Any, at: Any, dtype: str) -> tuple[Any, list[Any]]:
        """The index of the first neighbour of element `at` of the result, and the weights of all (none: 1)."""
        origin = _origin(k, at, self.extent, self.size, self.scale, self.mode, self.align)
        return _around(k, origin, concrete(self.extent), self.mode, dtype)


def axes(t: TensorType, attrs: Attributes) -> list[Axis]:
    """The dimensions behind the channels of `t`, which is resized."""
    how = attrs["mode"], attrs["align_corners"], attrs["scale"]
    return [Axis(extent, goal, *how) for extent, goal in zip(t.shape[2:], attrs["size"], strict=True)]


def _resize_compute(
    k: Any, types: Types, x: Any, *, size: Any, mode: str, align_corners: bool, scale: float | None
) -> Any:
    dtype = types[0].dtype
    each = axes(types[0], {"size": size, "mode": mode, "align_corners": align_corners, "scale": scale})

    def neighbours(axis: Axis, at: Any) -> list[tuple[Any, Any]]:
        """Their indices and weights along one dimension."""
        first, weights = axis.around(k, at, dtype)
        last = concrete(axis.extent) - 1
        return [(first if weight is None else k.clip(first + i, 0, last), weight) for i, weight in enumerate(weights)]

    def element(n: Any, c: Any, *place: Any) -> Any:
        taps = [neighbours(axis, at) for axis, at in zip(each, place)]

        def value(chosen: tuple[Any, ...], rest: list[list[tuple[Any, Any]]]) -> Any:
            if not rest:
                return x(n, c, *chosen)
            total = None
            for index, weight in rest[0]:
                part = value((*chosen, index), rest[1:])
                part = part if weight is None else part * weight
                total = part if total is None else total + part
            return total

        return value((), taps)

    return element


def _resize_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    rank = rng.choice((3, 4, 4, 4, 5))
    extents = tuple(rng.choice((1, 2, 3, 5, 8)) for _ in range(rank - 2))
    x = TensorType((rng.choice((1, 2)), rng.choice((1, 3, 8)), *extents))
    mode = rng.choice(MODES[rank])
    scale = rng.choice((None, None, 1.5, 2.5)) if mode != "nearest" else None
    factor = rng.choice((1, 2, 3))
    size = tuple(e * factor if mode == "nearest" else rng.choice((1, 2, 3, 5, 7, 16)) for e in extents)
    align = mode != "nearest" and rng.random() < 0.5
    goal: tuple[Dim, ...] = size if scale is None else tuple(_scaled(x, scale))
    return [x], {"size": goal, "mode": mode, "align_corners": align, "scale": scale}


# ---- adaptive pooling


def _adaptive_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x = _require_size(types, attrs["size"], "adaptive pooling")
    return (TensorType((*x.shape[:2], *attrs["size"]), x.dtype, x.layout),)


def _adaptive_reference(kind: str) -> Callable[..., Any]:
    def reference(x: Any, *, size: Any) -> Any:
        import torch.nn.functional as functional

        return getattr(functional, f"adaptive_{kind}_pool{x.ndim - 2}d")(x, tuple(size))

    return reference


def _adaptive_compute(kind: str) -> Callable[..., Any]:
    def compute(k: Any, types: Types, x: Any, *, size: Any) -> Any:
        shape, dtype = types[0].concrete, types[0].dtype
        pairs = list(zip(shape[2:], size))
        windows = [_widest(extent, goal) for extent, goal in pairs]

        def limits(place: tuple[Any, ...]) -> list[tuple[Any, Any]]:
            return [(i * e // s, ((i + 1) * e + (s - 1)) // s) for i, (e, s) in zip(place, pairs)]

        def term(n: Any, c: Any, place: tuple[Any, ...], tap: tuple[Any, ...], outside: float) -> Any:
            at = [start + r for (start, _), r in zip(limits(place), tap)]
            checks = [a < end for a, (_, end), (e, s) in zip(at, limits(place), pairs) if e % s]
            return k.select(k.all(*checks), x(n, c, *at), k.const(outside, dtype)) if checks else x(n, c, *at)

        if kind == "max":
            return k.stage(
                (*shape[:2], *size),
                lambda n, c, *p: k.max_over(windows, lambda *r: term(n, c, p, r, float("-inf"))),
            )
        total = k.stage((*shape[:2], *size), lambda n, c, *p: k.sum(windows, lambda *r: term(n, c, p, r, 0.0)))

        def mean(n: Any, c: Any, *place: Any) -> Any:
            count = k.const(1.0, dtype)
            for start, end in limits(place):
                count = count * k.number(end - start, dtype)
            return total(n, c, *place) / count

        return mean

    return compute


def _widest(extent: int, size: int) -> int:
    """The number of elements in the widest window."""
    return max(-(-(i + 1) * extent // size) - i * extent // size for i in range(size))


def _adaptive_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    rank = rng.choice((3, 4, 4, 5))
    shape = (rng.choice((1, 2)), rng.choice((1, 3, 8)), *(rng.choice((1, 2, 5, 7, 8)) for _ in range(rank - 2)))
    return [TensorType(shape)], {"size": tuple(rng.choice((1, 2, 3, 7)) for _ in range(rank - 2))}


def _adaptive(kind: str, what: str) -> Operator:
    return Operator(
        f"adaptive_{kind}_pool",
        f"The {what} of as many windows as `size` says, as equal as they can be and overlapping where they must.",
        ("x",),
        _adaptive_infer,
        _adaptive_reference(kind),
        _adaptive_example,
        attributes=(Argument("size", "ints"),),
        compute=_adaptive_compute(kind),
        traits=frozenset({"blocks"}),
    )


RECORDS = (
    Operator(
        "resize",
        "Interpolation of [n, c, ...] to `size`, or by `scale`: nearest, linear, bilinear, bicubic or trilinear.",
        ("x",),
        _resize_infer,
        _resize_reference,
        _resize_example,
        attributes=(
            Argument("size", "ints"),
            Argument("mode", "str", "nearest"),
            Argument("align_corners", "bool", False),
            Argument("scale", "float?", None),
        ),
        arguments=(
            Argument("size", "ints?", None),
            Argument("scale", "float?", None),
            Argument("mode", "str", "nearest"),
            Argument("align_corners", "bool", False),
        ),
        spell=_resize_spell,
        compute=_resize_compute,
        traits=frozenset({"blocks", "open"}),
    ),
    _adaptive("avg", "mean"),
    _adaptive("max", "greatest element"),
)
