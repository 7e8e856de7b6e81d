"""Chains of reshapes and permutes, brought to the shortest chain that gives the same tensor.

    permute(permute(x)), reshape(reshape(x)), permute(reshape(permute(x))), ... => at most reshape, permute, reshape

Every dimension of the source is a product of *factors*; a reshape cuts them finer or joins them, a permute puts them in
another order. A chain is therefore one order of the finest factors, and neighbours that stay neighbours are one factor
again. What is left is a view where nothing changed places (also where only extents of 1 did), and otherwise one permute
between two views. A reshape that cuts across factors ([4, 3] as [3, 4]) ends the chain there.

A chain is replaced where fewer permutes are left, or as many and fewer views. Inner nodes that others need as well
stay, and do not count as saved. So no rule brings back what it took away, and the rule ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from specc.ir.dims import Dim, floordiv, product
from specc.ir.graph import Node, Value
from specc.passes.rewrite import Match, Op, Rule, Var

MOVES = ("reshape", "permute")

Step = tuple[str, tuple[Dim, ...]]
"""A node of a chain: the shape of a reshape, or the order of a permute."""


@dataclass
class Factors:
    """A rearranged tensor: the factors of each of its dimensions, and all factors in the order of the source."""

    extents: list[Dim]
    source: list[list[int]]
    current: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, shape: Sequence[Dim]) -> Factors:
        """The tensor before it is rearranged: one factor for each dimension, none for an extent of 1."""
        extents = [extent for extent in shape if extent != 1]
        numbers = iter(range(len(extents)))
        source = [[] if extent == 1 else [next(numbers)] for extent in shape]
        return cls(extents, source, [list(dimension) for dimension in source])

    def permute(self, order: Sequence[int]) -> None:
        """The dimensions in another order."""
        self.current = [self.current[axis] for axis in order]

    def reshape(self, shape: Sequence[Dim]) -> bool:
        """Cuts and joins factors into dimensions of these extents; False where an extent cuts across factors."""
        position = 0
        sizes: list[int] = []
        for extent in shape:
            left, taken = extent, 0
            while left != 1:
                flat = self._flat(self.current)
                if position + taken == len(flat):
                    return False
                factor = flat[position + taken]
                size = self.extents[factor]
                if (rest := _quotient(left, size)) is not None:
                    left = rest
                elif (rest := _quotient(size, left)) is not None:
                    self._split(factor, left, rest)
                    left = 1
                else:
                    return False
                taken += 1
            sizes.append(taken)
            position += taken
        flat = self._flat(self.current)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.current = [flat[end - size : end] for end, size in zip(ends, sizes)]
        return position == len(flat)

    def _split(self, factor: int, outer: Dim, inner: Dim) -> None:
        self.extents[factor] = outer
        self.extents.append(inner)
        new = len(self.extents) - 1
        for side in (self.source, self.current):
            for dimension in side:
                if factor in dimension:
                    dimension.insert(dimension.index(factor) + 1, new)

    @staticmethod
    def _flat(dimensions: list[list[int]]) -> list[int]:
        return [factor for dimension in dimensions for factor in dimension]

    def extent(self, factors: Sequence[int]) -> Dim:
        """The product of some factors."""
        return product(self.extents[factor] for factor in factors)

    def shortest(self) -> list[Step]:
        """The shortest chain from the source to the current tensor."""
        before, after = ([self.extent(d) for d in side] for side in (self.source, self.current))
        if self._flat(self.source) == self._flat(self.current):
            return [] if before == after else [("reshape", tuple(after))]
        options = [steps for steps in self._chains() if steps is not None]
        return min(options, key=len)

    def _chains(self) -> Iterator[list[Step] | None]:
        """Chains that lead there: a permute of the source's dimensions, of the result's, and of joined factors."""
        before, after = (tuple(self.extent(d) for d in side) for side in (self.source, self.current))
        source, current = self._flat(self.source), self._flat(self.current)
        blocks: list[list[int]] = []
        for factor in current:
            follows = bool(blocks) and source.index(blocks[-1][-1]) + 1 < len(source)
            if follows and source[source.index(blocks[-1][-1]) + 1] == factor:
                blocks[-1].append(factor)
            else:
                blocks.append([factor])
        for pieces in (self._whole(self.source), self.current, blocks):
            yield self._through(pieces, before, after)

    def _whole(self, dimensions: list[list[int]]) -> list[list[int]]:
        """The source's dimensions in the order in which they lie now, those of extent 1 where the result has such."""
        flat = self._flat(self.current)
        named = sorted((d for d in dimensions if d), key=lambda d: flat.index(d[0]))
        ones: list[list[int]] = [[] for d in dimensions if not d]
        result: list[list[int]] = []
        for dimension in self.current:
            if not dimension and ones:
                result.append(ones.pop())
            while dimension and named and named[0][0] in dimension:
                result.append(named.pop(0))
        return [*result, *named, *ones]

    def _through(self, pieces: list[list[int]], before: Sequence[Dim], after: Sequence[Dim]) -> list[Step] | None:
        """Reshape to `pieces` in the source's order, permute them, reshape; None where a piece is torn apart."""
        source, current = self._flat(self.source), self._flat(self.current)
        if [f for piece in pieces for f in piece] != current:
            return None
        if any(source[source.index(p[0]) : source.index(p[0]) + len(p)] != p for p in pieces if p):
            return None
        # An extent of 1 stands, in the source's order, where the source has one; any place is as good otherwise.
        places = iter([i - 0.5 for i, d in self._offsets(self.source) if not d])
        key = [float(source.index(p[0])) if p else next(places, -0.5) for p in pieces]
        ordered = sorted(range(len(pieces)), key=lambda i: (key[i], i))
        order = tuple(ordered.index(i) for i in range(len(pieces)))
        first = tuple(self.extent(pieces[i]) for i in ordered)
        last = tuple(self.extent(piece) for piece in pieces)
        steps: list[Step] = [("reshape", first)] if first != tuple(before) else []
        steps.append(("permute", order))
        return [*steps, ("reshape", tuple(after))] if last != tuple(after) else steps

    @staticmethod
    def _offsets(dimensions: list[list[int]]) -> list[tuple[int, list[int]]]:
        """Each dimension with the number of factors in front of it."""
        counts = [len(d) for d in dimensions]
        return [(sum(counts[:i]), d) for i, d in enumerate(dimensions)]


