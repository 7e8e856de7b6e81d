"""Depthwise-separable convolutions: a depthwise convolution and the 1x1 convolution behind it as one group.

    x --depthwise k x k--> --elementwise nodes--> between --1x1 convolution--> result

An expansion in front of the depthwise convolution may be in the group already (`expansion`): then it becomes a whole
inverted residual.

On a GPU, one launch can compute both: a block of threads keeps what is between them for its pixels in shared memory,
and multiplies it by the weights of its outputs. It is to have all outputs of a pixel, or else other blocks compute the
depthwise part again; so there is a bound on how many they are. Whether one launch takes less time than two at some
size, the kernel's model of traffic and launches decides (`backends/tvm/cuda/separable.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph
from specc.passes.expansion import is_depthwise, is_pointwise

MOST = 256
"""Outputs of a pixel that a block computes."""


def matches(graph: Graph, members: Sequence[int], identity: int) -> bool:
    """Whether a node is a 1x1 convolution, and the group `members` in front of it a depthwise one and its epilogue,
    or these behind an expansion."""
    *expansions, deep = convolutions(graph, members)
    behind = is_pointwise(graph, identity) and is_depthwise(graph, deep)
    return behind and (not expansions or (len(expansions) == 1 and is_pointwise(graph, expansions[0])))


def convolutions(graph: Graph, members: Sequence[int]) -> list[int]:
    """The members of a group that are not elementwise, or the first one where all are."""
    return [member for member in members if not graph.node(member).record.elementwise] or [*members[:1]]


def refusal(graph: Graph, members: Sequence[int], identity: int) -> str | None:
    """Why the 1x1 convolution `identity` does not join the group `members`, which nobody else needs."""
    frozen, (*expansions, deep) = graph.frozen(), convolutions(graph, members)
    between, *weights = graph.operands(identity)
    types = [graph.type(value) for value in (*graph.operands(deep), *graph.operands(identity))]
    if any(type.symbols() or type.layout for type in (*types, *graph.node(identity).types)):
        return "their extents are not known, or they compute in blocks of channels"
    factors = (between, weights[0], *(graph.operands(expansion)[0] for expansion in expansions))
    kinds = {graph.type(value).dtype for value in factors}
    if len(kinds) > 1 or not kinds <= {"float32", *HALVES} or graph.node(identity).types[0].dtype != "float32":
        return f"it computes with {' and '.join(sorted(kinds))}"
    read = [operand for member in members for operand in graph.operands(member)]
    if any(value.node not in frozen for value in weights) or weights[0] in (*read, *weights[1:]):
        return "its weights vary, or are read elsewhere in the group"
    outputs = graph.node(identity).types[0].concrete[1]
    if outputs > MOST:
        return f"it has {outputs} outputs: with more than {MOST}, the depthwise part would be computed several times"
    return None
