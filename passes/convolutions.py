"""Convolutions as data: a frozen kernel with its taps, and how two of them add up or follow each other.

    read      a conv2d node -> Convolution            write     Convolution -> a conv2d node
    identity  x * s         -> Convolution            pooling   avg_pool2d(x) -> Convolution
    add       conv(x, a) + conv(x, b)  -> conv(x, a + b)
    compose   conv(conv(x, a), b)      -> conv(x, b * a)

Where taps meet: a convolution reads, for its result at y, the elements y * stride - before + tap * dilation. So for b
of stride t behind a of stride s, the result at y reads x at

    y * s * t  -  (b.before * s + a.before)  +  (b.tap * b.dilation * s + a.tap * a.dilation)

which is one convolution whose taps lie on the grid of the greatest common divisor. Zero padding of b stands for zeros
where a would have results of its own: an axis that b pads is only composed where a has a single unpadded tap there,
so that zeros of x give zeros, and no bias.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from specc.ir.dims import Dim, product
from specc.ir.graph import Value
from specc.ops.record import Attributes
from specc.passes.kernels import Taps, embed, union
from specc.passes.rewrite import Match, Refused
from specc.passes.weight_space import add_bias, along, is_per_channel, per_channel, response

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Convolution:
    """conv(source, weight, bias), the weight [o, i / groups, kh, kw] and the bias (none, or one [o]) frozen."""

    source: Value
    weight: Value
    bias: tuple[Value, ...]
    stride: Pair
    groups: int
    taps: tuple[Taps, Taps]


def read(match: Match, value: Value) -> Convolution | None:
    """The conv2d node that makes `value`; None for another operator, or where its weights depend on an input."""
    if match.graph.op(value) != "conv2d" or match.is_frozen(value):
        return None
    x, weight, *bias = match.graph.operands(value.node)
    if not all(match.is_frozen(w) for w in (weight, *bias)):
        return None
    attrs = match.graph.node(value.node).attrs
    top, left, bottom, right = attrs["padding"]
    kh, kw = match.type(weight).shape[2:]
    assert isinstance(kh, int) and isinstance(kw, int)
    dy, dx = attrs["dilation"]
    taps = Taps(kh, dy, top, bottom), Taps(kw, dx, left, right)
    return Convolution(x, weight, tuple(bias), attrs["stride"], attrs["groups"], taps)


def write(match: Match, conv: Convolution, like: int | None = None) -> Value:
    """A conv2d node; with the path and the place of node `like`."""
    y, x = conv.taps
    return match.apply(
        "conv2d",
        conv.source,
        conv.weight,
        *conv.bias,
        like=like,
        stride=conv.stride,
        padding=(y.before, x.before, y.after, x.after),
        dilation=(y.dilation if y.count > 1 else 1, x.dilation if x.count > 1 else 1),
        groups=conv.groups,
    )


def elements(match: Match, *convs: Convolution) -> Dim:
    """The multiplications that the convolutions cost for each place of their results."""
    total: Dim = 0
    for conv in convs:
        total = total + product(match.type(conv.weight).shape)
    return total


def identity(match: Match, x: Value, factor: Value | None, like: Convolution) -> Convolution:
    """X * factor as a convolution in the groups of `like`; refused where a kernel of those groups cannot be square."""
    channels, per_group = match.type(like.weight).shape[:2]
    if match.type(x).shape[1] != channels or channels != per_group * like.groups:
        raise Refused(f"the convolution changes {match.type(x).shape[1]} channels to {channels}")
    kernel = match.apply("dirac", shape=(channels, per_group, 1, 1), groups=like.groups)
    if factor is not None:
        if not is_per_channel(match, factor, x, 1):
            raise Refused(f"the factor {match.type(factor)} differs within a channel")
        scale = per_channel(match, factor, x, 1)
        assert scale is not None
        kernel = match.apply("mul", kernel, along(match, scale, 0, 4))
    point = Taps(1, 1, 0, 0)
    return Convolution(x, kernel, (), (1, 1), like.groups, (point, point))


def pooling(match: Match, value: Value, like: Convolution) -> Convolution | None:
    """avg_pool2d(x) as a convolution in the groups of `like`; None for another operator."""
    if match.graph.op(value) != "avg_pool2d":
        return None
    attrs = match.graph.node(value.node).attrs
    (x,) = match.graph.operands(value.node)
    point = identity(match, x, None, like)
    return replace(point, weight=_mean(match, point.weight, attrs), stride=attrs["stride"], taps=pool_taps(attrs))


def pool_taps(attrs: Attributes) -> tuple[Taps, Taps]:
    """The taps of an average pool; refused where it is no convolution, as it counts fewer elements at a border."""
    top, left, bottom, right = attrs["padding"]
    if any((top, left, bottom, right)) and not attrs["count_padding"]:
        raise Refused(
            "the average pool leaves out the padding, so that it weighs elements by how near a border they are"
        )
    kh, kw = attrs["k"]
    return Taps(kh, 1, top, bottom), Taps(kw, 1, left, right)


def _mean(match: Match, point: Value, attrs: Attributes) -> Value:
    """A kernel [o, i, 1, 1] repeated over the window of a pool, each tap weighing the same."""
    kh, kw = attrs["k"]
    return match.apply("mul", point, match.constant(1.0 / (kh * kw), (1, 1, kh, kw)))


def add(match: Match, a: Convolution, b: Convolution, limit: Dim) -> Convolution:
    """A + b of one source; refused where the kernels do not meet or cost more than `limit` multiplications a place."""
    for name in ("stride", "groups"):
        if getattr(a, name) != getattr(b, name):
            raise Refused(f"the branches differ in {name}: {getattr(a, name)} and {getattr(b, name)}")
    grids = [union(p, q) for p, q in zip(a.taps, b.taps)]
    y, x = grids
    if y is None or x is None:
        raise Refused("the taps of the two kernels lie on no common grid")
    _afford(product(match.type(a.weight).shape[:2]) * y.taps.count * x.taps.count, limit, y.taps, x.taps)
    kernels = []
    for which, conv in enumerate((a, b)):
        kernel = embed(match, conv.weight, 2, conv.taps[0], y.leads[which], y.taps)
        kernels.append(embed(match, kernel, 3, conv.taps[1], x.leads[which], x.taps))
    bias = (*a.bias, *b.bias)
    total = (match.apply("add", *bias),) if len(bias) == 2 else bias
    return replace(a, weight=match.apply("add", *kernels), bias=total, taps=(y.taps, x.taps))


def _afford(cost: Dim, limit: Dim, y: Taps, x: Taps) -> None:
    if isinstance(cost, int) and isinstance(limit, int) and cost > limit:
        raise Refused(
            f"one kernel of {y.count} x {x.count} would cost {cost} multiplications at each place, "
            f"what it replaces costs {limit}"
        )


def compose(match: Match, outer: Convolution, inner: Convolution, limit: Dim | None = None) -> Convolution:
    """Outer behind inner; refused where a border comes between them, or for more than `limit` multiplications a place.

    Without a limit, what the two cost: the inner one is computed stride * stride times for each place of the result.
    """
    if outer.groups != inner.groups:
        raise Refused(f"the convolutions differ in groups: {inner.groups} and {outer.groups}")
    for axis, name in enumerate(("top or bottom", "left or right")):
        padded, tap = outer.taps[axis], inner.taps[axis]
        if (padded.before or padded.after) and (tap.count, tap.before, tap.after) != (1, 0, 0):
            raise Refused(f"the second convolution pads at the {name} with zeros where the first one has results")
    padded_at_all = any(taps.before or taps.after for taps in outer.taps)
    if inner.bias and padded_at_all:
        raise Refused("at the border, the zeros of the padding stand behind the bias of the first convolution")
    taps = _chain(outer.taps[0], inner.taps[0], inner.stride[0]), _chain(outer.taps[1], inner.taps[1], inner.stride[1])
    if limit is None:
        limit = elements(match, outer) + elements(match, inner) * (outer.stride[0] * outer.stride[1])
    shape = (match.type(outer.weight).shape[0], match.type(inner.weight).shape[1])
    _afford(product(shape) * taps[0].count * taps[1].count, limit, *taps)
    bias = outer.bias
    if inner.bias:
        moved = response(match, outer.weight, inner.bias[0], outer.groups)
        out = shape[0]
        assert isinstance(out, int)
        bias = (add_bias(match, bias, moved, out),)
    stride = (outer.stride[0] * inner.stride[0], outer.stride[1] * inner.stride[1])
    return Convolution(inner.source, _product(match, outer, inner, taps), bias, stride, outer.groups, taps)


def _chain(outer: Taps, inner: Taps, stride: int) -> Taps:
    """The taps of two convolutions in a row along one axis, see the head of the module."""
    steps = ([outer.dilation * stride] if outer.count > 1 else []) + ([inner.dilation] if inner.count > 1 else [])
    step = math.gcd(*steps) or 1
    reach = outer.dilation * stride * (outer.count - 1) + inner.dilation * (inner.count - 1)
    return Taps(reach // step + 1, step, outer.before * stride + inner.before, outer.after * stride + inner.after)


def _product(match: Match, outer: Convolution, inner: Convolution, taps: tuple[Taps, Taps]) -> Value:
    """The kernel of outer behind inner: for each tap of the outer one, a matrix product with the inner kernel."""
    groups = outer.groups
    out, _, oh, ow = match.type(outer.weight).shape
    middle, inputs, ih, iw = match.type(inner.weight).shape
    assert isinstance(oh, int) and isinstance(ow, int)
    first = match.apply("reshape", inner.weight, shape=(groups, middle // groups, inputs * ih * iw))
    total: Value | None = None
    for r, s in itertools.product(range(oh), range(ow)):
        tap = match.apply("slice", outer.weight, axis=2, start=r, stop=r + 1)
        tap = match.apply("slice", tap, axis=3, start=s, stop=s + 1)
        tap = match.apply("reshape", tap, shape=(groups, out // groups, middle // groups))
        kernel = match.apply("reshape", match.apply("matmul", tap, first), shape=(out, inputs, ih, iw))
        for axis, index in ((0, r), (1, s)):
            lead = index * outer.taps[axis].dilation * inner.stride[axis] // taps[axis].dilation
            kernel = embed(match, kernel, axis + 2, inner.taps[axis], lead, taps[axis])
        total = kernel if total is None else match.apply("add", total, kernel)
    assert total is not None
    return total


def pooled(match: Match, attrs: Attributes, inner: Convolution, limit: Dim | None = None) -> Convolution | None:
    """A mean pool behind a convolution of one tap, which commute; None for a larger kernel; refuses as `compose`."""
    if any((tap.count, tap.before, tap.after) != (1, 0, 0) for tap in inner.taps) or inner.stride != (1, 1):
        return None
    taps = pool_taps(attrs)
    if inner.bias and any(attrs["padding"]):
        raise Refused("at the border, the zeros of the padding stand behind the bias of the convolution")
    if limit is None:
        limit = elements(match, inner) * attrs["stride"][0] * attrs["stride"][1]
    _afford(elements(match, inner) * taps[0].count * taps[1].count, limit, *taps)
    return replace(inner, weight=_mean(match, inner.weight, attrs), stride=attrs["stride"], taps=taps)
