"""A fused group as the kernel generator sees it: a small straight-line program, free of the graph that it came from.

    v0 = input float32@NCHW16c[1, 64, 56, 56]
    v1 = frozen float32[128, 64, 1, 1]
    v2 = conv2d(v0, v1) {...}
    v3 = gelu(v2)                                   <- result

Two groups with equal programs are one kernel. A *frozen* input depends on no input of the network: its value is known
when the network is compiled, so it may be stored in whatever form suits the kernel (`packing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specc import ops
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
    """An operator applied to values: numbers below `len(inputs)` are inputs, the others are earlier steps."""

    op: str
    attributes: tuple[tuple[str, Any], ...]
    operands: tuple[int, ...]
    type: TensorType

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


@dataclass(frozen=True)
class Group:
    """The program of a group; `result` is the number of the value that it computes."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]

    @property
    def result(self) -> TensorType:
        return self.steps[-1].type

    def type(self, value: int) -> TensorType:
        """The type of a value."""
        return self.inputs[value].type if value < len(self.inputs) else self.step(value).type

    def step(self, value: int) -> Step:
        """The step that computes a value."""
        return self.steps[value - len(self.inputs)]

    def number(self, step: int) -> int:
        """The number of the value that step number `step` computes."""
        return step + len(self.inputs)

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """The numbers of the values that are computed by anything but pointwise steps."""
        return tuple(self.number(i) for i, step in enumerate(self.steps) if not step.pointwise)

    @property
    def anchor(self) -> int | None:
        """The only anchor, if every other step comes after it: then these are its epilogue."""
        if len(self.anchors) != 1:
            return None
        (anchor,) = self.anchors
        before = [s for s in self.steps[: anchor - len(self.inputs)] if s.op != "constant"]
        return None if before else anchor

    @property
    def title(self) -> str:
        """The operators, in order, for a name or a message."""
        names = [step.op for step in self.steps if step.op not in ("constant", "convert_layout")]
        return "_".join(names) or "convert_layout"


def extract(graph: Graph, members: Sequence[int], frozen: frozenset[int]) -> tuple[Group, list[Value], Value]:
    """The program of the nodes `members` (in topological order), the values that are its inputs, and its result.

    `ValueError` when more than one value is used outside. Constants of rank 0 become steps, for their number is part of
    the kernel.
    """
    inside = set(members)
    outside: list[Value] = []
    literals: list[Value] = []
    for identity in members:
        for operand in graph.operands(identity):
            if operand.node in inside:
                continue
            kind = literals if graph.op(operand) == "constant" else outside
            if operand not in kind:
                kind.append(operand)
    results = [
        Value(identity, r)
        for identity in members
        for r in range(len(graph.node(identity).types))
        if Value(identity, r) in graph.outputs or any(user not in inside for user, _ in graph.users(Value(identity, r)))
    ]
    if len(results) != 1 or results[0].node != members[-1]:
        names = ", ".join(graph.node(i).op for i in members)
        raise ValueError(f"the group ({names}) has {len(results)} results; a group has one, its last node's")
    numbers = {value: i for i, value in enumerate(outside)}
    steps: list[Step] = []
    for literal in literals:
        node = graph.node(literal.node)
        numbers[literal] = len(outside) + len(steps)
        steps.append(Step("constant", _attributes(node.attrs), (), node.types[0]))
    for identity in members:
        node = graph.node(identity)
        if len(node.types) != 1:
            raise ValueError(f"`{node.op}` has {len(node.types)} results, and kernels compute one")
        numbers[Value(identity)] = len(outside) + len(steps)
        operands = tuple(numbers[o] for o in graph.operands(identity))
        steps.append(Step(node.op, _attributes(node.attrs), operands, node.types[0]))
    inputs = tuple(Input(graph.type(value), value.node in frozen) for value in outside)
    return Group(inputs, tuple(steps)), outside, results[0]


def _attributes(attrs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(attrs.items()))
