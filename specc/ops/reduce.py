"""Reductions over whole dimensions, and softmax."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

from specc.ir.dims import Dim
from specc.ir.types import TensorType
from specc.ops.conv import require_rank4
from specc.ops.record import Argument, Attributes, Illegal, Operator, Types


def normal_axes(axes: tuple[int, ...], rank: int, name: str = "axes") -> tuple[int, ...]:
    """`axes` counted from the front and sorted; raises `Illegal` for one out of range or named twice."""
    outside = next((axis for axis in axes if not -rank <= axis < rank), None)
    if outside is not None:
        raise Illegal(f"there is no dimension {outside} in a tensor of rank {rank}", argument=name)
    result = sorted(axis % rank for axis in axes)
    if len(set(result)) != len(result):
        raise Illegal(f"{list(axes)} names a dimension twice", argument=name)
    return tuple(result)


def normal_axis(axis: int, rank: int, name: str = "axis") -> int:
    """`axis` counted from the front; raises `Illegal` for one out of range."""
    return normal_axes((axis,), rank, name)[0]


def _infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    axes = normal_axes(attrs["axes"], x.rank)
    if attrs["keep"]:
        layout = "" if 1 in axes else x.layout  # one channel needs no block
        return (TensorType(tuple(1 if a in axes else e for a, e in enumerate(x.shape)), x.dtype, layout),)
    return (TensorType(tuple(e for a, e in enumerate(x.shape) if a not in axes), x.dtype),)


def _reference(name: str) -> Any:
    def call(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
        return getattr(x, name)(axes, keepdim=keep) if axes else x

    return call


def _term(x: Any, t: TensorType, axes: tuple[int, ...], keep: bool) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
    """Result extents, reduced extents, and the element at a result index and a reduced index."""
    result = _infer([t], {"axes": axes, "keep": keep})[0].concrete
    axes = normal_axes(axes, t.rank)

    def at(index: tuple[Any, ...], reduced: tuple[Any, ...]) -> Any:
        outer, inner = iter(index), iter(reduced)
        position = []
        for axis in range(t.rank):
            if axis in axes:
                position.append(next(inner))
                if keep:
                    next(outer)
            else:
                position.append(next(outer))
        return x(*position)

    return result, tuple(t.concrete[a] for a in axes), at


def reciprocal(k: Any, extents: Iterable[int], dtype: str) -> Any:
    """One over the product of `extents`, as an element: computed when the kernel runs where one is known no earlier."""
    count = math.prod(extents)
    return k.const(1.0 / count, dtype) if isinstance(count, int) else k.const(1.0, dtype) / k.number(count, dtype)


def _sum_compute(k: Any, types: Types, x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    if not axes:
        return x
    result, extents, at = _term(x, types[0], axes, keep)
    return k.stage(result, lambda *i: k.sum(extents, lambda *r: at(i, r)))


def _mean_compute(k: Any, types: Types, x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    total = _sum_compute(k, types, x, axes=axes, keep=keep)
    extents = [types[0].concrete[a] for a in normal_axes(axes, types[0].rank)]
    return lambda *i: total(*i) * reciprocal(k, extents, types[0].dtype)


def _max_compute(k: Any, types: Types, x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    if not axes:
        return x
    result, extents, at = _term(x, types[0], axes, keep)
    return k.stage(result, lambda *i: k.max_over(extents, lambda *r: at(i, r)))


def _var_mean_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    return _infer(types, attrs) * 2


def _var_mean_reference(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    import torch

    if not axes:
        return x * 0, x
    return torch.var_mean(x, axes, correction=0, keepdim=keep)


def _var_mean_compute(k: Any, types: Types, x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    """The mean first, then the squares of what differs from it: their difference would lose digits."""
    if not axes:
        return lambda *i: x(*i) * 0.0, x
    result, extents, at = _term(x, types[0], axes, keep)
    part = reciprocal(k, extents, types[0].dtype)
    total = k.stage(result, lambda *i: k.sum(extents, lambda *r: at(i, r)))
    mean = k.stage(result, lambda *i: total(*i) * part)

    def square(i: tuple[Any, ...], r: tuple[Any, ...]) -> Any:
        apart = at(i, r) - mean(*i)
        return apart * apart

    squares = k.stage(result, lambda *i: k.sum(extents, lambda *r: square(i, r)))
    return lambda *i: squares(*i) * part, mean


def _pool_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    require_rank4(types, "global_avg_pool")
    return _infer(types, {"axes": (2, 3), "keep": attrs["keep"]})


def _softmax_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    normal_axis(attrs["axis"], x.rank)
    return (x,)


def _softmax_reference(x: Any, *, axis: int) -> Any:
    return x.softmax(axis)


def _softmax_compute(k: Any, types: Types, x: Any, *, axis: int) -> Any:
    """Shifted by the greatest element, so that no exponential overflows."""
    shape = types[0].concrete
    axis %= len(shape)
    outer = shape[:axis] + shape[axis + 1 :]

    def row(i: tuple[Any, ...]) -> tuple[Any, ...]:
        return i[:axis] + i[axis + 1 :]

    top = k.stage(outer, lambda *o: k.max_over((shape[axis],), lambda r: x(*o[:axis], r, *o[axis:])))
    powers = k.stage(shape, lambda *i: k.exp(x(*i) - top(*row(i))))
    total = k.stage(outer, lambda *o: k.sum((shape[axis],), lambda r: powers(*o[:axis], r, *o[axis:])))
    return lambda *i: powers(*i) / total(*row(i))


def _example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape: tuple[Dim, ...] = tuple(rng.choice((1, 2, 3, 7, 17)) for _ in range(rng.randint(1, 4)))
    axes = tuple(a - rng.choice((0, len(shape))) for a in range(len(shape)) if rng.random() < 0.6)
    return [TensorType(shape)], {"axes": axes, "keep": rng.random() < 0.5}


def _pool_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = tuple(rng.choice((1, 2, 3, 7, 17)) for _ in range(4))
    return [TensorType(shape)], {"keep": rng.random() < 0.5}


def _softmax_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = tuple(rng.choice((1, 2, 3, 7, 17)) for _ in range(rng.randint(1, 4)))
    return [TensorType(shape)], {"axis": rng.randint(-len(shape), len(shape) - 1)}


_KEEP = Argument("keep", "bool", False)
_ATTRIBUTES = (Argument("axes", "axes"), _KEEP)

RECORDS = (
    Operator(
        "mean",
        "The mean over `axes`; with `keep` they stay, with extent 1.",
        ("x",),
        _infer,
        _reference("mean"),
        _example,
        attributes=_ATTRIBUTES,
        compute=_mean_compute,
        traits=frozenset({"blocks", "open"}),
    ),
    Operator(
        "sum",
        "The sum over `axes`; with `keep` they stay, with extent 1.",
        ("x",),
        _infer,
        _reference("sum"),
        _example,
        attributes=_ATTRIBUTES,
        compute=_sum_compute,
        traits=frozenset({"blocks", "open"}),
    ),
    Operator(
        "var_mean",
        "The variance over `axes` (the mean square of what differs from the mean), and the mean.",
        ("x",),
        _var_mean_infer,
        _var_mean_reference,
        _example,
        attributes=_ATTRIBUTES,
        compute=_var_mean_compute,
        traits=frozenset({"open"}),
    ),
    Operator(
        "amax",
        "The greatest element over `axes`; with `keep` they stay, with extent 1.",
        ("x",),
        _infer,
        _reference("amax"),
        _example,
        attributes=_ATTRIBUTES,
        compute=_max_compute,
        traits=frozenset({"blocks", "open"}),
        elements="number",
    ),
    Operator(
        "global_avg_pool",
        "The mean over height and width: [n, c, h, w] to [n, c], or with `keep` to [n, c, 1, 1].",
        ("x",),
        _pool_infer,
        lambda x, keep: x.mean((2, 3), keepdim=keep),
        _pool_example,
        attributes=(_KEEP,),
        compute=lambda k, types, x, keep: _mean_compute(k, types, x, axes=(2, 3), keep=keep),
        traits=frozenset({"blocks", "open"}),
    ),
    Operator(
        "softmax",
        "exp(x) / sum(exp(x)) along `axis`.",
        ("x",),
        _softmax_infer,
        _softmax_reference,
        _softmax_example,
        attributes=(Argument("axis", "int", -1),),
        compute=_softmax_compute,
        traits=frozenset({"blocks", "open"}),
    ),
)
