"""Linear regions: everything between a value and what it is linear in, read as one convolution or one matrix.

    sources   the values in which a value is linear, nearest first
    merged    the nodes from some terms down to a source -> one convolution, if nobody else needs a result in
              between, and it costs no more than they do

A region is made of convolutions (or matrix products) with frozen weights, average pools, zero padding and slices of
height and width, scales and shifts by frozen factors and summands, sums, and concatenations of channels. Its nodes may
form any graph without a cycle: the merged kernel is computed along it, each node once.

Cost is counted in multiplications, as the operators' records do; a dimension that is not fixed yet counts with its
default, and one without a default as `NOMINAL`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

from specc.ir.dims import estimate
from specc.ir.graph import Graph, Node, Value
from specc.ir.types import TensorType
from specc.passes import convolutions
from specc.passes.convolutions import Convolution
from specc.passes.rewrite import Match, Refused
from specc.passes.weight_space import uses_of

NOMINAL = 32
DEEPEST = 64
"""How many operators a region has in a row, at most: longer ones are merged in parts."""
WEIGHING = frozenset({"conv2d", "linear", "avg_pool2d", "pad", "slice"})
"""Operators that a merge makes fewer of; scales, shifts and sums have rules of their own."""


class Region:
    """What one match knows of the linear regions around it, for one kind of operator: "conv2d" or "linear"."""

    def __init__(self, match: Match, op: str) -> None:
        self.match, self.graph, self.op = match, match.graph, op
        self._sources: dict[Value, tuple[Value, ...]] = {}
        self._read: dict[tuple[Value, Value], Convolution] = {}

    # ---- looking --------------------------------------------------------------------------------------------------

    def sources(self, value: Value, depth: int = 0) -> tuple[Value, ...]:
        """The values in which `value` is linear and nothing else flows, nearest first; the first is itself."""
        known = self._sources.get(value)
        if known is None:
            operands = self.operands(value) if depth < DEEPEST else ()
            below = [self.sources(operand, depth + 1) for operand in operands]
            common = [v for v in below[0] if all(v in other for other in below[1:])] if below else []
            known = self._sources[value] = (value, *common)
        return known

    def operands(self, value: Value) -> tuple[Value, ...]:
        """The operands in which `value` is linear; none where it is not, or is where a region has to begin."""
        if self.match.is_frozen(value):
            return ()
        node, operands = self.graph.node(value.node), self.graph.operands(value.node)
        live = tuple(operand for operand in operands if not self.match.is_frozen(operand))
        type = node.types[0]
        if node.op == self.op or (self.op == "conv2d" and self._spatial(node, operands)):
            fits = live == operands[:1] and all(self.match.type(w).symbols() == frozenset() for w in operands[1:])
        elif node.op == "mul":
            fits = len(live) == 1 and self.match.type(live[0]) == type
        elif node.op == "add":
            fits = all(self.match.type(operand) == type for operand in live)
        elif node.op == "concat":
            fits = live == operands and node.attrs["axis"] % type.rank == convolutions.axis_of(self.op, type.rank)
        else:
            fits = False
        return live if fits else ()

    def _spatial(self, node: Node, operands: tuple[Value, ...]) -> bool:
        """Whether the node moves the elements of every channel alike."""
        if node.op == "avg_pool2d":
            return True
        if node.op == "pad":
            return (
                node.types[0].rank == 4
                and node.attrs["value"] == 0
                and not any((*node.attrs["before"][:2], *node.attrs["after"][:2]))
            )
        if node.op == "slice" and node.types[0].rank == 4 and node.attrs["axis"] % 4 > 1:
            behind = node.attrs["stop"] - self.match.type(operands[0]).shape[node.attrs["axis"]]
            return isinstance(node.attrs["start"], int) and isinstance(behind, int)
        return False

    def inside(self, value: Value, source: Value) -> dict[int, None]:
        """The nodes from `value` down to `source`, which is not among them."""
        found: dict[int, None] = {}
        pending = [value]
        while pending:
            each = pending.pop()
            if each != source and each.node not in found:
                found[each.node] = None
                pending += self.operands(each)
        return found

    # ---- merging --------------------------------------------------------------------------------------------------

    def read(self, value: Value, source: Value) -> Convolution:
        """`value` as a convolution of `source`, which is among its sources; refused where it is none after all."""
        known = self._read.get((value, source))
        if known is None:
            known = self._read[value, source] = self._convolution(value, source)
        return known

    def _convolution(self, value: Value, source: Value) -> Convolution:
        match, op = self.match, self.graph.op(value)
        if value == source:
            point = convolutions.identity(match, value, self.op)
            if point is None:
                raise Refused(f"the channels of {match.type(value)} are not known")
            return point
        live = self.operands(value)
        frozen = [operand for operand in self.graph.operands(value.node) if match.is_frozen(operand)]
        parts = [self.read(operand, source) for operand in live]
        if op == "mul":
            return convolutions.scaled(match, parts[0], frozen[0], value)
        if op == "concat":
            return reduce(lambda a, b: convolutions.stack(match, a, b), parts)
        if op == "add":
            total = convolutions.total(match, parts, match.type(value))
            return convolutions.shifted(match, total, frozen[0], value) if frozen else total
        outer = convolutions.of_node(match, value, live[0], self.op)
        if outer is None:
            raise Refused(f"the channels of {match.type(live[0])} are not known")
        return outer if live[0] == source else convolutions.compose(match, outer, parts[0], match.type(live[0]))

    def merged(self, terms: Sequence[Value], source: Value, tables: bool = True) -> Value | None:
        """The sum of `terms` as one convolution of `source`; None where there is nothing to merge.

        Refused where others need a result in between, where it is no convolution, and where it costs more. Without
        `tables`, None instead of a convolution with a summand that differs within a channel.
        """
        type = self.match.type(Value(self.match.root))
        types = [self.match.type(term) for term in terms]

        def total() -> Convolution:
            if any(each != type for each in types):
                raise Refused(f"the branches differ in shape: {', '.join(map(str, types))}")
            return convolutions.total(self.match, [self.read(term, source) for term in terms], type)

        return self._merge(terms, source, total, type, tables)

    def weighs(self, term: Value, source: Value) -> bool:
        """Whether there is anything between a term and its source that a merge makes fewer of."""
        return any(self.graph.op(Value(node)) in WEIGHING for node in self.inside(term, source))

    def joining(self, terms: Sequence[Value], source: Value) -> list[bool]:
        """Which terms could become one with others of these: `merged` refuses whatever the others have to do with."""
        inside = [self.inside(term, source) for term in terms]
        needed = {value.node for value in self._needed(terms, dict.fromkeys(itertools.chain(*inside)))}
        found = []
        for term, nodes in zip(terms, inside):
            try:
                found.append(not needed & nodes.keys() and bool(self.read(term, source)))
            except Refused:
                found.append(False)
        return found

    def stacked(self, a: Value, b: Value, source: Value) -> Value | None:
        """The channels of a and b as one convolution of `source`; None and refused as `merged`."""
        first, second = self.match.type(a), self.match.type(b)
        axis = convolutions.axis_of(self.op, first.rank)
        shape = (*first.shape[:axis], first.shape[axis] + second.shape[axis], *first.shape[axis + 1 :])

        def both() -> Convolution:
            return convolutions.stack(self.match, self.read(a, source), self.read(b, source))

        return self._merge([a, b], source, both, TensorType(shape, first.dtype), tables=False)

    def _merge(
        self, terms: Sequence[Value], source: Value, make: Callable[[], Convolution], type: TensorType, tables: bool
    ) -> Value | None:
        nodes: dict[int, None] = {}
        for term in terms:
            nodes |= self.inside(term, source)
        weighing = sum(self.graph.node(node).op in WEIGHING for node in nodes)
        limit = sum(macs(self.graph, node) for node in nodes)
        if not limit or weighing + (len(terms) > 1) < 2:
            return None
        self._alone(terms, nodes)
        total = make()
        if total.table and not tables:
            return None
        self._affords(total, type, limit, nodes)
        return convolutions.write(self.match, total, like=terms[0].node)

    def _alone(self, terms: Sequence[Value], nodes: dict[int, None]) -> None:
        """Refuses where a result in between is needed outside of the region; that of the root is what it makes."""
        for value in self._needed(terms, nodes):
            raise Refused(uses_of(self.match, value))

    def _needed(self, terms: Sequence[Value], nodes: dict[int, None]) -> Iterator[Value]:
        taken = Counter(terms)
        for node in nodes.keys() - {self.match.root}:
            value = Value(node)
            outside = sum(user not in nodes for user, _ in self.graph.users(value)) + self.graph.outputs.count(value)
            if outside > taken[value]:
                yield value

    def _affords(self, conv: Convolution, type: TensorType, limit: int, nodes: dict[int, None]) -> None:
        cost = _number(self.graph, type) * conv.shape[1] * conv.shape[2] * conv.shape[3]
        cost = cost * conv.groups if conv.op == "linear" else cost
        if cost > limit:
            y, x = conv.taps
            kernel = f"one kernel of {y.count} x {x.count}" if conv.op == "conv2d" else "one matrix"
            raise Refused(f"{kernel} would cost {cost} multiplications, what it replaces costs {limit}")
        if conv.table:  # it is read instead of the results in between
            table = _number(self.graph, TensorType(type.shape[1:]))
            between = sum(_number(self.graph, TensorType(self.graph.node(n).types[0].shape[1:])) for n in nodes)
            if table * 2 > between:
                raise Refused(
                    "at the border, the zeros of the padding stand behind the bias of the first convolution; what this "
                    f"makes differs from place to place, {table} numbers, more than the results in between"
                )


def macs(graph: Graph, identity: int) -> int:
    """The multiplications of a node, with numbers for all dimensions."""
    node = graph.node(identity)
    if node.record.macs is None:
        return 0
    types = [_numbered(graph, graph.type(operand)) for operand in graph.operands(identity)]
    count = node.record.macs(types, node.attrs)
    assert isinstance(count, int)
    return count


def _numbered(graph: Graph, type: TensorType) -> TensorType:
    values = {name: graph.defaults.get(name, NOMINAL) for name in type.symbols()}
    return replace(type, shape=tuple(estimate(dim, values) for dim in type.shape))


def _number(graph: Graph, type: TensorType) -> int:
    elements = _numbered(graph, type).elements
    assert isinstance(elements, int)
    return elements
