"""A fused group as the kernel generator sees it: a small straight-line program, free of the graph that it came from.

    v0 = input float32@NCHW16c[1, 64, 56, 56]
    v1 = frozen float32[128, 64, 1, 1]
    v2 = conv2d(v0, v1) {...}
    v3 = gelu(v2)                                   <- result

Values are numbered: the inputs, then the results of each step in turn. Two groups with equal programs are one kernel. A
*frozen* input depends on no input of the network: its value is known when the network is compiled, so it may be stored
in whatever form suits the kernel (`packing`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx

from specc import ops
from specc.ir.body import Body, symbols_of
from specc.ir.dtypes import DTYPES, HALVES
from specc.ir.graph import Graph, Value
from specc.ir.types import TensorType
from specc.ops.record import Operator


@dataclass(frozen=True)
class Input:
    """A value from outside the group."""

    type: TensorType
    frozen: bool = False


@dataclass(frozen=True)
class Step:
    """An operator applied to values: numbers below `len(inputs)` are inputs, the others results of earlier steps."""

    op: str
    attributes: tuple[tuple[str, Any], ...]
    operands: tuple[int, ...]
    types: tuple[TensorType, ...]

    @property
    def type(self) -> TensorType:
        """The type of the first result."""
        return self.types[0]

    @property
    def record(self) -> Operator:
        return ops.get(self.op)

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self.attributes)

    @property
    def pointwise(self) -> bool:
        """Whether an element depends on the operands' elements at the same (broadcast) logical index alone."""
        return self.record.elementwise or self.op in ("constant", "convert_layout")

    @property
    def moves(self) -> bool:
        """Whether an element is one of the operand's, at another index."""
        return "movement" in self.record.traits

    @property
    def rounds(self) -> bool:
        """Whether it rounds numbers to 16 bits."""
        return self.op == "cast" and self.type.dtype in HALVES

    @property
    def picks(self) -> bool:
        """Whether an element of the result takes at most one of each operand."""
        return bool(self.record.traits & {"movement", "choice"}) or self.op == "embedding"


@dataclass(frozen=True)
class Group:
    """The program of a group; `results` are the numbers of the values that others read."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The dimensions that have no value before the kernel runs, which takes them in this order."""
        types = [operand.type for operand in self.inputs] + [type for step in self.steps for type in step.types]
        attributes = [value for step in self.steps for _, value in step.attributes]
        return tuple(sorted(frozenset().union(*map(symbols_of, (*types, *attributes)))))

    @property
    def single(self) -> bool:
        """Whether the last step makes the only result, and every step makes one: what templates with tiles take."""
        return self.results == (self.last,) and all(len(step.types) == 1 for step in self.steps)

    @property
    def halves(self) -> bool:
        """Whether a value is of 16 bits."""
        return any(self.type(value).dtype in HALVES for value in range(self.last + 1))

    @property
    def result(self) -> TensorType:
        """The type of the first result."""
        return self.type(self.results[0])

    @property
    def last(self) -> int:
        """The number of the last value."""
        return len(self.inputs) + len(self._places) - 1

    @cached_property
    def _places(self) -> tuple[tuple[int, int], ...]:
        """For each value that a step computes: the step's number, and which of its results the value is."""
        return tuple((number, result) for number, step in enumerate(self.steps) for result in range(len(step.types)))

    @cached_property
    def _firsts(self) -> tuple[int, ...]:
        """For each step, the number of its first result."""
        return tuple(value for value, (_, result) in enumerate(self._places, len(self.inputs)) if not result)

    def type(self, value: int) -> TensorType:
        """The type of a value."""
        if value < len(self.inputs):
            return self.inputs[value].type
        number, result = self._places[value - len(self.inputs)]
        return self.steps[number].types[result]

    def step(self, value: int) -> Step:
        """The step that computes a value."""
        return self.steps[self._places[value - len(self.inputs)][0]]

    def number(self, step: int) -> int:
        """The number of the first value that step number `step` computes."""
        return self._firsts[step]

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """The numbers of the first values of all steps that are not pointwise."""
        return tuple(self.number(i) for i, step in enumerate(self.steps) if not step.pointwise)

    @property
    def anchor(self) -> int | None:
        """The only anchor, if it reads inputs alone: the other steps are its epilogue, or what that reads besides."""
        if len(self.anchors) != 1:
            return None
        (anchor,) = self.anchors
        return anchor if all(operand < len(self.inputs) for operand in self.step(anchor).operands) else None

    def reached(self, value: int) -> set[int]:
        """`value` and what pointwise steps compute it from: back to the anchors and the inputs, and with them."""
        found, rest = set[int](), [value]
        while rest:
            number = rest.pop()
            if number not in found:
                found.add(number)
                if number >= len(self.inputs) and self.step(number).pointwise:
                    rest += self.step(number).operands
        return found

    def sources(self, value: int) -> set[int]:
        """The anchors and the inputs that pointwise steps compute `value` from; `value` itself where it is one."""
        return {n for n in self.reached(value) if n < len(self.inputs) or not self.step(n).pointwise}

    def beside(self, number: int) -> bool:
        """Whether the only result is of the type of an input that pointwise steps alone read, each at the index that
        it computes, and none of them in front of an anchor: an element of it is in one of the result, at its place."""
        users = [step for step in self.steps if number in step.operands]
        fronts = (self.reached(operand) for anchor in self.anchors for operand in self.step(anchor).operands)
        alone = not any(number in front for front in fronts)
        return alone and self.single and self.type(number) == self.result and all(step.pointwise for step in users)

    def read(self, number: int) -> int | None:
        """The most bytes of an input that are read, where that may be a part: of a table, the rows that are picked."""
        users = [step for step in self.steps if number in step.operands]
        if any(not step.picks for step in users):
            return None
        elements = sum(step.operands.count(number) * math.prod(step.type.physical) for step in users)
        return elements * DTYPES[self.inputs[number].type.dtype]

    def rounded(self, value: int) -> bool:
        """Whether nobody sees more of a value than the bfloat16 nearest to it."""
        users = [step for step in self.steps if value in step.operands]
        return value not in self.results and all(step.rounds and step.type.dtype == "bfloat16" for step in users)

    @property
    def title(self) -> str:
        """The operators, in order, for a name or a message."""
        names = [step.op for step in self.steps if step.op not in ("constant", "convert_layout")]
        return "_".join(names) or "convert_layout"


