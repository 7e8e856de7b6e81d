"""Chains: two linear operators in a row become one, where that costs no more.

    conv(conv(x, a), b)         => conv(x, b * a)
    avg_pool(conv(x, a))        => conv(x, a / k)       a of one tap: the mean and the product with a commute
    avg_pool(conv(x, a)) * s    => avg_pool(conv(x, a) * s)
    linear(linear(x, a), b)     => linear(x, b a)

Every rule leaves one node of two, so chains end. Serial branches of this kind are what the diverse branch block trains
(arXiv:2103.13425, section 3.3).
"""

from __future__ import annotations

from specc.ir.dims import product
from specc.ir.graph import Value
from specc.passes import convolutions
from specc.passes.branches import linear_product
from specc.passes.rewrite import Frozen, Match, Op, Refused, Rule, Var
from specc.passes.weight_space import is_per_channel, sole_use


def _inner(match: Match) -> Value:
    """The operator under the root; refused where others need its result."""
    value = Value(match["inner"])
    if reason := sole_use(match, value):
        raise Refused(reason)
    return value


def _conv_conv(match: Match) -> Value | None:
    outer, inner = convolutions.read(match, Value(match.root)), convolutions.read(match, Value(match["inner"]))
    if outer is None or inner is None:
        return None
    _inner(match)
    return convolutions.write(match, convolutions.compose(match, outer, inner))


def _pool_conv(match: Match) -> Value | None:
    inner = convolutions.read(match, Value(match["inner"]))
    if inner is None:
        return None
    _inner(match)
    merged = convolutions.pooled(match, match.graph.node(match.root).attrs, inner)
    return None if merged is None else convolutions.write(match, merged)


def _scale_pool(match: Match) -> Value | None:
    """Brings a scale behind a pool to the convolution before it, where it disappears."""
    pool, conv = Value(match["pool"]), _inner(match)
    if reason := sole_use(match, pool):
        raise Refused(reason)
    if match.type(pool) != match.type(Value(match.root)):
        return None
    if not is_per_channel(match, match["s"], pool, 1):
        raise Refused(f"the factor {match.type(match['s'])} differs within a channel")
    return match.apply("avg_pool2d", match.apply("mul", conv, match["s"]), **match.graph.node(pool.node).attrs)


def _linear_linear(match: Match) -> Value | None:
    if not all(match.is_frozen(value) for value in (*match["bias"], *match["inner_bias"])):
        return None
    inner = _inner(match)
    (out, middle), inputs = match.type(match["b"]).shape, match.type(match["a"]).shape[1]
    cost, limit = product((out, inputs)), product((out, middle)) + product((middle, inputs))
    if isinstance(cost, int) and isinstance(limit, int) and cost > limit:
        raise Refused(f"one matrix would cost {cost} multiplications for each vector, the two cost {limit}")
    return linear_product(match, Value(match.root), inner)


X, A, B = Var("x"), Frozen("a"), Frozen("b")

RULES = (
    Rule(
        "conv(conv(x, a), b) => conv(x, b * a)",
        Op("conv2d", Op("conv2d", X, A, name="inner", rest="inner_bias"), B, rest="bias"),
        _conv_conv,
    ),
    Rule(
        "avg_pool(conv(x, a)) => conv(x, a / k)",
        Op("avg_pool2d", Op("conv2d", X, A, name="inner", rest="inner_bias")),
        _pool_conv,
    ),
    Rule(
        "avg_pool(conv(x, a)) * s => avg_pool(conv(x, a) * s)",
        Op("mul", Op("avg_pool2d", Op("conv2d", X, A, name="inner", rest="inner_bias"), name="pool"), Frozen("s")),
        _scale_pool,
    ),
    Rule(
        "linear(linear(x, a), b) => linear(x, b a)",
        Op("linear", Op("linear", X, A, name="inner", rest="inner_bias"), B, rest="bias"),
        _linear_linear,
    ),
)
