"""Expansions: a 1x1 convolution and the depthwise convolution behind it as one group, as in an inverted residual.

    x --1x1 convolution--> wide --elementwise nodes--> wide --depthwise k x k--> result

One kernel computes the rows that a window needs, and then the window's row, channel block by channel block: the wide
tensor is never stored. What that saves is its way to memory and back, where it does not stay in the second-level cache
from the one kernel to the other; what it costs are rows at the borders of strips that are computed twice. So the two
join where the wide tensor takes more than three quarters of that cache, as what the kernels read and write beside it
needs room, too, and the rows of a window are small against it.

One core of a Cascade Lake with 1 MB, the time of the one kernel over that of the two: 16 -> 64 channels at 112x112
(3.2 MB), 3x3 with stride 2 and ReLU 0.56 to 0.70; 16 -> 96 (4.8 MB) with SiLU 0.70; 24 -> 144 at 56x56 (1.8 MB) 3x3
0.94, 5x5 with stride 2 0.89. Of what the cache holds, 24 -> 72 at 56x56 (0.9 MB) takes 0.95 to 1.03 of the time,
80 -> 480 at 14x14 (0.4 MB) 0.98 to 1.06. One core of the Granite Rapids generation with 2 MB: 24 -> 144 at 56x56
(1.8 MB) 0.82 by itself; in its network 1.03 with SiLU and, with 5x5 and stride 2, 1.06. Whole networks with these
joined, medians of twelve processes, both forms in turns: MobileNetV2 0.98, EfficientNet-B0 0.99 (two threads of a busy
machine, 0.99 to 1.02: not decided). A wide tensor of half the cache, 24 -> 72 at 56x56 in MobileNetV3, gives 1.00.

On a GPU, a block of threads computes the wide tensor for the pixels of its tile, some channels at a time, in memory
that it shares, and the 1x1 convolution behind the two may join them (`separable`): a whole inverted residual is one
kernel. Whether that is one launch, the kernel's model of traffic and launches decides
(`backends/tvm/cuda/expansion.py`), so that nothing but what the kernel cannot do keeps the two apart here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from specc.ir.dtypes import DTYPES, HALVES
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType, block_of

_BLOCKS = 4
"""Channel blocks that a kernel keeps the rows of a window of, at most."""

_SOURCES = 256
"""Channels in front of the first convolution that a block of threads holds, at most."""


def matches(graph: Graph, anchor: str, identity: int) -> bool:
    """Whether a node is a depthwise convolution, behind a group that begins with an `anchor`."""
    return anchor == "conv2d" and is_depthwise(graph, identity)


def refusal(graph: Graph, members: Sequence[int], identity: int, cache: int) -> str | None:
    """Why the depthwise convolution `identity` does not join the group `members`, which nobody else needs.

    cache   bytes of the second-level cache; 0 where blocks of threads share memory
    """
    frozen = graph.frozen()
    first, *more = (member for member in members if not graph.node(member).record.elementwise)
    wide, *weights = graph.operands(identity)
    source, *others = graph.operands(first)
    types = [graph.type(value) for value in (source, Value(first), wide, Value(identity))]
    if more:
        return "there are several convolutions in front of it already"
    if not is_pointwise(graph, first):
        return "the convolution in front of it has a window, strides, padding or groups"
    if any(type.symbols() for type in types):
        return "its extents are not known"
    if reason := _of_other_numbers(graph, types, others[0], bool(cache)):
        return reason
    if types[3].shape[1] != types[2].shape[1]:
        return "it has several filters a channel"
    read = {operand for member in members if member != first for operand in graph.operands(member)}
    read -= {Value(member) for member in members}
    constants = [*weights, *others]
    if any(value.node not in frozen for value in (*read, *constants)) or len(set(constants)) < len(constants):
        return "the two share weights, or compute with more than weights and what the first one reads"
    return _too_large(graph, types, identity, cache) if cache else _too_deep(types[0])


def _of_other_numbers(graph: Graph, types: Sequence[TensorType], weight: Value, blocked: bool) -> str | None:
    """Why no kernel computes with these types of the source, the sums, the wide tensor and the result."""
    if blocked:
        if any(not type.layout or type.dtype != "float32" for type in types):
            return "the two do not compute float32 in blocks of channels"
        return None
    source, sums, wide, result = types
    kinds = {source.dtype, graph.type(weight).dtype}
    if len(kinds) > 1 or not kinds | {wide.dtype} <= {"float32", *HALVES} or {sums.dtype, result.dtype} != {"float32"}:
        return f"they compute with {' and '.join(sorted({*kinds, wide.dtype}))}"
    return "they compute in blocks of channels" if any(type.layout for type in types) else None


def _too_large(graph: Graph, types: Sequence[TensorType], identity: int, cache: int) -> str | None:
    """Why rows of a window in the second-level cache gain nothing."""
    size = DTYPES["float32"] * prod(types[2].physical)
    if 4 * size <= 3 * cache:
        return f"the {size / 1e6:.3g} MB in front of it stay in a cache of {cache / 1e6:.3g} MB"
    taps, dilation = graph.type(graph.operands(identity)[1]).concrete[2], graph.node(identity).attrs["dilation"][0]
    rows = ((taps - 1) * dilation + 1) * types[2].concrete[3] * _BLOCKS * block_of(types[2].layout)
    if 2 * DTYPES["float32"] * rows > cache:
        return f"the rows of a window take more than half of a cache of {cache / 1e6:.3g} MB"
    return None


def _too_deep(source: TensorType) -> str | None:
    """Why a block of threads does not hold its pixels of the source."""
    if source.concrete[1] <= _SOURCES:
        return None
    return (
        f"a block of threads holds up to {_SOURCES} channels of its pixels, and the first one reads {source.shape[1]}"
    )


def is_depthwise(graph: Graph, identity: int) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    node = graph.node(identity)
    if node.op != "conv2d":
        return False
    channels = graph.type(graph.operands(identity)[0]).shape[1]
    return bool(node.attrs["groups"] == channels != 1)


def is_pointwise(graph: Graph, identity: int) -> bool:
    """Whether a node is a convolution of 1x1, and nothing else."""
    node = graph.node(identity)
    if node.op != "conv2d":
        return False
    attrs, kernel = node.attrs, graph.type(graph.operands(identity)[1]).shape[2:]
    plain = attrs["groups"] == 1 and tuple(attrs["stride"]) == (1, 1) and not any(attrs["padding"])
    return plain and tuple(kernel) == (1, 1)
