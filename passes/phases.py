"""Transposed convolutions as convolutions: one of stride 1 for each phase of the result, then a pixel shuffle.

    conv_transpose2d(x, w, b) => slice(pixel_shuffle(conv2d(x, phases(w), repeat(b))))
    conv_transpose3d(x, w, b) => slice(pixel_shuffle(conv3d(x, phases(w), repeat(b))))
    conv_transpose1d(x, w, b) => conv_transpose2d(x, w, b), of height 1, between views

A transposed convolution of stride s sums, for the place P of its result before `padding` is cut off,

    y[o, P] = sum over i, r of x[i, (P - r) / s] w[i, o, r]        where the division is exact

With P = s q + f, only the taps r = s m + f take part: the phase f of the result is the convolution of x with every s-th
tap of the kernel, in reverse order. All phases have ceil(k / s) taps (the last of some are zeros), read the same places
and make as many; so they are one convolution of channels (o, f), and a pixel shuffle puts them between each other.
See Shi et al., "Is the deconvolution layer the same as a convolutional layer?" (arXiv:1609.07009).

With a dilation d, tap r is at place d r of a kernel that has zeros between its taps, and what is said holds of that
one: the phases have taps at the places floor(d r / s), of which some phases use one and others another. Where all of
these have a common divisor, it is the dilation of the convolution.

Kernels no larger than the stride are 1x1 convolutions. An axis of x with a single place has no stride that shows; there
it is taken as the extent of the kernel, and DCGAN's first layer, a picture made of a vector, is a matrix product.

What it costs: for each element computed, ceil(k / s) multiplications on an axis, where a kernel that asks of each
tap whether the division is exact has k. So the zeros among the taps (k = 3 and s = 2 have 4 taps for 3, 16 for 9 in
pictures) never make it slower than such a kernel. Up to s - 1 places at either end of an axis are computed and cut off
(more where `padding` is more than the kernel reaches), by the kernel that shuffles (`moves`). Of 64
channels into 64 at 48x48, one thread of a Cascade Lake takes, where the general kernel takes the first time and each
slice was a kernel:

    k = 2, s = 2                  295 ms    2.1 ms
    k = 3, s = 2, p = 1           685 ms    3.4 ms
    k = 4, s = 2, p = 1          1776 ms    2.9 ms
    k = 4, s = 2, p = 1, depthwise 16 ms    1.9 ms

With k = 3, s = 2 and d = 2, one phase of an axis has all three taps and the other one none. Of 32 channels into 32 at
24x24, one thread of the Granite Rapids generation takes 46 ms by the general kernel and 0.6 ms by phases, with d = 5,
where 36 taps are computed for nine, 56 and 1.5 ms, of depthwise ones 0.24 and 0.09, 0.53 and 0.19 ms. Volumes of
8x24x24, 16 channels into 16, take 49 and 0.39 ms with k = 2 and s = 2, 1317 and 1.4 ms with k = 4, s = 2 and p = 1.

Dilations so much greater than the stride that phases would have more than four times the taps of the kernel leave it as
it is. So do weights that depend on an input: packing them would be work at run time. Each rule removes a transposed
convolution or takes it down a dimension, so the rules end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from specc.ir.dims import Dim
from specc.ir.graph import Graph, Value
from specc.passes.rewrite import Frozen, Journal, Match, Op, Refused, Rule, Var, rewrite_graph

_MOST = 4
"""So many times the taps of the kernel, on an axis, are at most computed: below it, phases take less time than a kernel
that asks of each tap whether its division is exact."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a transposed convolution as phases of a convolution.

    `stride` phases of `taps` taps, `dilation` apart, of a kernel whose taps are `apart` places apart. The convolution
    pads `before` and `after`, and `lead` places of the shuffled result go in front of the `places` that are wanted.
    """

    stride: int
    apart: int
    taps: int
    dilation: int
    before: int
    after: int
    lead: int
    places: Dim

    @classmethod
    def of(cls, extent: Dim, places: Dim, kernel: int, stride: int, dilation: int, cut: tuple[int, int, int]) -> Axis:
        """The axis of `extent` places; `cut` is the padding before and after, and the output padding."""
        before, after, extra = cut
        reach = dilation * (kernel - 1)
        behind = reach + 1 + extra - after  # what follows the last place of x, spread out by the stride
        if extent == 1:
            stride = kernel if reach == kernel - 1 else 1
        places_of_taps = [dilation * tap // stride for tap in range(kernel)]
        apart = dilation if stride > 1 else 1
        dilation = gcd(*places_of_taps) or 1
        taps = places_of_taps[-1] // dilation + 1
        if taps > _MOST * kernel:
            raise Refused(f"with a stride of {stride}, {kernel} taps so far apart would be {taps} in each phase")
        reach = dilation * (taps - 1)
        first = min(before // stride, reach)  # the first place of a phase that is computed
        padding = reach - first, max(0, -(-behind // stride) - 1)
        return cls(stride, apart, taps, dilation, *padding, before - stride * first, places)


def _axes(match: Match) -> list[Axis]:
    """The dimensions behind the channels of the root, a transposed convolution of pictures or of volumes."""
    attrs, x, y = match.graph.node(match.root).attrs, match.type(match["x"]), match.type(Value(match.root))
    kernels = match.type(match["w"]).concrete[2:]

    def axis(i: int) -> Axis:
        cut = attrs["padding"][i], attrs["padding"][i + len(kernels)], attrs["output_padding"][i]
        return Axis.of(x.shape[i + 2], y.shape[i + 2], kernels[i], attrs["stride"][i], attrs["dilation"][i], cut)

    return [axis(i) for i in range(len(kernels))]


def _packed(match: Match, axes: Sequence[Axis], groups: int) -> Value:
    """The weight [i, o / groups, k, ...] as that of a convolution, [o * phases, i / groups, taps, ...]."""
    spread = match["w"]
    for number, axis in enumerate(axes, 2):
        spread = _spread(match, spread, number, axis)
    inputs, per_group, *kernel = match.type(spread).concrete
    missing = tuple(axis.stride * axis.taps - k for axis, k in zip(axes, kernel, strict=True))
    whole = match.apply("pad", spread, before=(0,) * (2 + len(axes)), after=(0, 0, *missing))
    own = inputs // groups
    cut = (groups, own, per_group, *(extent for axis in axes for extent in (axis.taps, axis.stride)))
    taps, strides = (tuple(range(first, len(cut), 2)) for first in (3, 4))
    apart = match.apply("flip", match.apply("reshape", whole, shape=cut), axes=taps)
    packed = match.apply("permute", apart, order=(0, 2, *strides, 1, *taps))
    shape = (per_group * groups * prod(axis.stride for axis in axes), own, *(axis.taps for axis in axes))
    return match.apply("reshape", packed, shape=shape)


def _spread(match: Match, weight: Value, number: int, axis: Axis) -> Value:
    """The weight with zeros between the taps of dimension `number`, at the places that the phases have."""
    if axis.apart == 1:
        return weight
    shape = match.type(weight).concrete
    outer, inner = shape[:number], shape[number + 1 :]

    def parted(value: Value, extents: tuple[int, ...]) -> Value:
        return match.apply("reshape", value, shape=(*outer, *extents, *inner))

    def padded(value: Value, place: int, count: int) -> Value:
        rank = len(match.type(value).concrete)
        after = tuple(count if i == place else 0 for i in range(rank))
        return match.apply("pad", value, before=(0,) * rank, after=after)

    length = axis.taps * axis.dilation * axis.stride
    apart = parted(
        padded(parted(weight, (shape[number], 1)), number + 1, axis.apart - 1), (shape[number] * axis.apart,)
    )
    longer = padded(apart, number, max(0, length - shape[number] * axis.apart))
    cut = match.apply("slice", longer, axis=number, start=0, stop=length, step=1)
    every = parted(cut, (axis.taps, axis.dilation, axis.stride))
    kept = match.apply("slice", every, axis=number + 1, start=0, stop=1, step=1)
    return parted(kept, (axis.taps * axis.stride,))


def _as_phases(match: Match) -> Value:
    groups = match.graph.node(match.root).attrs["groups"]
    batch, out, *_ = match.type(Value(match.root)).shape
    axes = _axes(match)
    phases = prod(axis.stride for axis in axes)
    bias: tuple[Value, ...] = match["bias"]
    if bias and phases > 1:
        column = match.apply("reshape", bias[0], shape=(out, 1))
        repeated = match.apply("mul", column, match.constant(1.0, (1, phases)))
        bias = (match.apply("reshape", repeated, shape=(out * phases,)),)
    y = match.apply(
        f"conv{len(axes)}d",
        match["x"],
        _packed(match, axes, groups),
        *bias,
        stride=(1,) * len(axes),
        padding=(*(axis.before for axis in axes), *(axis.after for axis in axes)),
        dilation=tuple(axis.dilation for axis in axes),
        groups=groups,
    )
    places = match.type(y).shape[2:]
    if phases > 1:
        apart = match.apply("reshape", y, shape=(batch, out, *(axis.stride for axis in axes), *places))
        between = [2 + len(axes) * part + i for i in range(len(axes)) for part in (1, 0)]
        shuffled = match.apply("permute", apart, order=(0, 1, *between))
        every = tuple(extent * axis.stride for extent, axis in zip(places, axes, strict=True))
        y = match.apply("reshape", shuffled, shape=(batch, out, *every))
    for number, axis in enumerate(axes, 2):
        if match.type(y).shape[number] != axis.places:
            y = match.apply("slice", y, axis=number, start=axis.lead, stop=axis.lead + axis.places, step=1)
    return y


def _in_a_row(match: Match) -> Value:
    """The transposed convolution of a picture of height 1."""
    attrs, (n, c, extent) = match.graph.node(match.root).attrs, match.type(match["x"]).shape
    inputs, per_group, taps = match.type(match["w"]).shape
    before, after = attrs["padding"]
    picture = match.apply("reshape", match["x"], shape=(n, c, 1, extent))
    kernel = match.apply("reshape", match["w"], shape=(inputs, per_group, 1, taps))
    high: dict[str, Any] = {
        "stride": (1, *attrs["stride"]),
        "padding": (0, before, 0, after),
        "output_padding": (0, *attrs["output_padding"]),
        "dilation": (1, *attrs["dilation"]),
        "groups": attrs["groups"],
    }
    made = match.apply("conv_transpose2d", picture, kernel, *match["bias"], **high)
    return match.apply("reshape", made, shape=match.type(Value(match.root)).shape)


RULES = (
    Rule(
        "conv_transpose1d(x, w, b) => conv_transpose2d(x, w, b), of height 1",
        Op("conv_transpose1d", Var("x"), Frozen("w"), rest="bias"),
        _in_a_row,
    ),
    Rule(
        "conv_transpose2d(x, w, b) => slice(pixel_shuffle(conv2d(x, phases(w), repeat(b))))",
        Op("conv_transpose2d", Var("x"), Frozen("w"), rest="bias"),
        _as_phases,
    ),
    Rule(
        "conv_transpose3d(x, w, b) => slice(pixel_shuffle(conv3d(x, phases(w), repeat(b))))",
        Op("conv_transpose3d", Var("x"), Frozen("w"), rest="bias"),
        _as_phases,
    ),
)


def phases(graph: Graph, journal: Journal | None = None) -> Graph:
    """`graph` with its transposed convolutions as convolutions and pixel shuffles, where the rules hold."""
    return rewrite_graph(graph, RULES, journal)
