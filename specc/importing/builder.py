"""What both front ends share: operators of another library, one by one, become nodes of a graph.

A front end looks up each operation in its table; the entry, a `Convert`, gets a `Builder` and builds nodes with it. The
tables hold data and small functions: one entry for an operation, named as its library names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specc import ops
from specc.diagnostics import SpeccError, error
from specc.ir.array import Array
from specc.ir.dims import Dim, floordiv, product
from specc.ir.graph import Graph, Value
from specc.ops import calls
from specc.ops.record import Illegal
from specc.ops.resample import MODES


class Unsupported(Exception):
    """An operation, as it is used here, that no operators of specc say; the reason, in a few words."""


@dataclass
class Imported:
    """A network of another library: its graph, its weights by key, and the class of the module at each path."""

    graph: Graph
    weights: dict[str, Array]
    classes: dict[str, str] = field(default_factory=dict)


@dataclass
class Builder:
    """Builds nodes under the path of the module that is at work."""

    graph: Graph
    path: str = ""

    def apply(self, op: str, *operands: Value, **attrs: Any) -> Value:
        """A node; raises `Unsupported` where the operator does not exist or does not take this."""
        if op not in ops.OPERATORS:
            raise Unsupported(f"specc has no operator `{op}`")
        try:
            return self.graph.apply(op, operands, attrs, self.path)
        except Illegal as illegal:
            raise Unsupported(illegal.reason) from None

    def shape(self, x: Value) -> tuple[Dim, ...]:
        """The extents of a value."""
        return self.graph.type(x).shape

    def constant(self, value: float, like: Value | None = None) -> Value:
        """A number, of the type of `like`."""
        return self.graph.constant(float(value), dtype=self.graph.type(like).dtype if like else "float32")

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """`x` in another shape; in the flattened one where that is what it says."""
        own, rank = self.shape(x), len(self.shape(x))
        if tuple(shape) == own:
            return x
        for start in range(rank):
            for end in range(start + 1, rank):
                if (*own[:start], product(own[start : end + 1]), *own[end + 1 :]) == tuple(shape):
                    return self.flatten(x, start, end)
        return self.apply("reshape", x, shape=tuple(shape))

    def flatten(self, x: Value, start: int, end: int) -> Value:
        """Some dimensions as one; of a mean over height and width that kept them, the mean that does not."""
        rank = len(self.shape(x))
        start, end = start % rank, end % rank
        node = self.graph.node(x.node)
        if start == end:
            return x
        if node.op == "global_avg_pool" and start == 1 and node.attrs["keep"] and not self.graph.uses(x):
            operand, path = self.graph.operands(x.node)[0], node.path
            self.graph.remove([x.node])
            return self.graph.apply("global_avg_pool", [operand], {}, path)
        return self.apply("flatten", x, start=start, end=-1 if end == rank - 1 else end)

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        """The dimensions in another order."""
        rank = len(self.shape(x))
        normal = tuple(axis % rank for axis in order)
        node = self.graph.node(x.node)
        if node.op == "permute" and tuple(node.attrs["order"][axis] for axis in normal) == tuple(range(rank)):
            return self.graph.operands(x.node)[0]
        return x if normal == tuple(range(rank)) else self.apply("permute", x, order=normal)

    def part(self, x: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
        """The elements start, start + step, ... below stop along an axis."""
        extent = self.shape(x)[axis]
        if (start, stop, step) == (0, extent, 1):
            return x
        return self.apply("slice", x, axis=axis % len(self.shape(x)), start=start, stop=stop, step=step)

    def parts(self, x: Value, extents: Iterable[Dim], axis: int) -> tuple[Value, ...]:
        """`x` cut into parts of these extents."""
        found: list[Value] = []
        start: Dim = 0
        for extent in extents:
            found.append(self.part(x, axis, start, start + extent))
            start = start + extent
        return tuple(found)

    def mean(self, x: Value, axes: Sequence[int], keep: bool) -> Value:
        """The mean over some dimensions: over height and width, pooling."""
        rank = len(self.shape(x))
        normal = tuple(sorted(axis % rank for axis in axes))
        if rank == 4 and normal == (2, 3):
            return self.apply("global_avg_pool", x, keep=keep)
        return self.apply("mean", x, axes=normal, keep=keep)

    def adaptive_pool(self, x: Value, goal: Sequence[Dim]) -> Value:
        """The mean of as many windows as the result has elements: pooling like any other where these are alike."""
        *_, height, width = self.shape(x)
        if tuple(goal) == (1, 1):
            return self.apply("global_avg_pool", x, keep=True)
        if tuple(goal) == (height, width):
            return x
        numbers = [e for e in (height, width, *goal) if isinstance(e, int)]
        if len(numbers) < 4 or numbers[0] % numbers[2] or numbers[1] % numbers[3]:
            return self.apply("adaptive_avg_pool", x, size=tuple(goal))
        window = (numbers[0] // numbers[2], numbers[1] // numbers[3])
        return self.apply("avg_pool2d", x, k=window, stride=window)

    def window(self, x: Value, k: Sequence[int], s: Sequence[int], padding: Sequence[int], up: bool) -> dict[str, Any]:
        """The attributes of a pooling; `up` rounds the result's extents up, which more padding behind does, too."""
        pads, behind = list(padding), len(k)
        for axis, extent in enumerate(self.shape(x)[2:] if up else ()):
            if not isinstance(extent, int):
                raise Unsupported("rounding the result's extent up takes a known extent")
            inner = extent + pads[axis] + pads[axis + behind] - k[axis]
            steps = -(-inner // s[axis])
            if steps * s[axis] >= extent + pads[axis]:
                steps -= 1  # a window begins inside the operand or its padding in front
            pads[axis + behind] += max(0, steps * s[axis] - inner)
        return {"k": tuple(k), "stride": tuple(s), "padding": tuple(pads)}

    def resize(
        self, x: Value, mode: str, size: Sequence[Dim] | None, factors: Sequence[float] | None, aligned: bool
    ) -> Value:
        """Interpolation to the extents `size`, or by `factors` where that is None."""
        attrs: dict[str, Any] = {"mode": mode, "align_corners": aligned}
        if size is None:
            factors = factors or ()
            whole = all(f == int(f) for f in factors)
            if len({*factors}) != 1 and not whole:
                raise Unsupported(f"a resize by {factors}")
            size = [_scaled(extent, factor) for extent, factor in zip(self.shape(x)[2:], factors)]
            attrs["scale"] = None if whole else float(factors[0])
        if mode not in MODES[len(self.shape(x))]:
            raise Unsupported(f"a resize by `{mode}`")
        return self.apply("resize", x, size=tuple(size), **attrs)

    def attention(self, q: Value, k: Value, v: Value, mask: Value | None, scale: float | None) -> Value:
        """softmax(q k^T scale + mask) v."""
        width = self.shape(q)[-1]
        if scale is None:
            if not isinstance(width, int):
                raise Unsupported("the scale depends on an extent that is not known")
            scale = width**-0.5
        order = [*range(len(self.shape(k)) - 2), -1, -2]
        scores = self.apply("matmul", q, self.permute(k, order))
        scores = self.apply("mul", scores, self.constant(scale, q))
        if mask is not None:
            scores = self.apply("add", scores, mask)
        return self.apply("matmul", self.apply("softmax", scores, axis=-1), v)


def _scaled(extent: Dim, factor: float) -> Dim:
    if factor == int(factor):
        return extent * int(factor)
    if not isinstance(extent, int):
        raise Unsupported(f"a resize of a dimension that is not known by {factor}")
    return int(extent * factor)


Convert = Callable[..., Any]


def unsupported(found: Mapping[str, Sequence[str]], what: str) -> SpeccError:
    """S1103: all operations that have no entry, with how often and where they are used."""
    counts = Counter({name: len(paths) for name, paths in found.items()})
    notes = [
        f"{name}: {count} {'time' if count == 1 else 'times'}, first in {found[name][0] or 'the network itself'}"
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return error("S1103", f"{what} does what no operator of specc says", notes=tuple(notes))


def settle(graph: Graph) -> None:
    """Lets every parameter that is a call's own begin, and be trained, as the call says; drops what nobody reads."""
    graph.prune()
    for identity in graph.order():
        node, record = graph.node(identity), graph.node(identity).record
        if not record.weights:
            continue
        operands = graph.operands(identity)
        types = [graph.type(value) for value in operands]
        count = min(len(types), len(record.call_operands))
        found = calls.arguments(record, types[:count], node.attrs, types[count:])
        if found is None:
            continue
        for weight, value in zip(ops.spell(record, types[:count], found).weights, operands[count:]):
            param = graph.node(value.node)
            if param.op == "param" and param.attrs["key"] == f"{node.path}.{weight.role}".lstrip("."):
                attrs = {**param.attrs, "init": weight.init, "trainable": weight.trainable}
                graph.update(value.node, attrs=attrs)


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis % rank if rank else 0


def whole(extent: Dim, parts: int) -> Dim:
    """An extent divided into parts of one size; raises `Unsupported` where they differ."""
    each = floordiv(extent, parts)
    if each * parts != extent:
        raise Unsupported(f"{extent} does not divide into {parts} parts")
    return each
