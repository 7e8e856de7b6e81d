"""Re-parameterization: everything linear that can be one convolution (or one matrix product) becomes one.

Batch norm at inference is a scale and a shift of every channel; scales and shifts move into the weights of a neighbour:

    batch_norm(x, mean, var, g, b) => x * s + t         s = g / sqrt(var + eps), t = b - mean * s
    conv(x, w, b) * s              => conv(x, w * s, b * s)
    linear(x, w, b) * s            => linear(x, w * s, b * s)
    conv(x * s, w)                 => conv(x, w * s)     per input channel; zero padding stays zero
    conv(x + t, w)                 => conv(x, w, b + w t) without padding: at a border, padding stands for x + t = 0
    linear(x * s, w)               => linear(x, w * s)
    linear(x + t, w, b)            => linear(x, w, b + w t)

in the normal form of `specc.passes.affine`, past the changes of shape of `specc.passes.views`. The sums of
`specc.passes.branches` become one term, and so do those of matrices and convolutions of `specc.passes.spatial`; the
chains of `specc.passes.chains` one link, the concatenations of `specc.passes.concats` one part. Everything is computed
on the frozen side of the graph, so the pass needs no weights. A scale or shift moves in one direction, or two terms
become one, so the pass ends.

References: batch norm folding, arXiv:1712.05877, section 3.2; RepVGG, arXiv:2101.03697, section 3.3.
"""

from __future__ import annotations

from specc.ir.graph import Graph, Value
from specc.passes import affine, branches, chains, concats, spatial, views
from specc.passes.rewrite import Frozen, Journal, Match, Op, Refused, Rule, Var, rewrite_graph
from specc.passes.weight_space import (
    add_bias,
    along,
    as_vector,
    channel_axis,
    per_channel,
    response,
    scaled_columns,
    scaled_rows,
    sole_use,
)

X, W = Var("x"), Frozen("w")


def _batch_norm(match: Match) -> Value:
    """`batch_norm(x, mean, var, g, b) => x * s + t`."""
    node = match.graph.node(match.root)
    x, rank = match["x"], match.type(match["x"]).rank
    if not all(match.is_frozen(value) for value in match["affine"]):
        raise Refused("the scale or the shift depends on an input")
    variance = match.apply("add", match["var"], match.constant(node.attrs["eps"]))
    scale = match.apply("rsqrt", variance)
    if match["affine"]:
        scale = match.apply("mul", match["affine"][0], scale)
    shift = match.apply("neg", match.apply("mul", match["mean"], scale))
    if match["affine"]:
        shift = match.apply("add", match["affine"][1], shift)
    scaled = match.apply("mul", x, along(match, scale, 1, rank))
    return match.apply("add", scaled, along(match, shift, 1, rank))


def _bias(match: Match) -> tuple[Value, ...]:
    bias: tuple[Value, ...] = match["bias"]
    if not all(match.is_frozen(value) for value in bias):
        raise Refused("the bias depends on an input")
    return bias


def _weighted_node(match: Match) -> Value:
    """The convolution or matrix product under the root; refused where somebody else needs its result as it is."""
    value = Value(match["weighted"])
    if match.type(value) != match.type(Value(match.root)):
        raise Refused(f"the factor makes {match.type(Value(match.root))} of {match.type(value)}")
    if reason := sole_use(match, value):
        raise Refused(reason)
    return value


def _scale_behind(op: str, name: str) -> Rule:
    def rewrite(match: Match) -> Value:
        value = _weighted_node(match)
        scale = per_channel(match, match["s"], value, channel_axis(match, value))
        if scale is None:
            raise Refused(f"the factor {match.type(match['s'])} differs within a channel")
        bias = tuple(match.apply("mul", b, scale) for b in _bias(match))
        attrs = match.graph.node(value.node).attrs
        return match.apply(op, match["x"], scaled_rows(match, match["w"], scale), *bias, **attrs)

    pattern = Op("mul", Op(op, X, W, rest="bias", name="weighted"), Frozen("s"))
    return Rule(f"{name}(x, w, b) * s => {name}(x, w * s, b * s)", pattern, rewrite)


def _before(match: Match, inner: str, vector: str) -> tuple[Value, Value, int]:
    """What `x * s` or `x + t` before a weighted operator comes to: x, the vector over input channels, and groups."""
    node = match.graph.node(match.root)
    x, changed = match["x"], Value(match[inner])
    if match.type(x) != match.type(changed):
        raise Refused(f"{match.type(x)} becomes {match.type(changed)} before it")
    if reason := sole_use(match, changed):
        raise Refused(reason)
    axis = 1 if node.op == "conv2d" else match.type(x).rank - 1
    along_channels = per_channel(match, match[vector], x, axis)
    if along_channels is None:
        raise Refused(f"{match.type(match[vector])} differs within a channel")
    return x, along_channels, node.attrs.get("groups", 1)


def _scale_before(op: str, name: str) -> Rule:
    def rewrite(match: Match) -> Value:
        x, scale, groups = _before(match, "scaled", "s")
        weight = scaled_columns(match, match["w"], scale, groups)
        return match.apply(op, x, weight, *match["bias"], **match.graph.node(match.root).attrs)

    pattern = Op(op, Op("mul", X, Frozen("s"), name="scaled"), W, rest="bias")
    return Rule(f"{name}(x * s, w) => {name}(x, w * s)", pattern, rewrite)


def _shift_before(op: str, name: str) -> Rule:
    def rewrite(match: Match) -> Value:
        attrs = match.graph.node(match.root).attrs
        if any(attrs.get("padding", ())):
            raise Refused(
                f"at the border, the zeros of the padding {attrs['padding']} stand behind the shift, not before it"
            )
        x, shift, groups = _before(match, "shifted", "t")
        out, inputs = match.type(match["w"]).shape[:2]
        assert isinstance(out, int) and isinstance(inputs, int)
        moved = response(match, match["w"], as_vector(match, shift, inputs * groups), groups)
        return match.apply(op, x, match["w"], add_bias(match, _bias(match), moved, out), **attrs)

    pattern = Op(op, Op("add", X, Frozen("t"), name="shifted"), W, rest="bias")
    return Rule(f"{name}(x + t, w, b) => {name}(x, w, b + w t)", pattern, rewrite)


RULES = (
    Rule(
        "batch_norm(x, mean, var, g, b) => x * s + t",
        Op("batch_norm", X, Frozen("mean"), Frozen("var"), rest="affine"),
        _batch_norm,
    ),
    *(
        make(op, name)
        for make in (_scale_behind, _scale_before, _shift_before)
        for op, name in (("conv2d", "conv"), ("linear", "linear"))
    ),
    *affine.RULES,
    *branches.RULES,
    *chains.RULES,
    *concats.RULES,
    *spatial.RULES,
    *views.RULES,
)


def reparam(graph: Graph, journal: Journal | None = None) -> Graph:
    """`graph` with scales, shifts and branches merged into the convolutions and matrix products beside them."""
    return rewrite_graph(graph, RULES, journal)
