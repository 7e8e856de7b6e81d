"""Perceptrons: two 1x1 convolutions, one behind the other, as one group.

    x --1x1 convolution--> wide --elementwise nodes--> wide --1x1 convolution--> result

One kernel computes both for a strip of pixels, and keeps what is between them in the second-level cache of its core.
So the wide tensor never exists as a whole, neither in a run's memory nor on its way there and back. As products of wide
tensors wait little for memory, one kernel takes about as long as two do, and the memory is what it is for: ConvNeXt-T
runs in 2.41 MB in place of 7.23.

It takes no longer where the cache holds the weights of both beside a strip, and does not hold what the two read, hand
over and write. One core of the Granite Rapids generation with 2 MB, three blocks of a depthwise convolution, a norm, a
perceptron with GELU and a residual, the time with one kernel over that with two, medians, one thread and two: 96 -> 384
-> 96 channels at 56x56 0.99 and 0.99, 64 -> 256 -> 64 0.98 and 0.98, 64 -> 128 -> 64 0.99 and 0.99, 48 -> 144 -> 48 at
64x64 0.95 and 0.95, 192 -> 768 -> 192 at 28x28 0.985 and 0.98, 128 -> 512 -> 128 0.99 and 0.99; memory of a run 0.4 to
0.5. Where the cache holds all of it, 128 -> 256 -> 128 at 28x28, 1.00; where the weights fill it, 256 -> 1024 -> 256 at
28x28 (2.1 MB) 1.01 and 0.97, 384 -> 1536 -> 384 at 14x14 (4.7 MB) 1.03 to 1.15. Whole networks beside busy neighbours,
medians of turns: ConvNeXt-T 0.99 to 1.02 and 0.97 to 1.00, PoolFormer-S12 (1.61 MB in place of 4.82) 0.98 and 0.99,
FastViT-T8 1.00 and 1.00, RepViT-M1.1 1.00 and 1.01. Each thread has memory for a strip besides, an eighth of the cache
at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from specc.ir.dtypes import DTYPES
from specc.ir.graph import Graph, Value
from specc.ir.placement import size
from specc.ir.types import TensorType
from specc.passes.expansion import is_pointwise

_PIXELS = 64
"""Of what is between the two, so many at least are computed together."""


def matches(graph: Graph, members: Sequence[int], identity: int, operand: Value) -> bool:
    """Whether a node is a 1x1 convolution of `operand`, which the group `members` makes: one that begins with a 1x1
    convolution, and has no other node that is not elementwise."""
    heads = [member for member in members if not graph.node(member).record.elementwise]
    behind = is_pointwise(graph, identity) and graph.operands(identity)[0] == operand
    return behind and heads == [*members[:1]] and is_pointwise(graph, heads[0])


def refusal(graph: Graph, members: Sequence[int], identity: int, cache: int) -> str | None:
    """Why the 1x1 convolution `identity` does not join the group `members`, which nobody else needs.

    cache   bytes of the second-level cache
    """
    (first,) = (member for member in members if not graph.node(member).record.elementwise)
    types = types_of(graph, first, identity)
    if reason := varies(graph, members, first, identity):
        return reason
    if any(not type.layout for type in types):
        return "they do not compute in blocks of channels"
    return gains_nothing(types, weights_of(graph, first, identity), cache, 1)


def types_of(graph: Graph, first: int, last: int) -> tuple[TensorType, ...]:
    """The types of what `first` reads and sums up, of what it hands over to `last`, and of the result of that."""
    (source, *_), (wide, *_) = graph.operands(first), graph.operands(last)
    return tuple(graph.type(value) for value in (source, Value(first), wide, Value(last)))


def weights_of(graph: Graph, first: int, last: int) -> tuple[TensorType, ...]:
    """The types of the weights of both."""
    return tuple(graph.type(graph.operands(identity)[1]) for identity in (first, last))


def varies(graph: Graph, members: Sequence[int], first: int, last: int) -> str | None:
    """Why no kernel takes `last` beside the group `members` of `first`: open extents, numbers of other types, weights
    that depend on an input or are read twice."""
    types = types_of(graph, first, last)
    if any(type.symbols() for type in types):
        return "their extents are not known"
    kinds = {type.dtype for type in (*types, *weights_of(graph, first, last))}
    if kinds != {"float32"}:
        return f"they compute with {' and '.join(sorted(kinds))}"
    (_, *expand), (_, *project) = graph.operands(first), graph.operands(last)
    read = [operand for member in members for operand in graph.operands(member)] + project
    if any(value.node not in graph.frozen() or read.count(value) > 1 for value in (*expand, *project)):
        return "their weights vary, or are read elsewhere in the group"
    return None


def gains_nothing(types: Sequence[TensorType], weights: Sequence[TensorType], cache: int, axis: int) -> str | None:
    """Why strips of what is between the two gain nothing, for the types of the source, the first one's sums, what is
    handed over, and the result, whose channels are those of an `axis`."""
    source, _, wide, result = types
    if wide.concrete[axis] < max(source.concrete[axis], result.concrete[axis]):
        return f"the {wide.shape[axis]} channels between them are fewer than what they read or write"
    moved = size(source) + size(wide) + size(result)
    if moved <= cache:
        return f"the {moved / 1e6:.3g} MB that they read, hand over and write stay in a cache of {cache / 1e6:.3g} MB"
    held = sum(DTYPES[weight.dtype] * prod(weight.concrete) for weight in weights)
    held += DTYPES[wide.dtype] * wide.concrete[axis] * _PIXELS
    if 4 * held > 3 * cache:
        return f"their weights and a strip take more than three quarters of a cache of {cache / 1e6:.3g} MB"
    return None
