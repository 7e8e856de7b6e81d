"""Scaled pictures: the product of a picture and a scale for each of its channels, and the 1x1 convolution that alone
reads it, as one group. A squeeze-excite ends with such a product.

    picture [n, c, h, w] --.
                            * --1x1 convolution--> --elementwise nodes--> result
    scales [n, c, 1, 1] ---'

The scales may as well be taken into the convolution's weights: as many multiplications as there are weights, in place
of as many as the picture has elements, which are written and read again. So the two join where the convolution has
fewer outputs than half of the picture has pixels. It takes that much, as the convolution reads its weights from beyond
the second-level cache while it computes, and they are waited for where they are scaled.

One core of the Granite Rapids generation, in MobileNetV3 and EfficientNet-B0, the time of the one kernel over that of
the two, least times: 32 -> 16 channels at 112x112 0.73, 144 -> 24 with a residual at 56x56 0.83, 120 -> 40 with a
residual at 28x28 0.89. With more outputs, the block as a whole: 480 -> 112 at 14x14 0.98 to 1.02, 672 -> 112 1.01 to
1.07. Two threads take 0.90, 0.95 and 0.92 of the time of the blocks of the first three, where one takes 0.93, 0.93 and
0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from specc.ir.graph import Graph, Value
from specc.passes.expansion import is_pointwise
from specc.passes.separable import goes_on

_PIXELS = 2
"""So many pixels for each output make it faster to scale weights."""


def matches(graph: Graph, members: Sequence[int], identity: int) -> bool:
    """Whether a node is a 1x1 convolution of a product of a picture and scales, and that a group of its own."""
    first, *more = members
    if more or graph.node(first).op != "mul" or not is_pointwise(graph, identity):
        return False
    shape, frozen = graph.node(first).types[0].shape, graph.frozen()
    operands = graph.operands(first)
    scaled = {graph.type(operand).shape for operand in operands} == {shape, (*shape[:2], 1, 1)}
    return scaled and graph.operands(identity)[0] == Value(first) and not any(o.node in frozen for o in operands)


def refusal(graph: Graph, members: Sequence[int], identity: int, cache: int) -> str | None:
    """Why the 1x1 convolution `identity` does not join the product `members`, which nobody else needs.

    cache   bytes of the second-level cache
    """
    (product,), (_, *weights) = members, graph.operands(identity)
    types = [graph.type(value) for value in (*graph.operands(product), Value(product), Value(identity))]
    if any(type.symbols() for type in types):
        return "their extents are not known"
    kinds = {type.dtype for type in (*types, *map(graph.type, weights))}
    if kinds != {"float32"} or not all(type.layout for type in types):
        return "they do not compute float32 in blocks of channels"
    if any(value.node not in graph.frozen() for value in weights):
        return "its weights vary"
    if goes_on(graph, identity, cache):
        return "it joins the depthwise convolution behind it"
    outputs, pixels = types[-1].concrete[1], prod(types[-1].concrete[2:])
    if _PIXELS * outputs > pixels:
        return f"weights of {outputs} outputs take as long to scale as {pixels} pixels"
    return None
