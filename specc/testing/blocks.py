"""Linear blocks: sums of branches that must become one convolution or one matrix, and near misses that must not.

A block is built around an *anchor*, a convolution (or matrix product) of x. Every other branch reads no element that
the anchor does not read and mixes no channels that it does not mix, so that the merged kernel is as large as the
anchor's, and merging always pays. Branches are convolutions on any part of the anchor's taps, in as many groups or
more, average pools, x itself, two convolutions in a row, sums of such branches; with batch norms, biases, scales and
shifts anywhere.

A near miss is such a block with one obstacle in it, and says in which words a pass has to speak of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType


@dataclass(frozen=True)
class LinearBlock:
    """A graph of one output that merges into a single `op`, or that must not, because of `obstacle`.

    The obstacle is a part of the reason that re-parameterization gives.
    """

    graph: Graph
    op: str
    obstacle: str | None = None


@st.composite
def linear_blocks(draw: st.DrawFn, near_misses: bool | None = None) -> LinearBlock:
    """Blocks that must merge, or near misses that must not; both kinds where `near_misses` is not said."""
    missing = draw(st.booleans()) if near_misses is None else near_misses
    op = draw(st.sampled_from(("conv2d", "conv2d", "conv2d", "linear")))
    block = _Convolutions(draw, plain=missing) if op == "conv2d" else _Matrices(draw)
    if not missing:
        terms = [block.anchor(), *(block.branch(2) for _ in range(draw(st.integers(0, 3))))]
        block.graph.outputs = [block.dressed(block.total(terms))]
        return LinearBlock(block.graph, op)
    obstacle, term, also = draw(st.sampled_from(block.obstacles()))()
    block.graph.outputs = [block.total([term, block.anchor()]), *also]
    return LinearBlock(block.graph, op, obstacle)


Obstacle = tuple[str, Value, list[Value]]


class _Block:
    """What blocks of both kinds have: a graph, numbered names, scales, shifts, norms and sums."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.graph, self._names = draw, Graph("Block"), 0

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def name(self) -> str:
        self._names += 1
        return f"m{self._names}"

    def call(self, op: str, x: Value, **arguments: Any) -> Value:
        return self.graph.call(op, [x], arguments, self.name())

    def parameter(self, *shape: Any) -> Value:
        return self.graph.parameter(self.name(), TensorType(shape), "normal(1.0)")

    def total(self, terms: list[Value]) -> Value:
        """The terms in any order, as a tree of any form."""
        terms = list(self.draw(st.permutations(terms)))
        while len(terms) > 1:
            at = self.draw(st.integers(0, len(terms) - 2))
            terms[at : at + 2] = [self.graph.apply("add", terms[at : at + 2])]
        return terms[0]

    def per_channel(self, value: Value) -> tuple[int, ...]:
        raise NotImplementedError

    def normed(self, value: Value) -> Value:
        raise NotImplementedError

    def dressed(self, value: Value) -> Value:
        """The value, scaled, shifted or normed or none of these."""
        match self.one_of("", "", "norm", "scale", "shift", "number"):
            case "norm":
                return self.normed(value)
            case "scale":
                return self.graph.apply("mul", [value, self.parameter(*self.per_channel(value))])
            case "shift":
                return self.graph.apply("add", [value, self.parameter(*self.per_channel(value))])
            case "number":
                return self.graph.apply("mul", [value, self.graph.constant(self.one_of(-1.0, 0.5, 0.0))])
        return value

    def anchor(self) -> Value:
        raise NotImplementedError

    def branch(self, depth: int) -> Value:
        raise NotImplementedError

    def obstacles(self) -> list[Callable[[], Obstacle]]:
        """Branches that do not merge: each with the words for it, and what else the network returns."""
        return [self._nonlinear, self._used_twice, self._uneven]

    def _nonlinear(self) -> Obstacle:
        term = self.graph.apply(self.one_of("relu", "gelu", "sigmoid"), [self.anchor()])
        return "no other term is linear in what", term, []

    def _used_twice(self) -> Obstacle:
        term = self.anchor()
        return "times: by", term, [self.one_of(term, self.graph.apply("relu", [term]))]

    def _uneven(self) -> Obstacle:
        raise NotImplementedError


