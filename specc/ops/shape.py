"""Operators that move elements and compute nothing."""

from __future__ import annotations

import random
from typing import Any

from specc.ir.dims import Dim, estimate, floordiv, product, symbols
from specc.ir.dtypes import HALVES, SMALL
from specc.ir.types import TensorType, block_of, concrete
from specc.ops.record import Argument, Attributes, Illegal, Operator, Types
from specc.ops.reduce import normal_axis
from specc.ops.source import check_element


def _plain(types: Types, name: str) -> TensorType:
    for position, t in enumerate(types):
        if t.layout:
            raise Illegal(f"`{name}` takes the plain layout, not {t.layout}", operand=position)
    return types[0]


def _reshape_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x = _plain(types, "reshape")
    shape: tuple[Dim, ...] = attrs["shape"]
    if shape.count(-1) > 1:
        raise Illegal("at most one extent is -1", argument="shape")
    if any(isinstance(e, int) and e < 1 and e != -1 for e in shape):
        raise Illegal(f"an extent is at least 1, or -1 for the rest, unlike in {_list(shape)}", argument="shape")
    if -1 in shape:
        known = product(e for e in shape if e != -1)
        rest = floordiv(x.elements, known)
        shape = tuple(rest if e == -1 else e for e in shape)
    if product(shape) != x.elements:
        raise Illegal(f"{x} has {x.elements} elements, and {_list(shape)} has {product(shape)}", argument="shape")
    return (TensorType(shape, x.dtype),)


