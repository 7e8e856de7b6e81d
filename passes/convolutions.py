"""Convolutions as data: a frozen kernel with its taps, and how two add up, follow each other or stand side by side.

    of_node   one application of a linear operator -> Convolution        write   Convolution -> nodes
    add       conv(x, a) + conv(x, b)         -> conv(x, a + b)
    compose   conv(conv(x, a), b)             -> conv(x, b * a)
    stack     concat(conv(x, a), conv(x, b))  -> conv(x, [a; b])

A scale of channels is a depthwise convolution of one tap, an average pool one of many equal taps, zero padding a
convolution that pads and does nothing else, a strided slice one that skips, and a matrix product is a convolution of
one tap whose channels stand last. So these five take part in everything that convolutions do. What a kernel is costs
nothing until it is built: `weight`, `bias` and `table` are functions that write nodes when they are called.

Where taps meet: a convolution reads, for its result at y, the elements y * stride - before + tap * dilation. So for b
of stride t behind a of stride s, the result at y reads x at

    y * s * t  -  (b.before * s + a.before)  +  (b.tap * b.dilation * s + a.tap * a.dilation)

which is one convolution whose taps lie on the grid of the greatest common divisor. Where b pads, it reads zeros, and
the composed kernel reads what a would have made there: these are the same where every tap of a lies outside of x, up
to a's bias, which b sees inside alone. What the bias gives then differs from place to place, and is a `table`.
Kernels of different groups meet in groups of the greatest common divisor, between which no channel of either passes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from specc.ir.graph import Value
from specc.ir.types import TensorType
from specc.ops.record import Attributes
from specc.passes.kernels import Taps, embed, union
from specc.passes.rewrite import Match, Refused
from specc.passes.weight_space import along, as_vector, is_per_channel, per_channel, response, scaled_columns

Pair = tuple[int, int]
Build = Callable[[], Value]
POINT = Taps(1, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class Convolution:
    """conv(source, weight) + bias + table; a matrix product where `op` is "linear".

    `shape` is that of the weight, [o, i / groups, kh, kw], also for a matrix product (of one tap); the bias is [o], and
    the table anything that is repeated over the result.
    """

    op: str
    source: Value
    shape: tuple[int, int, int, int]
    weight: Build
    bias: Build | None = None
    table: Build | None = None
    stride: Pair = (1, 1)
    groups: int = 1
    taps: tuple[Taps, Taps] = (POINT, POINT)

    @property
    def inputs(self) -> int:
        """The channels of the source."""
        return self.shape[1] * self.groups

    @property
    def is_scale(self) -> bool:
        """Whether it multiplies every channel by a number, and does nothing else."""
        return self.shape == (self.groups, 1, 1, 1) and self.taps == (POINT, POINT) and self.stride == (1, 1)


def axis_of(op: str, rank: int) -> int:
    """The dimension of channels."""
    return 1 if op == "conv2d" else rank - 1


def identity(match: Match, x: Value, op: str) -> Convolution | None:
    """`x` as a convolution of itself; None where its channels are not known."""
    type = match.type(x)
    channels = type.shape[axis_of(op, type.rank)] if type.rank and (op == "linear" or type.rank == 4) else None
    if not isinstance(channels, int):
        return None
    return Convolution(op, x, (channels, 1, 1, 1), lambda: match.constant(1.0, (channels, 1, 1, 1)), groups=channels)


def of_node(match: Match, value: Value, x: Value, op: str) -> Convolution | None:
    """The node that makes `value` as a convolution of its operand `x`; refused where it is none after all."""
    node = match.graph.node(value.node)
    point = identity(match, x, op)
    if point is None:
        return None
    if node.op == op:
        return _weighted(match, value)
    if node.op == "avg_pool2d":
        kh, kw = node.attrs["k"]
        mean = cache(lambda: match.constant(1.0 / (kh * kw), (point.groups, 1, kh, kw)))
        shape = (point.groups, 1, kh, kw)
        return replace(point, shape=shape, weight=mean, stride=node.attrs["stride"], taps=_pool_taps(node.attrs))
    if node.op == "pad":
        (_, _, *before), (_, _, *after) = node.attrs["before"], node.attrs["after"]
        return replace(point, taps=(Taps(1, 1, before[0], after[0]), Taps(1, 1, before[1], after[1])))
    if node.op == "slice":
        at = node.attrs["axis"] % 4 - 2
        taps, stride = [POINT, POINT], [1, 1]
        behind = node.attrs["stop"] - match.type(x).shape[at + 2]
        taps[at], stride[at] = Taps(1, 1, -node.attrs["start"], behind), node.attrs["step"]
        return replace(point, taps=(taps[0], taps[1]), stride=(stride[0], stride[1]))
    raise AssertionError(f"`{node.op}` is no convolution")


def _weighted(match: Match, value: Value) -> Convolution:
    """A conv2d node, or a linear node, whose weights are frozen."""
    x, weight, *rest = match.graph.operands(value.node)
    attrs, bias = match.graph.node(value.node).attrs, (lambda: rest[0]) if rest else None
    shape = match.type(weight).concrete
    if len(shape) == 2:
        matrix = (*shape, 1, 1)
        return Convolution("linear", x, matrix, cache(lambda: match.apply("reshape", weight, shape=matrix)), bias)
    top, left, bottom, right = attrs["padding"]
    out, inputs, kh, kw = shape
    dy, dx = attrs["dilation"]
    taps = Taps(kh, dy, top, bottom), Taps(kw, dx, left, right)
    own, groups = (out, inputs, kh, kw), attrs["groups"]
    return Convolution("conv2d", x, own, lambda: weight, bias, None, attrs["stride"], groups, taps)


def _pool_taps(attrs: Attributes) -> tuple[Taps, Taps]:
    """The taps of an average pool; refused where it is no convolution, as it counts fewer elements at a border."""
    top, left, bottom, right = attrs["padding"]
    if any((top, left, bottom, right)) and not attrs["count_padding"]:
        raise Refused(
            "the average pool leaves out the padding, so that it weighs elements by how near a border they are"
        )
    kh, kw = attrs["k"]
    return Taps(kh, 1, top, bottom), Taps(kw, 1, left, right)


def write(match: Match, conv: Convolution, like: int | None = None) -> Value:
    """The node of the convolution, and an addition where it has a table; with the path and the place of node `like`."""
    bias = (conv.bias(),) if conv.bias else ()
    if conv.op == "linear":
        weight = match.apply("reshape", expanded(match, conv, 1), shape=(conv.shape[0], conv.inputs))
        value = match.apply("linear", conv.source, weight, *bias, like=like)
    else:
        attrs = attributes(match, conv)
        value = match.apply("conv2d", conv.source, conv.weight(), *bias, like=like, **attrs)
    return match.apply("add", value, conv.table()) if conv.table else value


def attributes(match: Match, conv: Convolution) -> dict[str, Any]:
    """The attributes of the conv2d node; refused where its kernel begins behind the first element."""
    y, x = conv.taps
    if min(y.before, x.before) < 0:
        raise Refused("the first element that the merged kernel reads is not the first one of its input")
    ends = []
    for taps, stride, extent in zip(conv.taps, conv.stride, match.type(conv.source).shape[2:]):
        slack = extent + (taps.before - taps.dilation * (taps.count - 1) - 1)
        if taps.after < 0 and not (isinstance(slack, int) and (slack + taps.after) // stride == slack // stride):
            raise Refused("the last element that the merged kernel reads is not the last one of its input")
        ends.append(max(taps.after, 0))
    return {
        "stride": conv.stride,
        "padding": (y.before, x.before, *ends),
        "dilation": (y.dilation if y.count > 1 else 1, x.dilation if x.count > 1 else 1),
        "groups": conv.groups,
    }


def expanded(match: Match, conv: Convolution, groups: int) -> Value:
    """The kernel in fewer groups, with zeros between the old ones: [o, i / g, ...] as [o, i / groups, ...]."""
    weight, joined = conv.weight(), conv.groups // groups
    if joined == 1:
        return weight
    out, inputs, kh, kw = conv.shape
    shape = (groups, joined, out // conv.groups, 1, inputs, kh * kw)
    eye = match.apply("dirac", shape=(joined, joined, 1, 1), dtype=match.type(weight).dtype)
    blocks = match.apply("reshape", eye, shape=(1, joined, 1, joined, 1, 1))
    spread = match.apply("mul", match.apply("reshape", weight, shape=shape), blocks)
    return match.apply("reshape", spread, shape=(out, joined * inputs, kh, kw))


def shifted(match: Match, conv: Convolution, summand: Value, like: Value) -> Convolution:
    """The sum of both, where the convolution makes `like`: into the bias, or into the table."""
    axis = axis_of(conv.op, match.type(like).rank)
    if not is_per_channel(match, summand, like, axis):
        return replace(conv, table=_sum(match, conv.table, lambda: summand))

    def vector() -> Value:
        found = per_channel(match, summand, like, axis)
        assert found is not None
        return as_vector(match, found, conv.shape[0])

    return replace(conv, bias=_sum(match, conv.bias, cache(vector)))


def scaled(match: Match, conv: Convolution, factor: Value, like: Value) -> Convolution:
    """The product of both, where the convolution makes `like`; refused where the factor differs within a channel."""
    rank = match.type(like).rank
    axis = axis_of(conv.op, rank)
    if not is_per_channel(match, factor, like, axis):
        raise Refused(f"the factor {match.type(factor)} differs within a channel")

    @cache
    def vector() -> Value:
        found = per_channel(match, factor, like, axis)
        assert found is not None
        return found

    def times(build: Build | None, at: int, rank: int) -> Build | None:
        return cache(lambda: match.apply("mul", build(), along(match, vector(), at, rank))) if build else None

    weight = times(conv.weight, 0, 4)
    assert weight is not None
    return replace(conv, weight=weight, bias=times(conv.bias, 0, 1), table=times(conv.table, axis, rank))


def _sum(match: Match, a: Build | None, b: Build | None) -> Build | None:
    if a is None or b is None:
        return a or b
    return cache(lambda: match.apply("add", a(), b()))


def add(match: Match, a: Convolution, b: Convolution, type: TensorType) -> Convolution:
    """A + b of one source, each of `type`; refused where the kernels do not meet."""
    # Where there is one place, a stride says nothing.
    if a.op == "conv2d" and any(p != q and e != 1 for p, q, e in zip(a.stride, b.stride, type.shape[2:])):
        raise Refused(f"the branches differ in stride: {a.stride} and {b.stride}")
    y, x = (union(p, q) for p, q in zip(a.taps, b.taps))
    groups = math.gcd(a.groups, b.groups)
    shape = (a.shape[0], a.inputs // groups, y.taps.count, x.taps.count)

    def kernel() -> Value:
        kernels = []
        for which, conv in enumerate((a, b)):
            one = embed(match, expanded(match, conv, groups), 2, conv.taps[0], y.leads[which], y.taps)
            kernels.append(embed(match, one, 3, conv.taps[1], x.leads[which], x.taps))
        return match.apply("add", *kernels)

    bias, table = _sum(match, a.bias, b.bias), _sum(match, a.table, b.table)
    return Convolution(a.op, a.source, shape, cache(kernel), bias, table, a.stride, groups, (y.taps, x.taps))


def total(match: Match, convs: Sequence[Convolution], type: TensorType) -> Convolution:
    """The sum of several, from the left, with no deeper calls however many there are; refused as `add`."""
    sums = list(itertools.accumulate(convs, lambda a, b: add(match, a, b, type)))

    def in_turn(builds: list[Build | None]) -> Build | None:
        """The last one, behind those before it, which it takes the results of."""
        known = [build for build in builds if build]
        return cache(lambda: [build() for build in known][-1]) if known else None

    weight = in_turn([each.weight for each in sums])
    assert weight is not None
    bias, table = in_turn([each.bias for each in sums]), in_turn([each.table for each in sums])
    return replace(sums[-1], weight=weight, bias=bias, table=table)


def stack(match: Match, a: Convolution, b: Convolution) -> Convolution:
    """A and b of one source, the channels of b behind those of a; refused where the kernels do not meet."""
    if a.stride != b.stride:
        raise Refused(f"the branches differ in stride: {a.stride} and {b.stride}")
    if a.table or b.table:
        raise Refused("a branch has a summand that differs within a channel")
    y, x = (union(p, q) for p, q in zip(a.taps, b.taps))
    shape = (a.shape[0] + b.shape[0], a.inputs, y.taps.count, x.taps.count)

    def kernel() -> Value:
        kernels = []
        for which, conv in enumerate((a, b)):
            one = embed(match, expanded(match, conv, 1), 2, conv.taps[0], y.leads[which], y.taps)
            kernels.append(embed(match, one, 3, conv.taps[1], x.leads[which], x.taps))
        return match.apply("concat", *kernels, axis=0)

    def bias() -> Value:
        vectors = [conv.bias() if conv.bias else match.constant(0.0, (conv.shape[0],)) for conv in (a, b)]
        return match.apply("concat", *vectors, axis=0)

    taps = (y.taps, x.taps)
    return Convolution(
        a.op, a.source, shape, cache(kernel), cache(bias) if a.bias or b.bias else None, None, a.stride, 1, taps
    )


def compose(match: Match, outer: Convolution, inner: Convolution, between: TensorType) -> Convolution:
    """Outer behind inner, whose result is of type `between`; refused where a border comes between them."""
    for padded, read, step, name in zip(outer.taps, inner.taps, inner.stride, ("top or bottom", "left or right")):
        reach = read.dilation * (read.count - 1)
        if (padded.before > 0 and read.before + step <= reach) or (padded.after > 0 and read.after < reach):
            raise Refused(f"the second convolution pads at the {name} with zeros where the first one has results")
    taps = _chain(outer.taps[0], inner.taps[0], inner.stride[0]), _chain(outer.taps[1], inner.taps[1], inner.stride[1])
    groups = math.gcd(outer.groups, inner.groups)
    shape = (outer.shape[0], inner.inputs // groups, taps[0].count, taps[1].count)
    bias, table, first = outer.bias, outer.table, inner.bias
    if first and not any(tap.before > 0 or tap.after > 0 for tap in outer.taps):
        bias = _sum(match, bias, cache(lambda: response(match, outer.weight(), first(), outer.groups)))
    elif first:
        table = _sum(match, table, cache(lambda: _spread(match, outer, along(match, first(), 1, 4), between)))
    if inner.table:
        spread = inner.table
        table = _sum(match, table, cache(lambda: _spread(match, outer, spread(), between)))
    stride = (outer.stride[0] * inner.stride[0], outer.stride[1] * inner.stride[1])
    kernel = cache(lambda: _product(match, outer, inner, taps, groups))
    return Convolution(outer.op, inner.source, shape, kernel, bias, table, stride, groups, taps)


def _spread(match: Match, outer: Convolution, summand: Value, between: TensorType) -> Value:
    """What outer makes of a frozen summand of its source: a table."""
    shape = (1, *between.shape[1:]) if between.rank > 1 else between.shape
    full = match.apply("mul", match.constant(1.0, shape), summand)
    return write(match, replace(outer, source=full, bias=None, table=None))


def _chain(outer: Taps, inner: Taps, stride: int) -> Taps:
    """The taps of two convolutions in a row along one axis, see the head of the module."""
    steps = ([outer.dilation * stride] if outer.count > 1 else []) + ([inner.dilation] if inner.count > 1 else [])
    step = math.gcd(*steps) or 1
    reach = outer.dilation * stride * (outer.count - 1) + inner.dilation * (inner.count - 1)
    return Taps(reach // step + 1, step, outer.before * stride + inner.before, outer.after * stride + inner.after)


def _product(match: Match, outer: Convolution, inner: Convolution, taps: tuple[Taps, Taps], groups: int) -> Value:
    """The kernel of outer behind inner: for each tap of the outer one, a matrix product with the inner kernel."""
    out, _, oh, ow = outer.shape
    middle, _, ih, iw = inner.shape
    if outer.groups == out == middle and (outer.is_scale or ih * iw == 1):  # a row of the inner kernel for each channel
        return match.apply("mul", inner.weight(), outer.weight())
    if inner.is_scale and inner.groups == middle:
        scale = match.apply("reshape", inner.weight(), shape=(middle,))
        return scaled_columns(match, outer.weight(), scale, outer.groups)
    inputs = inner.inputs // groups
    first = match.apply("reshape", expanded(match, inner, groups), shape=(groups, middle // groups, inputs * ih * iw))
    second = expanded(match, outer, groups)
    total: Value | None = None
    for r, s in itertools.product(range(oh), range(ow)):
        tap = match.apply("slice", second, axis=2, start=r, stop=r + 1)
        tap = match.apply("slice", tap, axis=3, start=s, stop=s + 1)
        tap = match.apply("reshape", tap, shape=(groups, out // groups, middle // groups))
        kernel = match.apply("reshape", match.apply("matmul", tap, first), shape=(out, inputs, ih, iw))
        for axis, index in ((0, r), (1, s)):
            lead = index * outer.taps[axis].dilation * inner.stride[axis] // taps[axis].dilation
            kernel = embed(match, kernel, axis + 2, inner.taps[axis], lead, taps[axis])
        total = kernel if total is None else match.apply("add", total, kernel)
    assert total is not None
    return total