class _Matrices(_Block):
    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(draw)
        self.inputs, self.out = self.one_of(1, 2, 3, 6, 8), self.one_of(1, 2, 3, 6, 8)
        if self.one_of(False, True):
            self.out = self.inputs
        lead = self.one_of((2,), (2, 3), (1, 2, 2))
        self.x = self.graph.input("x", TensorType((*lead, self.inputs)))
        self.y = TensorType((*lead, self.out))

    def per_channel(self, value: Value) -> tuple[int, ...]:
        return (self.graph.type(value).shape[-1],)  # type: ignore[return-value]

    def normed(self, value: Value) -> Value:
        return self.call("batch_norm", value) if self.graph.type(value).rank == 2 else value

    def linear(self, x: Value, out: int) -> Value:
        return self.dressed(self.call("linear", x, out=out, bias=self.one_of(False, True)))

    def anchor(self) -> Value:
        return self.linear(self.x, self.out)

    def branch(self, depth: int) -> Value:
        kinds = ["one", "two"] + ["identity"] * (self.inputs == self.out) + ["sum"] * (depth > 0)
        match self.one_of(*kinds):
            case "two":
                return self.linear(self.linear(self.x, self.one_of(1, 2, 7)), self.out)
            case "identity":
                return self.dressed(self.x)
            case "sum":
                return self.dressed(self.total([self.branch(depth - 1) for _ in range(2)]))
        return self.anchor()

    def _uneven(self) -> Obstacle:
        """A factor for each vector; alone, if there is one vector or one channel, it would be for each channel."""
        anchor = self.call("linear", self.x, out=self.out)
        factor = self.parameter(*self.y.shape[:-1], 1)
        return "within a channel", self.graph.apply("mul", [anchor, factor]), []