def _list(shape: tuple[Dim, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def moved(index: tuple[Any, ...], shape: tuple[Dim, ...], other: tuple[Dim, ...]) -> tuple[Any, ...]:
    """Where the element at `index` of a tensor of `shape` lies when the same elements have the shape `other`.

    Dimensions that both shapes have, with as many elements in front of them, keep their indices as they are. Which
    these are shows in the terms of the dimensions; their values are asked for where an index is computed.
    """
    position: list[Any] = [0] * len(other)
    ours, theirs = ([axis for axis, extent in enumerate(s) if extent != 1] for s in (shape, other))
    while ours:
        mine, its = [ours.pop(0)], [theirs.pop(0)]
        while (count := _elements(shape, mine)) != (needed := _elements(other, its)):
            less = _nominal(count) < _nominal(needed)
            (mine if less else its).append((ours if less else theirs).pop(0))
        flat: Any = 0
        for axis in mine:
            flat = flat * concrete(shape[axis]) + index[axis]
        for axis in its[:0:-1]:
            position[axis] = flat % concrete(other[axis])
            flat = flat // concrete(other[axis])
        position[its[0]] = flat
    return tuple(position)


def _elements(shape: tuple[Dim, ...], axes: list[int]) -> Dim:
    return product(shape[axis] for axis in axes)


def _nominal(count: Dim) -> int:
    """A number of elements to compare with another: neither of two that are equal at all sizes is less."""
    return estimate(count, dict.fromkeys(symbols(count), 97))


def _reindexed(types: Types, x: Any, result: TensorType) -> Any:
    return lambda *i: x(*moved(i, result.shape, types[0].shape))


def _reshape_compute(k: Any, types: Types, x: Any, *, shape: tuple[Dim, ...]) -> Any:
    return _reindexed(types, x, _reshape_infer(types, {"shape": shape})[0])


def _flatten_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x = _plain(types, "flatten")
    first, last = (normal_axis(attrs[name], x.rank, name) for name in ("start", "end"))
    if first > last:
        raise Illegal(f"the dimensions {first} to {last} are none", argument="end")
    return (TensorType((*x.shape[:first], product(x.shape[first : last + 1]), *x.shape[last + 1 :]), x.dtype),)


def _permute_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    """The result is plain, however x lies: every element moves in any case."""
    (x,) = types
    if sorted(attrs["order"]) != list(range(x.rank)):
        raise Illegal(f"{list(attrs['order'])} is not an order of the dimensions of {x}", argument="order")
    return (TensorType(tuple(x.shape[a] for a in attrs["order"]), x.dtype),)


def _permute_compute(k: Any, types: Types, x: Any, *, order: tuple[int, ...]) -> Any:
    return lambda *i: x(*(i[order.index(axis)] for axis in range(len(order))))


def _whole_blocks(layout: str, *channels: Dim) -> bool:
    """Whether each of these numbers of channels fills its blocks, or nothing lies in blocks."""
    block = block_of(layout)
    return not block or all(isinstance(extent, int) and extent % block == 0 for extent in channels)


def _concat_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x = types[0]
    axis = normal_axis(attrs["axis"], x.rank)
    if len({t.layout for t in types}) > 1:
        raise Illegal("the operands lie in different layouts")
    if axis == 1 and not _whole_blocks(x.layout, *(t.shape[1] for t in types[:-1] if t.rank > 1)):
        raise Illegal(f"what is in front of another operand does not fill its blocks of {x.layout}")
    total: Dim = 0
    for position, t in enumerate(types):
        if t.rank != x.rank or any(a != b for i, (a, b) in enumerate(zip(x.shape, t.shape)) if i != axis):
            raise Illegal(f"{x} and {t} differ beside dimension {axis}", operand=position)
        total = total + t.shape[axis]
    return (TensorType((*x.shape[:axis], total, *x.shape[axis + 1 :]), x.dtype, x.layout),)


def _concat_reference(*xs: Any, axis: int) -> Any:
    import torch

    return torch.cat(xs, axis)


def _concat_compute(k: Any, types: Types, *xs: Any, axis: int) -> Any:
    axis %= types[0].rank

    def element(*i: Any) -> Any:
        start = sum(t.concrete[axis] for t in types[:-1])
        result = xs[-1](*i[:axis], i[axis] - start, *i[axis + 1 :])
        for x, t in reversed(list(zip(xs[:-1], types[:-1]))):
            end, start = start, start - t.concrete[axis]
            result = k.select(i[axis] < end, x(*i[:axis], i[axis] - start, *i[axis + 1 :]), result)
        return result

    return element


def _expand_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    x, shape = _plain(types, "expand"), attrs["shape"]
    new = len(shape) - x.rank
    if any(isinstance(e, int) and e < 1 and (e != -1 or at < new) for at, e in enumerate(shape)):
        reason = f"an extent is at least 1, or -1 for that of the operand, unlike in {_list(shape)}"
        raise Illegal(reason, argument="shape")
    if new < 0 or any(goal not in (-1, e) and e != 1 for e, goal in zip(x.shape, shape[max(new, 0) :])):
        raise Illegal(f"{x} is not repeated to {_list(shape)}: only extents of 1 are", argument="shape")
    own = tuple(e if goal == -1 else goal for e, goal in zip(x.shape, shape[new:]))
    return (TensorType((*shape[:new], *own), x.dtype),)


def _expand_compute(k: Any, types: Types, x: Any, *, shape: tuple[Dim, ...]) -> Any:
    own = types[0].concrete
    return lambda *i: x(*(0 if extent == 1 else j for extent, j in zip(own, i[len(i) - len(own) :])))


def _slice_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    axis = normal_axis(attrs["axis"], x.rank)
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    extent = x.shape[axis]
    if axis == 1 and x.layout and (step != 1 or not _whole_blocks(x.layout, start)):
        raise Illegal(f"a part of {x.layout} begins with a block and leaves none of its channels out")
    if step < 1:
        raise Illegal(f"`step` is at least 1, not {step}", argument="step")
    known = all(isinstance(v, int) for v in (start, stop, extent))
    if known and not 0 <= start < stop <= extent:
        raise Illegal(f"{start} to {stop} is no part of dimension {axis}, whose extent is {extent}", argument="stop")
    length = floordiv(stop - start + (step - 1), step)
    return (TensorType((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype, x.layout),)


def _slice_reference(x: Any, *, axis: int, start: int, stop: int, step: int) -> Any:
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop, step),)]


