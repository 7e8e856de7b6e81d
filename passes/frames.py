"""Convolutions over time as convolutions of pictures.

    conv3d(x, w, b) => conv2d(x, w, b), time for height                      kernels over time alone
    conv3d(x, w, b) => conv2d(concat(frames(x, t) for t), w, b)              others
    conv3d(x, w, b) => sum of conv2d(frames(x, t), w[t], b) over t           depthwise ones

A kernel [kd, 1, 1] that moves by single places over height and width sees [n, c, d, h * w] as a picture: that is a
view. Other kernels see frames: the batch is n * d pictures of c channels, and what `kd` of them have at a place stands
side by side as channels, kd * c of them. Where a channel has a kernel of its own, side by side they would be groups of
`kd` inputs and one result, which are slow for every kernel; there, the convolutions of single frames are added up.

What it costs: a copy of x for every tap of time, one to put time in front of channels and one back, unless a neighbour
sees frames as well. What it brings: the kernels of pictures, where only the general one takes a conv3d. 64 channels of
8 frames of 28x28 with 3x3x3 take 4.7 ms in place of 2658, a third of it copies (one core of the Granite Rapids
generation).

Weights that depend on an input stay: packing them would be work at run time. Each rule removes a conv3d, so they end.
"""

from __future__ import annotations

from typing import Any

from specc.ir.graph import Graph, Value
from specc.passes.rewrite import Frozen, Journal, Match, Op, Rule, Var, rewrite_graph

_TIME_FIRST = (0, 2, 1, 3, 4)


def _over_time(match: Match) -> Value | None:
    """A kernel of one place in height and width, as [kd, 1] over a picture of all places beside each other."""
    attrs, (n, c, d, h, w) = match.graph.node(match.root).attrs, match.type(match["x"]).shape
    out, inputs, taps, *extents = match.type(match["w"]).shape
    top, high, wide, bottom, low, right = attrs["padding"]
    if extents != [1, 1] or attrs["stride"][1:] != (1, 1) or any((high, wide, low, right)):
        return None
    picture = match.apply("reshape", match["x"], shape=(n, c, d, h * w))
    weight = match.apply("reshape", match["w"], shape=(out, inputs, taps, 1))
    moved = {
        "stride": (attrs["stride"][0], 1),
        "padding": (top, 0, bottom, 0),
        "dilation": (attrs["dilation"][0], 1),
        "groups": attrs["groups"],
    }
    y = match.apply("conv2d", picture, weight, *match["bias"], **moved)
    return match.apply("reshape", y, shape=match.type(Value(match.root)).shape)


def _frames(match: Match) -> list[Value]:
    """For each tap of time, the frames that it reads for one result after the other: [n, results, c, h, w]."""
    attrs, x = match.graph.node(match.root).attrs, match["x"]
    before, after = attrs["padding"][0], attrs["padding"][3]
    if before or after:
        x = match.apply("pad", x, before=(0, 0, before, 0, 0), after=(0, 0, after, 0, 0))
    x = match.apply("permute", x, order=_TIME_FIRST)
    stride, apart, results = attrs["stride"][0], attrs["dilation"][0], match.type(Value(match.root)).shape[2]
    found = []
    for tap in range(match.type(match["w"]).concrete[2]):
        stop = tap * apart + stride * (results - 1) + 1
        if match.type(x).shape[1] == stop and not tap and stride == 1:
            found.append(x)
        else:
            found.append(match.apply("slice", x, axis=1, start=tap * apart, stop=stop, step=stride))
    return found


def _pictures(match: Match, frames: Value, weight: Value, bias: tuple[Value, ...]) -> Value:
    """The convolution of [n, results, c, h, w] with [out, c / groups, kh, kw], as [n * results, out, ...]."""
    attrs, (n, results, c, h, w) = match.graph.node(match.root).attrs, match.type(frames).shape
    top, left, bottom, right = (attrs["padding"][i] for i in (1, 2, 4, 5))
    window = {
        "stride": attrs["stride"][1:],
        "padding": (top, left, bottom, right),
        "dilation": attrs["dilation"][1:],
        "groups": attrs["groups"],
    }
    pictures = match.apply("reshape", frames, shape=(n * results, c, h, w))
    return match.apply("conv2d", pictures, weight, *bias, **window)


def _in_time(match: Match, pictures: Value) -> Value:
    """[n * results, out, h, w] as [n, out, results, h, w]."""
    n, out, results, h, w = match.type(Value(match.root)).shape
    return match.apply("permute", match.apply("reshape", pictures, shape=(n, results, out, h, w)), order=_TIME_FIRST)


def _side_by_side(match: Match) -> Value:
    groups, frames = match.graph.node(match.root).attrs["groups"], _frames(match)
    n, results, c, h, w = match.type(frames[0]).shape
    out, inputs, taps, kh, kw = match.type(match["w"]).concrete
    weight = match.apply("permute", match["w"], order=_TIME_FIRST)
    weight = match.apply("reshape", weight, shape=(out, taps * inputs, kh, kw))
    joined = frames[0]
    if taps > 1:  # the channels of a group, of one frame after the other, then those of the next group
        apart = [match.apply("reshape", each, shape=(n, results, groups, inputs, h, w)) for each in frames]
        joined = match.apply("concat", *apart, axis=3)
        joined = match.apply("reshape", joined, shape=(n, results, taps * c, h, w))
    return _in_time(match, _pictures(match, joined, weight, match["bias"]))


def _one_by_one(match: Match) -> Value | None:
    out, inputs, taps, kh, kw = match.type(match["w"]).concrete
    if inputs > 1 or taps == 1 or match.graph.node(match.root).attrs["groups"] == 1:
        return None
    total, bias = None, match["bias"]
    for tap, frames in enumerate(_frames(match)):
        weight = match.apply("slice", match["w"], axis=2, start=tap, stop=tap + 1, step=1)
        weight = match.apply("reshape", weight, shape=(out, inputs, kh, kw))
        term = _pictures(match, frames, weight, bias)
        total, bias = term if total is None else match.apply("add", total, term), ()
    assert total is not None
    return _in_time(match, total)


def _rule(equation: str, rewrite: Any) -> Rule:
    return Rule(equation, Op("conv3d", Var("x"), Frozen("w"), rest="bias"), rewrite)


RULES = (
    _rule("conv3d(x, w, b) => conv2d(x, w, b), time for height", _over_time),
    _rule("conv3d(x, w, b) => sum of conv2d(frames(x, t), w[t], b) over t", _one_by_one),
    _rule("conv3d(x, w, b) => conv2d(concat(frames(x, t) for t), w, b)", _side_by_side),
)


def frames(graph: Graph, journal: Journal | None = None) -> Graph:
    """`graph` with its convolutions over time as convolutions of pictures."""
    return rewrite_graph(graph, RULES, journal)
