"""Scales and shifts in a row: one normal form, x * s + t, so that a neighbour meets one scale and one shift.

    (x * s) * u   => x * (s * u)
    (x + t) * u   => x * u + t * u
    a - b         => a + b * (-1)      where b takes the sign into its own weights, or is what a's convolution reads

Shifts in a row are terms of one sum (`specc.passes.branches`). A scale moves towards the inputs or disappears, and a
difference becomes a sum once, so the rules end.
"""

from __future__ import annotations

from specc.ir.graph import Value
from specc.passes.rewrite import Frozen, Match, Op, Refused, Rule, Var
from specc.passes.weight_space import sole_use


def _kept(match: Match, inner: str) -> Value:
    """The value of the node that a pattern calls `inner`; refused where others need it, or it is repeated."""
    value = Value(match[inner])
    if match.type(value) != match.type(Value(match.root)):
        raise Refused(f"{match.type(value)} becomes {match.type(Value(match.root))} behind it")
    if reason := sole_use(match, value):
        raise Refused(reason)
    return value


def _scale_of_scale(match: Match) -> Value:
    _kept(match, "scaled")
    if match.type(match["x"]) != match.type(Value(match.root)):
        raise Refused(f"{match.type(match['x'])} becomes {match.type(Value(match.root))}")
    return match.apply("mul", match["x"], match.apply("mul", match["s"], match["u"]))


def _scale_of_shift(match: Match) -> Value:
    _kept(match, "shifted")
    if match.type(match["x"]) != match.type(Value(match.root)):
        raise Refused(f"{match.type(match['x'])} becomes {match.type(Value(match.root))}")
    scaled = match.apply("mul", match["x"], match["u"], like=match["shifted"])
    return match.apply("add", scaled, match.apply("mul", match["t"], match["u"]))


def _difference(match: Match) -> Value | None:
    a, b = match["a"], match["b"]
    if match.is_frozen(b) or match.type(b) != match.type(Value(match.root)):
        return None
    reads = match.graph.op(a) == "conv2d" and match.graph.operands(a.node)[0] == b
    if not reads and not (match.graph.uses(b) == 1 and _takes_scale(match, b)):
        raise Refused(f"`{match.graph.op(b)}`, which is subtracted, has no weights to take the sign in")
    return match.apply("add", a, match.apply("mul", b, match.constant(-1.0)))


def _takes_scale(match: Match, value: Value) -> bool:
    """Whether a scale behind `value` disappears in frozen operands of the node that makes it."""
    node, operands = match.graph.node(value.node), match.graph.operands(value.node)
    if node.op in ("conv2d", "linear", "batch_norm"):
        return all(match.is_frozen(operand) for operand in operands[1:])
    if node.op == "mul":
        return any(match.is_frozen(operand) for operand in operands)
    if node.op == "add":
        live = [operand for operand in operands if not match.is_frozen(operand)]
        return len(live) == 1 and match.graph.uses(live[0]) == 1 and _takes_scale(match, live[0])
    return False


X = Var("x")

RULES = (
    Rule(
        "(x * s) * u => x * (s * u)",
        Op("mul", Op("mul", X, Frozen("s"), name="scaled"), Frozen("u")),
        _scale_of_scale,
    ),
    Rule(
        "(x + t) * u => x * u + t * u",
        Op("mul", Op("add", X, Frozen("t"), name="shifted"), Frozen("u")),
        _scale_of_shift,
    ),
    Rule("a - b => a + b * (-1)", Op("sub", Var("a"), Var("b")), _difference),
)
