"""Quantization: convolutions and matrix products of integers of 8 bits in the place of those of real numbers.

    conv2d(x, w, b)  ->  dequantize(conv2d_integer(quantize(x, 1 / s) {zero=z}, quantize(w, 1 / t), c), s * t)

    s, z   of the activations: one scale and one zero point for a tensor, from the interval in which its elements were
           found to lie (`specc.calibration`); the interval is widened to hold 0, which is an integer then: what a
           convolution reads outside of its operand stays exact
    t      of the weights: for each output channel, its greatest magnitude / 127
    c      round(b / (s * t)) - z * (the sum of the channel's integer weights), exact in 32 bits

A layer is rounded in two places, then: its operand to 256 numbers, its weights to 255. The sums between are exact. All
of it are nodes of the graph: the reference computes the very integers that the kernels do. What concerns weights alone
is frozen, and computed once.

A layer that hands on its own operand, as the sum of a convolution and its operand does once it has become one
convolution, has a few weights far greater than the others: those by which a channel enters itself. They would make all
grids of weights coarse, and stay real numbers:

    conv2d(x, w)  =>  conv2d(x, w - d) + d * x      d the weights by which a channel of x enters the same place of
                                                    the same channel; the second term is `dequantize` with d * s

Rounding keeps the order of numbers, so the greatest of a window's integers is the rounded greatest of its numbers:
pooling of that kind in front of a layer works on integers, too.

A value that a layer reads as integers is stored as integers for everyone: others read `dequantize(quantize(x))`, which
becomes a part of their kernels. So a quarter of the bytes move, and residual sums are rounded as well.

A layer stays as it is where nothing is known of its operand, where its weights depend on an input, where sums could
leave 32 bits, where it is grouped or depthwise (no kernel multiplies its integers faster than real numbers), and where
it is small or reads fewer channels than three. The journal has the reason of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from specc.ir.cost import nominal
from specc.ir.graph import Graph, Value
from specc.ops.quantized import MOST_TERMS
from specc.passes import narrow
from specc.passes.narrow import Narrowing
from specc.passes.rewrite import Journal

if TYPE_CHECKING:
    from specc.ir.array import Array

Interval = tuple[float, float]

LAYERS = ("conv2d", "linear")
"""The operators that have a form in integers."""

LEAST_CHANNELS = 3
"""Products are summed in fours: an operand of fewer channels leaves most of them empty."""


@dataclass(frozen=True)
class Grid:
    """The real numbers that integers of 0 to 255 stand for: (i - zero) * scale."""

    scale: float
    zero: int

    @staticmethod
    def over(interval: Interval) -> Grid:
        """The grid whose ends are those of an interval, moved so that 0 is on it."""
        low, high = min(interval[0], 0.0), max(interval[1], 0.0)
        scale = (high - low) / 255 or 1.0
        return Grid(scale, round(-low / scale))


def _refusal(graph: Graph, identity: int) -> str | None:
    node, (x, *weights) = graph.node(identity), graph.operands(identity)
    kernel = graph.type(weights[0]).shape
    terms = prod(nominal(extent, graph.defaults) for extent in kernel[1:])
    if graph.type(x).dtype != "float32":
        return f"it computes in {graph.type(x).dtype}"
    if not all(graph.is_frozen(weight.node) for weight in weights):
        return "its weights depend on an input"
    if node.attrs.get("groups", 1) != 1:
        return "it is grouped: no kernel multiplies its integers faster than real numbers"
    if kernel[1] in range(LEAST_CHANNELS):
        return f"{narrow.channels(kernel[1])}: products are summed in fours"
    if terms > MOST_TERMS:
        return f"its sums of {terms} products could leave 32 bits"
    return None


QUANTIZING = Narrowing("layer of real numbers => layer of integers", LAYERS, _refusal)


def quantize(
    graph: Graph,
    intervals: Mapping[Value, Interval],
    layers: Collection[int] | None = None,
    journal: Journal | None = None,
    apart: Collection[int] = (),
) -> Graph:
    """The graph with `layers` (all candidates where they are not named) computing in integers of 8 bits.

    intervals   where the elements of the layers' operands lie; a layer of whose operand none is known stays as it is
    apart       the layers whose weights of a channel for itself stay real numbers; those that `hands_on` names can
    """
    journal = journal if journal is not None else Journal()
    possible = QUANTIZING.candidates(graph, journal)
    known = [i for i in possible if graph.operands(i)[0] in intervals]
    for identity in possible:
        if identity not in known:
            QUANTIZING.note(journal, graph.node(identity), "nothing is known of its operand: samples say where it lies")
    rewriting = _Quantization(graph.copy(), dict(intervals), apart)
    for identity in known:
        if layers is None or identity in layers:
            node = graph.node(identity)
            rewriting.layer(identity)
            QUANTIZING.note(journal, node)
    rewriting.store_bytes()
    rewriting.graph.prune()
    return rewriting.graph


def hands_on(graph: Graph, identity: int) -> bool:
    """Whether each channel of a layer's result could be the same channel of its operand, by weights of an odd window
    whose middle lies at the result's own place."""
    node, (x, weight, *_) = graph.node(identity), graph.operands(identity)
    out, inputs, *kernel = graph.type(weight).concrete
    if out != inputs or not all(k % 2 for k in kernel) or graph.type(x).shape != node.types[0].shape:
        return False
    if node.op == "linear":
        return True
    middle = tuple(k // 2 * step for k, step in zip(kernel, node.attrs["dilation"], strict=True))
    return node.attrs["stride"] == (1, 1) and middle == tuple(node.attrs["padding"][:2])


def stands_apart(weight: Array) -> bool:
    """Whether the weights of a channel for itself, in the middle of the window, are so much greater than all others
    that without them the weights [o, i, ...] are rounded with half of the error, or less."""
    rest, channels = weight.copy(), list(range(len(weight)))
    rest[(channels, channels, *(extent // 2 for extent in weight.shape[2:]))] = 0

    def error(of: Array) -> float:
        return float((abs(of).reshape(len(of), -1).max(1, initial=0.0) ** 2).sum())

    return 4 * error(rest) <= error(weight)


@dataclass
class _Quantization:
    graph: Graph
    intervals: dict[Value, Interval]
    apart: Collection[int]
    bytes: dict[Value, tuple[Value, Grid]] = field(default_factory=dict)
    """The integers that stand for a value, and their grid."""

    def layer(self, identity: int) -> None:
        """Replaces a layer by its form in integers."""
        graph, node = self.graph, self.graph.node(identity)
        x, weight, *bias = graph.operands(identity)
        integers, grid = self._bytes_of(x)
        rank = graph.type(weight).rank
        inputs = tuple(range(1, rank))

        def apply(op: str, *operands: Value, **attrs: object) -> Value:
            return graph.apply(op, operands, attrs, node.path, node.span)

        def number(value: float) -> Value:
            return graph.constant(value, (1,), span=node.span)

        own: Value | None = None
        if identity in self.apart:
            extents = graph.type(weight).shape
            eye = apply("dirac", shape=(*extents, *(1,) * (4 - rank)), dtype=graph.type(weight).dtype)
            middle = apply("mul", weight, eye if rank == 4 else apply("reshape", eye, shape=extents))
            own, weight = apply("sum", middle, axes=inputs, keep=False), apply("sub", weight, middle)
        magnitudes = apply("amax", apply("abs", weight), axes=inputs, keep=False)
        scales = apply("maximum", apply("mul", magnitudes, number(1 / 127)), number(_LEAST_SCALE))
        if bias:
            # A channel of tiny weights beside a bias: on too fine a grid, the bias would leave 32 bits.
            room = apply("mul", apply("abs", bias[0]), number(1 / (grid.scale * _GREATEST_BIAS)))
            scales = apply("maximum", scales, room)
        inverses = apply("div", number(1.0), scales)
        channels = graph.type(scales).shape
        weights = apply(
            "quantize", weight, apply("reshape", inverses, shape=(*channels, *(1 for _ in inputs))), dtype="int8"
        )
        total: list[Value] = []
        if bias:
            steps = apply("mul", inverses, number(1 / grid.scale))
            total.append(apply("quantize", bias[0], steps, dtype="int32"))
        if grid.zero:
            sums = apply("sum", apply("cast", weights, dtype="float32"), axes=inputs, keep=False)
            zero = graph.constant(float(grid.zero), (1,), "int32", node.span)
            share = apply("mul", apply("cast", sums, dtype="int32"), zero)
            total = [apply("sub", total[0], share) if total else apply("neg", share)]
        attrs = dict(node.attrs)
        if node.op == "conv2d":
            attrs["outside"] = grid.zero if any(attrs["padding"]) else 0
        products = apply(f"{node.op}_integer", integers, weights, *total, **attrs)
        shape = (*channels, *(1 for _ in range(rank - 2)))

        def steps_of(each: Value) -> Value:
            return apply("reshape", apply("mul", each, number(grid.scale)), shape=shape)

        result = apply("dequantize", products, steps_of(scales))
        if own is not None:
            result = apply("add", result, apply("dequantize", integers, steps_of(own), zero=grid.zero))
        graph.replace(Value(identity), result)
        if Value(identity) in self.intervals:
            self.intervals[result] = self.intervals[Value(identity)]

    def _bytes_of(self, value: Value) -> tuple[Value, Grid]:
        if value not in self.bytes:
            grid = Grid.over(self.intervals[value])
            self.bytes[value] = self._on_grid(value, grid), grid
        return self.bytes[value]

    def _on_grid(self, value: Value, grid: Grid) -> Value:
        """The integers that stand for a value; the greatest element of a window is that of its integers."""
        graph, maker = self.graph, self.graph.node(value.node)
        if maker.op == "max_pool2d" and graph.uses(value) == 1 and value not in graph.outputs:
            (source,) = graph.operands(value.node)
            operands, attrs = [self._on_grid(source, grid)], dict(maker.attrs)
            return graph.apply(maker.op, operands, attrs, maker.path, maker.span)
        inverse = graph.constant(1 / grid.scale, (1,), span=maker.span)
        return graph.apply("quantize", [value, inverse], {"zero": grid.zero}, maker.path, maker.span)

    def store_bytes(self) -> None:
        """Lets everyone read the integers of a value where they exist, unless it is a result of the network."""
        graph = self.graph
        for value, (integers, grid) in self.bytes.items():
            if value in graph.outputs or graph.op(value) == "input":
                continue
            shared: Value | None = None
            users: dict[int, list[int]] = {}
            for user, position in graph.users(value):
                if user != integers.node:
                    users.setdefault(user, []).append(position)
            for user, positions in users.items():
                node = graph.node(user)
                number = shared
                if number is None or node.record.elementwise:
                    scale = graph.constant(grid.scale, (1,), span=node.span)
                    number = graph.apply("dequantize", [integers, scale], {"zero": grid.zero}, node.path, node.span)
                if not node.record.elementwise:
                    shared = number
                for position in positions:
                    graph.set_operand(user, position, number)


_LEAST_SCALE = 1e-20
"""The scale of a channel without weights: its inverse is a float32."""

_GREATEST_BIAS = 2**29
"""The greatest integer that a bias becomes; sums of products take as much again, twice (see `MOST_TERMS`)."""
