"""Addends: two 1x1 convolutions whose results are added up, as one group.

    x --1x1 convolution--.
                          + --elementwise nodes--> result
    y --1x1 convolution--'

One kernel takes the products of both: neither result is written and read again. In ResNet, the first block of a stage
has such a residual, at stride 2 in all but the first one.

One core of the Granite Rapids generation, the time of the one kernel over that of the two, the second of which adds its
products to the first one's result in place, in float32, bfloat16 and integers, the last two in tiles: 64 + 64 to 256
channels at 56x56 0.96, 0.51, 0.60; 128 + 256 to 512 at 28x28 1.01, 0.79, 0.77; 256 + 512 to 1024 at 14x14 0.96, 0.92,
0.96; 512 + 1024 to 2048 at 7x7, where the weights take what time there is, 1.02, 1.02, 1.03.
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.ir.graph import Graph, Value
from specc.ir.placement import size

_KINDS = {"float32": "float32", "bfloat16": "bfloat16", "uint8": "int8"}
"""By the type of activations that kernels multiply, that of weights."""

_PART = 4
"""Where a result is smaller than such a part of all weights, these are what takes time."""


def matches(graph: Graph, hosts: Sequence[Sequence[int]], identity: int) -> bool:
    """Whether a node adds up what two groups make that begin with 1x1 convolutions, and have no other of these."""
    heads = [convolutions(graph, members) for members in hosts]
    return graph.node(identity).op == "add" and len(heads) == 2 and all(len(each) == 1 for each in heads)


def convolutions(graph: Graph, members: Sequence[int]) -> list[int]:
    """The members of a group that are not elementwise; none where one of them is no dense 1x1 convolution, or of what
    the group computes itself."""
    found = [member for member in members if not graph.node(member).record.elementwise]
    first = [graph.operands(member)[0].node not in members for member in found]
    return found if all(first) and all(_is_product(graph, member) for member in found) else []


def _is_product(graph: Graph, identity: int) -> bool:
    node = graph.node(identity)
    if node.op not in ("conv2d", "conv2d_integer") or node.attrs["groups"] != 1 or any(node.attrs["padding"]):
        return False
    return tuple(graph.type(graph.operands(identity)[1]).shape[2:]) == (1, 1)


def refusal(graph: Graph, hosts: Sequence[Sequence[int]], cache: int) -> str | None:
    """Why the groups `hosts`, whose results nobody else needs, are not one kernel.

    cache   bytes of the second-level cache; 0 where kernels do not go by them
    """
    if not cache:
        return "no kernel takes the products of both"
    heads = [convolutions(graph, members)[0] for members in hosts]
    sources, weights, biases = zip(*((x, w, b) for x, w, *b in map(graph.operands, heads)), strict=True)
    types = [graph.type(value) for value in (*sources, *weights, *map(Value, heads))]
    if any(type.symbols() for type in types):
        return "their extents are not known"
    if any(not graph.type(value).layout for value in (*sources, *map(Value, heads))):
        return "they do not compute in blocks of channels"
    kinds = {(graph.type(x).dtype, graph.type(w).dtype) for x, w in zip(sources, weights, strict=True)}
    if len(kinds) > 1 or not kinds <= _KINDS.items():
        return f"they compute with {' and '.join(sorted({dtype for kind in kinds for dtype in kind}))}"
    constants = [*weights, *(value for each in biases for value in each)]
    if any(value.node not in graph.frozen() for value in constants) or len(set(constants)) < len(constants):
        return "their weights vary, or are those of both"
    between, read = size(graph.type(Value(heads[0]))), sum(size(graph.type(weight)) for weight in weights)
    if _PART * between < read:
        return f"the {between / 1e6:.3g} MB of either are little beside {read / 1e6:.3g} MB of weights"
    return None
