"""Depthwise-separable convolutions: a depthwise convolution and the 1x1 convolution behind it as one group.

    x --depthwise k x k--> --elementwise nodes--> between --1x1 convolution--> result

An expansion in front of the depthwise convolution may be in the group already (`expansion`): then it becomes a whole
inverted residual.

On a processor, one kernel keeps some rows of what is between them, of all channels, in the caches of its core. It saves
their way to memory and back where the second-level cache does not hold what the two read, hand over and write; where it
does, the two kernels read from it as well as the one does, and share out their work in better pieces. Activations that
are heavy (`specc.ops`) take as long as what it saves: with GELU, 48 -> 48 channels at 128x128 with stride 2 take 1.03
of the time, 48 -> 144 at 64x64 1.00 to 1.02, and FastViT-T8 runs in 0.1 MB more. A 1x1 convolution that can be the
expansion of a depthwise one behind it, or the first of a perceptron, stays for that where it hands on more bytes than
it reads.

One core of the Granite Rapids generation with 2 MB, the time of the one kernel over that of the two, medians, 3x3:
32 -> 64 channels at 112x112 0.87, 32 -> 16 0.86, 64 -> 128 with stride 2 0.93, 96 -> 24 with stride 2 0.85, 144 -> 24
at 56x56 0.87, 128 -> 128 0.94, 128 -> 256 with stride 2 0.99, 256 -> 256 at 28x28 0.99. Of what the cache holds, 192 ->
32 at 28x28 takes 1.00 and 384 -> 64 at 14x14 1.01. Two threads: 0.86 to 0.99. A whole inverted residual over three
kernels, with one thread and with two: 16 -> 96 -> 24 at 112x112 with stride 2 0.72, 0.77 (its expansion and depthwise
convolution alone in one 0.71), 24 -> 144 -> 24 at 56x56 0.91, 0.95, 32 -> 192 -> 32 at 28x28, which the cache holds,
1.11, 0.95. In MobileNetV2, least times: 32 -> 16 channels 0.81, 0.68, 144 -> 24 0.95, 0.88; all kernels 0.98, 0.95.
Its tensors take 2.61 MB in place of 4.01.

On a GPU, one launch can compute both: a block of threads keeps what is between them for its pixels in shared memory,
and multiplies it by the weights of its outputs. It is to have all outputs of a pixel, or else other blocks compute the
depthwise part again; so there is a bound on how many they are. Whether one launch takes less time than two at some
size, the kernel's model of traffic and launches decides (`backends/tvm/cuda/separable.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from specc.ir.cost import nominal_bytes
from specc.ir.dtypes import DTYPES, HALVES
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.passes import expansion, perceptron
from specc.passes.expansion import is_depthwise, is_pointwise

MOST = 256
"""Outputs of a pixel that a block computes."""

_FIFTHS = 6
"""So many fifths of the second-level cache are filled before one kernel gains: 16 channels at 112x112, 1.15 times as
large as the cache, take 0.91 of the time by themselves and 1.02 in MobileNetV3."""

_ROWS = 4
"""Of what is between the two, so many rows at least are computed together on a processor."""


def matches(graph: Graph, members: Sequence[int], identity: int) -> bool:
    """Whether a node is a 1x1 convolution, and the group `members` in front of it a depthwise one and its epilogue,
    or these behind an expansion."""
    *expansions, deep = convolutions(graph, members)
    behind = is_pointwise(graph, identity) and is_depthwise(graph, deep)
    return behind and (not expansions or (len(expansions) == 1 and is_pointwise(graph, expansions[0])))


def convolutions(graph: Graph, members: Sequence[int]) -> list[int]:
    """The members of a group that are not elementwise, or the first one where all are."""
    return [member for member in members if not graph.node(member).record.elementwise] or [*members[:1]]


def refusal(graph: Graph, members: Sequence[int], identity: int, cache: int) -> str | None:
    """Why the 1x1 convolution `identity` does not join the group `members`, which nobody else needs.

    cache   bytes of the second-level cache; 0 where blocks of threads share memory
    """
    frozen, (*expansions, deep) = graph.frozen(), convolutions(graph, members)
    between, *weights = graph.operands(identity)
    types = [graph.type(value) for value in (*graph.operands(deep), *graph.operands(identity))]
    result = graph.node(identity).types[0]
    if any(type.symbols() for type in (*types, result)):
        return "their extents are not known"
    factors = (between, weights[0], *(graph.operands(expansion)[0] for expansion in expansions))
    pictures = (graph.operands(deep)[0], between, *(graph.operands(expansion)[0] for expansion in expansions))
    blocked = {bool(type.layout) for type in (*map(graph.type, pictures), result)}
    if blocked != {bool(cache)}:
        return f"they {'do not ' * bool(cache)}compute in blocks of channels"
    kinds = {graph.type(value).dtype for value in (*pictures, *factors) if cache or value in factors}
    if len(kinds) > 1 or not kinds <= {"float32", *(() if cache else HALVES)} or result.dtype != "float32":
        return f"it computes with {' and '.join(sorted(kinds))}"
    read = [operand for member in members for operand in graph.operands(member)]
    if any(value.node not in frozen for value in weights) or weights[0] in (*read, *weights[1:]):
        return "its weights vary, or are read elsewhere in the group"
    if cache:
        constants = [value for member in (*expansions, deep) for value in graph.operands(member)[1:]] + weights
        if any((*read, *weights).count(value) > 1 or value.node not in frozen for value in constants):
            return "the weights in front of it vary, or are read elsewhere in the group"
        if graph.type(between).shape[1] != graph.type(graph.operands(deep)[0]).shape[1]:
            return "the depthwise convolution has several filters a channel"
        source = graph.type(graph.operands((*expansions, deep)[0])[0])
        nodes = (graph.node(member) for member in (*members, *_behind(graph, identity)))
        heavy = next((node.op for node in nodes if "heavy" in node.record.traits), None)
        if heavy:
            return f"`{heavy}` takes as long as what one kernel would save"
        if goes_on(graph, identity, cache) > nominal_bytes(graph, between):
            return "it joins the convolution behind it, which saves more"
        return _too_near(source, graph.type(between), result, graph.type(weights[0]), cache)
    outputs = result.concrete[1]
    if outputs > MOST:
        return f"it has {outputs} outputs: with more than {MOST}, the depthwise part would be computed several times"
    return None


def goes_on(graph: Graph, identity: int, cache: int) -> int:
    """The bytes that a 1x1 convolution hands to a depthwise convolution that it can be the expansion of, or to the
    second half of a perceptron; 0: to none."""
    members = [identity, *_behind(graph, identity)]
    last = Value(members[-1])
    for user, _ in graph.users(last) if graph.uses(last) == 1 else ():
        reason: str | None = ""
        if is_depthwise(graph, user):
            reason = expansion.refusal(graph, members, user, cache)
        elif perceptron.matches(graph, members, user, last):
            reason = perceptron.refusal(graph, members, user, cache)
        return nominal_bytes(graph, last) if reason is None else 0
    return 0


def _behind(graph: Graph, identity: int) -> list[int]:
    """The elementwise nodes that follow a node one after the other, each of which alone reads the one before it."""
    found = [identity]
    while len(users := graph.users(Value(found[-1]))) == 1 == graph.uses(Value(found[-1])):
        ((user, _),) = users
        if not graph.node(user).record.elementwise:
            break
        found.append(user)
    return found[1:]


def _too_near(
    source: TensorType, between: TensorType, result: TensorType, weight: TensorType, cache: int
) -> str | None:
    """Why rows of what is between the two, in the second-level cache, gain nothing."""
    size = sum(DTYPES[type.dtype] * prod(type.physical) for type in (source, between, result))
    if 5 * size <= _FIFTHS * cache:
        return f"the {size / 1e6:.3g} MB that they read, hand over and write stay in a cache of {cache / 1e6:.3g} MB"
    rows = DTYPES[between.dtype] * prod(between.physical) // (between.concrete[0] * between.concrete[2]) * _ROWS
    held = rows + DTYPES[weight.dtype] * prod(weight.concrete)
    if 4 * held > 3 * cache:
        return f"its weights and {_ROWS} rows take more than three quarters of a cache of {cache / 1e6:.3g} MB"
    return None