def _slice_compute(k: Any, types: Types, x: Any, *, axis: int, start: int, stop: int, step: int) -> Any:
    axis %= types[0].rank
    return lambda *i: x(*i[:axis], i[axis] * step + start, *i[axis + 1 :])


def _pad_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    before, after = attrs["before"], attrs["after"]
    for name, pads in (("before", before), ("after", after)):
        if len(pads) != x.rank or any(isinstance(p, int) and p < 0 for p in pads):
            raise Illegal(f"`{name}` is {x.rank} extents of at least 0, not {list(pads)}", argument=name)
    if x.layout and (before[1] or after[1]) and not _whole_blocks(x.layout, before[1], x.shape[1]):
        raise Illegal(f"channels are added to {x.layout} in whole blocks")
    if x.dtype in (*SMALL, *HALVES):
        check_element(attrs["value"], x.dtype)
    return (TensorType(tuple(e + b + a for e, b, a in zip(x.shape, before, after)), x.dtype, x.layout),)


def _pad_reference(x: Any, *, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Any:
    import torch.nn.functional as functional

    return functional.pad(x, [p for pair in reversed(list(zip(before, after))) for p in pair], value=value)


def _pad_compute(k: Any, types: Types, x: Any, *, before: Any, after: Any, value: float) -> Any:
    shape = types[0].concrete

    def element(*i: Any) -> Any:
        inner = [j - b for j, b in zip(i, before)]
        conditions = [
            condition
            for j, extent, b, a in zip(inner, shape, before, after)
            for condition in ([j >= 0] if b else []) + ([j < extent] if a else [])
        ]
        return k.select(k.all(*conditions), x(*inner), k.const(value, types[0].dtype)) if conditions else x(*inner)

    return element


def _layout_infer(types: Types, attrs: Attributes) -> tuple[TensorType, ...]:
    (x,) = types
    try:
        block = block_of(attrs["layout"])
    except ValueError as problem:
        raise Illegal(str(problem), argument="layout") from None
    if block and x.rank != 4:
        raise Illegal(f"only [n, c, h, w] lies in blocks of channels, not {x}", operand=0)
    return (TensorType(x.shape, x.dtype, attrs["layout"]),)


def _shape(rng: random.Random, least: int = 1) -> tuple[int, ...]:
    return tuple(rng.choice((1, 2, 3, 7, 8, 17)) for _ in range(rng.randint(least, 4)))


def _reshape_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    joint = rng.randint(1, len(shape))
    return [TensorType(shape)], {"shape": rng.choice(((*shape[:joint], -1), (-1,), (*reversed(shape),)))}


def _flatten_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    start = rng.randrange(len(shape))
    return [TensorType(shape)], {"start": start, "end": rng.choice((-1, len(shape) - 1))}


def _permute_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    return [TensorType(shape)], {"order": tuple(rng.sample(range(len(shape)), len(shape)))}


def _concat_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    axis = rng.randrange(len(shape))
    parts = [(*shape[:axis], rng.choice((1, 2, 8, 17)), *shape[axis + 1 :]) for _ in range(rng.randint(1, 3))]
    return [TensorType(part) for part in parts], {"axis": axis - rng.choice((0, len(shape)))}


def _expand_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    pairs = [rng.choice(((e, -1), (e, -1), (e, e), (1, e))) for e in _shape(rng)]
    new = rng.choice(((), (), (1,), (2,), (3, 2)))
    return [TensorType(tuple(e for e, _ in pairs))], {"shape": (*new, *(goal for _, goal in pairs))}


def _slice_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    axis = rng.randrange(len(shape))
    start = rng.randrange(shape[axis])
    stop = rng.randint(start + 1, shape[axis])
    return [TensorType(shape)], {"axis": axis, "start": start, "stop": stop, "step": rng.choice((1, 1, 2, 3))}


def _pad_example(rng: random.Random) -> tuple[list[TensorType], dict[str, Any]]:
    shape = _shape(rng)
    before, after = (tuple(rng.choice((0, 0, 1, 2)) for _ in shape) for _ in range(2))
    return [TensorType(shape)], {"before": before, "after": after, "value": rng.choice((0.0, 1.5))}


RECORDS = (
    Operator(
        "reshape",
        "The same elements in row-major order under another shape; one extent may be -1.",
        ("x",),
        _reshape_infer,
        lambda x, shape: x.reshape(shape),
        _reshape_example,
        attributes=(Argument("shape", "ints"),),
        compute=_reshape_compute,
        elements="any",
        traits=frozenset({"view", "movement", "open"}),
    ),
    Operator(
        "flatten",
        "The dimensions `start` to `end` (inclusive) as one.",
        ("x",),
        _flatten_infer,
        lambda x, start, end: x.flatten(start, end),
        _flatten_example,
        attributes=(Argument("start", "int", 1), Argument("end", "int", -1)),
        compute=lambda k, types, x, **attrs: _reindexed(types, x, _flatten_infer(types, attrs)[0]),
        elements="any",
        traits=frozenset({"view", "movement", "open"}),
    ),
    Operator(
        "permute",
        "The dimensions in another order: dimension i of the result is dimension order[i] of x.",
        ("x",),
        _permute_infer,
        lambda x, order: x.permute(order),
        _permute_example,
        attributes=(Argument("order", "axes"),),
        compute=_permute_compute,
        elements="any",
        traits=frozenset({"blocks", "movement", "open"}),
    ),
    Operator(
        "concat",
        "The operands one behind the other along `axis`.",
        ("*xs",),
        _concat_infer,
        _concat_reference,
        _concat_example,
        attributes=(Argument("axis", "int", 1),),
        compute=_concat_compute,
        elements="any",
        traits=frozenset({"blocks", "choice", "open"}),
    ),
    Operator(
        "expand",
        "x repeated to `shape`, along dimensions of extent 1 and new ones in front; -1 is the extent of x.",
        ("x",),
        _expand_infer,
        lambda x, shape: x.expand(shape),
        _expand_example,
        attributes=(Argument("shape", "ints"),),
        compute=_expand_compute,
        elements="any",
        traits=frozenset({"movement", "open"}),
    ),
    Operator(
        "slice",
        "The elements start, start + step, ... below stop along `axis`.",
        ("x",),
        _slice_infer,
        _slice_reference,
        _slice_example,
        attributes=(
            Argument("axis", "int"),
            Argument("start", "dim", 0),
            Argument("stop", "dim"),
            Argument("step", "int", 1),
        ),
        compute=_slice_compute,
        elements="any",
        traits=frozenset({"blocks", "movement", "open"}),
    ),
    Operator(
        "pad",
        "`before` and `after` elements of `value` around x, for each dimension.",
        ("x",),
        _pad_infer,
        _pad_reference,
        _pad_example,
        attributes=(Argument("before", "ints"), Argument("after", "ints"), Argument("value", "float", 0.0)),
        compute=_pad_compute,
        elements="any",
        traits=frozenset({"blocks", "choice", "open"}),
    ),
    Operator(
        "convert_layout",
        "The same tensor, laid out in memory as `layout` says (see `TensorType`).",
        ("x",),
        _layout_infer,
        lambda x, layout: x,
        lambda rng: (
            [TensorType(tuple(rng.choice((1, 2, 3, 8, 17)) for _ in range(4)))],
            {"layout": rng.choice(("", "NCHW8c", "NCHW16c"))},
        ),
        attributes=(Argument("layout", "str"),),
        compute=lambda k, types, x, layout: x,
        elements="any",
        traits=frozenset({"blocks", "choice"}),
    ),
)
