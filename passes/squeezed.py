"""Squeezed pictures: a depthwise convolution and the mean over height and width of what it makes, as one group. A
squeeze-excite begins with such a mean; its small products join the group.

    x --depthwise k x k--> --elementwise nodes--> picture
    picture --mean--> (--1x1 convolution--> --elementwise nodes-->)* scales

One kernel adds up the picture while it has it in registers, which would else be read again, the larger ones from beyond
the second-level cache. It has two results, so the mean joins where others read the picture, too. The convolution may
have its expansion in front of it (`expansion`).

One core of the Granite Rapids generation with 2 MB, in EfficientNet-B0 and MobileNetV3, the time of the one kernel over
that of the two, with the small products, of the faster runs: 32 channels at 112x112 (1.6 MB) 0.78, 144 at 56x56 (1.8
MB) 0.83, 96 at 56x56 behind their expansion 0.96 to 1.00, 240 at 28x28 (0.8 MB) 0.98, 120 at 28x28 (0.4 MB) 0.97. 672
at 7x7 (0.13 MB), whose products wait for their weights, took 1.03 of the time of the block.
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.ir.graph import Graph, Value
from specc.ir.placement import size
from specc.passes.expansion import is_depthwise, is_pointwise

_PART = 10
"""Pictures of such a part of the second-level cache and less are as well read again."""


def matches(graph: Graph, members: Sequence[int], identity: int) -> bool:
    """Whether a node is the mean over height and width of what a group ends with, whose last convolution is a depthwise
    one."""
    node, convolutions = graph.node(identity), _convolutions(graph, members)
    if node.op != "mean" or not node.attrs["keep"] or graph.operands(identity) != (Value(members[-1]),):
        return False
    over = sorted(axis % 4 for axis in node.attrs["axes"])
    return over == [2, 3] and node.types[0].rank == 4 and bool(convolutions) and is_depthwise(graph, convolutions[-1])


def _convolutions(graph: Graph, members: Sequence[int]) -> list[int]:
    return [member for member in members if not graph.node(member).record.elementwise]


def refusal(graph: Graph, members: Sequence[int], identity: int, cache: int) -> str | None:
    """Why the mean `identity` does not join the group `members`.

    cache   bytes of the second-level cache
    """
    *expansions, deep = _convolutions(graph, members)
    picture, (source, *weights) = Value(members[-1]), graph.operands((*expansions, deep)[0])
    types = [graph.type(value) for value in (source, *map(Value, (*members, identity)))]
    if any(type.symbols() for type in types):
        return "their extents are not known"
    if any(not type.layout or type.dtype != "float32" for type in types):
        return "they do not compute float32 in blocks of channels"
    if graph.uses(picture) < 2:
        return "nobody else reads the picture, and it need not be stored"
    if len(expansions) > 1 or not all(is_pointwise(graph, expansion) for expansion in expansions):
        return "there is more than an expansion in front of the depthwise convolution"
    if graph.type(Value(deep)).shape[1] != graph.type(graph.operands(deep)[0]).shape[1]:
        return "the depthwise convolution has several filters a channel"
    constants = [*weights, *graph.operands(deep)[1:]] if expansions else weights
    if source.node in members or any(value.node not in graph.frozen() for value in constants):
        return "the weights vary, or the group computes what the convolution reads"
    if _PART * size(graph.type(picture)) <= cache:
        return f"a picture of {size(graph.type(picture)) / 1e6:.3g} MB is read again in little time"
    return None