class _Convolutions(_Block):
    """With `plain`, the anchor is a 3x3 that keeps height and width, of which there are several."""

    def __init__(self, draw: st.DrawFn, plain: bool) -> None:
        super().__init__(draw)
        if plain:
            self.k, self.stride, self.dilation, self.before, self.after = (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)
            self.groups, self.inputs, self.out = 1, self.one_of(1, 2, 4), self.one_of(1, 2, 4)
            self.x = self.graph.input("x", TensorType((1, self.inputs, self.one_of(4, 5, 7), self.one_of(4, 5, 8))))
            return
        self.groups = self.one_of(1, 1, 1, 2, 3)
        per_group = self.one_of(1, 2, 3, 4)
        self.inputs, self.out = self.groups * per_group, self.groups * self.one_of(1, 2, 3, 4, per_group)
        self.k = self.one_of(1, 2, 3, 3, 5), self.one_of(1, 2, 3, 3, 5)
        self.stride, self.dilation = (self.one_of(1, 1, 2), self.one_of(1, 1, 2)), (self.one_of(1, 1, 2), 1)
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.k)]
        pads = [(self.one_of(0, r // 2, r), self.one_of(0, r - r // 2, r)) for r in reach]
        self.before, self.after = (pads[0][0], pads[1][0]), (pads[0][1], pads[1][1])
        extents = [max(1, r + 1 - sum(pad)) + self.one_of(0, 1, 4) for r, pad in zip(reach, pads)]
        self.x = self.graph.input("x", TensorType((self.one_of(1, 2), self.inputs, *extents)))

    def per_channel(self, value: Value) -> tuple[int, ...]:
        return self.graph.type(value).shape[1], 1, 1  # type: ignore[return-value]

    def normed(self, value: Value) -> Value:
        return self.call("batch_norm", value, affine=self.one_of(True, True, False))

    def conv(self, x: Value, out: int, k: tuple[int, int], p: Any = 0, **arguments: Any) -> Value:
        return self.dressed(self.call("conv2d", x, out=out, k=k, p=p, bias=self.one_of(False, True), **arguments))

    def anchor(self) -> Value:
        pads = (*self.before, *self.after)
        whole = {"s": self.stride, "d": self.dilation, "groups": self.groups}
        return self.conv(self.x, self.out, self.k, pads, **whole)

    def branch(self, depth: int) -> Value:
        kinds = ["one", "one", "two", "two"] + ["sum"] * (depth > 0)
        kinds += ["pool", "pool", "identity"] * (self.inputs == self.out)
        kind = self.one_of(*kinds)
        if kind == "sum":
            return self.dressed(self.total([self.branch(depth - 1) for _ in range(2)]))
        k, d, pads = self._taps(dense=kind == "pool")
        if kind == "pool":
            return self._pool(k, pads)
        if kind == "two":
            return self._two(k, d, pads)
        if kind == "identity" and self.graph.type(self.x).shape[2:] == self._places():
            centred = all(b % d == 0 and b // d < k for b, d, k in zip(self.before, self.dilation, self.k))
            if centred and self.stride == (1, 1):
                return self.dressed(self.x)
        return self.conv(self.x, self.out, k, pads, s=self.stride, d=d, groups=self._finer(self.inputs, self.out))

    def _places(self) -> tuple[Any, ...]:
        """Height and width of the result."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.k)]
        extents = self.graph.type(self.x).concrete[2:]
        return tuple(
            (e + b + a - r) // s + 1 for e, b, a, r, s in zip(extents, self.before, self.after, reach, self.stride)
        )

    def _taps(self, dense: bool) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
        """A part of the anchor's taps: kernel, dilation, padding. Dense: without gaps, where the anchor has none."""
        found = []
        for k, d, before, after in zip(self.k, self.dilation, self.before, self.after):
            parts = []
            for first in range(k):
                for step in (1,) if dense else (1, 2):
                    for count in range(1, (k - 1 - first) // step + 2):
                        lead, end = before - first * d, after - (k - 1 - first - step * (count - 1)) * d
                        if lead >= 0 and end >= 0 and (not dense or d == 1 or count == 1):
                            parts.append((count, d * step if count > 1 else 1, lead, end))
            found.append(self.one_of(*(parts or [(k, d, before, after)])))
        (kh, dy, top, bottom), (kw, dx, left, right) = found
        return (kh, kw), (dy, dx), (top, left, bottom, right)

    def _finer(self, inputs: int, out: int) -> int:
        """As many groups as the anchor has, or a multiple."""
        fits = [g for g in range(1, inputs + 1) if g % self.groups == inputs % g == out % g == 0]
        return int(self.one_of(*(fits or [self.groups])))

    def _pool(self, k: tuple[int, int], pads: tuple[int, int, int, int]) -> Value:
        dense = all(d == 1 or n == 1 for d, n in zip(self.dilation, self.k))
        if not dense or any(p >= n for p, n in zip(pads, (*k, *k))):
            return self.anchor()
        return self.dressed(self.graph.apply("avg_pool2d", [self.x], {"k": k, "stride": self.stride, "padding": pads}))

    def _two(self, k: tuple[int, int], d: tuple[int, int], pads: tuple[int, int, int, int]) -> Value:
        """A 1x1 that pads, then the kernel without padding; or the kernel, then a 1x1."""
        middle = self.groups * self.one_of(1, 2, 5)
        first, second = self._finer(self.inputs, middle), self._finer(middle, self.out)
        if self.one_of(False, True):
            inner = self.conv(self.x, middle, (1, 1), pads, groups=first)
            return self.conv(inner, self.out, k, s=self.stride, d=d, groups=second)
        inner = self.conv(self.x, middle, k, pads, s=self.stride, d=d, groups=first)
        return self.conv(inner, self.out, (1, 1), groups=second)

    def obstacles(self) -> list[Callable[[], Obstacle]]:
        return [*super().obstacles(), self._other_stride, self._pads_between]

    def _plain(self, k: int, s: int, p: int, x: Value | None = None) -> Value:
        x = self.x if x is None else x
        return self.call("conv2d", x, out=self.out, k=k, s=s, p=p, groups=1)

    def _uneven(self) -> Obstacle:
        """A factor for each place, of at least two."""
        anchor = self._plain(3, 1, 1)
        factor = self.parameter(*self.graph.type(anchor).shape[2:])
        return "within a channel", self.graph.apply("mul", [anchor, factor]), []

    def _other_stride(self) -> Obstacle:
        height, width = self.graph.type(self.x).concrete[2:]
        far = (height // 2 + 1, width // 2 + 1)
        pads = (*far, 2 * (height - 1) + 3 - height - far[0], 2 * (width - 1) + 3 - width - far[1])
        term = self.call("conv2d", self.x, out=self.out, k=3, s=2, p=pads)
        return "differ in stride", term, []

    def _pads_between(self) -> Obstacle:
        """Two 3x3 in a row, of which the second pads where the first has results."""
        inner = self.call("conv2d", self.x, out=2, k=3)
        return "pads at the", self._plain(3, 1, 1, inner), []