def _quotient(a: Dim, b: Dim) -> Dim | None:
    """`a / b` where b divides a; else None."""
    quotient = floordiv(a, b)
    return quotient if quotient * b == a else None


def shortest(nodes: Sequence[Node], shape: Sequence[Dim]) -> list[Step] | None:
    """The shortest chain that does to a tensor of `shape` what `nodes` do, in order; None where a cut is in the way."""
    factors = Factors.of(shape)
    for node in nodes:
        if node.op == "permute":
            factors.permute(node.attrs["order"])
        elif not factors.reshape(node.types[0].shape):
            return None
    return factors.shortest()


def _shorter(match: Match) -> Value | None:
    """The shortest chain for the root, over as many nodes below it as help."""
    graph = match.graph
    chain = [match.root]
    while graph.op(below := graph.operands(chain[-1])[0]) in MOVES and not match.is_frozen(below):
        chain.append(below.node)
    gone = 1  # the nodes that nobody needs any more once the root is replaced
    while gone < len(chain) and graph.uses(Value(chain[gone])) == 1:
        gone += 1
    for length in range(len(chain), 0, -1):
        nodes = [graph.node(identity) for identity in reversed(chain[:length])]
        value = graph.operands(chain[length - 1])[0]
        steps = shortest(nodes, match.type(value).shape)
        if steps is None or (match.type(value).layout and steps[:1] != [("permute", nodes[0].attrs.get("order"))]):
            continue  # of what lies in blocks there is no view
        saved, kept = [node.op for node in nodes[-gone:]], [op for op, _ in steps]
        if (kept.count("permute"), len(kept)) >= (saved.count("permute"), len(saved)) or len(kept) > len(saved):
            continue
        for op, numbers in steps:
            attrs: dict[str, Any] = {"shape" if op == "reshape" else "order": numbers}
            value = match.apply(op, value, **attrs)
        return value
    return None


RULES = (Rule("permute(reshape(...(x))) => reshape(permute(reshape(x))), the shortest", Op(MOVES, Var("x")), _shorter),)