@dataclass(frozen=True)
class Part:
    """Some steps of a group as a group of their own; input number i of it is the value `values[i]` of the whole."""

    group: Group
    values: tuple[int, ...]


def cut(group: Group, *values: int) -> tuple[Part, ...]:
    """What computes each of some `values`, one behind the other, and the rest of the steps, each as far as the parts in
    front of it do not; constants are in every part that needs them."""
    left, parts = {group.number(i) for i in range(len(group.steps))}, []
    for value in (*values, None):
        members = left if value is None else left & _needed(group, value)
        read = {operand for number in members for operand in group.step(number).operands}
        constants = {n for n in read if n >= len(group.inputs) and group.step(n).op == "constant"}
        parts.append(_part(group, sorted(members | constants)))
        left = left - members
    return tuple(parts)


def _needed(group: Group, value: int) -> set[int]:
    """`value`, and all values that it is computed from."""
    found, rest = {value}, [value]
    while rest:
        number = rest.pop()
        if number >= len(group.inputs):
            rest += (new := set(group.step(number).operands) - found)
            found |= new
    return found


def _part(group: Group, members: Sequence[int]) -> Part:
    """The steps that make the values `members`; the last one is the result."""
    read = {operand for number in members for operand in group.step(number).operands} - set(members)
    values = tuple(sorted(read))
    numbers = {value: number for number, value in enumerate((*values, *members))}
    inputs = (group.inputs[v] if v < len(group.inputs) else Input(group.type(v)) for v in values)
    steps = (
        replace(group.step(number), operands=tuple(numbers[operand] for operand in group.step(number).operands))
        for number in members
    )
    return Part(Group(tuple(inputs), tuple(steps), (len(numbers) - 1,)), values)


def extract(graph: Graph, members: Sequence[int], frozen: frozenset[int]) -> tuple[Group, list[Value], list[Value]]:
    """The program of the nodes `members` (in topological order), the values that are its inputs, and its results.

    The results are those that the graph's outputs or nodes outside read. Constants become steps, for their number is
    part of the kernel; but a frozen scale of integers is an input: samples give each layer its own, and layers of
    equal shapes are one kernel so.
    """
    inside = set(members)
    outside: list[Value] = []
    literals: list[Value] = []
    for identity in members:
        for position, operand in enumerate(graph.operands(identity)):
            if operand.node in inside:
                continue
            scale = "scaled" in graph.node(identity).record.traits and position == 1 and operand.node in frozen
            kind = literals if graph.op(operand) == "constant" and not scale else outside
            if operand not in kind:
                kind.append(operand)
    results = [
        Value(identity, r)
        for identity in members
        for r in range(len(graph.node(identity).types))
        if Value(identity, r) in graph.outputs or any(user not in inside for user, _ in graph.users(Value(identity, r)))
    ]
    numbers = {value: i for i, value in enumerate(outside)}
    steps: list[Step] = []
    for identity in [*(literal.node for literal in literals), *members]:
        node = graph.node(identity)
        operands = tuple(numbers[o] for o in graph.operands(identity))
        steps.append(Step(node.op, _attributes(node.attrs), operands, node.types))
        for result in range(len(node.types)):
            numbers[Value(identity, result)] = len(numbers)
    inputs = tuple(Input(graph.type(value), value.node in frozen) for value in outside)
    return Group(inputs, tuple(steps), tuple(numbers[value] for value in results)), outside, results


def _attributes(attrs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The attributes as part of a program: a graph in them without the names that it has in the checkpoint."""
    plain = {name: value.anonymous if isinstance(value, Body) else value for name, value in attrs.items()}
    return tuple(sorted(plain.items()))


def pieces(graph: Graph, nodes: Sequence[int]) -> list[list[int]]:
    """The groups and the single nodes among `nodes`, each in topological order, in an order in which they can run."""
    members: dict[Any, list[int]] = {}
    for identity in nodes:
        group = graph.node(identity).group
        members.setdefault(("node", identity) if group is None else ("group", group), []).append(identity)
    # A group is convex, so there is an order of the groups; a node's place decides where several are ready.
    found = list(members.values())
    piece_of = {identity: number for number, piece in enumerate(found) for identity in piece}
    parts = nx.DiGraph()
    parts.add_nodes_from(range(len(found)))
    for source, user in graph.structure.edges():
        if source in piece_of and user in piece_of and piece_of[source] != piece_of[user]:
            parts.add_edge(piece_of[source], piece_of[user])
    place = {identity: position for position, identity in enumerate(graph.order())}
    order = nx.lexicographical_topological_sort(parts, key=lambda number: place[found[number][-1]])
    return [found[number] for number in order]
