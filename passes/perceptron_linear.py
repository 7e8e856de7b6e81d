"""Perceptrons of rows: two linear layers, one behind the other, as one group, with the norm in front of them.

    x (--norm--> normal) --linear--> wide --elementwise nodes--> wide --linear--> result

One kernel computes all for a strip of rows, and keeps what is between them in the second-level cache of its core. So
the wide tensor never exists as a whole, nor the normalized one. The rule is that of 1x1 convolutions (`perceptron`):
the cache holds the weights of both beside a strip, and does not hold what is read, handed over and written.

One core of the Granite Rapids generation with 2 MB, four blocks of a layer_norm, a perceptron with GELU and a residual,
the time with one kernel over that with three, medians of processor time in turns beside busy neighbours, without the
norm and with it: 3136 rows, 64 -> 256 -> 64 features 0.94 and 0.92, 96 -> 384 -> 96 0.95 to 0.98 and 0.90 to 0.96, 128
-> 512 -> 128 0.91 and 0.88; 784 rows, 192 -> 768 -> 192 1.01 and 0.97 to 1.01. Such a block holds no tensor beside its
operand and its result, which may be one. Where the weights fill the cache, each strip reads them from beyond it: 384 ->
1536 -> 384 with 196 rows 1.08 to 1.13, with 197 1.17, 768 -> 3072 -> 768 with 49 rows 1.9. Where the cache holds all of
it, 197 rows, 192 -> 768 -> 192, 1.07. Whole networks: Swin-T 1.00 to 1.01 (6.0 MB in place of 7.2), EdgeNeXt-S 0.99
(3.2 in place of 4.7), Mixer-B/16 0.98.
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.ir.graph import Graph, Value
from specc.passes.perceptron import gains_nothing, types_of, varies, weights_of

_NORMS = ("layer_norm", "rms_norm")


def matches(graph: Graph, members: Sequence[int], identity: int, operand: Value) -> bool:
    """Whether a node is a linear layer of `operand`, which the group `members` makes: one that begins with a linear
    layer, and has no other node that is not elementwise."""
    heads = [member for member in members if not graph.node(member).record.elementwise]
    behind = graph.node(identity).op == "linear" and graph.operands(identity)[0] == operand
    return behind and heads == [*members[:1]] and graph.node(heads[0]).op == "linear"


def refusal(graph: Graph, members: Sequence[int], identity: int, cache: int) -> str | None:
    """Why the linear layer `identity` does not join the group `members`, which nobody else needs.

    cache   bytes of the second-level cache
    """
    first = members[0]
    if reason := varies(graph, members, first, identity):
        return reason
    return gains_nothing(types_of(graph, first, identity), weights_of(graph, first, identity), cache, -1)


def norm_of(graph: Graph, members: Sequence[int]) -> int | None:
    """The norm that the first layer of the group `members` reads, alone; None where there is none."""
    value = graph.operands(members[0])[0]
    node = graph.node(value.node)
    if (
        node.op not in _NORMS
        or graph.uses(value) != 1
        or node.attrs["axis"] % node.types[0].rank != node.types[0].rank - 1
    ):
        return None
    return value.node if graph.type(graph.operands(value.node)[0]) == node.types[0] else None
