"""Canonicalize: one form for each thing, so that later passes have one form to know.

    a / f => a * (1 / f)            f frozen
    a - f => a + (-f)               f frozen
    global_avg_pool(x) => mean(x, [2, 3])
    flatten(x) => reshape(x)
    reshape(reshape(x)) => reshape(x)
    identities => x                 dropout at inference, x * 1, x + 0, a concat of one, and reshapes, permutes, pads,
                                    slices and layout conversions that change nothing

then common subexpressions become one node, and what no output needs goes. Every rule removes a node or replaces an
operator by one that no rule takes apart again, so the pass ends. Sums, differences and quotients of frozen values alone
are left as they are: they are computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from specc.ir.graph import Graph, Value
from specc.passes.rewrite import Frozen, Journal, Match, Op, Pattern, Rule, Var, rewrite_graph

X = Var("x")


def _is_constant(match: Match, value: Value, number: float) -> bool:
    node = match.graph.node(value.node)
    return node.op == "constant" and node.attrs["value"] == number


def _always(match: Match) -> bool:
    return True


def _identity(equation: str, op: str, *operands: Pattern, when: Callable[[Match], bool] = _always) -> Rule:
    """The rule `op(x) => x` where the type stays and `when` holds."""

    def rewrite(match: Match) -> Value | None:
        stays = match.type(match["x"]) == match.type(Value(match.root)) and when(match)
        return match["x"] if stays else None

    return Rule(equation, Op(op, X, *operands), rewrite)


def _in_order(match: Match) -> bool:
    order = match.graph.node(match.root).attrs["order"]
    return bool(order == tuple(range(len(order))))


def _to_mean(match: Match) -> Value:
    return match.apply("mean", match["x"], axes=(2, 3), keep=match.graph.node(match.root).attrs["keep"])


def _to_reshape(match: Match) -> Value:
    return match.apply("reshape", match["x"], shape=match.type(Value(match.root)).shape)


RULES = (
    Rule(
        "a / f => a * (1 / f)",
        Op("div", Var("a"), Frozen("f")),
        lambda m: m.apply("mul", m["a"], m.apply("div", m.constant(1.0), m["f"])),
    ),
    Rule(
        "a - f => a + (-f)",
        Op("sub", Var("a"), Frozen("f")),
        lambda m: m.apply("add", m["a"], m.apply("neg", m["f"])),
    ),
    Rule("global_avg_pool(x) => mean(x, [2, 3])", Op("global_avg_pool", X), _to_mean),
    Rule("flatten(x) => reshape(x)", Op("flatten", X), _to_reshape),
    Rule("reshape(reshape(x)) => reshape(x)", Op("reshape", Op("reshape", X)), _to_reshape),
    _identity("dropout(x) => x", "dropout"),
    _identity("x * 1 => x", "mul", Frozen("f"), when=lambda m: _is_constant(m, m["f"], 1.0)),
    _identity("x + 0 => x", "add", Frozen("f"), when=lambda m: _is_constant(m, m["f"], 0.0)),
    _identity("concat(x) => x", "concat"),
    _identity("reshape(x) => x", "reshape"),
    _identity("permute(x) => x", "permute", when=_in_order),
    _identity("pad(x) => x", "pad"),
    _identity("slice(x) => x", "slice"),
    _identity("convert_layout(x) => x", "convert_layout"),
)


def canonicalize(graph: Graph, journal: Journal | None = None) -> Graph:
    """The canonical form of `graph`: fewer or as many nodes, equal results at inference."""
    return merge_common(rewrite_graph(graph, RULES, journal))


def merge_common(graph: Graph) -> Graph:
    """Nodes with the same operator, attributes and operands become one; what no output needs is removed."""
    graph = graph.copy()
    graph.prune()
    known: dict[Any, int] = {}
    for identity in graph.order():
        node = graph.node(identity)
        key = (node.op, tuple(sorted(node.attrs.items(), key=lambda item: item[0])), graph.operands(identity))
        first = known.setdefault(key, identity)
        if first != identity and node.op != "input":
            for result in range(len(node.types)):
                graph.replace(Value(identity, result), Value(first, result))
    graph.prune()
    return graph
