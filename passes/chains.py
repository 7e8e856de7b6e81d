"""Chains: linear operators in a row become one, where that costs no more.

    conv(conv(x, a), b)         => conv(x, b * a)
    linear(linear(x, a), b)     => linear(x, b a)
    avg_pool(conv(x, a)) * s    => avg_pool(conv(x, a) * s)

The first two take any linear region (`specc.passes.regions`): average pools, zero padding, strided slices, scales,
sums and concatenations between the convolutions go with them. They leave one node of several, so chains end. Serial
branches of this kind are what the diverse branch block trains (arXiv:2103.13425, section 3.3).
"""

from __future__ import annotations

from specc.ir.graph import Value
from specc.passes.regions import Region
from specc.passes.rewrite import Frozen, Match, Op, Refused, Rule, Var
from specc.passes.weight_space import is_per_channel, sole_use


def _chain(op: str, name: str, *roots: str) -> Rule:
    """The longest chain under the root that can become one; without a table, if there is one."""

    def rewrite(match: Match) -> Value | None:
        root, region = Value(match.root), Region(match, op)
        refusal = None
        for tables in (False, True):
            for source in reversed(region.sources(root)[1:]):
                try:
                    merged = region.merged([root], source, tables)
                except Refused as refused:
                    refusal = refused  # that of the shortest chain says most
                    continue
                if merged is not None:
                    return merged
        if refusal:
            raise refusal
        return None

    return Rule(f"{name}({name}(x, a), b) => {name}(x, b * a)", Op((op, *roots), X, rest="weights"), rewrite)


def _scale_pool(match: Match) -> Value | None:
    """Brings a scale behind a pool to the convolution before it, where it disappears."""
    pool, conv = Value(match["pool"]), Value(match["inner"])
    for value in (conv, pool):
        if reason := sole_use(match, value):
            raise Refused(reason)
    if match.type(pool) != match.type(Value(match.root)):
        return None
    if not is_per_channel(match, match["s"], pool, 1):
        raise Refused(f"the factor {match.type(match['s'])} differs within a channel")
    return match.apply("avg_pool2d", match.apply("mul", conv, match["s"]), **match.graph.node(pool.node).attrs)


X, A = Var("x"), Frozen("a")

RULES = (
    _chain("conv2d", "conv", "avg_pool2d"),
    _chain("linear", "linear"),
    Rule(
        "avg_pool(conv(x, a)) * s => avg_pool(conv(x, a) * s)",
        Op("mul", Op("avg_pool2d", Op("conv2d", X, A, name="inner", rest="inner_bias"), name="pool"), Frozen("s")),
        _scale_pool,
    ),
)
